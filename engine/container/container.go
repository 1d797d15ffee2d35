package container

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/engine/container/cgroup"
	"gantry/engine/container/wire"
	"gantry/internal/problem"
)

// Container is one container, created or opened. Its methods may be called
// concurrently.
type Container struct {
	r        *Runtime
	state    state
	group    *cgroup.Group
	link     *link // nil where the shim was gone when it was opened
	warnings []string
	shim     int      // the shim's pid
	version  uint32   // of the protocol, agreed on with the shim
	foreign  *foreign // nil where the shim and this engine speak
	done     chan struct{}
	released chan struct{} // closed when the Runtime has let go of it

	mu      sync.Mutex
	pid     int
	started bool
	exit    *Exit
	execs   map[string]*Exec
	early   map[string]Exit // of execs that are not registered yet; nil but in Execs
}

// ID returns the container's id.
func (c *Container) ID() string { return c.state.ID }

// Warnings are what Create could not do as asked and did otherwise, such as an
// rlimit that this host does not let it raise; for a person to read.
func (c *Container) Warnings() []string { return c.warnings }

// Pid is the first process's id on the host. 0 after it exited.
func (c *Container) Pid() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pid
}

// Started says whether Start was called, in this life of the engine or an
// earlier one.
func (c *Container) Started() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.started
}

// call makes a request of the shim about a process.
func (c *Container) call(ctx context.Context, verb string, kind wire.Kind, body func(*wire.Encoder)) (wire.Reply, error) {
	if c.link == nil {
		return wire.Reply{}, c.notRunning()
	}
	if c.foreign != nil {
		return wire.Reply{}, c.foreign.err
	}
	r, err := c.link.call(ctx, kind, body)
	if errors.Is(err, errLost) {
		err = c.notRunning()
	}
	if err == nil {
		err = c.failure(r, verb)
	}
	return r, err
}

func (c *Container) notRunning() error {
	return problem.New(problem.Conflict, "container %s is not running", c.state.ID)
}

// Start executes the container's program.
//
// Errors: NotFound (exit code 127 by Docker's convention) when there is no such
// program, Denied (126) when it may not be executed, Conflict when it was
// started before. The container has exited after an error.
func (c *Container) Start(ctx context.Context) error {
	c.mu.Lock()
	again := c.started || c.exit != nil
	c.started = true
	c.mu.Unlock()
	if again {
		return problem.New(problem.Conflict, "container %s was started before", c.state.ID)
	}
	_, err := c.call(ctx, "start", wire.KindStart, nil)
	return err
}

// Done is closed when the first process has ended and its output is in the log.
func (c *Container) Done() <-chan struct{} { return c.done }

// Wait waits for the container's exit.
func (c *Container) Wait(ctx context.Context) (Exit, error) {
	select {
	case <-c.done:
		return *c.exit, nil
	case <-c.released:
		return Exit{}, errReleased
	case <-ctx.Done():
		return Exit{}, context.Cause(ctx)
	}
}

// errReleased is what waiting ends with when the Runtime is closed.
var errReleased = problem.New(problem.Unavailable, "the container runtime is closed")

// exited hears of the exit of one of the container's processes.
func (c *Container) exited(x wire.Exit) {
	exit := Exit{Code: x.Code, OOMKilled: x.OOM, At: time.Unix(0, x.At)}
	if x.Process == "" {
		c.finish(exit)
		return
	}
	c.mu.Lock()
	e := c.execs[x.Process]
	delete(c.execs, x.Process)
	if e == nil && c.early != nil {
		c.early[x.Process] = exit
	}
	c.mu.Unlock()
	if e != nil {
		e.finish(exit)
	}
}

// finish records the container's exit. Execs that were not heard of ended with it.
func (c *Container) finish(exit Exit) {
	c.mu.Lock()
	if c.exit != nil {
		c.mu.Unlock()
		return
	}
	c.exit, c.pid = &exit, 0
	execs := c.execs
	c.execs = map[string]*Exec{}
	c.mu.Unlock()
	for _, e := range execs {
		e.finish(Exit{Code: 128 + int(unix.SIGKILL), At: exit.At})
	}
	close(c.done)
}

