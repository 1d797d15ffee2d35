package builder

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"gantry/internal/problem"
	"gantry/internal/tree"
)

// source is a tree of files that COPY takes from: the context, or the root file
// system of a stage or an image. Names are clean and relative, "" is the root;
// links are not followed.
type source interface {
	// lookup returns what name is; its Name field means nothing. The error is
	// fs.ErrNotExist when there is none.
	lookup(name string) (*tar.Header, error)
	// children returns the names in a directory, sorted.
	children(name string) ([]string, error)
	open(name string) (io.ReadCloser, error)
	contentDigest(name string) (digest.Digest, error)
}

// maxLinks is how many links a path may lead through, as in Linux.
const maxLinks = 40

// follow resolves all links in name, within the source.
func follow(s source, name string) (string, error) {
	links := 0
	done := ""
	rest := name
	for rest != "" {
		first, more, _ := strings.Cut(rest, "/")
		if first == ".." || first == "." || first == "" {
			rest, done = more, cleanName(path.Join(done, first))
			continue
		}
		at := path.Join(done, first)
		h, err := s.lookup(at)
		if err != nil {
			return "", &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
		}
		if h.Typeflag != tar.TypeSymlink {
			if more != "" && h.Typeflag != tar.TypeDir {
				return "", &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
			}
			done, rest = at, more
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "stat", Path: name, Err: unix.ELOOP}
		}
		if path.IsAbs(h.Linkname) {
			done = ""
		}
		rest = strings.TrimLeft(h.Linkname, "/") + "/" + more
	}
	return done, nil
}

// hasWildcards reports whether name is a pattern (moby, builder/dockerfile).
func hasWildcards(name string) bool { return strings.ContainsAny(name, `*?[\`) }

// match returns what a pattern matches, sorted. As in path.Match, "*" stops at
// a slash.
func match(s source, pattern string) ([]string, error) {
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, problem.New(problem.Invalid, "pattern %s: %w", pattern, err)
	}
	found := []string{""}
	for _, part := range strings.Split(pattern, "/") {
		var next []string
		for _, dir := range found {
			real, err := follow(s, dir)
			if err != nil {
				continue
			}
			h, err := s.lookup(real)
			if err != nil || h.Typeflag != tar.TypeDir {
				continue
			}
			names, err := s.children(real)
			if err != nil {
				return nil, err
			}
			for _, base := range names {
				if ok, _ := path.Match(part, base); ok {
					next = append(next, path.Join(dir, base))
				}
			}
		}
		found = next
	}
	slices.Sort(found)
	return found, nil
}

// rootSource is the root file system of a stage or an image.
type rootSource struct{ root *tree.Root }

func (r rootSource) lookup(name string) (*tar.Header, error) {
	if name == "" {
		name = "."
	}
	st, err := r.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	h := &tar.Header{
		Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec),
	}
	if name == "." {
		h.ModTime = time.Unix(0, 0) // the root is in no layer, its time means nothing
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
		h.PAXRecords, err = r.root.Xattrs(name)
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		h.Linkname, err = r.root.Readlink(name)
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default:
		return nil, problem.New(problem.Unsupported, "%s is a socket", name)
	}
	return h, err
}

func (r rootSource) children(name string) ([]string, error) { return r.root.ReadDir(name) }

func (r rootSource) open(name string) (io.ReadCloser, error) { return r.root.Open(name) }

func (r rootSource) contentDigest(name string) (_ digest.Digest, err error) {
	f, err := r.root.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", err
	}
	return digest.NewDigest(digest.SHA256, hash), nil
}

// heredocs is a source of files whose content is in the Dockerfile.
type heredocs struct {
	files map[string]string
	time  time.Time
}

func (s heredocs) lookup(name string) (*tar.Header, error) {
	if name == "" {
		return &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755, ModTime: s.time}, nil
	}
	body, ok := s.files[name]
	if !ok {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	return &tar.Header{Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body)), ModTime: s.time}, nil
}

func (s heredocs) children(string) ([]string, error) { return nil, nil }

func (s heredocs) open(name string) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(s.files[name])), nil
}

func (s heredocs) contentDigest(name string) (digest.Digest, error) {
	return digest.FromString(s.files[name]), nil
}
