// Package tree moves file trees into and out of tar archives, and reads and
// writes files under a root that nothing leads out of.
//
// It knows the tar form of a layer (OCI image-spec, layer.md) and the form that
// overlayfs wants: a whiteout is a character device 0/0, an opaque directory
// has the extended attribute trusted.overlay.opaque.
//
// Every name from an archive or an image is resolved by the kernel with
// openat2(RESOLVE_IN_ROOT): "..", absolute links and links that are swapped
// meanwhile end inside the root. The package runs one goroutine, in Decompress,
// which ends when its reader is closed.
package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// Root is a directory as the root of all names. Its methods may be called
// concurrently; names are slash-separated, absolute or not, and mean the same.
type Root struct {
	dir *os.File
}

// OpenRoot opens the directory dir as a root.
func OpenRoot(dir string) (*Root, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	return NewRoot(os.NewFile(uintptr(fd), dir)), nil
}

// NewRoot makes a root of an open directory, and takes it over.
func NewRoot(dir *os.File) *Root { return &Root{dir: dir} }

// Close closes the directory.
func (r *Root) Close() error { return r.dir.Close() }

func (r *Root) fd() int { return int(r.dir.Fd()) }

// openat2 opens name under the root. It retries what the kernel asks to retry:
// ".." raced with a rename somewhere on the host.
func (r *Root) openat2(name string, flags, mode, resolve uint64) (int, error) {
	rel := clean(name)
	if rel == "" {
		rel = "."
	}
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Mode: mode, Resolve: resolve}
	for range 1000 {
		fd, err := unix.Openat2(r.fd(), rel, &how)
		if err == unix.EAGAIN || err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: "/" + rel, Err: err}
		}
		return fd, nil
	}
	return -1, &fs.PathError{Op: "open", Path: "/" + rel, Err: unix.EAGAIN}
}

const inRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// Open opens a file or directory for reading. Links are followed.
func (r *Root) Open(name string) (*os.File, error) {
	// O_NONBLOCK: a FIFO in an image must not hang who reads it.
	fd, err := r.openat2(name, unix.O_RDONLY|unix.O_NONBLOCK, 0, inRoot)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "/"+clean(name)), nil
}

// Handle opens name with O_PATH, so that it can be named by /proc/self/fd. Links
// are followed.
func (r *Root) Handle(name string) (*os.File, error) {
	fd, err := r.openat2(name, unix.O_PATH, 0, inRoot)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "/"+clean(name)), nil
}

// Stat returns what name is. Links are followed.
func (r *Root) Stat(name string) (unix.Stat_t, error) {
	return r.stat(name, unix.O_PATH)
}

// Lstat is Stat that does not follow name itself.
func (r *Root) Lstat(name string) (unix.Stat_t, error) {
	return r.stat(name, unix.O_PATH|unix.O_NOFOLLOW)
}

func (r *Root) stat(name string, flags uint64) (st unix.Stat_t, err error) {
	fd, err := r.openat2(name, flags, 0, inRoot)
	if err != nil {
		return st, err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if err := unix.Fstat(fd, &st); err != nil {
		return st, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return st, nil
}

// Real returns name with all links in it resolved, absolute in the root.
func (r *Root) Real(name string) (string, error) {
	h, err := r.Handle(name)
	if err != nil {
		return "", err
	}
	defer h.Close()
	return r.physical(int(h.Fd()))
}

// physical returns the path of an open file relative to the root, absolute.
func (r *Root) physical(fd int) (string, error) {
	base, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", r.fd()))
	if err != nil {
		return "", err
	}
	full, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return "", err
	}
	if base == "/" {
		return full, nil
	}
	if full == base {
		return "/", nil
	}
	if len(full) > len(base) && full[:len(base)] == base && full[len(base)] == '/' {
		return full[len(base):], nil
	}
	return "", fmt.Errorf("%s is not under %s", full, base)
}

// Readlink returns where the link name points.
func (r *Root) Readlink(name string) (string, error) {
	fd, err := r.openat2(name, unix.O_PATH|unix.O_NOFOLLOW, 0, inRoot)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return readlinkat(fd, "")
}

func readlinkat(fd int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, name, buf)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return string(buf[:n]), nil
}

// ReadFile returns the content of a regular file of at most limit bytes.
func (r *Root) ReadFile(name string, limit int64) (_ []byte, err error) {
	f, err := r.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("not a regular file")}
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("larger than %d bytes", limit)}
	}
	return b, nil
}

// ReadDir returns the names in a directory, sorted.
func (r *Root) ReadDir(name string) (_ []string, err error) {
	f, err := r.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

// clean returns name relative to the root, without "." and "..", "" for the
// root itself.
func clean(name string) string { return path.Clean("/" + name)[1:] }
