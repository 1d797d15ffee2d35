package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"
	devents "github.com/moby/moby/api/types/events"
	dmount "github.com/moby/moby/api/types/mount"
	"golang.org/x/sync/errgroup"

	"gantry/engine/container"
	"gantry/internal/fault"
	"gantry/internal/problem"
)

// ErrNotModified tells that an operation had nothing to do: a start of what
// runs, a stop of what does not.
var ErrNotModified = errors.New("not modified")

// Exit codes of a container whose program could not be started, by convention
// of shells and Docker.
const (
	codeNotExecutable = 126
	codeNotFound      = 127
	codeNotStarted    = 128
)

// Start runs a container's process.
//
// Errors: ErrNotModified if it runs already, Conflict if it is paused or being
// removed, or a port is taken; NotFound and Denied if there is no such program.
func (e *Engine) Start(ctx context.Context, ref string) error {
	r, err := e.find(ref)
	if err != nil {
		return err
	}
	r.cancelRestart()
	if err := r.lock(ctx); err != nil {
		return err
	}
	defer r.unlock()
	switch _, st := r.view(); {
	case r.isRemoving():
		return problem.New(problem.Conflict, "container is marked for removal and cannot be started")
	case st.Status == dcontainer.StatePaused:
		return problem.New(problem.Conflict, "cannot start a paused container, try unpause instead")
	case r.running() != nil:
		return ErrNotModified
	}
	r.mu.Lock()
	r.st.RestartCount, r.st.Stopped, r.backoff = 0, false, 0
	r.mu.Unlock()
	return e.startLocked(ctx, r)
}

// startLocked starts a container whose op the caller holds, and records a
// failure as the state.
func (e *Engine) startLocked(ctx context.Context, r *record) error {
	ranBefore := r.everStarted()
	err := e.launch(ctx, r)
	if err == nil {
		return nil
	}
	code := codeNotStarted
	if failure, ok := errors.AsType[*startFailure](err); ok {
		code = failure.code
	}
	cleanup := context.WithoutCancel(ctx)
	err = errors.Join(err, r.change(soon, func(st *state) {
		st.Status = dcontainer.StateExited
		if !ranBefore {
			st.Status, st.StartedAt = dcontainer.StateCreated, time.Time{}
		}
		st.ExitCode, st.Error = code, err.Error()
		st.Namespace, st.Endpoints, st.Publications = "", nil, nil
	}))
	if r.config().HostConfig.AutoRemove {
		err = errors.Join(err, e.removeLocked(cleanup, r, RemoveOptions{Volumes: true}))
	}
	return err
}

