package builder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"gantry/engine/image"
	"gantry/internal/problem"
	"gantry/internal/tree"
)

func newCopier(root *tree.Root, latest time.Time) *copier {
	return &copier{
		root: root, w: tree.NewWriter(root, tree.Options{KeepDirs: true}), latest: latest,
		made: map[string]bool{}, before: map[string]unix.Timespec{},
	}
}

func (x *stageRun) copyStep(ctx context.Context, s step, cmd *instructions.CopyCommand, written string) (err error) {
	req := copyRequest{verb: "COPY", src: x.build.context, context: true, paths: cmd.SourcePaths, dest: cmd.DestPath,
		chown: cmd.Chown, chmod: cmd.Chmod, link: cmd.Link, exclude: cmd.ExcludePatterns, parents: cmd.Parents}
	if err := x.inline(&req, cmd.SourcesAndDest); err != nil {
		return err
	}
	if cmd.From == "" {
		return x.copy(ctx, s, req, "", written)
	}
	layers, err := x.sourceLayers(ctx, cmd.From)
	if err != nil {
		return err
	}
	root, err := x.build.cfg.Images.OpenRoot(layers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	req.src, req.context = rootSource{root}, false
	return x.copy(ctx, s, req, chain(layers), written)
}

// sourceLayers are the layers of a stage or an image that COPY takes from.
func (x *stageRun) sourceLayers(ctx context.Context, from string) ([]digest.Digest, error) {
	n, ok, err := x.build.graph.source(from, x.stage.index)
	if err != nil {
		return nil, err
	}
	if ok {
		st, err := x.build.await(ctx, n)
		return st.layers, err
	}
	img, err := x.build.base(ctx, from, x.build.platform, false)
	return img.Layers, err
}

func (x *stageRun) addStep(ctx context.Context, s step, cmd *instructions.AddCommand, written string) (err error) {
	req := copyRequest{verb: "ADD", src: x.build.context, context: true, paths: cmd.SourcePaths, dest: cmd.DestPath,
		chown: cmd.Chown, chmod: cmd.Chmod, link: cmd.Link, unpack: cmd.Unpack, exclude: cmd.ExcludePatterns}
	if err := x.inline(&req, cmd.SourcesAndDest); err != nil {
		return err
	}
	release, err := x.addRemotes(ctx, &req, cmd)
	defer func() { err = errors.Join(err, release()) }()
	if err != nil {
		return err
	}
	return x.copy(ctx, s, req, "", written)
}

// inline takes the files whose content is in the Dockerfile.
func (x *stageRun) inline(req *copyRequest, from instructions.SourcesAndDest) error {
	lex := shell.NewLex(x.build.graph.file.escape)
	lex.RawQuotes, lex.RawEscapes = true, true
	expand := x.st.expander(lex)
	req.inline = heredocs{files: map[string]string{}, time: x.st.created}
	for _, c := range from.SourceContents {
		if c.Expand {
			var err error
			if c.Data, err = expand(c.Data); err != nil {
				return problem.New(problem.Invalid, "%w", err)
			}
		}
		req.inline.files[c.Path] = c.Data
	}
	return nil
}

// copy carries out COPY and ADD. from stands for the layers that it takes from;
// empty: the context.
func (x *stageRun) copy(ctx context.Context, s step, req copyRequest, from, written string) error {
	if len(req.paths)+len(req.inline.files) > 1 && !endsWithSlash(req.dest) {
		return problem.New(problem.Invalid, "When using %s with more than one source file, the destination must be a directory and end with a /", req.verb)
	}
	if user, group, _ := strings.Cut(req.chown, ":"); req.link && (isName(user) || isName(group)) {
		return problem.New(problem.Invalid, "--chown=%s: user and group names can't be resolved when used with --link, use numeric uid[:gid] instead", req.chown)
	}
	mode, err := parseChmod(req.chmod)
	if err != nil {
		return err
	}
	below := chain(x.st.layers)
	if req.link {
		below = ""
	}
	to := []string{below, x.st.resolve(req.dest), strconv.FormatBool(endsWithSlash(req.dest)), req.chown, req.chmod, x.epochKey()}
	var keys []cacheKey
	if from != "" {
		// Quickly answered, if the source is the same to the layer.
		k := key(append([]string{"copy from", from, strings.Join(req.paths, "\x00"), strings.Join(req.exclude, "\x00"),
			strconv.FormatBool(req.parents)}, to...)...)
		if r, hit := x.build.cached(k); hit && !x.build.inline {
			x.event(s, Event{Kind: Cached})
			x.apply(r, k, written)
			return nil
		}
		keys = append(keys, k)
	}
	origins, err := req.selectFiles()
	if err != nil {
		return err
	}
	if len(origins) > 1 && !endsWithSlash(req.dest) && slices.ContainsFunc(origins, func(o origin) bool { return !o.dir }) {
		return problem.New(problem.Invalid, "When using %s with more than one source file, the destination must be a directory and end with a /", req.verb)
	}
	content, err := contentKey(origins)
	if err != nil {
		return err
	}
	k := key(append([]string{"copy", content}, to...)...)
	r, err := x.memo(ctx, s, append(keys, k), func() (result, error) { return x.makeCopy(ctx, req, origins, mode) })
	if err != nil {
		return err
	}
	x.apply(r, k, written)
	return nil
}

func (x *stageRun) epochKey() string {
	if x.build.epoch.IsZero() {
		return ""
	}
	return x.build.epoch.String()
}

func endsWithSlash(dest string) bool {
	return dest == "." || strings.HasSuffix(dest, "/") || strings.HasSuffix(dest, "/.")
}

func (x *stageRun) makeCopy(ctx context.Context, req copyRequest, origins []origin, mode chmod) (result, error) {
	below := x.st.layers
	if req.link {
		below = nil
	}
	r, err := x.write(ctx, below, func(root *tree.Root, c *copier) (err error) {
		if c.uid, c.gid, err = owner(root, req.chown); err != nil {
			return err
		}
		c.owned, c.chmod = req.chown != "", mode
		return c.place(ctx, origins, x.st.resolve(req.dest), endsWithSlash(req.dest))
	})
	if err != nil {
		return r, err
	}
	if x.build.epoch.IsZero() {
		r.Created = newest(origins, x.st.created)
	}
	return r, nil
}

// contentKey stands for all that is copied: names, kinds, modes and content,
// and not times.
func contentKey(origins []origin) (string, error) {
	var parts []string
	for _, o := range origins {
		parts = append(parts, "origin", o.name, strconv.FormatBool(o.dir))
		for _, it := range o.files {
			h := it.header
			parts = append(parts, it.rel, string(h.Typeflag), strconv.FormatInt(h.Mode&0o7777, 8), h.Linkname,
				fmt.Sprint(h.Devmajor, h.Devminor), fmt.Sprint(h.PAXRecords["SCHILY.xattr.security.capability"]), strconv.FormatBool(it.unpack))
			if h.Size > 0 {
				d, err := it.src.contentDigest(it.path)
				if err != nil {
					return "", err
				}
				parts = append(parts, d.String())
			}
		}
	}
	return string(key(parts...)), nil
}

// Changes applies instructions that change an image's configuration alone, as
// docker import --change and docker commit --change give them.
func Changes(config image.Spec, changes []string) (image.Spec, error) {
	if len(changes) == 0 {
		return config, nil
	}
	source := "FROM scratch\n" + strings.Join(changes, "\n") + "\n"
	f, err := parse("change", []byte(source), nil)
	if err != nil {
		var syntax *SyntaxError
		if errors.As(err, &syntax) {
			err = syntax.Err
		}
		return config, problem.New(problem.Invalid, "%w", err)
	}
	st := imageState(image.Image{Config: config})
	lex := shell.NewLex(f.escape)
	for _, c := range f.stages[len(f.stages)-1].Commands {
		if e, ok := c.(instructions.SupportsSingleWordExpansion); ok {
			if err := e.Expand(st.expander(lex)); err != nil {
				return config, problem.New(problem.Invalid, "%w", err)
			}
		}
		if w, ok := c.(*instructions.WorkdirCommand); ok {
			st.workdir(w.Path)
			continue
		}
		if _, arg := c.(*instructions.ArgCommand); arg {
			return config, problem.New(problem.Invalid, "arg is not a valid change command")
		}
		known, err := st.describe(c, nil, lex)
		if err != nil {
			return config, err
		}
		if !known {
			return config, problem.New(problem.Invalid, "%s is not a valid change command", c.Name())
		}
	}
	if len(f.stages) > 1 {
		return config, problem.New(problem.Invalid, "from is not a valid change command")
	}
	return st.spec, nil
}
