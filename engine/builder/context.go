package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	"github.com/opencontainers/go-digest"

	"gantry/internal/problem"
	"gantry/internal/tree"
)

// buildContext is the build context: the archive as it came, and an index. It
// is not unpacked: nothing in it can lead anywhere, and what no COPY asks for
// costs nothing more. Small files stay in memory, the rest is one file that has
// no name.
type buildContext struct {
	entries map[string]*contextEntry // by clean path, "" is the root
	spool   spool
	ignored *patternmatcher.PatternMatcher // what the ignore file excludes; nil without one
}

type contextEntry struct {
	header   *tar.Header
	digest   digest.Digest // of the content of a regular file
	offset   int64         // of the content in the spool
	children []string      // base names, sorted
}

// receive reads the archive of a build context to its end. dir is for a
// temporary file. bytes, if not nil, is told how much has come.
func receive(ctx context.Context, r io.Reader, dir string, arrived func(int64)) (_ *buildContext, err error) {
	plain, _, err := tree.Decompress(ctxReader{ctx, r}, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	c := &buildContext{entries: map[string]*contextEntry{}, spool: spool{dir: dir}}
	c.add("", &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755})
	archive := tar.NewReader(plain)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = c.receiveEntry(h, archive)
		}
		if err != nil {
			return nil, errors.Join(contextError(ctx, err), c.Close())
		}
		if arrived != nil {
			arrived(c.spool.size)
		}
	}
	c.index()
	return c, nil
}

func contextError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return problem.New(problem.Invalid, "build context: %w", err)
}

func (c *buildContext) receiveEntry(h *tar.Header, body io.Reader) error {
	name := cleanName(h.Name)
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeLink:
		target, ok := c.entries[cleanName(h.Linkname)]
		if !ok {
			return fmt.Errorf("%s is a hard link to %s, which is not in the archive before it", h.Name, h.Linkname)
		}
		e := *target
		c.entries[name] = &e
		return nil
	}
	if name == "" && h.Typeflag != tar.TypeDir {
		return fmt.Errorf("%q is not a directory", h.Name)
	}
	e := c.add(name, h)
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	hash := sha256.New()
	e.offset = c.spool.size
	n, err := io.Copy(io.MultiWriter(&c.spool, hash), body)
	h.Size = n
	e.digest = digest.NewDigest(digest.SHA256, hash)
	return err
}

func (c *buildContext) add(name string, h *tar.Header) *contextEntry {
	e := &contextEntry{header: h}
	c.entries[name] = e
	return e
}

// index makes the directories that are only implied, and lists children. What
// is below something that is no directory is dropped.
func (c *buildContext) index() {
	names := make([]string, 0, len(c.entries))
	for name := range c.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for at := name; at != ""; at = parentOf(at) {
			dir := parentOf(at)
			e := c.entries[dir]
			if e == nil {
				e = c.add(dir, &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755, ModTime: c.entries[name].header.ModTime})
			}
			if e.header.Typeflag != tar.TypeDir {
				break
			}
			base := path.Base(at)
			if i, ok := slices.BinarySearch(e.children, base); !ok {
				e.children = slices.Insert(e.children, i, base)
			} else {
				break // listed already, and so are the directories above
			}
		}
	}
}

func parentOf(name string) string {
	dir := path.Dir(name)
	if dir == "." {
		return ""
	}
	return dir
}

// Close releases the content.
func (c *buildContext) Close() error { return c.spool.Close() }

// ignore removes what the ignore file excludes. Directories stay if something
// below them does.
func (c *buildContext) ignore(patterns []string) error {
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return problem.New(problem.Invalid, "error checking context: %w", err)
	}
	c.ignored = m
	_, err = c.exclude(m, "", patternmatcher.MatchInfo{})
	return err
}

// exclude removes what m matches below dir, and reports whether anything is
// left.
func (c *buildContext) exclude(m *patternmatcher.PatternMatcher, dir string, parent patternmatcher.MatchInfo) (bool, error) {
	e := c.entries[dir]
	kept := e.children[:0:0]
	for _, base := range e.children {
		name := path.Join(dir, base)
		match, info, err := m.MatchesUsingParentResults(name, parent)
		if err != nil {
			return false, problem.New(problem.Invalid, "error checking context: %w", err)
		}
		below := false
		if c.entries[name].header.Typeflag == tar.TypeDir {
			if below, err = c.exclude(m, name, info); err != nil {
				return false, err
			}
		}
		if match && !below {
			delete(c.entries, name)
			continue
		}
		kept = append(kept, base)
	}
	e.children = kept
	return len(kept) > 0, nil
}

// ignoreFile applies the ignore file that goes with a Dockerfile: the one named
// after it, else .dockerignore.
func (c *buildContext) ignoreFile(dockerfile string) error {
	for _, name := range []string{dockerfile + ".dockerignore", ".dockerignore"} {
		b, err := c.readFile(name, maxDockerfile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		patterns, err := ignorefile.ReadAll(bytes.NewReader(b))
		if err != nil {
			return problem.New(problem.Invalid, "%s: %w", name, err)
		}
		return c.ignore(patterns)
	}
	return nil
}

func (c *buildContext) readFile(name string, limit int64) (_ []byte, err error) {
	name, err = follow(c, cleanName(name))
	if err != nil {
		return nil, err
	}
	e := c.entries[name]
	if e.header.Typeflag != tar.TypeReg {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	if e.header.Size > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	r, err := c.open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return io.ReadAll(r)
}

// The methods of source.

func (c *buildContext) lookup(name string) (*tar.Header, error) {
	e, ok := c.entries[name]
	if !ok {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	return e.header, nil
}

func (c *buildContext) children(name string) ([]string, error) { return c.entries[name].children, nil }

func (c *buildContext) open(name string) (io.ReadCloser, error) {
	e := c.entries[name]
	return io.NopCloser(c.spool.section(e.offset, e.header.Size)), nil
}

func (c *buildContext) contentDigest(name string) (digest.Digest, error) {
	return c.entries[name].digest, nil
}

// spoolMemory is how much of a context is kept in memory.
const spoolMemory = 8 << 20

// spool holds the content of a context's files, one after the other.
type spool struct {
	dir  string
	size int64
	mem  []byte
	file *os.File // nil while all is in memory
}

func (s *spool) Write(p []byte) (int, error) {
	if s.file == nil && s.size+int64(len(p)) <= spoolMemory {
		s.mem = append(s.mem, p...)
		s.size += int64(len(p))
		return len(p), nil
	}
	if s.file == nil {
		f, err := os.CreateTemp(s.dir, "context-")
		if err != nil {
			return 0, err
		}
		s.file = f
		// Without a name, it goes with the process.
		if err := os.Remove(f.Name()); err != nil {
			return 0, err
		}
		if _, err := f.Write(s.mem); err != nil {
			return 0, err
		}
		s.mem = nil
	}
	n, err := s.file.Write(p)
	s.size += int64(n)
	return n, err
}

func (s *spool) section(offset, n int64) io.Reader {
	if s.file == nil {
		return bytes.NewReader(s.mem[offset : offset+n])
	}
	return io.NewSectionReader(s.file, offset, n)
}

func (s *spool) Close() error {
	s.mem = nil
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// cleanName returns a path of an archive relative to its root, "" for the root.
func cleanName(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// ctxReader ends a stream when ctx does.
type ctxReader struct {
	ctx context.Context //nolint:containedctx // as long as one call
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
