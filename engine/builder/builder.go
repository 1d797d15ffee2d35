// Package builder makes images of Dockerfiles.
//
// A build has four parts. receive keeps the context's archive as it came, with
// an index and a digest of each file; parse and newGraph decide what there is to
// do, purely; stageRun does the steps of one stage; Classic turns the events of
// all that into the text that docker build shows.
//
// Stages run at the same time, one goroutine each; one waits for another at the
// step that takes from that. Stages that the target does not need are not built.
//
// A step's result is kept under a key that stands for all it depends on: the
// layers below, the instruction with its variables replaced, and the content of
// the files it copies, not their times. A hit gives the layer that was made
// then, so building unchanged source again gives the same image. Without the
// cache the result is the same too, RUN excepted: names are written in order,
// files keep the time that they have in the context, directories that are there
// keep theirs, and an image is as old as the newest file that went into it, or
// as the build argument SOURCE_DATE_EPOCH says.
//
// In the directory Config.Dir:
//
//	cache.db    bbolt: results by key
//	mounts/     what RUN --mount=type=cache keeps
//	tmp/        contexts being received; emptied at start
//
// COPY and RUN write through overlayfs into a scratch directory of the image
// store; its upper side becomes the layer by being renamed.
package builder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"gantry/engine/image"
	"gantry/internal/problem"
)

// Config says what a builder works with.
type Config struct {
	Dir    string       // required; created if missing
	Images *image.Store // required
	Runner Runner       // nil: RUN is refused
	// Allowed refuses an image that may not be built on; name is how the
	// Dockerfile has it. nil: all may.
	Allowed func(ctx context.Context, img image.Image, name string) error
	Logger  *slog.Logger // nil discards

	// Parallel is how many steps are carried out at a time, in all builds
	// together; 0: as many as there are CPUs, and four at the least.
	Parallel int
}

// Request is one build.
type Request struct {
	Context    io.Reader // tar archive, compressed or not; read to its end; Read returns when ctx ends
	Remote     string    // a git repository or a URL to fetch the context from instead
	Dockerfile string    // path in the context; empty: "Dockerfile"
	Tags       []string
	Target     string             // stage to build; empty: the last
	BuildArgs  map[string]*string // nil value: unset, as "--build-arg NAME" of an unset variable
	Labels     map[string]string
	NoCache    bool
	CacheFrom  []string // images whose inline caches are used too
	Pull       bool     // fetch the images of FROM even where they are here
	Platform   string   // "os/architecture"; empty: the host's
	Network    string   // of RUN: "", "default", "none", "host", or a network's name
	ExtraHosts []string // of RUN: "name:address", as docker build --add-host
	Limits     Limits   // of each RUN

	// Fetch brings an image into the store from its registry; it is called from
	// several goroutines. nil: what is not in the store is not found.
	Fetch func(ctx context.Context, name reference.Named, p ocispec.Platform) error
}

// Builder builds images. Its methods may be called concurrently.
type Builder struct {
	cfg     Config
	cache   *cache
	caches  *cacheMounts
	flights flights
	slots   chan struct{} // holds one value for each step that is carried out
}

