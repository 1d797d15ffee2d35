package shim

import (
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"gantry/engine/container/program"
	"gantry/engine/container/wire"
)

// process is the container's first process, or an exec.
type process struct {
	id      string
	spec    *wire.Process
	log     *logWriter // nil for an exec
	pumping bool       // set before the process is started

	// Guarded by Shim.mu.
	pid, pidfd int // 0 and -1 before and after its life
	forked     bool
	started    bool
	status     syscall.WaitStatus
	at         time.Time

	startFailed int           // exit code of a container that never became its program; set before settled
	settled     chan struct{} // closed when the first process's start has succeeded or failed

	statusPipe, release *os.File // to the child until it executes its program

	reaped  chan struct{} // closed when the process has ended
	drained chan struct{} // closed when its output has ended
	ended   chan struct{} // closed when its end has been told

	mu         sync.Mutex
	clients    []*client // copied on change
	stdin      *os.File  // or the terminal
	terminal   *os.File
	rows, cols uint16 // asked for before there was a terminal
	dead       bool   // reaped
	finished   bool   // clients that come now get the end
}

func newProcess(id string, spec *wire.Process, log *logWriter) *process {
	return &process{id: id, spec: spec, log: log, pidfd: -1, settled: make(chan struct{}),
		reaped: make(chan struct{}), drained: make(chan struct{}), ended: make(chan struct{})}
}

// pipe returns the child's and our end; ours is read where in is false.
func pipe(toChild bool) (child int, ours *os.File, err error) {
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
		return -1, nil, err
	}
	child, our := fds[1], fds[0]
	if toChild {
		child, our = fds[0], fds[1]
	}
	if err := syscall.SetNonblock(our, true); err != nil {
		return -1, nil, err
	}
	return child, os.NewFile(uintptr(our), "pipe"), nil
}

// stdio is the child's side of a new process's stdin, stdout and stderr.
type stdio struct {
	fds      [3]int
	out, err *os.File
}

func (s *stdio) close() {
	for _, fd := range s.fds {
		if fd >= 0 {
			syscall.Close(fd)
		}
	}
}

