package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gantry/engine/container/cgroup"
	"gantry/engine/container/plan"
	"gantry/engine/container/wire"
	"gantry/internal/fault"
	"gantry/internal/problem"
)

// Create makes the container's shim, cgroup, namespaces, mounts and first
// process, all but its exec. When it fails, nothing is left.
//
// Errors: Exists, Invalid and Unsupported (the field is named).
func (r *Runtime) Create(ctx context.Context, s Spec) (*Container, error) {
	if err := validate(&s); err != nil {
		return nil, err
	}
	if err := r.prepare(); err != nil {
		return nil, err
	}
	if _, err := os.Stat(r.statePath(s.ID)); err == nil {
		return nil, problem.New(problem.Exists, "container %s exists", s.ID)
	}
	warm := make(chan struct{})
	defer func() { <-warm }()
	go func() {
		defer close(warm)
		r.host.Warm()
	}()
	resources, err := r.host.Resources(s.OCI.Linux.Resources)
	if err != nil {
		return nil, err
	}
	filter, err := r.compiler.Compile(s.OCI.Linux.Seccomp)
	if err != nil {
		return nil, err
	}
	group := r.host.Group(r.groupName(&s))
	p := r.planner(group, filter)
	process, err := p.Container(s.OCI, s.Overlay)
	if err != nil {
		return nil, err
	}
	process.OpenStdin, process.StdinOnce = s.OpenStdin, s.StdinOnce
	st := state{Version: stateVersion, ID: s.ID, Dir: s.Dir, Cgroup: group.Name(), Terminal: process.Terminal,
		Messages: p.Messages(), OOMScore: s.OCI.Process.OOMScoreAdj, Rlimits: s.OCI.Process.Rlimits}
	if filter != nil {
		st.Filter = filter.Key
	}
	st.Namespaces = plan.Namespaces(s.OCI, true)
	c := r.newContainer(st, group)
	c.warnings = p.Warnings()
	if err := c.create(ctx, &s, process, resources); err != nil {
		// ctx may be what ended it; what was begun is undone all the same.
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteTimeout)
		defer cancel()
		return nil, errors.Join(err, c.undo(undo))
	}
	if err := r.adopt(c); err != nil {
		return nil, err
	}
	return c, nil
}

// deleteTimeout bounds the clean-up after a failed Create.
const deleteTimeout = 30 * time.Second

// groupName is the container's cgroup, from the hierarchies' roots.
func (r *Runtime) groupName(s *Spec) string {
	name := s.OCI.Linux.CgroupsPath
	if name == "" {
		name = s.ID
	}
	if path.IsAbs(name) && path.Clean(name) != "/" {
		return path.Clean(name)
	}
	return r.groupPath(name)
}

func (r *Runtime) newContainer(st state, group *cgroup.Group) *Container {
	return &Container{r: r, state: st, group: group, execs: map[string]*Exec{},
		done: make(chan struct{}), released: make(chan struct{})}
}

// adopt puts c among the open containers and starts to watch it.
func (r *Runtime) adopt(c *Container) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		if c.link != nil {
			c.link.conn.Close()
		}
		return errReleased
	}
	r.containers[c.state.ID] = c
	if c.link != nil {
		r.watchers.Go(c.watch)
	}
	return nil
}