// New opens the build cache. It must be called before anything is removed from
// the image store, because it says what of it the cache uses.
func New(cfg Config) (*Builder, error) {
	if cfg.Dir == "" || cfg.Images == nil {
		return nil, problem.New(problem.Invalid, "builder: Dir and Images are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := makeDir(cfg.Dir); err != nil {
		return nil, err
	}
	c, err := openCache(cfg.Dir, cfg.Images)
	if err != nil {
		return nil, err
	}
	parallel := cmp.Or(cfg.Parallel, max(4, runtime.NumCPU()))
	return &Builder{cfg: cfg, cache: c, caches: newCacheMounts(), slots: make(chan struct{}, parallel)}, nil
}

// Close writes the cache. No build may be running.
func (b *Builder) Close() error { return b.cache.Close() }

// Build makes an image and returns its ID. progress may be nil; it is called
// from one goroutine at a time, and not after Build has returned. When ctx ends,
// Build stops and leaves nothing behind but what is in the cache.
//
// Errors: SyntaxError, ExitError, and those of kinds Invalid, NotFound and
// Unsupported, in Docker's words where it has some.
func (b *Builder) Build(ctx context.Context, req Request, progress func(Event)) (_ digest.Digest, err error) {
	r, err := b.newRun(req, progress)
	if err != nil {
		return "", err
	}
	defer func() {
		b.cfg.Images.EndLease(r.lease)
		err = errors.Join(err, b.cache.flush())
	}()
	arrived := func(n int64) { r.emit(Event{Kind: Context, Bytes: n}) }
	if req.Remote != "" {
		r.context, err = r.receiveRemote(ctx, req.Remote, arrived)
	} else {
		r.context, err = receive(ctx, req.Context, filepath.Join(b.cfg.Dir, "tmp"), arrived)
	}
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, r.context.Close()) }()
	if err := r.plan(); err != nil {
		return "", err
	}
	if err := r.resolve(ctx); err != nil {
		return "", err
	}
	if err := r.check(); err != nil {
		return "", err
	}
	if err := r.importCaches(ctx); err != nil {
		return "", err
	}
	final, err := r.execute(ctx)
	if err != nil {
		return "", err
	}
	return r.finish(ctx, final)
}

// run is one running build.
type run struct {
	*Builder
	req      Request
	platform ocispec.Platform
	context  *buildContext
	graph    *graph
	args     *arguments
	lint     *lint
	inline   bool                // the image gets its build cache
	imported map[cacheKey]result // of --cache-from
	epoch    time.Time           // SOURCE_DATE_EPOCH, or zero
	lease    string
	results  []*stageResult // by stage

	mu       sync.Mutex // progress is called under it: events come one at a time
	progress func(Event)
}

// stageResult is a stage's state, once done is closed.
type stageResult struct {
	done chan struct{}
	st   state
}

func (b *Builder) newRun(req Request, progress func(Event)) (*run, error) {
	if progress == nil {
		progress = func(Event) {}
	}
	r := &run{Builder: b, req: req, progress: progress, lease: "build " + randomID()[:16], platform: image.Host()}
	if req.Pull && req.Fetch == nil {
		return nil, unsupported("--pull is not supported: this engine reaches no registry")
	}
	if req.Context == nil && req.Remote == "" {
		return nil, problem.New(problem.Invalid, "build: no context")
	}
	if req.Platform != "" {
		p, err := image.ParsePlatform(req.Platform)
		if err != nil {
			return nil, err
		}
		r.platform = p
	}
	for _, t := range req.Tags {
		if _, err := image.ParseName(t); err != nil {
			return nil, err
		}
	}
	var err error
	r.inline, err = exportsInline(req.BuildArgs)
	return r, err
}

// setEpoch reads SOURCE_DATE_EPOCH, a build argument or an ARG before the first
// FROM.
func (r *run) setEpoch() error {
	v, _ := r.args.fromEnv().Get(epochArgument)
	if given := r.req.BuildArgs[epochArgument]; given != nil {
		v = *given
	}
	if v == "" {
		return nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return problem.New(problem.Invalid, "invalid SOURCE_DATE_EPOCH: %s", v)
	}
	r.epoch = time.Unix(n, 0).UTC()
	return nil
}

// epochArgument says how old the files of the image may be at the youngest, in
// seconds since 1970.
const epochArgument = "SOURCE_DATE_EPOCH"

