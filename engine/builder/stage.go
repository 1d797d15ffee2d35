package builder

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"gantry/engine/image"
	"gantry/internal/problem"
	"gantry/internal/tree"
)

// stageRun builds one stage.
type stageRun struct {
	build *run
	stage *stage
	st    state
	base  digest.Digest // the image that the stage is made from, if any

	inherited int // lines of history that the stage began with
}

// event reports something about a step.
func (x *stageRun) event(s step, e Event) {
	e.Step, e.Stage = s.number, x.stage.name
	x.build.emit(e)
}

// output is a writer for what a step's command prints.
func (x *stageRun) output(s step, stderr bool) outputWriter {
	return outputWriter{func(p []byte) { x.event(s, Event{Kind: Output, Data: p, Stderr: stderr}) }}
}

type outputWriter struct{ write func([]byte) }

func (w outputWriter) Write(p []byte) (int, error) {
	w.write(p)
	return len(p), nil
}

// do carries out all steps.
func (x *stageRun) do(ctx context.Context) error {
	for _, s := range x.stage.steps {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		x.event(s, Event{Kind: StepStarted, Text: s.text})
		if err := x.step(ctx, s); err != nil {
			if context.Cause(ctx) == nil { // else it was stopped, because another failed
				x.event(s, Event{Kind: StepFailed, Err: err})
			}
			return err
		}
		id, err := x.st.id()
		if err != nil {
			return err
		}
		if s.command == nil && len(x.st.spec.History) == x.inherited {
			id = x.base
		}
		x.event(s, Event{Kind: StepDone, Image: id.String()})
	}
	return nil
}

func (x *stageRun) step(ctx context.Context, s step) error {
	place := x.build.graph.file.stages[x.stage.index].Location
	var err error
	if s.command == nil {
		err = x.from(ctx, s)
	} else {
		place = s.command.Location()
		err = x.instruction(ctx, s, s.command, s.text)
	}
	if err == nil || context.Cause(ctx) != nil {
		return err
	}
	return x.build.graph.file.at(place, err)
}

// from begins the stage with its base.
func (x *stageRun) from(ctx context.Context, s step) error {
	b := x.build
	switch {
	case x.stage.from >= 0:
		from, err := b.await(ctx, x.stage.from)
		if err != nil {
			return err
		}
		x.st = from.fork()
		id, err := x.st.id()
		if err != nil {
			return err
		}
		x.base = id
	case x.stage.base == scratch:
		want, err := b.wanted(x.stage)
		if err != nil {
			return err
		}
		x.st = scratchState(want)
		if !b.epoch.IsZero() {
			x.st.created = b.epoch
		}
		x.defaultPath()
		return nil
	default:
		x.st, x.base = imageState(x.stage.image), x.stage.image.ID
	}
	x.inherited = len(x.st.spec.History)
	x.st.spec.Config.OnBuild = nil
	x.defaultPath()
	return x.trigger(ctx, s)
}

// defaultPath gives a stage that does something a PATH, which becomes part of
// the image, as in the reference.
func (x *stageRun) defaultPath() {
	if len(x.stage.steps) > 1 {
		x.st.defaultPath()
	}
}

// trigger carries out the ONBUILD instructions of the base.
func (x *stageRun) trigger(ctx context.Context, s step) error {
	list := x.stage.triggers
	switch len(list) {
	case 0:
		return nil
	case 1:
		x.event(s, Event{Kind: Note, Text: "# Executing 1 build trigger"})
	default:
		x.event(s, Event{Kind: Note, Text: fmt.Sprintf("# Executing %d build triggers", len(list))})
	}
	for _, t := range list {
		if err := x.instruction(ctx, s, t.command, t.source); err != nil {
			return fmt.Errorf("ONBUILD %s: %w", t.source, err)
		}
	}
	return nil
}

// instruction carries out one instruction.
func (x *stageRun) instruction(ctx context.Context, s step, cmd instructions.Command, written string) error {
	lex := shell.NewLex(x.build.graph.file.escape)
	_, arg := cmd.(*instructions.ArgCommand) // its defaults may go unused
	if e, ok := cmd.(instructions.SupportsSingleWordExpansion); ok && !arg {
		if err := e.Expand(x.st.expander(lex)); err != nil {
			return problem.New(problem.Invalid, "%w", err)
		}
	}
	switch cmd := cmd.(type) {
	case *instructions.RunCommand:
		return x.runStep(ctx, s, cmd)
	case *instructions.CopyCommand:
		return x.copyStep(ctx, s, cmd, written)
	case *instructions.AddCommand:
		return x.addStep(ctx, s, cmd, written)
	case *instructions.WorkdirCommand:
		return x.workdirStep(ctx, s, cmd, written)
	}
	known, err := x.st.describe(cmd, x.build.args, lex)
	if err != nil {
		return err
	}
	if !known {
		return unsupported("%s is not supported", strings.ToUpper(cmd.Name()))
	}
	if arg {
		return nil // changes nothing in the image
	}
	x.st.note(written, false)
	return x.described(s)
}

// described says whether this very configuration was made before.
func (x *stageRun) described(s step) error {
	id, err := x.st.id()
	if err != nil {
		return err
	}
	k := key("image", id.String())
	if _, hit := x.build.cached(k); hit {
		x.event(s, Event{Kind: Cached})
		return nil
	}
	x.build.cache.keep(k, result{Created: x.st.created})
	return nil
}

