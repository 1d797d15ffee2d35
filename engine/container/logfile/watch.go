package logfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/problem"
)

// watcher waits for changes of a log, by inotify on its directory: the
// directory's watch reports writes to the files in it, and outlives rotations.
type watcher struct {
	f      *os.File
	done   <-chan struct{}
	late   chan struct{} // closed when nothing that comes is wanted any more
	cancel context.CancelFunc
	gone   chan struct{} // closed when the goroutine has ended
}

func watch(ctx context.Context, path string, done <-chan struct{}, until time.Time) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if errors.Is(err, unix.EMFILE) {
		return nil, problem.New(problem.Unavailable, "follow log: no inotify instance is free; raise the sysctl fs.inotify.max_user_instances")
	}
	if err != nil {
		return nil, fmt.Errorf("follow log: %w", err)
	}
	const changes = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_DELETE_SELF
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), changes|unix.IN_ONLYDIR); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("follow log %s: %w", path, err)
	}
	var cancel context.CancelFunc
	if until.IsZero() {
		ctx, cancel = context.WithCancel(ctx)
	} else {
		ctx, cancel = context.WithDeadline(ctx, until)
	}
	w := &watcher{f: os.NewFile(uintptr(fd), "inotify"), done: done, late: make(chan struct{}), cancel: cancel, gone: make(chan struct{})}
	go func() {
		defer close(w.gone)
		select {
		case <-done: // never, if nil
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				close(w.late)
			}
		}
		// Ends the wait under way; ended tells which it was.
		_ = w.f.SetReadDeadline(time.Unix(1, 0))
	}()
	return w, nil
}

// ended says whether nothing more will be written that is wanted.
func (w *watcher) ended() bool {
	select {
	case <-w.done:
		return true
	case <-w.late:
		return true
	default:
		return false
	}
}

// wait returns at the next change, at the end of the writer, or with ctx's error.
func (w *watcher) wait(ctx context.Context) error {
	var events [4096]byte
	_, err := w.f.Read(events[:])
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if w.ended() {
		return nil
	}
	return fmt.Errorf("follow log: %w", err)
}

func (w *watcher) close() {
	w.cancel()
	<-w.gone
	w.f.Close()
}
