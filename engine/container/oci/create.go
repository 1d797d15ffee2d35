package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/engine/container/plan"
	"gantry/internal/fault"
	"gantry/internal/problem"
)

// CreateOptions are the create command's.
type CreateOptions struct {
	ID            string
	Bundle        string // directory with config.json
	PidFile       string // gets the first process's pid; empty: none
	ConsoleSocket string // gets the terminal; empty: none
	NoPivot       bool
	NoKeyring     bool
	PreservedFds  int // descriptors after stderr that the process gets
	ListenFds     int // of them, those that systemd's protocol passes
}

// cleanTimeout bounds killing what is in a cgroup.
const cleanTimeout = 30 * time.Second

// Create makes a container, all but the exec of its program.
//
// Errors: Exists, Invalid, Unsupported. Nothing is left after an error.
func (r *Runtime) Create(opts CreateOptions) error {
	c, child, _, err := r.create(opts, true, nil)
	if err != nil {
		return err
	}
	// It goes on to read the fifo.
	if err := child.letGo(); err != nil {
		return errors.Join(err, c.undo(child, nil))
	}
	return nil
}

// create goes along with the container's process until all is done but the exec.
// terminal takes the terminal where no console socket does.
func (r *Runtime) create(opts CreateOptions, fifo bool, terminal func(fd int) error) (*Container, *child, *specs.Spec, error) {
	// While the bundle is read.
	var warm sync.WaitGroup
	warm.Go(r.host.Warm)
	defer warm.Wait()
	c, o, raw, err := r.load(&opts)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := checkTerminal(o.Process.Terminal, opts.ConsoleSocket, terminal); err != nil {
		return nil, nil, nil, err
	}
	if err := r.prepare(); err != nil {
		return nil, nil, nil, err
	}
	unlock, err := c.claim(raw)
	if err != nil {
		return nil, nil, nil, err
	}
	defer unlock()
	child, err := c.launch(o, &opts, fifo, terminal)
	if err != nil {
		return nil, nil, nil, errors.Join(err, c.undo(child, o))
	}
	return c, child, o, nil
}

// load reads and checks the bundle.
func (r *Runtime) load(opts *CreateOptions) (*Container, *specs.Spec, []byte, error) {
	if err := checkID(opts.ID); err != nil {
		return nil, nil, nil, err
	}
	bundle, err := filepath.Abs(opts.Bundle)
	if err != nil {
		return nil, nil, nil, err
	}
	file := filepath.Join(bundle, "config.json")
	raw, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil, problem.New(problem.NotFound, "JSON specification file config.json not found")
	}
	if err != nil {
		return nil, nil, nil, err
	}
	o, err := parseSpec(file, raw)
	if err != nil {
		return nil, nil, nil, err
	}
	if o.Root == nil || o.Process == nil || o.Linux == nil {
		return nil, nil, nil, invalid("config.json needs root, process and linux")
	}
	if !strings.HasPrefix(o.Version, "1.") {
		return nil, nil, nil, problem.New(problem.Unsupported, "ociVersion %q is not supported; this runtime knows 1.0.0 to %s", o.Version, specs.Version)
	}
	if !path.IsAbs(o.Root.Path) {
		o.Root.Path = filepath.Join(bundle, o.Root.Path)
	}
	if info, err := os.Stat(o.Root.Path); err != nil || !info.IsDir() {
		return nil, nil, nil, invalid("invalid rootfs: %q is no directory", o.Root.Path)
	}
	if err := plan.Validate(o); err != nil {
		return nil, nil, nil, err
	}
	group := o.Linux.CgroupsPath
	if group == "" {
		group = opts.ID
	}
	c := &Container{r: r, dir: filepath.Join(r.cfg.Root, opts.ID), group: r.host.Group(group)}
	c.rec = record{Version: recordVersion, OCIVersion: o.Version, ID: opts.ID, Bundle: bundle, Rootfs: o.Root.Path, Created: time.Now().UTC(),
		Owner: "root", Annotations: o.Annotations, Cgroup: c.group.Name(), Namespaces: plan.Namespaces(o, true), Hooks: o.Hooks != nil}
	return c, o, raw, nil
}

// claim makes the container's directory, locked while it is created, and writes
// down all that delete needs to know.
func (c *Container) claim(raw []byte) (unlock func(), err error) {
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil, problem.New(problem.Exists, "container with given ID already exists")
		}
		return nil, err
	}
	dir, err := os.Open(c.dir)
	if err == nil {
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX)
	}
	if err == nil {
		err = fault.At("oci/create/after-directory")
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(c.dir, "config.json"), raw, 0o600)
	}
	if err == nil {
		err = c.save()
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(c.dir))
	}
	// Unlocked, not only closed: a container that was forked has the descriptor too.
	return func() {
		_ = unix.Flock(int(dir.Fd()), unix.LOCK_UN) // closing does it otherwise
		dir.Close()
	}, nil
}

