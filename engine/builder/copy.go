package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/problem"
	"gantry/internal/tree"
)

// copyRequest is COPY or ADD, with variables replaced.
type copyRequest struct {
	verb    string // "COPY", "ADD"
	src     source
	context bool // src is the build context
	paths   []string
	inline  heredocs
	dest    string // as written
	chown   string
	chmod   string
	unpack  *bool // ADD: nil unpacks what is an archive
	link    bool
}

// origin is what one source path of a request selected.
type origin struct {
	name  string // base name, as asked for
	dir   bool   // its content is copied, not it
	files []item // the file itself, or what is in the directory
}

// item is one file to copy.
type item struct {
	rel    string // path below the origin; "" for a file
	src    source
	path   string // in src, links resolved
	header *tar.Header
	unpack bool // an archive to unpack at the destination
}

// selectFiles finds what a request copies, in the order in which it is written.
func (r copyRequest) selectFiles() ([]origin, error) {
	var origins []origin
	for _, name := range slices.Sorted(maps.Keys(r.inline.files)) {
		h, err := r.inline.lookup(name)
		if err != nil {
			return nil, err
		}
		origins = append(origins, origin{name: name, files: []item{{src: r.inline, path: name, header: h}}})
	}
	for _, p := range r.paths {
		found, err := r.selectPath(p)
		if err != nil {
			return nil, err
		}
		origins = append(origins, found...)
	}
	if len(origins) == 0 {
		return nil, problem.New(problem.NotFound, "%s failed: no source files were specified", r.verb)
	}
	return origins, nil
}

// selectPath finds what one source path means. Leading slashes and ".." mean
// nothing: the source's root is as far up as it goes.
func (r copyRequest) selectPath(p string) ([]origin, error) {
	names := []string{cleanName(p)}
	if hasWildcards(p) {
		var err error
		if names, err = match(r.src, cleanName(p)); err != nil {
			return nil, err
		}
		if len(names) == 0 {
			return nil, nil
		}
	}
	var origins []origin
	for _, name := range names {
		o, err := r.origin(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, r.missing(name)
		}
		if err != nil {
			return nil, fmt.Errorf("%s failed: %w", r.verb, err)
		}
		origins = append(origins, o)
	}
	return origins, nil
}

func (r copyRequest) missing(name string) error {
	if r.context {
		return problem.New(problem.NotFound, "%s failed: file not found in build context or excluded by .dockerignore: stat %s: file does not exist", r.verb, name)
	}
	return problem.New(problem.NotFound, "%s failed: stat %s: file does not exist", r.verb, name)
}

func (r copyRequest) origin(name string) (origin, error) {
	real, err := follow(r.src, name)
	if err != nil {
		return origin{}, err
	}
	h, err := r.src.lookup(real)
	if err != nil {
		return origin{}, err
	}
	o := origin{name: path.Base(name), dir: h.Typeflag == tar.TypeDir}
	if !o.dir {
		it := item{src: r.src, path: real, header: h}
		if it.unpack, err = r.unpacks(it); err != nil {
			return o, err
		}
		o.files = append(o.files, it)
		return o, nil
	}
	// The directory itself is there for when the destination must be made.
	o.files = append(o.files, item{src: r.src, path: real, header: h})
	return o, r.walk(&o, real, "")
}

func (r copyRequest) walk(o *origin, dir, rel string) error {
	names, err := r.src.children(dir)
	if err != nil {
		return err
	}
	for _, base := range names {
		it := item{src: r.src, rel: path.Join(rel, base), path: path.Join(dir, base)}
		if it.header, err = r.src.lookup(it.path); err != nil {
			if errors.Is(err, problem.Unsupported) {
				continue // a socket: no archive could hold it either
			}
			return err
		}
		o.files = append(o.files, it)
		if it.header.Typeflag == tar.TypeDir {
			if err := r.walk(o, it.path, it.rel); err != nil {
				return err
			}
		}
	}
	return nil
}

