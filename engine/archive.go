package engine

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	dcontainer "github.com/moby/moby/api/types/container"
	devents "github.com/moby/moby/api/types/events"
	dmount "github.com/moby/moby/api/types/mount"
	"golang.org/x/sys/unix"

	"gantry/internal/problem"
	"gantry/internal/tree"
)

// ExtractOptions say how an archive is written into a container.
type ExtractOptions struct {
	NoOverwriteDirNonDir bool // refuse to replace a directory with something else, and the reverse
	ContainerOwner       bool // what is written belongs to the container's user, if it has one set
}

// StatPath tells what a path in a container is. A link is described itself,
// unless the path ends with a slash.
//
// Errors: NotFound (the container, the path).
func (e *Engine) StatPath(ctx context.Context, ref, name string) (dcontainer.PathStat, error) {
	var stat dcontainer.PathStat
	err := e.inView(ctx, ref, name, func(_ *record, v *view) (err error) {
		stat, err = statPath(v.root, name)
		return err
	})
	return stat, err
}

// ArchivePath writes a file or directory of a container as an archive to what
// begin returns, once it is known what the path is.
//
// Errors: NotFound (the container, the path).
func (e *Engine) ArchivePath(ctx context.Context, ref, name string, begin func(dcontainer.PathStat) io.Writer) error {
	return e.inView(ctx, ref, name, func(r *record, v *view) error {
		full := preserveEnd(path.Join("/", name), name)
		stat, err := statPath(v.root, full)
		if err != nil {
			return err
		}
		e.emit(r, devents.ActionArchivePath, nil)
		source := path.Clean(full)
		if source != full {
			if source, err = v.root.Real(source); err != nil {
				return err
			}
		}
		return tree.Archive(ctx, begin(stat), v.root, source, path.Base(full))
	})
}

// ExtractPath writes the entries of an archive, plain or compressed, below a
// directory of a container.
//
// Errors: NotFound (the container, the directory), Invalid (it is no directory,
// it is read-only).
func (e *Engine) ExtractPath(ctx context.Context, ref, name string, opts ExtractOptions, content io.Reader) error {
	return e.inView(ctx, ref, name, func(r *record, v *view) error {
		dir, err := v.root.Real(path.Join("/", name))
		if err != nil {
			return err
		}
		st, err := v.root.Lstat(dir)
		if err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return invalid("extraction point is not a directory")
		}
		cfg := r.config()
		if err := checkWritable(cfg, dir); err != nil {
			return err
		}
		x := extractor{root: v.root, dir: dir, keep: opts.NoOverwriteDirNonDir}
		if opts.ContainerOwner && cfg.Config.User != "" {
			if x.owner, err = e.ownerIn(cfg); err != nil {
				return err
			}
		}
		if err := x.extract(ctx, content); err != nil {
			return err
		}
		e.emit(r, devents.ActionExtractToDir, nil)
		return nil
	})
}

// Export writes a container's root file system, without its volumes, as an archive.
func (e *Engine) Export(ctx context.Context, ref string, w io.Writer) error {
	r, err := e.find(ref)
	if err != nil {
		return err
	}
	v, err := e.openView(ctx, r, false)
	if err != nil {
		return err
	}
	e.emit(r, devents.ActionExport, nil)
	return errors.Join(tree.Archive(ctx, w, v.root, "/", ""), v.close())
}

// inView calls do with a view of the container; its not finding name in it is the
// reference's error.
func (e *Engine) inView(ctx context.Context, ref, name string, do func(*record, *view) error) error {
	r, err := e.find(ref)
	if err != nil {
		return err
	}
	v, err := e.openView(ctx, r, true)
	if err != nil {
		return err
	}
	err = do(r, v)
	if errors.Is(err, fs.ErrNotExist) {
		err = problem.New(problem.NotFound, "Could not find the file %s in container %s", name, ref)
	}
	return errors.Join(err, v.close())
}

// preserveEnd gives a cleaned path the end of the path that it came from: a slash,
// or a slash and a dot, which mean that it is to be a directory.
func preserveEnd(clean, name string) string {
	if path.Base(name) == "." && !strings.HasSuffix(clean, "/.") {
		return strings.TrimSuffix(clean, "/") + "/."
	}
	if strings.HasSuffix(name, "/") && !strings.HasSuffix(clean, "/") {
		return clean + "/"
	}
	return clean
}