// launch makes the surroundings and the process, and undoes them on failure.
func (e *Engine) launch(ctx context.Context, r *record) (err error) {
	cfg := r.config()
	if err := r.views.end(ctx); err != nil {
		return err
	}
	in, root, err := e.surround(cfg)
	if err != nil {
		return err
	}
	if in.apparmor, err = e.confine(ctx, cfg.HostConfig); err != nil {
		return err
	}
	if err := e.useVolumes(ctx, cfg, r.id); err != nil {
		return err
	}
	cleanup := context.WithoutCancel(ctx)
	var net connection
	defer func() {
		if err != nil {
			err = errors.Join(err, e.disconnect(cleanup, r.id, net), e.unshareMemory(cfg))
			e.doneVolumes(cfg, r.id)
		}
	}()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		net, err = e.connect(gctx, cfg)
		return err
	})
	g.Go(func() (err error) {
		in.account, err = root.lookUp(cfg.Config.User, cfg.HostConfig.GroupAdd)
		return errors.Join(err, checkSources(cfg))
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if in.network == "" {
		in.network = net.namespace
	}
	linked, hosts, err := e.linked(cfg)
	if err != nil {
		return err
	}
	in.linked = linked
	if err := e.writeFiles(cfg, net, hosts); err != nil {
		return err
	}
	from, err := e.openSources(cfg)
	if err != nil {
		return err
	}
	defer func() {
		if err := from.close(); err != nil {
			e.log.Warn("source of a mount stays mounted", "container", r.id, "err", err)
		}
	}()
	in.sources = from.paths
	spec, err := buildSpec(cfg, in)
	if err != nil {
		return err
	}
	log, err := logOf(cfg)
	if err == nil {
		err = readySink(cfg)
	}
	if err != nil {
		return err
	}
	proc, err := e.cfg.Runtime.Create(ctx, container.Spec{
		ID: r.id, Dir: r.dir, OCI: spec, Log: log,
		Overlay:   &container.Overlay{Lower: root[1:], Upper: root[0], Work: filepath.Join(r.dir, "work")},
		OpenStdin: cfg.Config.OpenStdin, StdinOnce: cfg.Config.StdinOnce,
	})
	if err != nil {
		return newStartFailure(err)
	}
	if err := e.begin(ctx, r, proc, net); err != nil {
		return errors.Join(err, proc.Delete(cleanup))
	}
	return nil
}

// begin records the run, connects who waits for the streams, and executes.
func (e *Engine) begin(ctx context.Context, r *record, proc *container.Container, net connection) error {
	// Before the exec: a daemon that dies now finds by it what belongs to the
	// container. It is the runtime that knows whether the process runs.
	err := r.change(soon, func(st *state) {
		st.start(time.Now().UTC())
		st.Health = newHealth(r.cfg.Config, st.Health)
		st.Namespace, st.Endpoints, st.Publications = net.namespace, net.endpoints, net.publications
	})
	if err != nil {
		return err
	}
	if err := fault.At("engine/start/before-exec"); err != nil {
		return err
	}
	this := e.newRun(proc)
	if err := r.connectClaims(ctx, this); err != nil {
		return err
	}
	if err := proc.Start(ctx); err != nil {
		return newStartFailure(err)
	}
	for _, warning := range proc.Warnings() {
		e.log.Warn("container start", "container", r.id, "warning", warning)
	}
	e.supervise(r, this)
	e.relink(r.config(), net)
	e.emit(r, devents.ActionStart, nil)
	return nil
}

// supervise takes charge of a process that runs.
func (e *Engine) supervise(r *record, this *run) {
	if cfg := r.config(); cfg.compresses() {
		this.unwatch = e.compressor.watch(cfg.LogPath)
	}
	r.mu.Lock()
	r.run = this
	r.mu.Unlock()
	e.spawn(func(ctx context.Context) { e.watch(ctx, r, this) })
	e.forward(r)
	e.startHealth(r, this)
}

// surround finds what the container joins and is built on.
func (e *Engine) surround(cfg *config) (surroundings, layers, error) {
	in := surroundings{possible: e.capabilities, cgroup: "containers", hostname: cfg.Config.Hostname, files: e.filesOf(cfg)}
	if parent := cfg.HostConfig.CgroupParent; parent != "" {
		in.cgroup = parent
	}
	if wantsInit(cfg.HostConfig, e.cfg.Init) {
		in.init = e.cfg.Runtime.Init()
	}
	if cfg.Sandbox != "" {
		s, err := e.findSandbox(cfg.Sandbox)
		if err != nil {
			return in, nil, err
		}
		if err := s.surround(e, &in); err != nil {
			return in, nil, err
		}
	}
	if mode := cfg.HostConfig.NetworkMode; mode.IsContainer() {
		path, err := e.namespaceOf(mode.ConnectedContainer())
		if err != nil {
			return in, nil, err
		}
		in.network = path
	}
	if mode := cfg.HostConfig.PidMode; mode.IsContainer() {
		pid, err := e.pidOf(mode.Container())
		if err != nil {
			return in, nil, err
		}
		in.pid = fmt.Sprintf("/proc/%d/ns/pid", pid)
	}
	lower, err := e.lowerDirs(cfg)
	if err != nil {
		return in, nil, err
	}
	if err := e.surroundIPC(cfg, &in); err != nil {
		return in, nil, err
	}
	upper := filepath.Join(e.containerDir(cfg.ID), "upper")
	return in, append(layers{upper}, lower...), nil
}

// wantsInit says whether process 1 is to be ours. In another's pid namespace it
// would not be process 1.
func wantsInit(h *dcontainer.HostConfig, byDefault bool) bool {
	if h.Init != nil {
		byDefault = *h.Init
	}
	return byDefault && h.PidMode == ""
}

func (e *Engine) pidOf(ref string) (int, error) {
	r, err := e.find(ref)
	if err != nil {
		return 0, err
	}
	run := r.running()
	if run == nil {
		return 0, problem.New(problem.Conflict, "cannot join PID namespace of a non running container: %s", r.id)
	}
	return run.proc.Pid(), nil
}

// namespaceOf returns the network namespace of a running container; empty if
// it is on the host's.
func (e *Engine) namespaceOf(ref string) (string, error) {
	r, err := e.find(ref)
	if err != nil {
		return "", err
	}
	cfg, st := r.view()
	if r.running() == nil {
		return "", problem.New(problem.Conflict, "cannot join network namespace of a non running container: container %s is %s", r.id, st.Status)
	}
	if st.Namespace == "" && cfg.HostConfig.NetworkMode.IsContainer() {
		return e.namespaceOf(cfg.HostConfig.NetworkMode.ConnectedContainer())
	}
	return st.Namespace, nil
}

// checkSources makes sure that what is to be mounted is there.
func checkSources(cfg *config) error {
	for _, p := range cfg.Mounts {
		if p.Type == dmount.TypeTmpfs || p.Type == dmount.TypeImage {
			continue
		}
		if p.CreateSource {
			if err := p.makeSource(); err != nil {
				return err
			}
		} else if !exists(p.Source) {
			return invalid("invalid mount config for type %q: bind source path does not exist: %s", p.Type, p.Source)
		}
	}
	return nil
}

// makeSource makes the directory that a bind's source names, unless there is
// something, which may be a file.
func (p mountPoint) makeSource() error {
	if exists(p.Source) {
		return nil
	}
	if err := os.MkdirAll(p.Source, 0o755); err != nil {
		return invalid("error while creating mount source path '%s': %w", p.Source, err)
	}
	return nil
}

// startFailure is a runtime's error in the reference's frame, which the stock
// client reads to choose its exit code.
type startFailure struct {
	code int // the container's exit code
	err  error
}

func (f *startFailure) Error() string {
	text := f.err.Error()
	if !strings.HasPrefix(text, "OCI runtime create failed: ") { // the words for a program that cannot run have it
		text = "OCI runtime create failed: " + text + ": unknown"
	}
	return "failed to create task for container: failed to create shim task: " + text
}

// Unwrap hides the runtime's kind: that the container has no such program does
// not mean that there is no such container.
func (f *startFailure) Unwrap() error {
	if f.code == codeNotStarted {
		return nil
	}
	return problem.Invalid
}

func newStartFailure(err error) error {
	switch {
	case errors.Is(err, problem.NotFound):
		return &startFailure{codeNotFound, err}
	case errors.Is(err, problem.Denied):
		return &startFailure{codeNotExecutable, err}
	}
	return &startFailure{codeNotStarted, err}
}
