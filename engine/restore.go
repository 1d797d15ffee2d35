package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"

	"gantry/engine/container"
	"gantry/engine/network"
	"gantry/internal/atomicfile"
	"gantry/internal/problem"
)

// found is a container after a restart: what its record says, and its process
// as the runtime has it (nil: none).
type found struct {
	r    *record
	proc *container.Container
}

// fate is what becomes of a container that is found at start-up.
type fate int

const (
	rest    fate = iota // it does not run, and its record says so
	adopt               // it runs
	discard             // it was made ready, but never executed
	ended               // it ended while nobody looked; the runtime knows how
	lost                // it ran, and its end is not known: the host was rebooted
)

// fateOf decides a container's fate by what its record says and by what the
// runtime has.
func fateOf(status dcontainer.ContainerState, opened, started, done bool) fate {
	recorded := status == dcontainer.StateRunning || status == dcontainer.StatePaused
	switch {
	case opened && done && recorded:
		return ended
	case opened && done:
		return discard // the exit is recorded; only its removal was missed
	case opened && !started:
		return discard
	case opened:
		return adopt
	case recorded:
		return lost
	}
	return rest
}

// restore takes up what an earlier process left, repairs what it left half done,
// and applies the restart policies.
func (e *Engine) restore(ctx context.Context) error {
	for _, dir := range []string{e.containerDir(""), e.sandboxDir(""), e.stepDir("")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	if err := errors.Join(e.makeBase(), e.events.open(filepath.Join(e.cfg.Dir, "events"))); err != nil {
		return err
	}
	list, err := e.loadContainers(ctx)
	if err != nil {
		return err
	}
	e.beginCompression()
	if err := e.loadSandboxes(ctx); err != nil {
		return err
	}
	live := e.liveSandboxes()
	for _, f := range list {
		if f.fate() != adopt {
			continue
		}
		_, st := f.r.view()
		connection{st.Namespace, st.Endpoints, st.Publications}.addTo(&live, f.r.id)
		if usesNames(st.Endpoints) {
			live.Names = append(live.Names, nameClient(f.r.config(), st.Namespace))
		}
	}
	if err := e.cfg.Networks.Restore(ctx, live); err != nil {
		return fmt.Errorf("restore networks: %w", err)
	}
	for _, f := range list {
		e.forward(f.r) // what an earlier process did not come to
		if err := e.settle(ctx, f); err != nil {
			return fmt.Errorf("restore container %s: %w", f.r.id, err)
		}
	}
	if err := e.restoreSandboxes(ctx); err != nil {
		return err
	}
	if err := e.cfg.Runtime.Sweep(ctx, e.groups()); err != nil {
		return err
	}
	if err := errors.Join(e.sweepSources(), e.cfg.Volumes.Sweep()); err != nil {
		e.log.Warn("mounts of an earlier life stay", "err", err)
	}
	return e.sweepSteps()
}

func (f found) fate() fate {
	_, st := f.r.view()
	if f.proc == nil {
		return fateOf(st.Status, false, false, false)
	}
	done := false
	select {
	case <-f.proc.Done():
		done = true
	default:
	}
	return fateOf(st.Status, true, f.proc.Started(), done)
}

// loadContainers reads the containers and finds their processes. Removals and
// creations that a crash interrupted are finished and undone.
func (e *Engine) loadContainers(ctx context.Context) ([]found, error) {
	entries, err := os.ReadDir(e.containerDir(""))
	if err != nil {
		return nil, err
	}
	var list []found
	var removals []string
	for _, entry := range entries {
		name := entry.Name()
		dir := e.containerDir(name)
		if strings.HasPrefix(name, removingPrefix) {
			removals = append(removals, dir)
			continue
		}
		r, err := loadRecord(dir)
		if errors.Is(err, fs.ErrNotExist) {
			e.log.Info("removing a half-made container", "container", name)
			if err := os.RemoveAll(dir); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("container %s: %w", name, err)
		}
		if err := atomicfile.Sweep(dir); err != nil {
			return nil, err
		}
		proc, err := e.cfg.Runtime.Open(ctx, r.id, dir)
		if err != nil && !errors.Is(err, problem.NotFound) {
			return nil, fmt.Errorf("open container %s: %w", name, err)
		}
		if err != nil {
			proc = nil
		}
		e.mu.Lock()
		e.records[r.id], e.names[r.cfg.Name] = r, r.id
		e.mu.Unlock()
		e.hold(r)
		list = append(list, found{r, proc})
	}
	for _, dir := range removals {
		if err := e.resumeRemoval(ctx, dir); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// resumeRemoval finishes a removal. Without a readable configuration only the
// directory is left of the container.
func (e *Engine) resumeRemoval(ctx context.Context, dir string) error {
	plain := filepath.Join(filepath.Dir(dir), strings.TrimPrefix(filepath.Base(dir), removingPrefix))
	cfg := &config{}
	if r, err := loadRenamed(dir, filepath.Base(plain)); err == nil {
		cfg = r.cfg
	}
	return e.finishRemoval(ctx, dir, cfg)
}

// settle does what a container's fate asks for.
func (e *Engine) settle(ctx context.Context, f found) error {
	r := f.r
	switch f.fate() {
	case adopt:
		return e.adopt(ctx, f)
	case discard:
		_, st := r.view()
		if st.Status == dcontainer.StateRunning {
			// Never executed: as if the start had not been asked for, and with
			// a restart policy it is repeated. Written first: a process that is
			// gone would be one that was lost.
			if err := r.change(soon, (*state).unstart); err != nil {
				return err
			}
		}
		if err := f.proc.Delete(ctx); err != nil {
			return err
		}
		if st.Status == dcontainer.StateRunning {
			return e.boot(ctx, r, true)
		}
	case ended:
		exit, err := f.proc.Wait(ctx)
		if err != nil {
			return err
		}
		return e.endedUnseen(ctx, r, f.proc, exit)
	case lost:
		e.log.Info("container was lost with the host or its shim", "container", r.id)
		return e.endedUnseen(ctx, r, nil, container.Exit{Code: codeLost, At: time.Now()})
	}
	if r.config().HostConfig.AutoRemove && r.everStarted() {
		return e.removeNow(ctx, r)
	}
	return e.boot(ctx, r, false)
}

func (e *Engine) adopt(ctx context.Context, f found) error {
	status := dcontainer.StateRunning
	if f.proc.Paused() {
		status = dcontainer.StatePaused
	}
	if _, st := f.r.view(); st.Status != status {
		if err := f.r.change(soon, func(st *state) { st.Status = status }); err != nil {
			return err
		}
	}
	if err := e.useVolumes(ctx, f.r.config(), f.r.id); err != nil {
		e.log.Warn("volume of a running container", "container", f.r.id, "err", err)
	}
	e.log.Info("container adopted", "container", f.r.id)
	e.supervise(f.r, e.newRun(f.proc))
	return e.adoptExecs(ctx, f.r, f.proc)
}

// endedUnseen deals with an end that came while no engine ran.
func (e *Engine) endedUnseen(ctx context.Context, r *record, proc *container.Container, exit container.Exit) error {
	_, st := r.view()
	if err := e.disconnect(ctx, r.id, connection{st.Namespace, st.Endpoints, st.Publications}); err != nil {
		e.log.Warn("container disconnect", "container", r.id, "err", err)
	}
	if err := e.unshareMemory(r.config()); err != nil {
		e.log.Warn("container shared memory", "container", r.id, "err", err)
	}
	if err := e.markEnded(r, exit); err != nil {
		return err
	}
	e.emitEnd(r, exit, st)
	if proc != nil {
		if err := proc.Delete(ctx); err != nil {
			return err
		}
	}
	if r.config().HostConfig.AutoRemove {
		return e.removeNow(ctx, r)
	}
	return e.boot(ctx, r, true)
}

func (e *Engine) markEnded(r *record, exit container.Exit) error {
	return r.change(soon, func(st *state) {
		st.Status, st.FinishedAt = dcontainer.StateExited, exit.At.UTC()
		st.ExitCode, st.OOMKilled, st.Error = exit.Code, exit.OOMKilled, exit.Error
		st.Health = unchecked(st.Health)
		st.Namespace, st.Endpoints, st.Publications = "", nil, nil
	})
}

func (e *Engine) removeNow(ctx context.Context, r *record) error {
	if err := r.lock(ctx); err != nil {
		return err
	}
	defer r.unlock()
	return e.removeLocked(ctx, r, RemoveOptions{Volumes: true})
}

// boot starts a container that does not run, if its policy says so.
func (e *Engine) boot(ctx context.Context, r *record, unseen bool) error {
	cfg, st := r.view()
	interrupted := unseen || st.Status == dcontainer.StateRestarting
	if !afterBoot(cfg.HostConfig.RestartPolicy, unseen || r.everStarted(), st.Stopped, interrupted, st.ExitCode, st.RestartCount) {
		if st.Status == dcontainer.StateRestarting {
			return r.change(soon, func(st *state) { st.Status = dcontainer.StateExited })
		}
		return nil
	}
	e.restartAfter(r, 0)
	return nil
}

func (r *record) everStarted() bool {
	_, st := r.view()
	return st.Status != dcontainer.StateCreated
}

// addTo adds what outlived the previous process.
func (c connection) addTo(live *network.Live, id string) {
	if c.namespace == "" {
		return
	}
	live.Namespaces = append(live.Namespaces, id)
	live.Endpoints = append(live.Endpoints, c.endpoints...)
	live.Publications = append(live.Publications, c.publications...)
}