// launch makes the cgroup and the process. The child is returned with an error
// too, if there is one.
func (c *Container) launch(o *specs.Spec, opts *CreateOptions, fifo bool, terminal func(fd int) error) (*child, error) {
	if err := fault.At("oci/create/after-record"); err != nil {
		return nil, err
	}
	resources, err := c.r.host.Resources(o.Linux.Resources)
	if err != nil {
		return nil, err
	}
	filter, err := c.r.compiler().Compile(o.Linux.Seccomp)
	if err != nil {
		return nil, err
	}
	if filter != nil {
		c.rec.Filter = filter.Key
	}
	if n := opts.ListenFds; n > 0 {
		o.Process.Env = append(o.Process.Env, "LISTEN_FDS="+strconv.Itoa(n), "LISTEN_PID=1")
	}
	direct := &plan.Direct{NoPivot: opts.NoPivot, NoKeyring: opts.NoKeyring, PreservedFds: opts.PreservedFds}
	if fifo {
		direct.Fifo = c.fifo()
		if err := unix.Mkfifo(direct.Fifo, 0o600); err != nil {
			return nil, fmt.Errorf("make %s: %w", direct.Fifo, err)
		}
	}
	users := &users{}
	defer users.close()
	p, err := c.r.planner(c.group, filter, direct, users)
	if err != nil {
		return nil, err
	}
	process, err := p.Container(o, nil)
	if err != nil {
		return nil, err
	}
	for _, w := range p.Warnings() {
		c.r.warn("%s", w)
	}
	if err := c.makeGroup(resources); err != nil {
		return nil, err
	}
	if opts.ConsoleSocket != "" {
		terminal = func(fd int) error { return sendTerminal(opts.ConsoleSocket, fd) }
	}
	child, err := spawn(process, p.Messages(), c.steps(o, terminal), [3]int{0, 1, 2}, -1)
	if err != nil {
		return nil, err
	}
	if _, err := child.next(); err != nil {
		return child, err
	}
	return child, c.ready(child, opts.PidFile)
}

// steps are what a program of the container may ask for.
func (c *Container) steps(o *specs.Spec, terminal func(fd int) error) steps {
	return steps{
		terminal: terminal,
		hooks:    func(child *child) error { return c.beforePivot(o, child) },
		listener: func(child *child, fd int) error { return c.sendListener(o.Linux.Seccomp, child.pid, fd) },
	}
}

// beforePivot moves network devices and runs the hooks of the time before pivot_root.
func (c *Container) beforePivot(o *specs.Spec, child *child) error {
	if err := moveDevices(o.Linux.NetDevices, child.pid); err != nil {
		return err
	}
	h := o.Hooks
	if h == nil {
		return nil
	}
	state := c.hookState(specs.StateCreating, child.pid)
	//lint:ignore SA1019 deprecated hooks are run all the same (runtime-spec config.md, "Prestart")
	if err := c.runHooks("prestart", h.Prestart, state, 0, -1); err != nil {
		return err
	}
	if err := c.runHooks("createRuntime", h.CreateRuntime, state, 0, -1); err != nil {
		return err
	}
	return c.runHooks("createContainer", h.CreateContainer, state, c.rec.Namespaces, child.pidfd)
}

// ready records that the container is created.
func (c *Container) ready(child *child, pidFile string) error {
	_, start, err := processState(child.pid)
	if err != nil {
		return err
	}
	c.rec.Pid, c.rec.StartTime = child.pid, start
	if err := fault.At("oci/create/before-ready"); err != nil {
		return err
	}
	if err := c.save(); err != nil {
		return err
	}
	if err := fault.At("oci/create/after-ready"); err != nil {
		return err
	}
	return writePid(pidFile, child.pid)
}

// writePid makes a pid file visible whole; who waits for it reads it at once.
func writePid(file string, pid int) error {
	if file == "" {
		return nil
	}
	temporary := filepath.Join(filepath.Dir(file), "."+filepath.Base(file))
	if err := os.WriteFile(temporary, []byte(strconv.Itoa(pid)), 0o666); err != nil {
		return err
	}
	return os.Rename(temporary, file)
}

// undo ends what a failed create began, and runs the poststop hooks if o is
// given: the lifecycle goes on where a container was stopped.
func (c *Container) undo(child *child, o *specs.Spec) error {
	if child != nil {
		child.kill()
		closeAll([]int{child.status, child.release, child.pidfd})
	}
	if err := c.removeGroup(); err != nil {
		return err // the record stays, for delete
	}
	if child != nil && o != nil {
		c.poststop(o)
	}
	return os.RemoveAll(c.dir)
}

// removeGroup kills what is in the container's cgroup and removes it.
func (c *Container) removeGroup() error {
	if c.group == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
	defer cancel()
	return errors.Join(c.group.Kill(ctx), c.group.Remove(ctx))
}

// poststop runs the hooks after a container's end; their failure is only told.
func (c *Container) poststop(o *specs.Spec) {
	if o.Hooks == nil {
		return
	}
	state := c.hookState(specs.StateStopped, 0)
	for i := range o.Hooks.Poststop {
		if err := c.runHooks("poststop", o.Hooks.Poststop[i:i+1], state, 0, -1); err != nil {
			c.r.warn("%v", err)
		}
	}
}
