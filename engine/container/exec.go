package container

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gantry/engine/container/plan"
	"gantry/engine/container/wire"
	"gantry/internal/problem"
)

// Exec is a further process in a container.
type Exec struct {
	c        *Container
	id       string
	note     []byte
	messages []string
	done     chan struct{}

	mu      sync.Mutex
	pid     int
	started bool
	exit    *Exit
}

// Exec prepares a process in the container. Nothing runs before Exec.Start.
// What the spec leaves out, rlimits and oom_score_adj, is the container's; the
// seccomp filter always is.
//
// Errors: Conflict if the container is not running, Exists.
func (c *Container) Exec(ctx context.Context, s ExecSpec) (*Exec, error) {
	if s.ID == "" {
		return nil, invalid("an exec needs an id")
	}
	if err := plan.ValidateProcess(&s.Process); err != nil {
		return nil, err
	}
	if s.Process.OOMScoreAdj == nil {
		s.Process.OOMScoreAdj = c.state.OOMScore
	}
	if len(s.Process.Rlimits) == 0 {
		s.Process.Rlimits = c.state.Rlimits
	}
	filter, err := c.r.compiler.Load(c.state.Filter)
	if err != nil {
		return nil, err
	}
	p := c.r.planner(c.group, filter)
	process, err := p.Exec(&s.Process, nil, c.state.Namespaces)
	if err != nil {
		return nil, err
	}
	process.OpenStdin, process.StdinOnce = s.Stdin, true
	process.Note = s.Note
	e := &Exec{c: c, id: s.ID, note: s.Note, messages: p.Messages(), done: make(chan struct{})}
	if err := c.addExec(e); err != nil {
		return nil, err
	}
	_, err = c.call(ctx, "exec", wire.KindExecCreate, func(enc *wire.Encoder) {
		enc.Str(s.ID)
		process.Encode(enc)
		process.EncodeNote(enc)
	})
	if err != nil {
		c.dropExec(e)
		if errors.Is(err, problem.Conflict) {
			err = c.notRunning()
		}
		return nil, err
	}
	return e, nil
}

// Execs lists the execs with a note that an earlier engine started: those that
// run, and the last of those that have ended. It is for right after Open: a
// shim of an earlier version knows of none.
func (c *Container) Execs(ctx context.Context) ([]*Exec, error) {
	if c.link == nil || c.foreign != nil {
		return nil, nil
	}
	// Until they are registered, exits are kept.
	c.mu.Lock()
	c.early = map[string]Exit{}
	c.mu.Unlock()
	r, err := c.link.call(ctx, wire.KindExecs, nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	early := c.early
	c.early = nil
	if errors.Is(err, errLost) || r.Failure != wire.OK {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []*Exec
	for _, x := range r.Execs {
		e := &Exec{c: c, id: x.ID, note: x.Note, pid: x.Pid, started: true, done: make(chan struct{})}
		exit, ended := early[x.ID]
		switch {
		case x.Pid == 0:
			e.finish(Exit{Code: x.Code, At: time.Unix(0, x.At)})
		case ended:
			e.finish(exit)
		case c.exit != nil:
			e.finish(Exit{Code: 128 + int(unix.SIGKILL), At: c.exit.At})
		default:
			c.execs[e.id] = e
		}
		list = append(list, e)
	}
	return list, nil
}

// ID returns the exec's id.
func (e *Exec) ID() string { return e.id }

// Note returns what ExecSpec.Note was.
func (e *Exec) Note() []byte { return e.note }

func (c *Container) addExec(e *Exec) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.exit != nil || !c.started {
		return c.notRunning()
	}
	if c.execs[e.id] != nil {
		return problem.New(problem.Exists, "exec %s exists", e.id)
	}
	c.execs[e.id] = e
	return nil
}

func (c *Container) dropExec(e *Exec) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.execs[e.id] == e {
		delete(c.execs, e.id)
	}
}

// Start runs the process. Errors as Container.Start's.
func (e *Exec) Start(ctx context.Context) error {
	e.mu.Lock()
	again := e.started
	e.started = true
	e.mu.Unlock()
	if again {
		return problem.New(problem.Conflict, "exec %s was started before", e.id)
	}
	if e.c.link == nil {
		return e.c.notRunning()
	}
	r, err := e.c.link.call(ctx, wire.KindExecStart, func(enc *wire.Encoder) { enc.Str(e.id) })
	if errors.Is(err, errLost) {
		err = e.c.notRunning()
	}
	if err == nil {
		err = failure(r, "exec", e.messages)
	}
	if err != nil {
		e.c.dropExec(e)
		e.finish(Exit{Code: startExitCode(err)})
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.exit == nil {
		e.pid = int(r.A)
	}
	return nil
}

// startExitCode is the exit code that Docker gives a process that could not be
// started.
func startExitCode(err error) int {
	switch {
	case errors.Is(err, problem.NotFound):
		return 127
	default:
		return 126
	}
}

// Close forgets an exec that is not to be started after all.
func (e *Exec) Close(ctx context.Context) error {
	e.mu.Lock()
	again := e.started
	e.started = true
	e.mu.Unlock()
	if again {
		return nil
	}
	e.c.dropExec(e)
	e.finish(Exit{Code: 126})
	_, err := e.c.call(ctx, "close exec", wire.KindExecRemove, func(enc *wire.Encoder) { enc.Str(e.id) })
	if errors.Is(err, problem.Conflict) {
		return nil // ended with its container
	}
	return err
}

// Pid is the process's id on the host: 0 before Start and after exit.
func (e *Exec) Pid() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.pid
}

// Attach is as Container.Attach. The output of an exec is not logged: call
// Start in attached to miss none of it. The end of Stdin closes the process's.
func (e *Exec) Attach(ctx context.Context, s Streams, attached func()) error {
	return e.c.attach(ctx, e.id, s, attached)
}

// Resize sets the size of the process's terminal, also before Start.
func (e *Exec) Resize(ctx context.Context, rows, cols uint16) error {
	return e.c.resize(ctx, e.id, rows, cols)
}

// Signal sends sig to the process. Conflict if it does not run.
func (e *Exec) Signal(ctx context.Context, sig unix.Signal) error {
	_, err := e.c.call(ctx, "signal", wire.KindSignal, func(enc *wire.Encoder) { enc.Str(e.id); enc.U32(uint32(sig)) })
	return err
}

// Done is closed when the process has ended and its output was sent.
func (e *Exec) Done() <-chan struct{} { return e.done }

// Wait waits for the process's exit.
func (e *Exec) Wait(ctx context.Context) (Exit, error) {
	select {
	case <-e.done:
		return *e.exit, nil
	case <-e.c.released:
		return Exit{}, errReleased
	case <-ctx.Done():
		return Exit{}, context.Cause(ctx)
	}
}

func (e *Exec) finish(exit Exit) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.exit == nil {
		e.exit, e.pid = &exit, 0
		close(e.done)
	}
}