// unpacks reports whether ADD unpacks a file: one that is a tar archive,
// compressed or not.
func (r copyRequest) unpacks(it item) (_ bool, err error) {
	if r.verb != "ADD" || it.header.Typeflag != tar.TypeReg || it.header.Size == 0 || r.unpack != nil && !*r.unpack {
		return false, nil
	}
	f, err := it.src.open(it.path)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	plain, kind, err := tree.Decompress(f, nil)
	if err != nil {
		// xz and the like: said only if the user is sure that it is an archive,
		// or if Docker would unpack it.
		if errors.Is(err, problem.Unsupported) && strings.Contains(it.path, ".t") {
			return false, fmt.Errorf("unpack %s: %w", it.path, err)
		}
		return false, nil
	}
	_, terr := tar.NewReader(plain).Next()
	if err := plain.Close(); err != nil {
		return false, err
	}
	if terr != nil && r.unpack != nil {
		return false, problem.New(problem.Invalid, "unpack %s (%s): %w", it.path, kind, terr)
	}
	return terr == nil, nil
}

// newest returns the newest time of what is copied. A directory whose content is
// copied is not: the root of a stage has whatever time this host gave it.
func newest(origins []origin, than time.Time) time.Time {
	for _, o := range origins {
		for _, it := range o.files {
			if !(o.dir && it.rel == "") && it.header.ModTime.After(than) {
				than = it.header.ModTime.UTC()
			}
		}
	}
	return than
}

// copier writes what was selected into a root file system.
type copier struct {
	root   *tree.Root
	w      *tree.Writer
	uid    int
	gid    int
	owned  bool      // --chown was given
	chmod  *int64    // --chmod
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
		h.Mode = *c.chmod
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

// owner finds the user and group of --chown in the image's files.
func owner(root *tree.Root, spec string) (uid, gid int, err error) {
	if spec == "" {
		return 0, 0, nil
	}
	user, group, both := strings.Cut(spec, ":")
	uid, primary, err := account(root, "/etc/passwd", user)
	if err != nil {
		return 0, 0, fmt.Errorf("error looking up user %s: %w", user, err)
	}
	if !both || group == "" {
		if primary < 0 {
			primary = uid
		}
		return uid, primary, nil
	}
	gid, _, err = account(root, "/etc/group", group)
	if err != nil {
		return 0, 0, fmt.Errorf("error looking up group %s: %w", group, err)
	}
	return uid, gid, nil
}

// maxAccounts bounds the length of an image's passwd and group files.
const maxAccounts = 16 << 20

// account finds a name in passwd or group: its number, and the number after
// that, which in passwd is the primary group; -1 when unknown.
func account(root *tree.Root, file, name string) (id, next int, err error) {
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(n), -1, nil
	}
	b, err := root.ReadFile(file, maxAccounts)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, 0, err
	}
	for line := range bytes.Lines(b) {
		f := strings.Split(strings.TrimSpace(string(line)), ":")
		if len(f) < 3 || f[0] != name {
			continue
		}
		n, err := strconv.ParseUint(f[2], 10, 31)
		if err != nil {
			return 0, 0, problem.New(problem.Invalid, "%s: %s has number %q", file, name, f[2])
		}
		next = -1
		if len(f) > 3 {
			if g, err := strconv.ParseUint(f[3], 10, 31); err == nil {
				next = int(g)
			}
		}
		return int(n), next, nil
	}
	return 0, 0, problem.New(problem.NotFound, "no such name in %s of the image", file)
}

// parseChmod parses --chmod.
func parseChmod(s string) (*int64, error) {
	if s == "" {
		return nil, nil
	}
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o7777 {
		return nil, problem.New(problem.Invalid, "invalid chmod parameter: '%s'. it should be octal string and between 0 and 07777", s)
	}
	mode := int64(n)
	return &mode, nil
}
