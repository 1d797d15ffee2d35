package tree

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// bufferBytes is the size of one read and write of file content.
const bufferBytes = 256 << 10

// mkdir makes a directory, or takes the one that is there.
func (w *Writer) mkdir(parent int, base, real string, h *tar.Header) error {
	perm := uint32(h.Mode) & 0o777
	err := unix.Mkdirat(parent, base, perm)
	opaque := false
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return w.finishDir(parent, base, real, h)
		}
		if !w.opt.Layer && st.Mode&unix.S_IFMT == unix.S_IFLNK && w.leadsToDir(real) {
			return nil // such as lib, where all of the system is behind the link
		}
		if w.opt.KeepDirs {
			return &fs.PathError{Op: "mkdir", Path: "/" + real, Err: unix.ENOTDIR}
		}
		// A whiteout says that nothing of below shows through.
		opaque = w.opt.Layer && isWhiteout(&st)
		if err := w.clear(parent, base, real); err != nil {
			return err
		}
		err = unix.Mkdirat(parent, base, perm)
	}
	if err != nil {
		return err
	}
	if opaque {
		if err := setOpaque(parent, base); err != nil {
			return err
		}
	}
	return w.finishDir(parent, base, real, h)
}

func (w *Writer) leadsToDir(name string) bool {
	st, err := w.root.Stat(name)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// finishDir sets owner and mode of a directory, and notes its time for later.
func (w *Writer) finishDir(parent int, base, real string, h *tar.Header) error {
	var st unix.Stat_t
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if int(st.Uid) != h.Uid || int(st.Gid) != h.Gid {
		if err := unix.Fchownat(parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("chown: %w", err)
		}
	}
	mode := uint32(h.Mode) & 0o7777
	if now := mode &^ unix.S_ISGID; st.Mode&0o7777 != now {
		if err := chmod(parent, base, now); err != nil {
			return err
		}
	}
	if err := w.xattrs(parent, base, h); err != nil {
		return err
	}
	w.times = append(w.times, dirTime{name: real, mode: mode, time: timespec(h.ModTime)})
	return nil
}

// regular writes one file. It is the hot path: four system calls for a small
// file of root's.
func (w *Writer) regular(parent int, base, real string, h *tar.Header, body io.Reader) (err error) {
	perm := uint32(h.Mode) & 0o777
	fd := -1
	err = w.again(parent, base, real, func() error {
		var err error
		fd, err = unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, perm)
		return err
	})
	if err != nil {
		return err
	}
	defer func() {
		if cerr := unix.Close(fd); err == nil && cerr != nil {
			err = cerr
		}
	}()
	if err := w.copy(fd, body, sparse(h)); err != nil {
		return err
	}
	if h.Uid != os.Geteuid() || h.Gid != os.Getegid() {
		if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
			return fmt.Errorf("chown: %w", err)
		}
	}
	if mode := uint32(h.Mode) & 0o7777; mode != perm&^w.umask {
		if err := unix.Fchmod(fd, mode); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	if err := w.xattrs(parent, base, h); err != nil {
		return err
	}
	return setTime(parent, base, h.ModTime)
}

// sparse reports whether an entry says where its file has holes. Those are kept:
// a few bytes of an archive may claim terabytes of them.
func sparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// copy writes a file's content; with holes set, where it is zero it is left out.
func (w *Writer) copy(fd int, body io.Reader, holes bool) error {
	if body == nil {
		return nil
	}
	if w.buf == nil {
		w.buf = make([]byte, bufferBytes)
	}
	for size := int64(0); ; {
		n, err := body.Read(w.buf)
		size += int64(n)
		if holes && allZero(w.buf[:n]) {
			if _, serr := unix.Seek(fd, size, unix.SEEK_SET); serr != nil {
				return fmt.Errorf("seek: %w", serr)
			}
		} else if werr := writeAll(fd, w.buf[:n]); werr != nil {
			return fmt.Errorf("write: %w", werr)
		}
		if err == io.EOF {
			if holes {
				return unix.Ftruncate(fd, size)
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func allZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// finishAt sets the attributes of a link or a special file.
func (w *Writer) finishAt(parent int, base string, h *tar.Header) error {
	if h.Uid != os.Geteuid() || h.Gid != os.Getegid() {
		if err := unix.Fchownat(parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("chown: %w", err)
		}
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := chmod(parent, base, uint32(h.Mode)&0o7777); err != nil {
			return err
		}
	}
	if err := w.xattrs(parent, base, h); err != nil {
		return err
	}
	return setTime(parent, base, h.ModTime)
}

// xattrRecord begins the names of the PAX records that hold extended
// attributes, as GNU tar and star write them.
const xattrRecord = "SCHILY.xattr."

// xattrs sets the entry's extended attributes, except those with which an
// archive could direct overlayfs. What the file system does not take is noted.
func (w *Writer) xattrs(parent int, base string, h *tar.Header) error {
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok || overlayXattr(name) {
			continue
		}
		err := lsetxattr(parent, base, name, value)
		switch err {
		case nil:
		case unix.ENOTSUP, unix.EPERM:
			w.ignored = append(w.ignored, fmt.Sprintf("%s of %s: %v", name, h.Name, err))
		default:
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

func lsetxattr(parent int, base, name, value string) error {
	return unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", parent, base), name, []byte(value), 0)
}

func setTime(parent int, base string, t time.Time) error {
	ts := timespec(t)
	if err := unix.UtimesNanoAt(parent, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

// timespec converts a time; an entry without one is from 1970.
func timespec(t time.Time) unix.Timespec {
	if t.IsZero() {
		t = time.Unix(0, 0)
	}
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// umask returns the process's file mode mask. The umask system call could only
// tell by changing it.
func umask() uint32 {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0o777 // then every mode is set explicitly
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "Umask:"); ok {
			if n, err := strconv.ParseUint(strings.TrimSpace(v), 8, 32); err == nil {
				return uint32(n)
			}
		}
	}
	return 0o777
}

// removeAll removes base and all below it, following nothing.
func removeAll(parent int, base string) error {
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", parent))
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.RemoveAll(base); err != nil {
		return &fs.PathError{Op: "remove", Path: base, Err: err}
	}
	return nil
}

// SetTime sets the time of last change of name. Links are followed.
func (r *Root) SetTime(name string, t unix.Timespec) (err error) {
	fd, err := r.openat2(name, unix.O_PATH, 0, inRoot)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), []unix.Timespec{t, t}, 0)
}
