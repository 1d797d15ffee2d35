package engine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"
	devents "github.com/moby/moby/api/types/events"
	"github.com/moby/sys/signal"
	"golang.org/x/sys/unix"

	"gantry/internal/problem"
)

// defaultStopTimeout is the reference's.
const defaultStopTimeout = 10 * time.Second

// Stop sends the stop signal, and SIGKILL when the time is over, and returns
// when the process has ended and this is recorded.
//
// Errors: ErrNotModified if it does not run.
func (e *Engine) Stop(ctx context.Context, ref string, opts StopOptions) error {
	r, err := e.find(ref)
	if err != nil {
		return err
	}
	return e.stop(ctx, r, opts)
}

func (e *Engine) stop(ctx context.Context, r *record, opts StopOptions) error {
	sig, timeout, err := stopPlan(r.config().Config, opts)
	if err != nil {
		return err
	}
	waited, err := e.markStopped(ctx, r)
	if err != nil {
		return err
	}
	this := r.running()
	if this == nil {
		if waited {
			return nil
		}
		return ErrNotModified
	}
	if err := e.unfreeze(ctx, r, this); err != nil {
		return err
	}
	if err := e.signal(ctx, r, this, sig); err != nil {
		return err
	}
	if timeout >= 0 {
		grace, cancel := context.WithTimeout(ctx, timeout)
		err = this.wait(grace)
		cancel()
		if err != nil && ctx.Err() == nil {
			err = e.signal(ctx, r, this, unix.SIGKILL)
		}
	}
	if err := errors.Join(err, this.wait(ctx)); err != nil {
		return err
	}
	e.emit(r, devents.ActionStop, nil)
	return nil
}