func (c *Container) create(ctx context.Context, s *Spec, process *wire.Process, resources *cgroup.Limits) error {
	r := c.r
	// First of all, so that a start-up after a crash knows what to look for.
	if err := r.writeState(c.state); err != nil {
		return err
	}
	if err := fault.At("container/create/after-state"); err != nil {
		return err
	}
	if err := os.Remove(exitPath(s.Dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err // of an earlier container in this directory
	}
	if err := c.spawnShim(); err != nil {
		return fmt.Errorf("start shim: %w", err)
	}
	// While the shim comes to life.
	if err := c.group.Create(resources); err != nil {
		return err
	}
	if err := fault.At("container/create/after-cgroup"); err != nil {
		return err
	}
	if err := c.hello(ctx); err != nil {
		return err
	}
	message := wire.Create{Process: *process, LogFormat: s.Log.Format, LogPath: s.Log.Path, MaxBytes: s.Log.MaxBytes,
		MaxFiles: s.Log.MaxFiles, LogAttrs: s.Log.Attrs, LogBuffer: s.Log.Buffer, ExitPath: exitPath(s.Dir), OOMPath: c.group.OOMFile()}
	if process.Clone&unix.CLONE_NEWPID == 0 {
		message.KillPath = c.group.ProcsFile()
	}
	reply, err := c.link.call(ctx, wire.KindCreate, message.Encode)
	if err != nil {
		return err
	}
	if err := c.failure(reply, "create"); err != nil {
		return err
	}
	c.pid = int(reply.A)
	return nil
}

// spawnShim starts the shim, in a session of its own, with nothing of this
// process but a listening socket and a first connection.
func (c *Container) spawnShim() error {
	socket := c.r.socketPath(c.state.ID)
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err // of a container whose state is gone
	}
	listener, err := listen(socket)
	if err != nil {
		return err
	}
	defer listener.Close()
	conn, theirs, err := socketpair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	shim, err := os.StartProcess(c.r.cfg.Shim, []string{"gantry-shim", c.state.ID}, &os.ProcAttr{
		Dir: "/",
		// One processor, and a heap that is collected early. By the GODEBUG the
		// runtime does not look for a cgroup's cpu limit first, and the first byte
		// of its heap costs a page, not the 2 MiB that many kernels would give.
		Env:   []string{"GOMAXPROCS=1", "GOGC=20", "GODEBUG=containermaxprocs=0,updatemaxprocs=0,disablethp=1"},
		Files: []*os.File{c.r.null, c.r.null, c.r.stderr, listener, theirs},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	go func() {
		// Reaps the shim. How it ended is nobody's question: the exit record is.
		_, _ = shim.Wait()
	}()
	c.link = newLink(conn, c.exited)
	c.r.watchers.Go(c.link.serve)
	return nil
}

// hello agrees with the shim on a version of the protocol, the newest that both
// speak, and learns its state.
func (c *Container) hello(ctx context.Context) error {
	c.version = c.r.versions.Newest
	call := func() (wire.Reply, error) {
		return c.link.call(ctx, wire.KindHello, func(e *wire.Encoder) { e.U32(c.version) })
	}
	r, err := call()
	if err == nil && r.Failure == wire.FailVersion && c.r.versions.Speaks(r.A) {
		c.version = r.A
		r, err = call()
	}
	if err != nil {
		return err
	}
	if r.Failure == wire.FailVersion {
		return c.r.foreignError(c.state.ID, r.A)
	}
	if err := c.failure(r, "adopt"); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shim, c.started = int(r.A), r.State.Started
	if c.exit == nil { // the exit may have been told already, right after the reply
		c.pid = r.State.Pid
	}
	return nil
}

// undo removes what a failed create began.
func (c *Container) undo(ctx context.Context) error {
	if c.link != nil {
		// The shim ends when its first connection does, if it has no container
		// yet; one that has a child ends with it.
		_, _ = c.link.call(ctx, wire.KindAbandon, nil) // it may be gone
		c.link.conn.Close()
	}
	return c.remove(ctx)
}

// remove kills what is in the container's cgroup and removes all that is known
// of it.
func (c *Container) remove(ctx context.Context) error {
	err := errors.Join(c.group.Kill(ctx), c.group.Remove(ctx))
	if err != nil {
		return err // the state stays, for another try
	}
	return errors.Join(removeFile(c.r.socketPath(c.state.ID)), removeFile(exitPath(c.state.Dir)),
		removeFile(exitPath(c.state.Dir)+".tmp"), removeFile(c.r.statePath(c.state.ID)))
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		return err
	}
	return nil
}
