// Package lockfile takes the locks that keep a directory to one process.
package lockfile

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrHeld is what Take fails with when another process has the lock.
var ErrHeld = errors.New("another process has the lock")

// A process that was killed while it forked leaves the lock to its child, until
// that executes its program: some milliseconds, of which no event tells the end.
const (
	patience = 2 * time.Second
	interval = 10 * time.Millisecond
)

// Take opens the file at path, creating it, and locks it. The lock goes with
// the file, and with the process however it ends.
func Take(path string, perm os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, perm)
	if err != nil {
		return nil, err
	}
	again := time.NewTicker(interval)
	defer again.Stop()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		select {
		case <-again.C:
		case <-limit.C:
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, ErrHeld), f.Close())
		}
	}
}