func (r *run) cached(k cacheKey) (result, bool) {
	if r.req.NoCache {
		return result{}, false
	}
	if res, hit := r.cache.get(k, r.lease); hit {
		return res, true
	}
	res, hit := r.imported[k]
	return res, hit
}

// apply adds a step's result to the stage. k is its key, by its line in the
// history.
func (x *stageRun) apply(r result, k cacheKey, by string) {
	x.st.created = r.Created
	if r.Layer != "" {
		x.st.layers = append(slices.Clip(x.st.layers), r.Layer)
	}
	x.st.note(by, r.Layer != "")
	if x.build.inline && r.Layer != "" {
		x.st.spec.History[len(x.st.spec.History)-1].Comment = inlineMark + string(k)
	}
}

// memo returns the result under the first of keys that has one, or else what
// work makes, and keeps it under all. The last key tells what is the same step
// in another build.
func (x *stageRun) memo(ctx context.Context, s step, keys []cacheKey, work func() (result, error)) (result, error) {
	for {
		if r, hit := x.known(s, keys); hit {
			return r, nil
		}
		if x.build.req.NoCache {
			return x.make(ctx, keys, work)
		}
		leave, err := x.build.flights.enter(ctx, keys[len(keys)-1])
		if err != nil {
			return result{}, err
		}
		if leave == nil {
			continue // somebody else has made it, or has failed
		}
		defer leave()
		if r, hit := x.known(s, keys); hit {
			return r, nil
		}
		return x.make(ctx, keys, work)
	}
}

// known looks for the result of a step in the cache.
func (x *stageRun) known(s step, keys []cacheKey) (result, bool) {
	for i, k := range keys {
		r, hit := x.build.cached(k)
		if !hit {
			continue
		}
		x.event(s, Event{Kind: Cached})
		if _, foreign := x.build.imported[k]; !foreign {
			for _, k := range keys[:i] {
				x.build.cache.keep(k, r)
			}
		}
		return r, true
	}
	return result{}, false
}

func (x *stageRun) make(ctx context.Context, keys []cacheKey, work func() (result, error)) (result, error) {
	select {
	case x.build.slots <- struct{}{}:
	case <-ctx.Done():
		return result{}, context.Cause(ctx)
	}
	defer func() { <-x.build.slots }()
	r, err := work()
	if err != nil {
		return r, err
	}
	for _, k := range keys {
		x.build.cache.keep(k, r)
	}
	return r, nil
}

func (x *stageRun) runStep(ctx context.Context, s step, cmd *instructions.RunCommand) error {
	p, err := x.st.planRun(cmd, x.build.args, x.build.req.Network)
	if err != nil {
		return err
	}
	if err := x.findSources(ctx, p.mounts); err != nil {
		return err
	}
	k := p.key(x.st, x.epochKey())
	r, err := x.memo(ctx, s, []cacheKey{k}, func() (result, error) { return x.run(ctx, s, p) })
	if err != nil {
		return err
	}
	x.apply(r, k, p.history)
	return nil
}

// checkPlatform refuses to run commands of an image for another CPU.
func (x *stageRun) checkPlatform() error {
	return image.CheckPlatform(image.Image{Config: x.st.spec}, x.stage.label())
}

// label is what a stage is called in messages: its image, if it has one.
func (s *stage) label() string {
	if s.base != "" && s.base != scratch {
		return s.base
	}
	return "of stage " + s.name
}

func (x *stageRun) workdirStep(ctx context.Context, s step, cmd *instructions.WorkdirCommand, written string) error {
	dir := x.st.workdir(cmd.Path)
	k := key("workdir", chain(x.st.layers), dir, x.st.created.String())
	r, err := x.memo(ctx, s, []cacheKey{k}, func() (result, error) { return x.makeDir(ctx, dir) })
	if err != nil {
		return err
	}
	x.apply(r, k, written)
	return nil
}

// makeDir makes a directory in the image, in a layer if it is missing.
func (x *stageRun) makeDir(ctx context.Context, dir string) (result, error) {
	return x.write(ctx, x.st.layers, func(root *tree.Root, c *copier) error {
		st, err := root.Stat(dir)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return problem.New(problem.Invalid, "WORKDIR %s: not a directory", dir)
		}
		if err == nil {
			return nil
		}
		return c.write(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: x.st.created}, nil)
	})
}

// write makes a layer of what do writes over layers. When do writes nothing
// there is no layer.
func (x *stageRun) write(ctx context.Context, layers []digest.Digest, do func(*tree.Root, *copier) error) (_ result, err error) {
	images := x.build.cfg.Images
	r := result{Created: x.st.created}
	scratch, err := images.Scratch()
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, scratch.Close()) }()
	root, err := images.OpenWritable(layers, scratch)
	if err != nil {
		return r, err
	}
	c := newCopier(root, x.build.epoch)
	err = do(root, c)
	if err == nil {
		err = c.close()
	} else {
		c.w.Abandon()
	}
	if err = errors.Join(err, root.Close()); err != nil {
		return r, err
	}
	if len(c.made) == 0 {
		return r, nil
	}
	layer, err := images.CommitLayer(ctx, x.build.lease, scratch.Upper)
	r.Layer = layer.DiffID
	return r, err
}