// emit reports progress.
func (r *run) emit(e Event) {
	e.Time = time.Now()
	if r.graph != nil {
		e.Steps = r.graph.steps
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress(e)
}

// plan reads the Dockerfile and decides what there is to do.
func (r *run) plan() error {
	name, source, err := r.dockerfile()
	if err != nil {
		return err
	}
	if err := r.context.ignoreFile(name); err != nil {
		return err
	}
	if r.lint, err = newLint(source, r.req.BuildArgs); err != nil {
		return err
	}
	f, err := parse(name, source, r.lint.rules)
	if err != nil {
		return err
	}
	if r.args, err = newArguments(f, r.req, r.platform); err != nil {
		return err
	}
	if err := r.setEpoch(); err != nil {
		return err
	}
	var extra []instructions.Command
	for _, l := range sorted(r.req.Labels) {
		extra = append(extra, instructions.NewLabelCommand(l.name, l.value, true))
	}
	r.graph, err = newGraph(f, r.req.Target, r.args.fromEnv(), extra)
	return err
}

// check reports what the rules of the reference find in the Dockerfile.
func (r *run) check() error {
	f, err := parse(r.graph.file.name, r.graph.file.source, nil)
	if err != nil {
		return err
	}
	plain, err := newArguments(f, Request{Target: r.req.Target}, r.platform)
	if err != nil {
		plain = r.args
	}
	r.lint.file(f)
	r.lint.bases(f, r.args.fromEnv(), plain.fromEnv())
	r.lint.stages(f, r.graph, r.args, r.context.ignored)
	for _, w := range r.lint.warnings() {
		r.emit(Event{Kind: Warning, Text: "[Warning] " + w})
	}
	return r.lint.err()
}

// dockerfile finds the Dockerfile in the context.
func (r *run) dockerfile() (string, []byte, error) {
	name := r.req.Dockerfile
	if name == "" {
		name = defaultDockerfile
	}
	if up := path.Clean(strings.TrimPrefix(name, "/")); up == ".." || strings.HasPrefix(up, "../") {
		return "", nil, problem.New(problem.Invalid, "Forbidden path outside the build context: %s (%s)", name, up)
	}
	clean := cleanName(name)
	b, err := r.context.readFile(clean, maxDockerfile)
	if errors.Is(err, fs.ErrNotExist) && clean == defaultDockerfile {
		clean = strings.ToLower(defaultDockerfile)
		b, err = r.context.readFile(clean, maxDockerfile)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, problem.New(problem.Invalid, "Cannot locate specified Dockerfile: %s", name)
	}
	if err != nil {
		return "", nil, problem.New(problem.Invalid, "Dockerfile %s: %w", name, err)
	}
	return clean, b, nil
}

// execute builds the stages that are needed and returns the target's state.
func (r *run) execute(ctx context.Context) (state, error) {
	for _, s := range r.graph.args {
		r.emit(Event{Kind: StepStarted, Step: s.number, Text: s.text})
		r.emit(Event{Kind: StepDone, Step: s.number})
	}
	for range r.graph.stages {
		r.results = append(r.results, &stageResult{done: make(chan struct{})})
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range r.graph.stages {
		if !s.needed {
			continue
		}
		g.Go(func() error {
			x := &stageRun{build: r, stage: s}
			if err := x.do(ctx); err != nil {
				return err
			}
			r.results[s.index].st = x.st
			close(r.results[s.index].done)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return state{}, err
	}
	return r.results[r.graph.target].st, nil
}

// await returns the state of a stage when it is built. Stages wait where they
// take from another, not before.
func (r *run) await(ctx context.Context, stage int) (state, error) {
	select {
	case <-r.results[stage].done:
		return r.results[stage].st, nil
	case <-ctx.Done():
		return state{}, context.Cause(ctx)
	}
}

// finish registers the image.
func (r *run) finish(ctx context.Context, st state) (digest.Digest, error) {
	if unused := r.args.unused(r.graph.file); len(unused) > 0 {
		r.emit(Event{Kind: Warning, Text: fmt.Sprintf("[Warning] One or more build-args %v were not consumed", unused)})
	}
	img, err := r.cfg.Images.Create(ctx, st.final(), st.layers, image.CreateOptions{Tags: r.req.Tags})
	if err != nil {
		return "", err
	}
	if misfit := r.cfg.Images.Misfit(img, img.ID.Encoded()[:12]); misfit != "" {
		r.emit(Event{Kind: Warning, Text: "[Warning] The " + misfit})
	}
	r.emit(Event{Kind: Built, Image: img.ID.String()})
	for _, t := range r.req.Tags {
		n, err := image.ParseName(t)
		if err != nil {
			return "", err
		}
		r.emit(Event{Kind: Tagged, Text: reference.FamiliarString(n)})
	}
	return img.ID, nil
}
