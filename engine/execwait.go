package engine

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"gantry/internal/problem"
)

// ExecWait waits for the end of a process that ExecStart has started, and
// returns its exit code. When ctx ends first, the process is killed.
//
// Errors: NotFound; Conflict if it was not started.
func (e *Engine) ExecWait(ctx context.Context, id string) (exitCode int, err error) {
	r, x, err := e.findExec(id)
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	proc, over, code := x.proc, x.over, x.code
	r.mu.Unlock()
	if proc == nil {
		if over {
			return code, nil
		}
		return 0, problem.New(problem.Conflict, "exec process is not started")
	}
	exit, err := proc.Wait(ctx)
	if err == nil || ctx.Err() == nil {
		return exit.Code, err
	}
	kill := context.WithoutCancel(ctx)
	if err := proc.Signal(kill, unix.SIGKILL); err != nil && !errors.Is(err, problem.Conflict) {
		return 0, err
	}
	if _, err := proc.Wait(kill); err != nil {
		return 0, err
	}
	return 0, ctx.Err()
}
