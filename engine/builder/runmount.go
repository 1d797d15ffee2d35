package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"gantry/internal/fault"
	"gantry/internal/problem"
	"gantry/internal/tree"
)

// runMount is one --mount.
type runMount struct {
	kind     instructions.MountType
	target   string // absolute
	readOnly bool
	bytes    int64 // of a tmpfs

	from, source string // of a bind or a cache: a stage, an image, or "" for the context; a path in it

	cache    string // name of a cache
	sharing  instructions.ShareMode
	mode     fs.FileMode
	uid, gid int

	origins []origin        // what a bind of the context selects
	layers  []digest.Digest // that from is made of
	content string          // stands for what is mounted; empty: nothing that counts
}

// planMounts reads the mounts of RUN. What the classic protocol has no way to
// give, secrets and agents, is left out unless it is required.
func (st state) planMounts(c *instructions.RunCommand) ([]runMount, error) {
	var mounts []runMount
	for _, m := range instructions.GetMounts(c) {
		rm := runMount{kind: m.Type, target: st.resolve(m.Target), readOnly: m.ReadOnly, bytes: m.SizeLimit,
			from: m.From, source: m.Source, mode: 0o755}
		if m.Mode != nil {
			rm.mode = fs.FileMode(*m.Mode) & fs.ModePerm
		}
		if m.UID != nil {
			rm.uid = int(*m.UID)
		}
		if m.GID != nil {
			rm.gid = int(*m.GID)
		}
		switch m.Type {
		case instructions.MountTypeSecret, instructions.MountTypeSSH:
			if err := refuseRequired(m); err != nil {
				return nil, err
			}
			continue
		case instructions.MountTypeCache:
			rm.sharing = m.CacheSharing
			if rm.cache = m.CacheID; rm.cache == "" {
				rm.cache = path.Clean(m.Target)
			}
		case instructions.MountTypeBind, instructions.MountTypeTmpfs:
		default:
			return nil, unsupported("RUN --mount=type=%s is not supported", m.Type)
		}
		if rm.target == "/" {
			return nil, problem.New(problem.Invalid, "invalid mount target %q", m.Target)
		}
		mounts = append(mounts, rm)
	}
	return mounts, nil
}

// refuseRequired refuses a secret or an agent that must be there.
func refuseRequired(m *instructions.Mount) error {
	if !m.Required {
		return nil
	}
	if m.Type == instructions.MountTypeSSH {
		return problem.New(problem.Invalid, "unset ssh forward key %s: POST /build has no way to give one", m.CacheID)
	}
	id := m.CacheID
	if m.Source != "" {
		id = m.Source
	}
	if id == "" {
		id = path.Base(m.Target)
	}
	return problem.New(problem.Invalid, "secret %s: not found: POST /build has no way to give one", id)
}

// findSources finds what the mounts take from the context, stages and images.
func (x *stageRun) findSources(ctx context.Context, mounts []runMount) error {
	for i := range mounts {
		m := &mounts[i]
		if m.kind != instructions.MountTypeBind && (m.kind != instructions.MountTypeCache || m.from == "") {
			continue
		}
		if m.from == "" {
			req := copyRequest{verb: "RUN --mount", src: x.build.context, context: true, paths: []string{m.source}}
			o, err := req.origin(cleanName(m.source), filter{})
			if errors.Is(err, fs.ErrNotExist) {
				return req.missing(m.source)
			}
			if err != nil {
				return err
			}
			m.origins = []origin{o}
			if m.content, err = contentKey(m.origins); err != nil {
				return err
			}
			continue
		}
		var err error
		if m.layers, err = x.sourceLayers(ctx, m.from); err != nil {
			return err
		}
		m.content = chain(m.layers)
	}
	return nil
}

// key stands for what the command sees of a mount. What is in a cache is not
// part of it.
func (m runMount) key() string {
	return strings.Join([]string{string(m.kind), m.target, strconv.FormatBool(m.readOnly), strconv.FormatInt(m.bytes, 10),
		m.cache, m.source, m.content}, "\x01")
}

// mounts prepares what is mounted for a run. dir is for temporary files, on the
// file system of the layers. The caller calls release when the command has
// ended, error or not.
func (x *stageRun) mounts(ctx context.Context, p runPlan, dir string) (_ []Mount, release func(), err error) {
	var releases []func()
	release = func() {
		for _, f := range releases {
			f()
		}
	}
	var out []Mount
	for i, m := range p.mounts {
		mount := Mount{Target: m.target, ReadOnly: m.readOnly, Bytes: m.bytes}
		at := filepath.Join(dir, "mount-"+strconv.Itoa(i))
		switch {
		case m.kind == instructions.MountTypeCache:
			var done func()
			if mount.Source, done, err = x.cacheMount(ctx, m); err == nil {
				releases = append(releases, done)
			}
		case m.kind == instructions.MountTypeBind && m.from == "":
			mount.Source, err = unpackOrigin(ctx, m.origins, at)
		case m.kind == instructions.MountTypeBind:
			err = x.bindLayers(ctx, &mount, m, at)
		}
		if err != nil {
			return nil, release, fmt.Errorf("mount %s: %w", m.target, err)
		}
		out = append(out, mount)
	}
	if p.script != "" {
		file := filepath.Join(dir, "script")
		if err := errors.Join(os.WriteFile(file, []byte(p.script), 0o755), os.Chmod(file, 0o755)); err != nil {
			return nil, release, err
		}
		out = append(out, Mount{Source: file, Target: p.args[0], ReadOnly: true})
	}
	return out, release, nil
}

