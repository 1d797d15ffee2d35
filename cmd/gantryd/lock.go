package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"gantry/internal/lockfile"
	"gantry/internal/problem"
)

// lock takes the data directory for this process. The lock goes with the
// process, however it ends; the pid inside is for people only.
func lock(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	path := filepath.Join(dir, "lock")
	f, err := lockfile.Take(path, 0o644)
	if errors.Is(err, lockfile.ErrHeld) {
		holder, _ := os.ReadFile(path) // for the message only
		return nil, &problem.UserError{
			Op:  "start",
			Err: problem.New(problem.Conflict, "another gantryd (pid %s) uses %s", strings.TrimSpace(string(holder)), dir),
			Try: "stop it with \"gantry down\", or give this one its own --instance, --data-dir, --api-listen and --http-listen",
		}
	}
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}
