package builder

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/problem"
	"gantry/internal/tree"
)

// copier writes what was selected into a root file system.
type copier struct {
	root   *tree.Root
	w      *tree.Writer
	uid    int
	gid    int
	owned  bool      // --chown was given
	chmod  chmod     // --chmod, or nil
	latest time.Time // newer times are set back to it; zero: none
	made   map[string]bool
	before map[string]unix.Timespec // times of directories that were there
}

// place writes origins to dest, an absolute path. slash says that dest was
// written as a directory.
func (c *copier) place(ctx context.Context, origins []origin, dest string, slash bool) error {
	isDir := slash || len(origins) > 1
	if st, err := c.root.Stat(dest); err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		isDir = true
	}
	for _, o := range origins {
		to := dest
		if isDir && !o.dir && !o.files[0].unpack {
			to = path.Join(dest, o.name)
		}
		for _, it := range o.files {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			if err := c.put(ctx, it, path.Join(to, it.rel)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *copier) put(ctx context.Context, it item, to string) (err error) {
	if it.unpack {
		return c.unpackArchive(ctx, it, to)
	}
	h := *it.header
	h.Name, h.Uid, h.Gid = to, c.uid, c.gid
	if h.Typeflag == tar.TypeDir && it.rel == "" {
		// The destination of a directory's content: kept as it is, or made.
		h.Mode, h.PAXRecords = 0o755, nil
		if _, err := c.root.Stat(to); err == nil {
			return c.isDir(to)
		}
	}
	if c.chmod != nil && h.Typeflag != tar.TypeSymlink {
		h.Mode = c.chmod(h.Mode, h.Typeflag == tar.TypeDir)
	}
	var body io.ReadCloser
	if h.Typeflag == tar.TypeReg {
		if body, err = it.src.open(it.path); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, body.Close()) }()
	}
	return c.write(&h, body)
}

func (c *copier) isDir(name string) error {
	st, err := c.root.Stat(name)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		err = problem.New(problem.Invalid, "cannot copy to non-directory: %s", name)
	}
	return err
}

// write creates one entry; the directories above it that are missing belong to
// the same owner, and those that are there keep their time.
func (c *copier) write(h *tar.Header, body io.Reader) error {
	if !c.latest.IsZero() && h.ModTime.After(c.latest) {
		h.ModTime = c.latest
	}
	h.Name = path.Clean("/" + h.Name)
	if h.Name == "/" {
		return nil
	}
	if err := c.parents(path.Dir(h.Name), h.ModTime); err != nil {
		return err
	}
	c.made[h.Name] = true
	_, err := c.w.Put(h, body)
	switch {
	case errors.Is(err, unix.ENOTDIR):
		return problem.New(problem.Invalid, "cannot copy to non-directory: %s", h.Name)
	case errors.Is(err, unix.EISDIR):
		return problem.New(problem.Invalid, "cannot replace directory %s with file", h.Name)
	}
	return err
}

func (c *copier) parents(dir string, mtime time.Time) error {
	if dir == "/" || c.made[dir] {
		return nil
	}
	if _, ok := c.before[dir]; ok {
		return nil
	}
	st, err := c.root.Stat(dir)
	if err == nil {
		c.before[dir] = st.Mtim
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := c.parents(path.Dir(dir), mtime); err != nil {
		return err
	}
	c.made[dir] = true
	_, err = c.w.Put(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, Uid: c.uid, Gid: c.gid, ModTime: mtime}, nil)
	return err
}

// unpackArchive unpacks an archive into the directory to.
func (c *copier) unpackArchive(ctx context.Context, it item, to string) (err error) {
	f, err := it.src.open(it.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	plain, _, err := tree.Decompress(ctxReader{ctx, f}, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	for archive := tar.NewReader(plain); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unpack %s: %w", it.path, err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		h.Name = path.Join(to, path.Clean("/"+h.Name))
		if h.Typeflag == tar.TypeLink {
			h.Linkname = path.Join(to, path.Clean("/"+h.Linkname))
		}
		if c.owned {
			h.Uid, h.Gid = c.uid, c.gid
		}
		if h.Name == path.Clean(to) {
			if h.Typeflag != tar.TypeDir || c.isDir(to) == nil {
				continue // the archive's root is the destination, which is there
			}
		}
		if err := c.write(h, archive); err != nil {
			return err
		}
	}
}

// close sets the times of directories, and puts back those that were there.
func (c *copier) close() error {
	if err := c.w.Close(); err != nil {
		return err
	}
	for _, dir := range slices.Sorted(maps.Keys(c.before)) {
		if c.made[dir] {
			continue
		}
		if err := c.root.SetTime(dir, c.before[dir]); err != nil {
			return err
		}
	}
	return nil
}
