//go:build fault

// Package fault marks the points of the code at which a crash would hurt; this
// build acts on them.
package fault

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// passes counts how often the wanted point was passed.
var passes atomic.Int64

// At kills the process if GANTRY_FAULT is point, at the nth time if it is
// point@n, and returns an error if GANTRY_FAULT is "error:" followed by that.
func At(point string) error {
	want, fails := strings.CutPrefix(os.Getenv("GANTRY_FAULT"), "error:")
	want, nth, counted := strings.Cut(want, "@")
	if want != point {
		return nil
	}
	if counted && strconv.FormatInt(passes.Add(1), 10) != nth {
		return nil
	}
	if fails {
		return errors.New("injected fault at " + point)
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal arrives
}
