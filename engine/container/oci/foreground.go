package oci

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// RunOptions are the run command's, beside those of create.
type RunOptions struct {
	CreateOptions
	Detach      bool
	Keep        bool // the container is not deleted after its end
	NoSubreaper bool
}

// Run creates and starts a container. Unless it is detached, Run waits for its
// end, deletes it and returns its exit code.
func (r *Runtime) Run(opts RunOptions) (int, error) {
	if !opts.NoSubreaper && !opts.Detach {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return 0, err
		}
	}
	if err := checkConsole(opts.ConsoleSocket, opts.Detach); err != nil {
		return 0, err
	}
	f := newForeground(opts.Detach)
	var take func(fd int) error
	if f != nil {
		take = f.take
	}
	c, child, o, err := r.create(opts.CreateOptions, false, take)
	if err != nil {
		f.close()
		return 0, err
	}
	if err := c.startNow(o, child); err != nil {
		f.close()
		return 0, err
	}
	if opts.Detach {
		return 0, nil
	}
	code, err := f.wait(child)
	if !opts.Keep {
		err = errors.Join(err, c.Delete(true))
	}
	return code, err
}

// startNow is Start by the process that created the container.
func (c *Container) startNow(o *specs.Spec, child *child) error {
	if o.Hooks != nil {
		if err := c.startContainerHooks(o, child.pidfd); err != nil {
			return errors.Join(err, c.undo(child, o))
		}
	}
	err := child.letGo()
	if err == nil {
		_, err = child.next()
	}
	if err != nil {
		return errors.Join(err, c.undo(child, o))
	}
	return c.poststart(o)
}

// foreground is the process's part while it waits for a container's: it copies
// to and from the terminal and forwards signals. Nil where it does not wait.
type foreground struct {
	terminal *os.File // the container's; nil for none
	restore  *unix.Termios
	signals  chan os.Signal
	output   sync.WaitGroup
}

// newForeground begins to catch signals, which would end the process too early.
func newForeground(detach bool) *foreground {
	if detach {
		return nil
	}
	f := &foreground{signals: make(chan os.Signal, 64)} // as many as may come while one is forwarded
	signal.Notify(f.signals)
	return f
}

// take makes fd the terminal that stdin and stdout are connected to.
func (f *foreground) take(fd int) error {
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	f.terminal = os.NewFile(uintptr(fd), "terminal")
	f.resize()
	if old, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		raw := *old
		raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
		raw.Oflag &^= unix.OPOST
		raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
		raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
		raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
		if err := unix.IoctlSetTermios(0, unix.TCSETS, &raw); err != nil {
			return err
		}
		f.restore = old
	}
	go func() { _, _ = io.Copy(f.terminal, os.Stdin) }() // ends with the process
	f.output.Go(func() { _, _ = io.Copy(os.Stdout, f.terminal) })
	return nil
}

// resize gives the container's terminal the size of this process's.
func (f *foreground) resize() {
	size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err != nil || f.terminal == nil {
		return // stdin is no terminal
	}
	raw, err := f.terminal.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) }) // the old size stays
}

func (f *foreground) close() {
	if f == nil {
		return
	}
	signal.Stop(f.signals)
	if f.restore != nil {
		_ = unix.IoctlSetTermios(0, unix.TCSETS, f.restore) // there is nobody to tell
	}
}

// wait forwards signals until the child ends, and returns its exit code.
func (f *foreground) wait(c *child) (int, error) {
	defer f.close()
	type end struct {
		code int
		err  error
	}
	ended := make(chan end, 1)
	go func() {
		code, err := c.waitReaping()
		ended <- end{code, err}
	}()
	for {
		select {
		case e := <-ended:
			f.drain()
			return e.code, e.err
		case s := <-f.signals:
			switch s {
			case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE: // ours
			case unix.SIGWINCH:
				f.resize()
			default:
				if sig, ok := s.(unix.Signal); ok {
					_ = unix.PidfdSendSignal(c.pidfd, sig, nil, 0) // it has just ended
				}
			}
		}
	}
}

// drainLimit is how long the rest of the output may take to come, when
// something else still has the terminal.
const drainLimit = time.Second

// drain waits for the rest of the output: until the last user of the terminal
// is gone.
func (f *foreground) drain() {
	if f.terminal == nil {
		return
	}
	done := make(chan struct{})
	go func() {
		f.output.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(drainLimit):
	}
}
