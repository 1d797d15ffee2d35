package oci

import (
	"errors"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/engine/container/plan"
	"gantry/internal/problem"
)

// ExecOptions are the exec command's.
type ExecOptions struct {
	PidFile       string
	ConsoleSocket string
	PreservedFds  int
	Detach        bool
	IgnorePaused  bool
}

// DefaultProcess is the process of the container's own spec, which exec's flags change.
func (c *Container) DefaultProcess() (*specs.Process, error) {
	o, err := c.config()
	if err != nil {
		return nil, err
	}
	return o.Process, nil
}

// Exec runs a further process in the container, and, unless it is detached,
// waits for its end and returns its exit code.
func (c *Container) Exec(process *specs.Process, opts ExecOptions) (int, error) {
	if err := plan.ValidateProcess(process); err != nil {
		return 0, err
	}
	switch status := c.Status(); {
	case status == specs.StateStopped:
		return 0, problem.New(problem.Conflict, "cannot exec in a stopped container")
	case status == StatusPaused && !opts.IgnorePaused:
		return 0, problem.New(problem.Conflict, "cannot exec in a paused container (use --ignore-paused to override)")
	}
	if err := checkConsole(opts.ConsoleSocket, opts.Detach); err != nil {
		return 0, err
	}
	o, err := c.config()
	if err != nil {
		return 0, err
	}
	f := newForeground(opts.Detach)
	child, err := c.startExec(o, process, &opts, f)
	if err != nil {
		f.close()
		return 0, err
	}
	if opts.Detach {
		return 0, nil
	}
	return f.wait(child)
}

// checkConsole refuses a console socket where the terminal stays here.
func checkConsole(socket string, detach bool) error {
	if socket != "" && !detach {
		return invalid("cannot use console socket if runc will not detach or allocate tty")
	}
	return nil
}

// checkTerminal says whether the terminal, if there is one, has where to go.
func checkTerminal(terminal bool, socket string, here func(fd int) error) error {
	switch {
	case terminal && socket == "" && here == nil:
		return invalid("cannot allocate tty if runc will detach without setting console socket")
	case !terminal && socket != "":
		return invalid("cannot use console socket if runc will not detach or allocate tty")
	}
	return nil
}

func (c *Container) startExec(o *specs.Spec, process *specs.Process, opts *ExecOptions, f *foreground) (*child, error) {
	var terminal func(fd int) error
	if f != nil {
		terminal = f.take
	}
	if err := checkTerminal(process.Terminal, opts.ConsoleSocket, terminal); err != nil {
		return nil, err
	}
	target, err := c.open()
	if err != nil {
		return nil, err
	}
	defer unix.Close(target)
	filter, err := c.r.compiler().Load(c.rec.Filter)
	if err != nil {
		return nil, err
	}
	p, err := c.r.planner(c.group, filter, &plan.Direct{NoKeyring: true, PreservedFds: opts.PreservedFds}, nil)
	if err != nil {
		return nil, err
	}
	compiled, err := p.Exec(process, o.Linux.Personality, c.rec.Namespaces)
	if err != nil {
		return nil, err
	}
	for _, w := range p.Warnings() {
		c.r.warn("%s", w)
	}
	if opts.ConsoleSocket != "" {
		terminal = func(fd int) error { return sendTerminal(opts.ConsoleSocket, fd) }
	}
	child, err := spawn(compiled, p.Messages(), c.steps(o, terminal), [3]int{0, 1, 2}, target)
	if err != nil {
		return nil, err
	}
	err = child.execute(func() error { return writePid(opts.PidFile, child.pid) })
	if err != nil {
		child.kill()
		return nil, err
	}
	return child, nil
}

// execute brings the child to its program. before runs when only the exec is left.
func (c *child) execute(before func() error) error {
	at, err := c.next()
	if err != nil {
		return err
	}
	if at != created {
		return errors.New("the container process ended while it was made")
	}
	if err := before(); err != nil {
		return err
	}
	if err := c.letGo(); err != nil {
		return err
	}
	_, err = c.next()
	return err
}
