package builder

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/moby/patternmatcher"

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
	remote  map[string]origin // what was fetched, by path
	dest    string            // as written
	chown   string
	chmod   string
	exclude []string // patterns of what is left out
	parents bool     // directories of a path are kept, from "/./" on if it has that
	unpack  *bool    // ADD: nil unpacks what is an archive
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
		if fetched, ok := r.remote[p]; ok {
			origins = append(origins, fetched)
			continue
		}
		choose := r.selectPath
		if r.parents {
			choose = r.selectParents
		}
		found, err := choose(p)
		if err != nil {
			return nil, err
		}
		origins = append(origins, found...)
	}
	if len(origins) == 0 && len(r.exclude) == 0 {
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
	f, err := newFilter("", r.exclude)
	if err != nil {
		return nil, err
	}
	return r.origins(names, f)
}

// selectParents finds what one source path of COPY --parents means: a pattern
// below a root, which ends at "/./".
func (r copyRequest) selectParents(p string) ([]origin, error) {
	root, pattern, ok := strings.Cut(p, "/./")
	if !ok {
		root, pattern = "", p
	}
	root, pattern = cleanName(root), cleanName(pattern)
	names := []string{root}
	var err error
	if hasWildcards(root) {
		if names, err = match(r.src, root); err != nil {
			return nil, err
		}
	}
	if !hasWildcards(p) {
		if _, err := follow(r.src, path.Join(root, pattern)); err != nil {
			return nil, r.missing(path.Join(root, pattern))
		}
	}
	f, err := newFilter(pattern, r.exclude)
	if err != nil {
		return nil, err
	}
	return r.origins(names, f)
}

func (r copyRequest) origins(names []string, f filter) ([]origin, error) {
	var origins []origin
	for _, name := range names {
		o, err := r.origin(name, f)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, r.missing(name)
		}
		if err != nil {
			return nil, fmt.Errorf("%s failed: %w", r.verb, err)
		}
		if len(o.files) > 0 {
			origins = append(origins, o)
		}
	}
	return origins, nil
}

func (r copyRequest) missing(name string) error {
	if r.context {
		return problem.New(problem.NotFound, "%s failed: file not found in build context or excluded by .dockerignore: stat %s: file does not exist", r.verb, name)
	}
	return problem.New(problem.NotFound, "%s failed: stat %s: file does not exist", r.verb, name)
}

func (r copyRequest) origin(name string, f filter) (origin, error) {
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
		if kept, err := f.keeps(o.name); err != nil || !kept {
			return o, err
		}
		it := item{src: r.src, path: real, header: h}
		if it.unpack, err = r.unpacks(it); err != nil {
			return o, err
		}
		o.files = append(o.files, it)
		return o, nil
	}
	// The directory itself is there for when the destination must be made.
	o.files = append(o.files, item{src: r.src, path: real, header: h})
	return o, r.walk(&o, f, real, "")
}

func (r copyRequest) walk(o *origin, f filter, dir, rel string) error {
	names, err := r.src.children(dir)
	if err != nil {
		return err
	}
	for _, base := range names {
		it := item{src: r.src, rel: path.Join(rel, base), path: path.Join(dir, base)}
		if !f.reaches(it.rel) {
			continue
		}
		if it.header, err = r.src.lookup(it.path); err != nil {
			if errors.Is(err, problem.Unsupported) {
				continue // a socket: no archive could hold it either
			}
			return err
		}
		kept, err := f.keeps(it.rel)
		if err != nil {
			return err
		}
		at := len(o.files)
		if isDir := it.header.Typeflag == tar.TypeDir; kept || isDir {
			o.files = append(o.files, it)
			if isDir {
				if err := r.walk(o, f, it.path, it.rel); err != nil {
					return err
				}
			}
		}
		if !kept && len(o.files) == at+1 {
			o.files = o.files[:at] // a directory of nothing that is kept
		}
	}
	return nil
}

// filter chooses among the files below a directory.
type filter struct {
	include, exclude *patternmatcher.PatternMatcher // nil: everything, nothing
	literal          string                         // what is included is above or below it
}

func newFilter(include string, exclude []string) (f filter, err error) {
	if include != "" {
		literal := include
		if at := strings.IndexAny(include, `*?[\`); at >= 0 {
			literal = path.Dir(include[:at] + "x")
		}
		if f.literal = literal; literal == "." {
			f.literal = ""
		}
		if f.include, err = patternmatcher.New([]string{include}); err != nil {
			return f, problem.New(problem.Invalid, "pattern %s: %w", include, err)
		}
	}
	if len(exclude) > 0 {
		if f.exclude, err = patternmatcher.New(exclude); err != nil {
			return f, problem.New(problem.Invalid, "--exclude: %w", err)
		}
	}
	return f, nil
}

// reaches reports whether name may be kept or hold what is.
func (f filter) reaches(name string) bool {
	return f.literal == "" || name == f.literal ||
		strings.HasPrefix(f.literal, name+"/") || strings.HasPrefix(name, f.literal+"/")
}

func (f filter) keeps(name string) (bool, error) {
	if f.exclude != nil {
		if out, err := f.exclude.MatchesOrParentMatches(name); err != nil || out {
			return false, err
		}
	}
	if f.include == nil {
		return true, nil
	}
	return f.include.MatchesOrParentMatches(name)
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
