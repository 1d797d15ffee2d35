package tree

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Options say how a Writer writes.
type Options struct {
	// Layer makes overlayfs whiteouts of the whiteout files of a layer.
	Layer bool
	// KeepDirs refuses to replace a directory with something else, and
	// something else with a directory.
	KeepDirs bool
	// Stash, if set, is called instead of removing a file or directory whose
	// content is needed later: it moves base out of the directory parent.
	// name is its path under the root.
	Stash func(parent int, base, name string) error
}

// Writer creates the entries of an archive under a root. It is used by one
// goroutine. It does not sync: that is its caller's business, once for all.
//
// Existing directories are kept and get the entry's owner, mode and time;
// anything else that exists is replaced, never written through. Unless Layer is
// set, a link to a directory is as good as a directory, and kept as it is.
type Writer struct {
	root  *Root
	opt   Options
	umask uint32
	buf   []byte

	dirName string // of dir; valid while dir >= 0
	dirReal string // the same with links resolved
	dir     int    // directory of the last entry, kept open

	times   []dirTime
	ignored []string
}

// dirTime is set last: writing into a directory changes its time, and a set-gid
// bit would be inherited by what is created in it.
type dirTime struct {
	name string
	mode uint32
	time unix.Timespec
}

// NewWriter returns a Writer under root. Close it.
func NewWriter(root *Root, opt Options) *Writer {
	return &Writer{root: root, opt: opt, umask: umask(), dir: -1}
}

// Put creates one entry. body is read for regular files only. It returns the
// path of what it created under the root, without links, or "" when the entry
// creates nothing.
func (w *Writer) Put(h *tar.Header, body io.Reader) (string, error) {
	if err := w.check(h); err != nil {
		return "", err
	}
	name := clean(h.Name)
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return "", fmt.Errorf("archive entry %q: the root must be a directory", h.Name)
		}
		return "", w.finishDir(w.root.fd(), ".", "", h)
	}
	parent, real, err := w.parent(path.Dir(name), h.ModTime)
	if err != nil {
		return "", fmt.Errorf("archive entry %q: %w", h.Name, err)
	}
	base := path.Base(name)
	if w.opt.Layer && strings.HasPrefix(base, whiteoutPrefix) {
		if err := w.whiteout(parent, base); err != nil {
			return "", fmt.Errorf("archive entry %q: %w", h.Name, err)
		}
		return "", nil
	}
	real = path.Join(real, base)
	if err := w.create(parent, base, real, h, body); err != nil {
		return "", fmt.Errorf("archive entry %q: %w", h.Name, err)
	}
	return real, nil
}

// check refuses what no file system could hold.
func (w *Writer) check(h *tar.Header) error {
	if strings.ContainsRune(h.Name, 0) || strings.ContainsRune(h.Linkname, 0) {
		return fmt.Errorf("archive entry %q: a name with a zero byte", h.Name)
	}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= 1<<32-1 || int64(h.Gid) >= 1<<32-1 {
		return fmt.Errorf("archive entry %q: owner %d:%d is out of range", h.Name, h.Uid, h.Gid)
	}
	return nil
}

// Ignored returns the extended attributes that the file system did not take.
func (w *Writer) Ignored() []string { return w.ignored }

// Close sets what is set last, and releases what the Writer holds.
func (w *Writer) Close() error {
	var errs []error
	for i := len(w.times) - 1; i >= 0; i-- {
		d := w.times[i]
		errs = append(errs, w.settle(d))
	}
	w.times = nil
	w.forget()
	return errors.Join(errs...)
}

// Abandon releases what the Writer holds, for when the tree is thrown away.
func (w *Writer) Abandon() { w.forget() }

func (w *Writer) settle(d dirTime) (err error) {
	fd, err := w.root.openat2(d.name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0,
		unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil // a later entry replaced it
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	self := fmt.Sprintf("/proc/self/fd/%d", fd)
	if d.mode&unix.S_ISGID != 0 {
		if err := unix.Chmod(self, d.mode); err != nil {
			return &fs.PathError{Op: "chmod", Path: d.name, Err: err}
		}
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, self, []unix.Timespec{d.time, d.time}, 0); err != nil {
		return &fs.PathError{Op: "utimensat", Path: d.name, Err: err}
	}
	return nil
}

func (w *Writer) forget() {
	if w.dir >= 0 {
		_ = unix.Close(w.dir) // an O_PATH handle: nothing to lose
		w.dir = -1
	}
}

// parent returns the open directory name, made if missing, and its path
// without links.
func (w *Writer) parent(name string, mtime time.Time) (int, string, error) {
	if w.dir >= 0 && w.dirName == name {
		return w.dir, w.dirReal, nil
	}
	w.forget()
	fd, real, err := w.lookup(name)
	if errors.Is(err, fs.ErrNotExist) || (w.opt.Layer && errors.Is(err, unix.ENOTDIR)) {
		if err := w.makeParents(name, mtime); err != nil {
			return -1, "", err
		}
		fd, real, err = w.lookup(name)
	}
	if err != nil {
		return -1, "", err
	}
	w.dir, w.dirName, w.dirReal = fd, name, real
	return fd, real, nil
}

const dirFlags = unix.O_PATH | unix.O_DIRECTORY

// lookup opens a directory. The first try allows no links, which is nearly
// always right and gives the real path for nothing.
func (w *Writer) lookup(name string) (int, string, error) {
	fd, err := w.root.openat2(name, dirFlags, 0, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	if err == nil {
		return fd, clean(name), nil
	}
	if !errors.Is(err, unix.ELOOP) && !errors.Is(err, unix.ENOTDIR) {
		return -1, "", err
	}
	fd, err = w.root.openat2(name, dirFlags, 0, inRoot)
	if err != nil {
		return -1, "", err
	}
	real, err := w.root.physical(fd)
	if err != nil {
		return -1, "", errors.Join(err, unix.Close(fd))
	}
	return fd, clean(real), nil
}

// makeParents makes the directories that an archive names only as part of
// other names.
func (w *Writer) makeParents(name string, mtime time.Time) error {
	at := ""
	parent, real, err := w.lookup("")
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(parent) }()
	for _, base := range strings.Split(clean(name), "/") {
		at = path.Join(at, base)
		fd, next, err := w.lookup(at)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) && !(w.opt.Layer && errors.Is(err, unix.ENOTDIR)) {
				return err
			}
			h := &tar.Header{Typeflag: tar.TypeDir, Name: at, Mode: 0o755, ModTime: mtime}
			if err := w.implied(parent, base, path.Join(real, base), h); err != nil {
				return err
			}
			if fd, next, err = w.lookup(at); err != nil {
				return err
			}
		}
		_ = unix.Close(parent)
		parent, real = fd, next
	}
	return nil
}

