package oci

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/engine/container/plan"
)

// runHooks runs hooks one after the other, with the state on stdin. flags are
// the namespaces of the process behind target that they run in, 0: the runtime's.
//
// Spec: runtime-spec config.md, "POSIX-platform Hooks".
func (c *Container) runHooks(kind string, hooks []specs.Hook, state []byte, flags uint64, target int) error {
	for i := range hooks {
		p := plan.New(plan.Config{Direct: &plan.Direct{}})
		process := p.Hook(&hooks[i], c.rec.Bundle, flags)
		run := func(stdio [3]int) (*child, error) { return spawn(process, p.Messages(), steps{}, stdio, target) }
		if err := runHook(&hooks[i], state, run); err != nil {
			return fmt.Errorf("error running %s hook #%d: %w", kind, i, err)
		}
	}
	return nil
}

// maxHookOutput is what is kept of a hook's output for the error message.
const maxHookOutput = 4096

// runHook starts a hook by spawn and waits for it.
func runHook(h *specs.Hook, state []byte, spawn func(stdio [3]int) (*child, error)) error {
	var in, out [2]int
	if err := unix.Pipe2(in[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	if err := unix.Pipe2(out[:], unix.O_CLOEXEC); err != nil {
		closeAll(in[:])
		return err
	}
	stdin, output := os.NewFile(uintptr(in[1]), "hook"), os.NewFile(uintptr(out[0]), "hook")
	defer output.Close()
	c, err := spawn([3]int{in[0], out[1], out[1]})
	closeAll([]int{in[0], out[1]})
	if err != nil {
		stdin.Close()
		return err
	}
	defer closeAll([]int{c.pidfd})
	// A pipe takes 64 KiB; a state that is longer waits for the hook to read.
	go func() {
		_, _ = stdin.Write(state) // a hook need not read it
		stdin.Close()
	}()
	if _, err := c.next(); err != nil {
		c.kill()
		return err
	}
	said := make(chan string, 1)
	go func() {
		var b bytes.Buffer
		_, _ = io.CopyN(&b, output, maxHookOutput) // the end of the hook ends it
		_, _ = io.Copy(io.Discard, output)
		said <- b.String()
	}()
	var limit time.Duration
	if h.Timeout != nil {
		limit = time.Duration(*h.Timeout) * time.Second
		if limit <= 0 {
			c.kill()
			return invalid("the timeout of hook %s is %d; want more than 0", h.Path, *h.Timeout)
		}
	}
	if !waitEnd(c.pidfd, limit) {
		c.kill()
		return fmt.Errorf("hook %s ran past the specified timeout of %.1fs", h.Path, limit.Seconds())
	}
	code, err := c.wait()
	if err != nil || code == 0 {
		return err
	}
	// What the hook left running may hold the pipe.
	text := ""
	select {
	case text = <-said:
	case <-time.After(time.Second):
	}
	if code > 128 {
		return fmt.Errorf("signal: %v, output: %q", unix.Signal(code-128), text)
	}
	return fmt.Errorf("exit status %d, output: %q", code, text)
}

// startContainerHooks run as processes of the container, with its rights: their
// programs are the container's.
func (c *Container) startContainerHooks(o *specs.Spec, target int) error {
	filter, err := c.r.compiler().Load(c.rec.Filter)
	if err != nil {
		return err
	}
	state := c.hookState(specs.StateCreated, c.rec.Pid)
	for i := range o.Hooks.StartContainer {
		h := &o.Hooks.StartContainer[i]
		process := *o.Process
		process.Terminal, process.Env, process.Args = false, h.Env, h.Args
		if len(h.Args) == 0 {
			process.Args = []string{h.Path}
		}
		p, err := c.r.planner(c.group, filter, &plan.Direct{Program: h.Path, Stdio: true}, nil)
		if err != nil {
			return err
		}
		compiled, err := p.Exec(&process, o.Linux.Personality, c.rec.Namespaces)
		if err != nil {
			return err
		}
		run := func(stdio [3]int) (*child, error) {
			child, err := spawn(compiled, p.Messages(), c.steps(o, nil), stdio, target)
			if err != nil {
				return nil, err
			}
			if _, err := child.next(); err != nil {
				child.kill()
				return nil, err
			}
			return child, child.letGo()
		}
		if err := runHook(h, state, run); err != nil {
			return fmt.Errorf("error running startContainer hook #%d: %w", i, err)
		}
	}
	return nil
}
