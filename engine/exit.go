package engine

import (
	"context"
	"strconv"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"
	devents "github.com/moby/moby/api/types/events"

	"gantry/engine/container"
	"gantry/internal/fault"
)

// watch waits for the end of a run and deals with it.
func (e *Engine) watch(ctx context.Context, r *record, this *run) {
	_, st := r.view()
	kills, unwatch, err := this.proc.WatchOOM(st.OOMKilled)
	if err != nil {
		e.log.Warn("OOM kills are seen at the container's end only", "container", r.id, "err", err)
	}
	defer unwatch()
	for running := true; running; {
		select {
		case <-this.proc.Done():
			running = false
		case <-kills:
			e.oomKilled(r)
		case <-ctx.Done():
			return // the process goes on; the next engine adopts it
		}
	}
	unwatch()
	// From here to the end: an exit that is half dealt with would be found by
	// the next start, but with the daemon going down there is time for it.
	ctx = context.WithoutCancel(ctx)
	exit, err := this.proc.Wait(ctx)
	if err != nil {
		e.log.Error("container exit", "container", r.id, "err", err)
		exit = container.Exit{Code: codeLost, At: time.Now()}
	}
	if err := r.lock(ctx); err != nil {
		return
	}
	defer r.unlock()
	e.ended(ctx, r, this, exit)
}

// oomKilled records that the kernel has killed a process of a container, which
// may go on running without it.
func (e *Engine) oomKilled(r *record) {
	if _, st := r.view(); !st.OOMKilled {
		if err := r.change(soon, func(st *state) { st.OOMKilled = true }); err != nil {
			e.log.Error("container state not written", "container", r.id, "err", err)
		}
	}
	e.emit(r, devents.ActionOOM, nil)
}

// codeLost is the exit code of a container whose end nobody saw.
const codeLost = 255

// ended records the end of a run, gives back what it held, and does what the
// policies say. The caller holds op.
func (e *Engine) ended(ctx context.Context, r *record, this *run, exit container.Exit) {
	cfg, st := r.view()
	e.endHealth(r)
	if this.unwatch != nil {
		this.unwatch()
	}
	if err := e.disconnect(ctx, r.id, connection{st.Namespace, st.Endpoints, st.Publications}); err != nil {
		e.log.Error("container disconnect", "container", r.id, "err", err)
	}
	if err := e.unshareMemory(cfg); err != nil {
		e.log.Error("container shared memory", "container", r.id, "err", err)
	}
	if err := fault.At("engine/exit/before-record"); err != nil {
		e.log.Error("container exit", "container", r.id, "err", err)
	}
	restart, delay := e.decideRestart(r, exit)
	err := r.change(soon, func(st *state) {
		st.Status = dcontainer.StateExited
		if restart {
			st.Status = dcontainer.StateRestarting
		}
		st.ExitCode, st.OOMKilled, st.FinishedAt = exit.Code, exit.OOMKilled, exit.At.UTC()
		st.Error, st.Health = exit.Error, unchecked(st.Health)
		st.Namespace, st.Endpoints, st.Publications = "", nil, nil
	})
	if err != nil {
		e.log.Error("container state not written", "container", r.id, "err", err)
	}
	r.mu.Lock()
	r.run = nil
	for _, x := range r.execs {
		x.containerGone()
	}
	r.mu.Unlock()
	e.emitEnd(r, exit, st)
	e.log.Info("container exited", "container", r.id, "code", exit.Code, "oom", exit.OOMKilled)
	close(this.done)
	r.wake(exited, dcontainer.WaitResponse{StatusCode: int64(exit.Code)})
	e.deleteRun(ctx, r, this)
	e.doneVolumes(cfg, r.id)
	switch {
	case restart:
		e.restartAfter(r, delay)
	case cfg.HostConfig.AutoRemove && !r.isKept():
		e.departed.add(r.id, dcontainer.WaitResponse{StatusCode: int64(exit.Code)})
		if err := e.removeLocked(ctx, r, RemoveOptions{Volumes: true}); err != nil {
			e.log.Error("container auto-remove", "container", r.id, "err", err)
		}
	}
}

// emitEnd tells of the end of a run that was in the state before.
func (e *Engine) emitEnd(r *record, exit container.Exit, before state) {
	if exit.OOMKilled && !before.OOMKilled { // else it was told when it happened
		e.emit(r, devents.ActionOOM, nil)
	}
	e.emit(r, devents.ActionDie, map[string]string{
		"exitCode":     strconv.Itoa(exit.Code),
		"execDuration": strconv.Itoa(int(max(exit.At.Sub(before.StartedAt), 0).Seconds())),
	})
}

func (r *record) isKept() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kept
}

// readersLimit is how long the removal of an ended run waits for those who read
// its output. They take it into memory at once, so only a lost one takes longer.
const readersLimit = 5 * time.Second

// deleteRun removes what the runtime keeps of a run whose end is recorded: its
// exit record may go only when ours is there.
func (e *Engine) deleteRun(ctx context.Context, r *record, this *run) {
	if err := fault.At("engine/exit/before-delete"); err != nil {
		e.log.Error("container exit", "container", r.id, "err", err)
	}
	if !this.readers.wait(readersLimit) {
		e.log.Warn("output of a container is still being read", "container", r.id)
	}
	if err := this.proc.Delete(ctx); err != nil {
		e.log.Error("container delete", "container", r.id, "err", err)
	}
}

func (e *Engine) decideRestart(r *record, exit container.Exit) (bool, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	restart, delay, count := afterExit(r.cfg.HostConfig.RestartPolicy, ending{
		code: exit.Code, ran: exit.At.Sub(r.st.StartedAt), stopped: r.st.Stopped,
		restarts: r.st.RestartCount, backoff: r.backoff,
	})
	if restart {
		r.backoff, r.st.RestartCount = delay, count
	}
	return restart, delay
}

// restartAfter starts the container when the delay is over, unless somebody
// decides otherwise before.
func (e *Engine) restartAfter(r *record, delay time.Duration) {
	due, cancel := context.WithCancel(context.Background())
	r.mu.Lock()
	r.pending = cancel
	r.mu.Unlock()
	e.spawn(func(ctx context.Context) {
		defer cancel()
		timer := time.NewTimer(delay)
		defer timer.Stop()
		ready := e.ready // a start needs what is still being restored
		for range 2 {
			select {
			case <-timer.C:
			case <-ready:
				ready = nil
			case <-due.Done():
				return
			case <-ctx.Done():
				return
			}
		}
		if err := r.lock(due); err != nil {
			return
		}
		defer r.unlock()
		if due.Err() != nil || r.running() != nil || r.isRemoving() {
			return
		}
		if err := e.startLocked(context.WithoutCancel(ctx), r); err != nil {
			e.log.Warn("container restart", "container", r.id, "err", err)
			e.retry(r)
		}
	})
}

// retry plans another restart after one that failed.
func (e *Engine) retry(r *record) {
	restart, delay := e.decideRestart(r, container.Exit{Code: r.exitCode(), At: time.Now()})
	if !restart || r.isRemoving() {
		return
	}
	if err := r.change(soon, func(st *state) { st.Status = dcontainer.StateRestarting }); err != nil {
		e.log.Error("container state not written", "container", r.id, "err", err)
	}
	e.restartAfter(r, delay)
}

func (r *record) exitCode() int {
	_, st := r.view()
	return st.ExitCode
}

// cancelRestart ends a restart that waits for its time, and tells whether there
// was one.
func (r *record) cancelRestart() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending == nil {
		return false
	}
	r.pending()
	r.pending = nil
	return r.st.Status == dcontainer.StateRestarting
}