// implied makes one directory. In a layer it may stand where a whiteout is; a
// file or a link that leads nowhere is not replaced by it.
func (w *Writer) implied(parent int, base, real string, h *tar.Header) error {
	var st unix.Stat_t
	err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && !(w.opt.Layer && isWhiteout(&st)) {
		return &fs.PathError{Op: "mkdir", Path: real, Err: unix.ENOTDIR}
	}
	return w.mkdir(parent, base, real, h)
}

func (w *Writer) create(parent int, base, real string, h *tar.Header, body io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return w.mkdir(parent, base, real, h)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return w.regular(parent, base, real, h, body)
	case tar.TypeLink:
		return w.again(parent, base, real, func() error { return w.link(parent, base, h.Linkname) })
	case tar.TypeSymlink:
		err := w.again(parent, base, real, func() error { return unix.Symlinkat(h.Linkname, parent, base) })
		if err != nil {
			return err
		}
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		err := w.again(parent, base, real, func() error { return mknod(parent, base, h) })
		if err != nil {
			return err
		}
	default:
		return fmt.Errorf("unknown type %q", h.Typeflag)
	}
	if h.Typeflag == tar.TypeLink {
		return nil
	}
	return w.finishAt(parent, base, h)
}

// again calls do, and once more after clearing the place when it was taken.
func (w *Writer) again(parent int, base, real string, do func() error) error {
	err := do()
	if err != unix.EEXIST {
		return err
	}
	if err := w.clear(parent, base, real); err != nil {
		return err
	}
	return do()
}

// clear removes base from parent so that something else can take its place.
func (w *Writer) clear(parent int, base, real string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if w.opt.Stash != nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size > 0 {
			return w.opt.Stash(parent, base, real)
		}
		return unix.Unlinkat(parent, base, 0)
	}
	if w.opt.KeepDirs {
		return &fs.PathError{Op: "replace", Path: "/" + real, Err: unix.EISDIR}
	}
	w.forgetBelow(real)
	err := unix.Unlinkat(parent, base, unix.AT_REMOVEDIR)
	if err != unix.ENOTEMPTY {
		return err
	}
	if w.opt.Stash != nil {
		return w.opt.Stash(parent, base, real)
	}
	return removeAll(parent, base)
}

// forgetBelow drops the kept directory if it is real or below it; parent is
// above it, so the caller's handle stays good.
func (w *Writer) forgetBelow(real string) {
	if w.dir >= 0 && (w.dirReal == real || strings.HasPrefix(w.dirReal, real+"/")) {
		w.forget()
	}
}

func mknod(parent int, base string, h *tar.Header) error {
	mode := uint32(unix.S_IFIFO)
	switch h.Typeflag {
	case tar.TypeChar:
		mode = unix.S_IFCHR
	case tar.TypeBlock:
		mode = unix.S_IFBLK
	}
	return unix.Mknodat(parent, base, mode|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
}

// link makes base a second name of target. Archives name the target from their
// root; links on the way to it are resolved there, the target itself is not.
func (w *Writer) link(parent int, base, target string) error {
	name := clean(target)
	if name == "" {
		return fmt.Errorf("hard link to the root")
	}
	dir, _, err := w.lookup(path.Dir(name))
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	defer func() { _ = unix.Close(dir) }()
	if err := unix.Linkat(dir, path.Base(name), parent, base, 0); err != nil {
		if err == unix.EEXIST && sameFile(dir, path.Base(name), parent, base) {
			return nil
		}
		if err == unix.EEXIST {
			return err
		}
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	return nil
}

func sameFile(dirA int, a string, dirB int, b string) bool {
	var x, y unix.Stat_t
	return unix.Fstatat(dirA, a, &x, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		unix.Fstatat(dirB, b, &y, unix.AT_SYMLINK_NOFOLLOW) == nil && x.Dev == y.Dev && x.Ino == y.Ino
}
