package engine

import (
	"context"
	"encoding/json"

	dcontainer "github.com/moby/moby/api/types/container"

	"gantry/engine/container"
)

// execNote is what a shim keeps for the engine that adopts an exec: what
// inspection shows of the request.
type execNote struct {
	Cmd                       []string
	User                      string `json:",omitempty"`
	Tty, Privileged           bool   `json:",omitempty"`
	AttachStdin, AttachStdout bool   `json:",omitempty"`
	AttachStderr              bool   `json:",omitempty"`
}

// noteOf is nil for an exec that nobody can ask for by its ID.
func (r *record) noteOf(x *exec) []byte {
	r.mu.Lock()
	known := r.execs[x.id] == x
	r.mu.Unlock()
	if !known {
		return nil
	}
	note, err := json.Marshal(execNote{
		Cmd: x.req.Cmd, User: x.req.User, Tty: x.req.Tty, Privileged: x.req.Privileged,
		AttachStdin: x.req.AttachStdin, AttachStdout: x.req.AttachStdout, AttachStderr: x.req.AttachStderr,
	})
	if err != nil {
		return nil // strings and truth values always can
	}
	return note
}

// adoptExecs takes up the execs that an earlier engine started in a container
// that runs on.
func (e *Engine) adoptExecs(ctx context.Context, r *record, proc *container.Container) error {
	list, err := proc.Execs(ctx)
	if err != nil {
		return err
	}
	for _, found := range list {
		var note execNote
		if err := json.Unmarshal(found.Note(), &note); err != nil || len(note.Cmd) == 0 {
			e.log.Warn("exec cannot be adopted", "container", r.id, "err", err)
			continue
		}
		x := &exec{id: found.ID(), proc: found, started: true, settled: make(chan struct{}), req: dcontainer.ExecCreateRequest{
			Cmd: note.Cmd, User: note.User, Tty: note.Tty, Privileged: note.Privileged,
			AttachStdin: note.AttachStdin, AttachStdout: note.AttachStdout, AttachStderr: note.AttachStderr,
		}}
		close(x.settled)
		select {
		case <-found.Done():
			exit, err := found.Wait(ctx)
			if err != nil {
				return err
			}
			x.over, x.code, x.ended = true, exit.Code, exit.At
		default:
			e.spawn(func(ctx context.Context) { e.watchExec(ctx, r, x, found) })
		}
		r.mu.Lock()
		r.execs[x.id] = x
		r.mu.Unlock()
		e.mu.Lock()
		e.execs[x.id] = r
		e.mu.Unlock()
	}
	return nil
}
