package oci

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/internal/fault"
	"gantry/internal/problem"
)

// Start executes the program of a created container.
func (c *Container) Start() error {
	switch status := c.Status(); status {
	case specs.StateCreated:
	case specs.StateStopped:
		return problem.New(problem.Conflict, "cannot start a container that has stopped")
	case specs.StateRunning, StatusPaused:
		return problem.New(problem.Conflict, "cannot start an already running container")
	default:
		return problem.New(problem.Conflict, "cannot start a container in the %s state", status)
	}
	pidfd, err := c.open()
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	var o *specs.Spec
	if c.rec.Hooks {
		if o, err = c.config(); err != nil {
			return err
		}
		if err := c.startContainerHooks(o, pidfd); err != nil {
			return errors.Join(err, c.destroy(o))
		}
	}
	if err := c.release(); err != nil {
		return err
	}
	return c.poststart(o)
}

// release lets the process go on to its exec, and waits until that is done.
func (c *Container) release() error {
	// Not to be read: its end is hung up when the process has executed.
	watch, err := unix.Open(c.fifo(), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(watch)
	fifo, err := unix.Open(c.fifo(), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("start the container process: %w", err)
	}
	_, err = unix.Write(fifo, []byte{1})
	unix.Close(fifo)
	if err != nil {
		return fmt.Errorf("start the container process: %w", err)
	}
	if err := fault.At("oci/start/before-unlink"); err != nil {
		return err
	}
	if err := os.Remove(c.fifo()); err != nil {
		return err
	}
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(watch)}}, -1)
		if err != unix.EINTR {
			return err
		}
	}
}

// poststart runs the hooks after the start. o is nil where there are none.
func (c *Container) poststart(o *specs.Spec) error {
	if o == nil || o.Hooks == nil {
		return nil
	}
	err := c.runHooks("poststart", o.Hooks.Poststart, c.hookState(specs.StateRunning, c.rec.Pid), 0, -1)
	if err != nil {
		return errors.Join(err, c.destroy(o))
	}
	return nil
}

// open returns a pidfd of the first process.
//
// Errors: Conflict if it has ended.
func (c *Container) open() (int, error) {
	if c.rec.Pid != 0 {
		pidfd, err := unix.PidfdOpen(c.rec.Pid, 0)
		if err == nil {
			// The pid was not another's meanwhile.
			if c.alive() {
				return pidfd, nil
			}
			unix.Close(pidfd)
		} else if err != unix.ESRCH && err != unix.EINVAL {
			return -1, err
		}
	}
	return -1, problem.New(problem.Conflict, "container not running")
}

// Kill sends a signal to the first process, or to all there are.
//
// Errors: Conflict if the container is not running.
func (c *Container) Kill(sig unix.Signal, all bool) error {
	if c.group == nil {
		return problem.New(problem.Conflict, "container not running")
	}
	// Without a pid namespace the others do not end with the first.
	if all || sig == unix.SIGKILL && c.rec.Namespaces&unix.CLONE_NEWPID == 0 {
		return c.killAll(sig)
	}
	pidfd, err := c.open()
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	if err := unix.PidfdSendSignal(pidfd, sig, nil, 0); err != nil {
		if err == unix.ESRCH {
			return problem.New(problem.Conflict, "container not running")
		}
		return err
	}
	return c.wake(sig)
}

// wake thaws a container that was killed: a frozen one on cgroup v1 does not end.
func (c *Container) wake(sig unix.Signal) error {
	if sig == unix.SIGKILL && c.group.Frozen() {
		return c.group.Thaw()
	}
	return nil
}

func (c *Container) killAll(sig unix.Signal) error {
	pids, err := c.group.Pids()
	if err != nil {
		return err
	}
	if len(pids) == 0 && !c.alive() {
		return problem.New(problem.Conflict, "container not running")
	}
	if c.alive() {
		pids = append(pids, c.rec.Pid) // one that is not started may be outside
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
			return err
		}
	}
	return c.wake(sig)
}

// Force makes Delete kill a container that runs.
type Force bool

// Delete removes a container that has ended, or was never started, and all that
// is known of it.
func (c *Container) Delete(force Force) error {
	switch status := c.Status(); {
	case status == specs.StateStopped || status == specs.StateCreated || bool(force):
	default:
		return problem.New(problem.Conflict, "cannot delete container %s that is not stopped: %s", c.rec.ID, status)
	}
	var o *specs.Spec
	if c.rec.Hooks {
		var err error
		if o, err = c.config(); err != nil {
			c.r.warn("%v", err) // deleted all the same
		}
	}
	return c.destroy(o)
}

// killTimeout is how long a killed process may take to end.
const killTimeout = 10 * time.Second

// destroy ends the container and removes it; o is nil where it has no hooks.
func (c *Container) destroy(o *specs.Spec) error {
	if pidfd, err := c.open(); err == nil {
		defer unix.Close(pidfd)
		if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
			return err
		}
		if err := c.wake(unix.SIGKILL); err != nil {
			return err
		}
		if !waitEnd(pidfd, killTimeout) {
			return problem.New(problem.Conflict, "container init still running")
		}
	}
	if err := c.removeGroup(); err != nil {
		return err
	}
	if err := fault.At("oci/delete/after-cgroup"); err != nil {
		return err
	}
	if o != nil {
		c.poststop(o)
	}
	return os.RemoveAll(c.dir)
}

// Pause freezes all of the container.
func (c *Container) Pause() error {
	switch status := c.Status(); status {
	case specs.StateRunning, specs.StateCreated:
		return c.group.Freeze()
	default:
		return problem.New(problem.Conflict, "container not running or created: %s", status)
	}
}

// Resume thaws it.
func (c *Container) Resume() error {
	if c.group == nil || !c.group.Frozen() {
		return problem.New(problem.Conflict, "container not paused")
	}
	return c.group.Thaw()
}

// Pids lists the container's processes.
func (c *Container) Pids() ([]int, error) {
	if c.group == nil {
		return nil, nil
	}
	return c.group.Pids()
}

// Update changes the container's limits; what res leaves out stays.
func (c *Container) Update(res *specs.LinuxResources) error {
	if c.Status() == specs.StateStopped {
		return problem.New(problem.Conflict, "container not running")
	}
	limits, err := c.r.host.Limits(res)
	if err != nil {
		return err
	}
	return c.group.Set(limits)
}
