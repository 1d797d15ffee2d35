//go:build fault

// Package fault marks the points of the code at which a crash would hurt; this
// build acts on them.
package fault

import (
	"errors"
	"os"
	"strings"
	"syscall"
)

// At kills the process if GANTRY_FAULT is point, and returns an error if
// GANTRY_FAULT is "error:" followed by point.
func At(point string) error {
	want := os.Getenv("GANTRY_FAULT")
	if want == point {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	if strings.TrimPrefix(want, "error:") == point {
		return errors.New("injected fault at " + point)
	}
	return nil
}
