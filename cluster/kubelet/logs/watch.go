package logs

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// watcher tells of changes in one directory.
type watcher struct {
	file    *os.File
	changed chan error // one pending signal is enough: the reader looks at everything
	done    chan struct{}
}

func newWatcher(dir string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	file := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM); err != nil {
		file.Close()
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	w := &watcher{file: file, changed: make(chan error, 1), done: make(chan struct{})}
	go w.run()
	return w, nil
}

func (w *watcher) run() {
	defer close(w.done)
	buf := make([]byte, 4096)
	for {
		_, err := w.file.Read(buf)
		select {
		case w.changed <- err:
		default:
		}
		if err != nil {
			return
		}
	}
}

// Close ends the watch and waits for its goroutine.
func (w *watcher) Close() {
	w.file.Close()
	<-w.done
}