// statPath is StatPath in a file system.
func statPath(root *tree.Root, name string) (dcontainer.PathStat, error) {
	open := root.Lhandle
	mustDir := strings.HasSuffix(name, "/") || strings.HasSuffix(name, "/.")
	if mustDir {
		open = root.Handle
	}
	f, err := open(name)
	if err != nil {
		return dcontainer.PathStat{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return dcontainer.PathStat{}, err
	}
	if mustDir && !info.IsDir() {
		return dcontainer.PathStat{}, &fs.PathError{Op: "lstat", Path: name, Err: unix.ENOTDIR}
	}
	stat := dcontainer.PathStat{Name: path.Base(name), Size: info.Size(), Mode: info.Mode(), Mtime: info.ModTime()}
	if info.Mode()&fs.ModeSymlink != 0 {
		stat.LinkTarget = root.Follow(name)
	}
	return stat, nil
}

// checkWritable refuses to write below dir if the container may not either.
func checkWritable(cfg *config, dir string) error {
	var in *mountPoint
	for i, p := range cfg.Mounts {
		below := dir == p.Destination || strings.HasPrefix(dir, p.Destination+"/")
		// The mounts are sorted: a later one lies deeper.
		if below && p.Type != dmount.TypeTmpfs {
			in = &cfg.Mounts[i]
		}
	}
	switch {
	case in != nil && !in.RW:
		return invalid("mounted volume is marked read-only")
	case in == nil && cfg.HostConfig.ReadonlyRootfs:
		return invalid("container rootfs is marked read-only")
	}
	return nil
}

// ownerIn resolves the container's user with the container's own files.
func (e *Engine) ownerIn(cfg *config) (*[2]int, error) {
	_, root, err := e.surround(cfg)
	if err != nil {
		return nil, err
	}
	found, err := root.lookUp(cfg.Config.User, nil)
	if err != nil {
		return nil, err
	}
	return &[2]int{int(found.User.UID), int(found.User.GID)}, nil
}

// extractor writes an archive below dir, a path without links.
type extractor struct {
	root  *tree.Root
	dir   string
	keep  bool    // directories stay directories, and other files other files
	owner *[2]int // user and group of all that is written; nil: the archive's
}

func (x *extractor) extract(ctx context.Context, content io.Reader) (err error) {
	stream, _, err := tree.Decompress(content, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stream.Close()) }()
	w := tree.NewWriter(x.root, tree.Options{})
	archive := tar.NewReader(stream)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return w.Close()
		}
		if err == nil {
			err = errors.Join(context.Cause(ctx), x.put(w, h, archive))
		}
		if err != nil {
			w.Abandon()
			return err
		}
	}
}

func (x *extractor) put(w *tree.Writer, h *tar.Header, body io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name := path.Clean(strings.TrimLeft(h.Name, "/"))
	if name == ".." || strings.HasPrefix(name, "../") {
		return invalid("%q is outside of %q", h.Name, x.dir)
	}
	if name == "." {
		return nil
	}
	target := path.Join(x.dir, name)
	if x.keep {
		if err := x.checkKind(h, target); err != nil {
			return err
		}
	}
	h.Name = target
	if h.Typeflag == tar.TypeLink {
		h.Linkname = path.Join(x.dir, path.Join("/", h.Linkname))
	}
	if x.owner != nil {
		h.Uid, h.Gid = x.owner[0], x.owner[1]
	}
	_, err := w.Put(h, body)
	return err
}

// checkKind refuses an entry that would put a directory in the place of another
// file, or the reverse.
func (x *extractor) checkKind(h *tar.Header, target string) error {
	st, err := x.root.Lstat(target)
	if err != nil {
		return nil // Put says what is wrong, if anything is
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case isDir && h.Typeflag != tar.TypeDir:
		return fmt.Errorf("cannot overwrite directory %q with non-directory %q", target, x.dir)
	case !isDir && h.Typeflag == tar.TypeDir:
		return fmt.Errorf("cannot overwrite non-directory %q with directory %q", target, x.dir)
	}
	return nil
}
