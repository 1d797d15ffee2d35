package tree

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// Archive writes name, a directory with all below it or another file, to w as a
// plain archive whose first entry is called as; "" leaves the entry of a
// directory out and begins with what is in it. A link called name is archived
// as such.
//
// The tree may change meanwhile: what goes away is left out, a file that shrinks
// is filled with zeros and one that grows is cut off. Sockets are left out.
func Archive(ctx context.Context, w io.Writer, root *Root, name, as string) error {
	p := &packer{
		ctx: ctx, root: root, tar: tar.NewWriter(w), links: map[inode]string{}, buf: make([]byte, bufferBytes),
		live: true, from: clean(name), as: as,
	}
	pack := func() error { return p.entry(p.from) }
	if as == "" {
		pack = func() error { return p.dir(p.from) }
	}
	if err := pack(); err != nil {
		return err
	}
	return p.tar.Close()
}

// reopen opens for reading the very file that the O_PATH handle fd is of.
func reopen(fd int) (*os.File, error) {
	path := fmt.Sprintf("/proc/self/fd/%d", fd)
	n, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(n), path), nil
}

// zeros is an endless stream of them.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// Lhandle opens name with O_PATH; a link called name is not followed.
func (r *Root) Lhandle(name string) (*os.File, error) {
	fd, err := r.openat2(name, unix.O_PATH|unix.O_NOFOLLOW, 0, inRoot)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "/"+clean(name)), nil
}

// maxLinks is how many links are followed on the way to a file: the kernel's.
const maxLinks = 40

// Follow returns where name leads when all links are followed, absolute in the
// root, as far as there is something: what is missing stands as it is written.
func (r *Root) Follow(name string) string {
	name = path.Join("/", name)
	for range maxLinks {
		if real, err := r.Real(name); err == nil {
			return real
		}
		dir, err := r.Real(path.Dir(name))
		if err != nil {
			return name
		}
		name = path.Join(dir, path.Base(name))
		target, err := r.Readlink(name)
		if err != nil {
			return name
		}
		if !path.IsAbs(target) {
			target = path.Join(dir, target)
		}
		name = path.Join("/", target)
	}
	return name
}

// vanished tells that a file went away since it was listed.
func vanished(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENOTDIR)
}

// chmod changes the mode of base in the directory parent, and never that of what
// a link leads to: who can write there may put one in its place at any moment.
func chmod(parent int, base string, mode uint32) error {
	fd, err := unix.Openat(parent, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return fmt.Errorf("chmod: %w", unix.ELOOP)
	}
	if err := unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	return nil
}
