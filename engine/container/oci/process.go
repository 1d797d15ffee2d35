package oci

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"gantry/engine/container/program"
	"gantry/engine/container/wire"
)

// child is a process that executes a program, from its fork on.
type child struct {
	pid, pidfd      int
	status, release int // our ends of the pipes; -1 when closed
	process         *wire.Process
	messages        []string
	steps           steps
	copyFrom        int // descriptor of SyncCopyFrom, until SyncCopyTo
}

// steps are what a program asks of its parent. Those that cannot be asked for
// are nil. A descriptor that is passed is the callee's.
type steps struct {
	terminal func(fd int) error
	hooks    func(c *child) error
	listener func(c *child, fd int) error
}

// spawn forks a child; next brings it on. stdio are the descriptors that a hook
// gets, and target is the pidfd of the process whose namespaces are joined, or -1.
func spawn(p *wire.Process, messages []string, s steps, stdio [3]int, target int) (*child, error) {
	l, ok := program.Load(&p.Program)
	if !ok {
		panic("a program that does not load")
	}
	var status, release [2]int
	if err := unix.Pipe2(status[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	if err := unix.Pipe2(release[:], unix.O_CLOEXEC); err != nil {
		closeAll(status[:])
		return nil, err
	}
	for i, fd := range stdio {
		l.Regs[program.RegStdin+i] = int64(fd)
	}
	l.Regs[program.RegInit] = int64(target)
	l.Regs[program.RegStatusEnd], l.Regs[program.RegReleaseEnd] = int64(status[0]), int64(release[1])
	c := &child{status: status[0], release: release[1], process: p, messages: messages, steps: s, copyFrom: -1}
	err := c.clone(l, status[1], release[0])
	closeAll([]int{status[1], release[0]})
	if err != nil {
		closeAll([]int{status[0], release[1]})
		return nil, err
	}
	return c, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// clone forks on a thread of its own, which ends if it cannot be brought back.
func (c *child) clone(l *program.Loaded, status, release int) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		message, errno := l.Pre()
		err := c.failure(uint32(message), errno)
		if err == nil {
			cgroup := -1
			if c.process.CgroupReg >= 0 {
				cgroup = int(l.Regs[c.process.CgroupReg])
			}
			pid, pidfd, e := l.Clone(c.process.Clone, cgroup, status, release)
			if e != 0 {
				err = fmt.Errorf("unable to start container process: clone: %w", e)
			}
			c.pid, c.pidfd = pid, pidfd
		}
		if _, e := l.Post(); e == 0 {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// failure is the error of an operation of the program; nil for no errno.
func (c *child) failure(message uint32, errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	text := ""
	if int(message) < len(c.messages) {
		text = c.messages[message]
	}
	if strings.HasSuffix(text, "in $PATH") {
		return fmt.Errorf("unable to start container process: %s", text)
	}
	return fmt.Errorf("unable to start container process: %s: %w", text, errno)
}

// The points at which next returns.
const (
	created  = iota // all is done but the exec
	executed        // it is the program now
)

// next goes along with the child until it is created, or executes its program.
func (c *child) next() (int, error) {
	for {
		r, whole := c.read()
		switch {
		case !whole:
			closeAll([]int{c.status, c.release})
			c.status, c.release = -1, -1
			return executed, nil
		case r[0] == program.RecordFailed:
			return 0, c.failure(r[1], unix.Errno(r[2]))
		case r[0] == program.RecordForked:
			if err := c.forked(int(r[1])); err != nil {
				return 0, err
			}
			continue
		case r[1] == program.SyncCreated:
			return created, nil
		}
		if err := c.step(int(r[1]), int(r[2])); err != nil {
			return 0, err
		}
		if err := c.letGo(); err != nil {
			return 0, err
		}
	}
}

// read reads a record of three numbers; not whole at the end of the pipe.
func (c *child) read() (r [3]uint32, whole bool) {
	buffer := unsafe.Slice((*byte)(unsafe.Pointer(&r)), 12)
	for n := 0; n < len(buffer); {
		m, err := unix.Read(c.status, buffer[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || m == 0 {
			return r, false
		}
		n += m
	}
	return r, true
}

// forked takes the sibling in place of the child, which has ended.
func (c *child) forked(pid int) error {
	var ignored unix.WaitStatus
	if _, err := unix.Wait4(c.pid, &ignored, 0, nil); err != nil {
		return err
	}
	unix.Close(c.pidfd)
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	c.pid, c.pidfd = pid, pidfd
	return nil
}

func (c *child) letGo() error {
	_, err := unix.Write(c.release, []byte{1})
	return err
}

func (c *child) step(point, value int) error {
	switch point {
	case program.SyncMapUsers:
		return mapUsers(c.pid, c.process.UIDMap, c.process.GIDMap)
	case program.SyncHooks:
		return c.steps.hooks(c)
	case program.SyncReady:
		if !c.process.Terminal {
			return nil
		}
		return c.fetch(value, c.steps.terminal)
	case program.SyncListener:
		return c.fetch(value, func(fd int) error { return c.steps.listener(c, fd) })
	case program.SyncCopyFrom:
		return c.fetch(value, func(fd int) error { c.copyFrom = fd; return nil })
	case program.SyncCopyTo:
		defer closeAll([]int{c.copyFrom})
		return c.fetch(value, func(fd int) error {
			defer unix.Close(fd)
			return copyUp(c.copyFrom, fd)
		})
	}
	return fmt.Errorf("the program asks for step %d", point)
}

// fetch gets the child's descriptor for use.
func (c *child) fetch(theirs int, use func(fd int) error) error {
	ours, err := unix.PidfdGetfd(c.pidfd, theirs, 0)
	if err != nil {
		return fmt.Errorf("fetch a descriptor of the container process: %w", err)
	}
	return use(ours)
}

func mapUsers(pid int, uids, gids string) error {
	dir := "/proc/" + strconv.Itoa(pid) + "/"
	if err := os.WriteFile(dir+"uid_map", []byte(uids), 0); err != nil {
		return err
	}
	return os.WriteFile(dir+"gid_map", []byte(gids), 0)
}

// kill ends the child and reaps it.
func (c *child) kill() {
	_ = unix.PidfdSendSignal(c.pidfd, unix.SIGKILL, nil, 0) // it may have ended
	_, _ = c.wait()
}

// wait waits for the child's end and returns its exit code.
func (c *child) wait() (int, error) { return c.waitFor(c.pid) }

// waitReaping is wait, and reaps what else was left to this process meanwhile.
func (c *child) waitReaping() (int, error) { return c.waitFor(-1) }

func (c *child) waitFor(pid int) (int, error) {
	var status unix.WaitStatus
	for {
		ended, err := unix.Wait4(pid, &status, 0, nil)
		if err != nil && err != unix.EINTR {
			return 0, err
		}
		if err == nil && ended == c.pid {
			break
		}
	}
	if status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

// waitEnd waits until the process behind pidfd has ended; false after limit, 0: none.
func waitEnd(pidfd int, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for {
		wait := -1
		if limit > 0 {
			wait = int(max(time.Until(deadline).Milliseconds(), 0))
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, wait)
		if err == unix.EINTR {
			continue
		}
		return err == nil && n > 0
	}
}