// lostExit is the exit of a container whose shim was killed.
func (c *Container) lostExit() Exit {
	return Exit{Code: 128 + int(unix.SIGKILL), At: time.Now(), Error: "the container's shim was killed"}
}

// Signal sends sig to the first process. Conflict if it has exited.
func (c *Container) Signal(ctx context.Context, sig unix.Signal) error {
	if c.foreign != nil {
		return c.foreign.signal(sig)
	}
	_, err := c.call(ctx, "signal", wire.KindSignal, func(e *wire.Encoder) { e.Str(""); e.U32(uint32(sig)) })
	if errors.Is(err, problem.Conflict) {
		return c.notRunning()
	}
	return err
}

// Resize sets the size of the container's terminal.
func (c *Container) Resize(ctx context.Context, rows, cols uint16) error {
	return c.resize(ctx, "", rows, cols)
}

func (c *Container) resize(ctx context.Context, process string, rows, cols uint16) error {
	_, err := c.call(ctx, "resize", wire.KindResize, func(e *wire.Encoder) { e.Str(process); e.U16(rows); e.U16(cols) })
	return err
}

// ReopenLog makes the shim open its log file again by name, after someone else
// has renamed it.
func (c *Container) ReopenLog(ctx context.Context) error {
	_, err := c.call(ctx, "reopen log", wire.KindReopenLog, nil)
	return err
}

// Pause freezes every process of the container.
func (c *Container) Pause(context.Context) error {
	if c.Pid() == 0 {
		return c.notRunning()
	}
	return c.group.Freeze()
}

// Resume thaws the container.
func (c *Container) Resume(context.Context) error {
	if c.Pid() == 0 {
		return c.notRunning()
	}
	return c.group.Thaw()
}

// Paused asks the kernel whether the container is frozen.
func (c *Container) Paused() bool { return c.Pid() != 0 && c.group.Frozen() }

// Pids lists the processes in the container's cgroup by their ids on the host.
func (c *Container) Pids(context.Context) ([]int, error) { return c.group.Pids() }

// Update changes the limits of the container. Nil members stay as they are.
func (c *Container) Update(_ context.Context, res *specs.LinuxResources) error {
	limits, err := c.r.host.Limits(res)
	if err != nil {
		return err
	}
	return c.group.Set(limits)
}

// Stats reads the container's cgroup.
func (c *Container) Stats(context.Context) (Stats, error) {
	s, err := c.group.Stats()
	if err != nil {
		return Stats{}, err
	}
	return readStats(s, time.Now()), nil
}

// shimGrace is how long a shim may take to tell of the end of its container
// when all its processes are dead.
const shimGrace = 10 * time.Second

// Delete kills all of the container and removes its cgroup, socket and exit
// record. Idempotent. The directory and the log stay; they are the caller's.
func (c *Container) Delete(ctx context.Context) error {
	if c.Pid() != 0 {
		// One that was not started may not be in its cgroup yet.
		if err := c.Signal(ctx, unix.SIGKILL); err != nil && !errors.Is(err, problem.Conflict) {
			return err
		}
	}
	if err := c.group.Kill(ctx); err != nil {
		return err
	}
	grace := time.NewTimer(shimGrace)
	defer grace.Stop()
	select {
	case <-c.done:
	case <-c.released:
		return errReleased
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-grace.C:
		if c.foreign != nil {
			return c.foreign.err // its shim's pid is not known
		}
		// Its connection is open, so the pid is still its own.
		c.r.log.Error("shim does not end; it is killed", "container", c.state.ID)
		if err := unix.Kill(c.shim, unix.SIGKILL); err != nil && err != unix.ESRCH {
			return err
		}
		<-c.done
	}
	if err := c.remove(ctx); err != nil {
		return err
	}
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if c.r.containers[c.state.ID] == c {
		delete(c.r.containers, c.state.ID)
	}
	return nil
}