func (p *process) makeStdio() (s stdio, err error) {
	s.fds = [3]int{-1, -1, -1}
	if p.spec.Terminal {
		return s, nil
	}
	if p.spec.OpenStdin {
		s.fds[0], p.stdin, err = pipe(true)
	} else {
		s.fds[0], err = syscall.Open("/dev/null", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	}
	if err == nil {
		s.fds[1], s.out, err = pipe(false)
	}
	if err == nil {
		s.fds[2], s.err, err = pipe(false)
	}
	return s, err
}

func failErrno(step uint32, err error) wire.Reply {
	e, ok := err.(syscall.Errno)
	if pe, is := err.(*os.PathError); is {
		e, ok = pe.Err.(syscall.Errno)
	}
	if !ok {
		e = syscall.EIO
	}
	return wire.Reply{Failure: wire.FailErrno, A: step, B: uint32(e)}
}

// spawn forks p's process and runs its program up to the point where it is
// ready to execute.
func (s *Shim) spawn(p *process) wire.Reply {
	l, ok := program.LoadIn(p.spec.Arena, &p.spec.Program)
	if !ok {
		return wire.Reply{Failure: wire.FailRequest}
	}
	std, err := p.makeStdio()
	defer std.close()
	if err != nil {
		return failErrno(wire.StepStdio, err)
	}
	for i, fd := range std.fds {
		l.Regs[program.RegStdin+i] = int64(fd)
	}
	statusFd, status, err := pipe(false)
	if err != nil {
		return failErrno(wire.StepStdio, err)
	}
	releaseFd, release, err := pipe(true)
	if err != nil {
		return failErrno(wire.StepStdio, err)
	}
	p.statusPipe, p.release = status, release

	reply := make(chan wire.Reply, 1)
	go func() { reply <- s.clone(p, l, statusFd, releaseFd) }()
	r := <-reply
	syscall.Close(statusFd)
	syscall.Close(releaseFd)
	if r.Failure != wire.OK {
		return r
	}
	if !p.spec.Terminal {
		s.pump(p, std.out, std.err)
	}
	return s.prepare(p)
}

// clone makes the child. It runs on a goroutine of its own, so that a thread
// that could not be brought back into the shim's namespaces dies with it.
func (s *Shim) clone(p *process, l *program.Loaded, status, release int) wire.Reply {
	runtime.LockOSThread()
	// Held over the clone: the reaper takes it before it reaps, so that it
	// finds the child registered, and so that the first process's pid, which an
	// exec's program names, still is that process.
	s.mu.Lock()
	defer s.mu.Unlock()
	if init := s.procs[""]; init != p {
		if init == nil || init.pid == 0 {
			return wire.Reply{Failure: wire.FailState}
		}
		l.Regs[program.RegInit] = int64(init.pidfd)
	}
	message, errno := l.Pre()
	var pid, pidfd int
	var cloneErr syscall.Errno
	if errno == 0 {
		cgroup := -1
		if p.spec.CgroupReg >= 0 && p.spec.CgroupReg < program.Registers {
			cgroup = int(l.Regs[p.spec.CgroupReg])
		}
		pid, pidfd, cloneErr = l.Clone(p.spec.Clone, cgroup, status, release)
	}
	if _, e := l.Post(); e == 0 {
		runtime.UnlockOSThread()
	}
	switch {
	case errno != 0:
		return wire.Reply{Failure: wire.FailProgram, A: uint32(message), B: uint32(errno)}
	case cloneErr != 0:
		return failErrno(wire.StepClone, cloneErr)
	}
	p.pid, p.pidfd, p.forked = pid, pidfd, true
	if p.id == "" {
		// Held until the shim ends: else the last process's exit would wait
		// until the overlay is unmounted, which syncs its file system. Never
		// used; without it all is only slower.
		_, _ = syscall.Open("/proc/"+itoa(pid)+"/ns/mnt", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		go s.reap()
	}
	return wire.Reply{}
}

// prepare goes along with the child until it is ready to execute.
func (s *Shim) prepare(p *process) wire.Reply {
	for {
		kind, a, b, ok := p.record()
		switch {
		case !ok:
			return failErrno(wire.StepSync, syscall.ESRCH)
		case kind == program.RecordFailed:
			return wire.Reply{Failure: wire.FailProgram, A: a, B: b}
		case a == program.SyncMapUsers:
			if err := p.mapUsers(); err != nil {
				return failErrno(wire.StepUserMap, err)
			}
			if _, err := p.release.Write([]byte{1}); err != nil {
				return failErrno(wire.StepSync, err)
			}
		case a == program.SyncReady:
			if p.spec.Terminal {
				if err := s.takeTerminal(p, int(b)); err != nil {
					return failErrno(wire.StepTerminal, err)
				}
			}
			return wire.Reply{A: uint32(p.pid)}
		}
	}
}

// record reads what the child reports; not ok at the end of the pipe.
func (p *process) record() (kind, a, b uint32, ok bool) {
	var r [12]byte
	for n := 0; n < len(r); {
		m, err := p.statusPipe.Read(r[n:])
		if err != nil {
			return 0, 0, 0, false
		}
		n += m
	}
	v := (*[3]uint32)(unsafe.Pointer(&r))
	return v[0], v[1], v[2], true
}

func (p *process) mapUsers() error {
	dir := "/proc/" + itoa(p.pid) + "/"
	if err := writeFile(dir+"uid_map", p.spec.UIDMap); err != nil {
		return err
	}
	return writeFile(dir+"gid_map", p.spec.GIDMap)
}

// takeTerminal fetches the terminal that the child opened in its own devpts.
func (s *Shim) takeTerminal(p *process, fd int) error {
	const sysPidfdGetfd = 438
	ours, _, e := syscall.Syscall(sysPidfdGetfd, uintptr(p.pidfd), uintptr(fd), 0)
	if e != 0 {
		return e
	}
	if err := syscall.SetNonblock(int(ours), true); err != nil {
		return err
	}
	f := os.NewFile(ours, "terminal")
	p.mu.Lock()
	p.terminal, p.stdin = f, f
	rows, cols := p.rows, p.cols
	p.mu.Unlock()
	if rows != 0 || cols != 0 {
		if err := setSize(f, rows, cols); err != nil {
			return err
		}
	}
	s.pump(p, f, nil)
	return nil
}

// execute lets the prepared child go on, and says whether it became the program.
func (p *process) execute() wire.Reply {
	defer p.statusPipe.Close()
	_, err := p.release.Write([]byte{1})
	p.release.Close()
	if err != nil {
		return failErrno(wire.StepSync, err)
	}
	for {
		kind, a, b, ok := p.record()
		if !ok {
			return wire.Reply{}
		}
		if kind == program.RecordFailed {
			return wire.Reply{Failure: wire.FailProgram, A: a, B: b}
		}
	}
}

func setSize(f *os.File, rows, cols uint16) error {
	size := [4]uint16{rows, cols}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var e syscall.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, e = syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCSWINSZ, uintptr(unsafe.Pointer(&size)))
	})
	if err == nil && e != 0 {
		err = e
	}
	return err
}
