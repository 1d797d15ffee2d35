package shim

import (
	"os"
	"strconv"
	"syscall"
)

// compressed ends the name of a rotated file that the engine has compressed.
const compressed = ".gz"

// rotate begins a new file. PATH becomes PATH.1, and so on; PATH.N is PATH.N.gz
// where the engine has compressed it. The engine gives a file its compressed
// name under a lock of the directory: while that is taken the file grows.
func (w *logWriter) rotate() {
	name := func(n int) string { return w.path + "." + strconv.Itoa(n) }
	old := w.file
	if w.maxFiles == 1 {
		if old.Truncate(0) == nil {
			w.size, w.torn = 0, false
		}
		return
	}
	unlock, ok := lockDir(w.path)
	if !ok {
		return
	}
	defer unlock()
	// Absent until so many have been written.
	_ = os.Remove(name(w.maxFiles - 1))
	_ = os.Remove(name(w.maxFiles-1) + compressed)
	for n := w.maxFiles - 2; n >= 1; n-- {
		_ = os.Rename(name(n), name(n+1))
		_ = os.Rename(name(n)+compressed, name(n+1)+compressed)
	}
	if os.Rename(w.path, name(1)) != nil {
		return
	}
	if w.open() != nil {
		w.file = old // better a long log than none
		return
	}
	old.Close()
}

func lockDir(path string) (unlock func(), ok bool) {
	dir := "/"
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '/' {
			dir = path[:i]
			break
		}
	}
	fd, err := syscall.Open(dir, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, false
	}
	if syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		syscall.Close(fd)
		return nil, false
	}
	return func() { syscall.Close(fd) }, true
}