// wait waits until the run's end is recorded.
func (t *run) wait(ctx context.Context) error {
	select {
	case <-t.done:
		return nil
	case <-t.closed:
		return problem.New(problem.Unavailable, "the engine is stopping")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stopPlan decides the signal and the time until SIGKILL; negative: for ever.
func stopPlan(c *dcontainer.Config, opts StopOptions) (unix.Signal, time.Duration, error) {
	name := opts.Signal
	if name == "" {
		name = c.StopSignal
	}
	sig := unix.SIGTERM
	if name != "" {
		parsed, err := signal.ParseSignal(name)
		if err != nil {
			return 0, 0, invalid("%w", err)
		}
		sig = parsed
	}
	switch {
	case opts.Timeout != nil:
		return sig, *opts.Timeout, nil
	case c.StopTimeout != nil:
		return sig, time.Duration(*c.StopTimeout) * time.Second, nil
	}
	return sig, defaultStopTimeout, nil
}

// markStopped records that somebody wants the container to end, and ends a
// restart that waits for its time; waited tells that there was one.
func (e *Engine) markStopped(ctx context.Context, r *record) (waited bool, err error) {
	waited = r.cancelRestart()
	// After a start or the handling of an exit that is under way.
	if err := r.lock(ctx); err != nil {
		return waited, err
	}
	defer r.unlock()
	d := soon
	if !r.config().HostConfig.RestartPolicy.IsNone() {
		d = durable // a loss of power must not start it again
	}
	err = r.change(d, func(st *state) {
		st.Stopped = true
		if waited {
			st.Status = dcontainer.StateExited
		}
	})
	if isFull(err) {
		// What ends makes room. The next change of the state writes this one too.
		e.log.Error("that a container was stopped is not written", "container", r.id, "err", err)
		err = nil
	}
	return waited, err
}

// Kill sends a signal ("KILL", "SIGTERM", "15"; empty: SIGKILL). After SIGKILL
// it returns when the process has ended.
//
// Errors: Conflict if it does not run.
func (e *Engine) Kill(ctx context.Context, ref, name string) error {
	sig := unix.SIGKILL
	if name != "" {
		parsed, err := signal.ParseSignal(name)
		if err != nil {
			return invalid("%w", err)
		}
		if !signal.ValidSignalForPlatform(parsed) {
			return invalid("the linux daemon does not support signal %s", name)
		}
		sig = parsed
	}
	r, err := e.find(ref)
	if err != nil {
		return err
	}
	if r.running() == nil {
		return problem.New(problem.Conflict, "cannot kill container: %s: container %s is not running", ref, r.id)
	}
	stop, _, err := stopPlan(r.config().Config, StopOptions{})
	if err != nil {
		return err
	}
	if sig == unix.SIGKILL || sig == stop {
		if _, err := e.markStopped(ctx, r); err != nil {
			return err
		}
	}
	this := r.running()
	if this == nil {
		return nil // it ended meanwhile
	}
	if sig != unix.SIGKILL {
		return e.signal(ctx, r, this, sig)
	}
	if err := e.unfreeze(ctx, r, this); err != nil {
		return err
	}
	return errors.Join(e.signal(ctx, r, this, sig), this.wait(ctx))
}

// signal sends sig. That the process has just ended is no error.
func (e *Engine) signal(ctx context.Context, r *record, this *run, sig unix.Signal) error {
	err := this.proc.Signal(ctx, sig)
	if errors.Is(err, problem.Conflict) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("signal container %s: %w", r.id, err)
	}
	e.emit(r, devents.ActionKill, map[string]string{"signal": strconv.Itoa(int(sig))})
	return nil
}

// Restart is Stop, of a container that runs, and Start.
func (e *Engine) Restart(ctx context.Context, ref string, opts StopOptions) error {
	r, err := e.find(ref)
	if err != nil {
		return err
	}
	// With --rm the end of the process would remove what is to be started.
	r.keep(true)
	defer r.keep(false)
	if err := e.stop(ctx, r, opts); err != nil && !errors.Is(err, ErrNotModified) {
		return err
	}
	if err := e.Start(ctx, r.id); err != nil {
		return err
	}
	e.emit(r, devents.ActionRestart, nil)
	return nil
}

// keep holds the removal of an ended --rm container off.
func (r *record) keep(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept = on
}

// Pause freezes every process of a container. Errors: Conflict.
func (e *Engine) Pause(ctx context.Context, ref string) error {
	r, this, err := e.findRunning(ctx, ref)
	if err != nil {
		return err
	}
	defer r.unlock()
	if _, st := r.view(); st.Status == dcontainer.StatePaused {
		return problem.New(problem.Conflict, "container %s is already paused", r.id)
	}
	if err := this.proc.Pause(ctx); err != nil {
		return fmt.Errorf("cannot pause container %s: %w", r.id, err)
	}
	if err := r.change(soon, func(st *state) { st.Status = dcontainer.StatePaused }); err != nil {
		return err
	}
	e.emit(r, devents.ActionPause, nil)
	return nil
}

// Unpause thaws a container. Errors: Conflict.
func (e *Engine) Unpause(ctx context.Context, ref string) error {
	r, this, err := e.findRunning(ctx, ref)
	if err != nil {
		return err
	}
	defer r.unlock()
	if _, st := r.view(); st.Status != dcontainer.StatePaused {
		return problem.New(problem.Conflict, "container %s is not paused", r.id)
	}
	return e.resumeLocked(ctx, r, this)
}

func (e *Engine) resumeLocked(ctx context.Context, r *record, this *run) error {
	if err := this.proc.Resume(ctx); err != nil {
		return fmt.Errorf("cannot unpause container %s: %w", r.id, err)
	}
	if err := r.change(soon, func(st *state) { st.Status = dcontainer.StateRunning }); err != nil {
		return err
	}
	e.emit(r, devents.ActionUnPause, nil)
	return nil
}

// unfreeze thaws a paused container, which cannot die otherwise.
func (e *Engine) unfreeze(ctx context.Context, r *record, this *run) error {
	if _, st := r.view(); st.Status != dcontainer.StatePaused {
		return nil
	}
	if err := r.lock(ctx); err != nil {
		return err
	}
	defer r.unlock()
	if _, st := r.view(); st.Status != dcontainer.StatePaused {
		return nil
	}
	return e.resumeLocked(ctx, r, this)
}

// findRunning finds a container and its run, and locks its life.
func (e *Engine) findRunning(ctx context.Context, ref string) (*record, *run, error) {
	r, err := e.find(ref)
	if err != nil {
		return nil, nil, err
	}
	if err := r.lock(ctx); err != nil {
		return nil, nil, err
	}
	if this := r.running(); this != nil {
		return r, this, nil
	}
	r.unlock()
	return nil, nil, notRunning(r.id)
}

func notRunning(id string) error {
	return problem.New(problem.Conflict, "container %s is not running", id)
}
