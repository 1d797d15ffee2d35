// Package engine owns the containers of one host and their life: it makes them
// from an image and a request, starts, supervises, stops and removes them, and
// keeps what must be known about them on disk.
//
// It does not run processes (engine/container does), store images
// (engine/image), or make links and rules (engine/network); it decides what
// these do and in which order, and undoes what was half done.
//
// # On disk
//
//	DIR/engine-id                   what clients know this engine by
//	DIR/containers/ID/config.json   what was asked for, resolved; durable before Create returns
//	DIR/containers/ID/state.json    what happened last; replaced without waiting for the disk
//	DIR/containers/ID/{upper,work}  the writable layer
//	DIR/containers/ID/{hosts,hostname,resolv.conf}
//	DIR/containers/ID/log           the output, unless the request names another file;
//	                                log.1, log.2.gz ... when it was rotated
//	DIR/containers/ID/forward/sent.json   how far the output was sent to a service
//	DIR/containers/ID/...           the runtime's own records (spec, exit)
//	DIR/events                      the latest events, one JSON object a line
//	DIR/sandboxes/ID/config.json    a pod's sandbox, and its files as above
//	RUN/sandboxes/ID/{ipc,uts,shm}  a sandbox's pinned namespaces and shared memory
//
// The kernel is asked whether a container runs; state.json only says what was
// so when the engine last looked. A directory without config.json is a creation
// that a crash interrupted, and one named .removing-ID a removal: start-up undoes
// the one and finishes the other.
//
// # Goroutines
//
// All are children of Run: one for each running container that waits for its
// exit, one for each pending restart, one for each health check, one for each
// log that is sent to a service, one that compresses rotated logs, and one for
// each removal of a network namespace that is off the hot path.
//
// # Locks
//
// A container's op serialises the operations that change its life (start,
// handling of its exit, remove, rename, update); it is held across I/O and is
// taken with a context. Engine.mu guards the index and record.mu a record's
// fields; neither is held across I/O. Order: op, Engine.mu, record.mu.
package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	dcontainer "github.com/moby/moby/api/types/container"

	"gantry/engine/container"
	"gantry/engine/image"
	"gantry/engine/internal/apparmor"
	"gantry/engine/network"
	"gantry/engine/volume"
	"gantry/internal/problem"
)

// Config is what an Engine works with. All but Init and Logger are required.
type Config struct {
	Dir      string // state; created if missing; one process at a time
	RunDir   string // what does not outlive a reboot
	Images   *image.Store
	Runtime  *container.Runtime
	Networks *network.Host
	Volumes  *volume.Store
	Init     bool         // containers have an init unless they say otherwise
	Logger   *slog.Logger // nil discards

	// Allowed refuses an image that may not be used; ref is how it was asked
	// for. nil: all may.
	Allowed func(ctx context.Context, img image.Image, ref string) error

	LogDriver  string            // of containers that name none; empty: json-file
	LogOptions map[string]string // of containers with that driver, where they say nothing
}

// Engine owns one host's containers. Its methods may be called concurrently.
// A ref names a container as Docker's clients do: by ID, by name, or by an
// unambiguous prefix of its ID.
type Engine struct {
	cfg          Config
	log          *slog.Logger
	events       *eventLog
	compressor   *compressor // nil: rotated logs stay as they are
	capabilities []string    // that this host can give
	apparmor     *apparmor.Host

	ready  chan struct{}
	tasks  chan func(context.Context) // to be run by Run
	closed chan struct{}              // Run takes no more tasks

	departed departed // containers that removed themselves

	identity sync.Mutex // held while the engine's ID is read or made

	pins sync.Mutex // guards the mount that holds the sandboxes' pins

	mu        sync.Mutex
	records   map[string]*record
	names     map[string]string // name -> container ID; also of creations under way
	sandboxes map[string]*sandboxRecord
	execs     map[string]*record // exec ID -> its container
}

// New makes an engine which does nothing before Run.
func New(cfg Config) (*Engine, error) {
	if cfg.Dir == "" || cfg.RunDir == "" || cfg.Images == nil || cfg.Runtime == nil || cfg.Networks == nil || cfg.Volumes == nil {
		return nil, problem.New(problem.Invalid, "engine: directories, images, runtime, networks and volumes are required")
	}
	if err := CheckLog(dcontainer.LogConfig{Type: cfg.LogDriver, Config: cfg.LogOptions}); err != nil {
		return nil, fmt.Errorf("the default log driver: %w", err)
	}
	caps, err := possibleCapabilities()
	if err != nil {
		return nil, err
	}
	e := &Engine{
		cfg: cfg, log: cfg.Logger, capabilities: caps, apparmor: apparmor.Look(),
		ready: make(chan struct{}), tasks: make(chan func(context.Context)), closed: make(chan struct{}),
		records: map[string]*record{}, names: map[string]string{},
		sandboxes: map[string]*sandboxRecord{}, execs: map[string]*record{},
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	e.events = newEventLog(e.log)
	return e, nil
}

// Run restores what an earlier process left, closes Ready, and supervises
// until ctx ends. Containers go on running when it returns. It is called once.
func (e *Engine) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, e.events.close()) }()
	var children sync.WaitGroup
	defer children.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer close(e.closed) // first: a child which spawns must not wait for us

	restored := make(chan error, 1) // one result, which nobody may be left to read
	children.Go(func() { restored <- e.restore(ctx) })
	children.Go(func() { e.loadAppArmor(ctx) })
	for {
		select {
		case task := <-e.tasks:
			children.Go(func() { task(ctx) })
		case err := <-restored:
			if err != nil {
				return err
			}
			close(e.ready)
		case <-ctx.Done():
			return nil
		}
	}
}

// Ready is closed when Run has restored the containers; before, every operation
// on them fails as Unavailable.
func (e *Engine) Ready() <-chan struct{} { return e.ready }

// spawn runs task as a child of Run, or not at all when Run has ended.
func (e *Engine) spawn(task func(context.Context)) {
	select {
	case e.tasks <- task:
	case <-e.closed:
	}
}

func (e *Engine) checkReady() error {
	select {
	case <-e.ready:
		return nil
	default:
		return problem.New(problem.Unavailable, "the engine is starting")
	}
}

func (e *Engine) containerDir(id string) string { return filepath.Join(e.cfg.Dir, "containers", id) }

// find returns the container that ref names.
func (e *Engine) find(ref string) (*record, error) {
	if err := e.checkReady(); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.findLocked(ref)
}

func (e *Engine) findLocked(ref string) (*record, error) {
	if r, ok := e.records[ref]; ok {
		return r, nil
	}
	if r, ok := e.records[e.names[strings.TrimPrefix(ref, "/")]]; ok {
		return r, nil
	}
	var found *record
	for id, r := range e.records {
		if ref == "" || !strings.HasPrefix(id, ref) {
			continue
		}
		if found != nil {
			return nil, problem.New(problem.Invalid, "multiple IDs found with provided prefix: %s", ref)
		}
		found = r
	}
	if found == nil {
		return nil, problem.New(problem.NotFound, "No such container: %s", ref)
	}
	return found, nil
}

// all returns every container, newest first.
func (e *Engine) all() []*record {
	e.mu.Lock()
	list := make([]*record, 0, len(e.records))
	for _, r := range e.records {
		list = append(list, r)
	}
	e.mu.Unlock()
	slices.SortFunc(list, func(a, b *record) int {
		return cmp.Or(b.config().Created.Compare(a.config().Created), cmp.Compare(a.id, b.id))
	})
	return list
}