// unpackOrigin writes what was selected into a new directory at, and returns
// where it is: at, or the file in it.
func unpackOrigin(ctx context.Context, origins []origin, at string) (string, error) {
	if err := os.Mkdir(at, 0o755); err != nil {
		return "", err
	}
	root, err := tree.OpenRoot(at)
	if err != nil {
		return "", err
	}
	c := newCopier(root, time.Time{})
	if err = c.place(ctx, origins, "/", true); err == nil {
		err = c.close()
	} else {
		c.w.Abandon()
	}
	if o := origins[0]; !o.dir {
		at = filepath.Join(at, o.name)
	}
	return at, errors.Join(err, root.Close())
}

// bindLayers mounts a path of a stage or an image. What is written there is
// lost: it goes to a directory below at.
func (x *stageRun) bindLayers(ctx context.Context, mount *Mount, m runMount, at string) (err error) {
	images := x.build.cfg.Images
	root, err := images.OpenRoot(m.layers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	name, err := follow(rootSource{root}, cleanName(m.source))
	if err != nil {
		return problem.New(problem.NotFound, "stat %s: file does not exist in %s", m.source, m.from)
	}
	st, err := root.Lstat(name)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return x.bindFile(ctx, mount, root, name, at)
	}
	dirs, err := images.LayerDirs(m.layers)
	if err != nil {
		return err
	}
	lower, err := directoryIn(dirs, name)
	if err != nil {
		return err
	}
	switch {
	case len(lower) == 0: // the root of an image without layers
		mount.Source = at
		return os.Mkdir(at, 0o755)
	case mount.ReadOnly && len(lower) == 1:
		mount.Source = lower[0]
		return nil
	}
	if mount.Lower = lower; !mount.ReadOnly {
		mount.Upper, mount.Work = filepath.Join(at, "upper"), filepath.Join(at, "work")
		return errors.Join(os.MkdirAll(mount.Upper, 0o755), os.Mkdir(mount.Work, 0o755))
	}
	return nil
}

// bindFile mounts a copy of a file: the layer's own could be written to.
func (x *stageRun) bindFile(ctx context.Context, mount *Mount, root *tree.Root, name, at string) error {
	h, err := rootSource{root}.lookup(name)
	if err != nil {
		return err
	}
	mount.Source, err = unpackOrigin(ctx, []origin{{name: path.Base(name),
		files: []item{{src: rootSource{root}, path: name, header: h}}}}, at)
	return err
}

// directoryIn returns where the layers in dirs, topmost first, have the
// directory name of their union: the lower directories of an overlay that shows
// it alone.
func directoryIn(dirs []string, name string) ([]string, error) {
	var found []string
	for _, dir := range dirs {
		at, last := dir, false
		present := true
		for part := range strings.SplitSeq(name, "/") {
			if part == "" {
				continue
			}
			at = filepath.Join(at, part)
			info, err := os.Lstat(at)
			if errors.Is(err, fs.ErrNotExist) {
				present = false
				break
			}
			if err != nil {
				return nil, err
			}
			if !info.IsDir() {
				return found, nil // a whiteout, or a file: nothing below shows
			}
			opaque := make([]byte, 1)
			if n, err := unix.Lgetxattr(at, "trusted.overlay.opaque", opaque); err == nil && n == 1 && opaque[0] == 'y' {
				last = true
			}
		}
		if present {
			found = append(found, at)
		}
		if last {
			break
		}
	}
	return found, nil
}

// cacheMount returns the directory of a cache for as long as release is not
// called.
func (x *stageRun) cacheMount(ctx context.Context, m runMount) (dir string, release func(), err error) {
	name := digest.FromString(m.cache).Encoded()[:32]
	b := x.build.Builder
	name, release, err = b.caches.acquire(ctx, name, m.sharing)
	if err != nil {
		return "", nil, err
	}
	dir = filepath.Join(b.mountsDir(), name)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return dir, release, err
	}
	if err := x.newCache(ctx, m, dir); err != nil {
		release()
		return "", nil, err
	}
	return dir, release, nil
}

// newCache makes a cache's directory, with what from has for it.
func (x *stageRun) newCache(ctx context.Context, m runMount, dir string) (err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(filepath.Join(x.build.cfg.Dir, "tmp"), "cache-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(fresh)) }()
	content := filepath.Join(fresh, "content")
	if m.from == "" {
		if m.source != "" {
			return problem.New(problem.Invalid, "source of a cache mount needs from")
		}
		if err := os.Mkdir(content, m.mode); err != nil {
			return err
		}
	} else {
		root, err := x.build.cfg.Images.OpenRoot(m.layers)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, root.Close()) }()
		o, err := copyRequest{verb: "RUN --mount", src: rootSource{root}}.origin(cleanName(m.source), filter{})
		if err != nil {
			return err
		}
		if _, err := unpackOrigin(ctx, []origin{o}, content); err != nil {
			return err
		}
	}
	err = errors.Join(os.Chown(content, m.uid, m.gid), os.Chmod(content, m.mode), fault.At("builder/cachemount/before-rename"))
	if err != nil {
		return err
	}
	if err := os.Rename(content, dir); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return err // another step that shares it may have been first
	}
	return nil
}

// mountSources lists the stages and images that the mounts of RUN are from.
func mountSources(c *instructions.RunCommand) []string {
	var names []string
	for _, m := range instructions.GetMounts(c) {
		if m.From != "" {
			names = append(names, m.From)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
