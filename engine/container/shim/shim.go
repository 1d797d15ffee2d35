// Package shim is the parent of one container's processes: it forks them, holds
// their stdio, terminal and log, reaps them and writes the exit record. It is
// all there is in gantry-shim, and outlives the engine that started it.
//
// The engine starts it with a listening socket as descriptor 3 and a first
// connection as descriptor 4, in a session of its own; package wire is what is
// spoken on both. It ends when the container has ended and all was told, when
// the container cannot be created, or when it is told to abandon it.
//
// Goroutines: one accepts, one serves each connection and one more writes to
// each attached one, one copies each output stream, one reaps, one waits for
// each process's end. They end with the process.
package shim

import (
	"os"
	"sync"
	"syscall"
	"time"

	"gantry/engine/container/wire"
)

// The descriptors that the engine passes.
const (
	listenFd  = 3
	connectFd = 4
)

// Shim is the process's state.
type Shim struct {
	versions wire.Versions

	answering sync.RWMutex // read-locked while a request is answered; before mu

	mu      sync.Mutex // Shim.mu before process.mu before client.mu
	create  *wire.Create
	procs   map[string]*process // "" is the first
	conns   []*conn             // those that hear of exits
	ending  bool                // no new exec
	over    []wire.ExecState    // execs that have ended, and are still asked for
	writers []*client           // clients that may have output to come when the shim ends

	log       *logWriter
	childless chan struct{} // closed when the last child is reaped
	done      chan struct{} // closed when there is nothing left to do
	once      sync.Once
}

// Run is gantry-shim's main function; it returns the process's exit status.
func Run() int {
	const (
		prSetChildSubreaper = 36
		sysCloseRange       = 436
	)
	// Whatever the engine itself was started with: a pipe whose end someone
	// waits for must not stay open as long as a container lives.
	syscall.RawSyscall(sysCloseRange, connectFd+1, uintptr(^uint32(0)), 0)
	syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0)
	s := &Shim{versions: wire.Spoken(), procs: map[string]*process{}, childless: make(chan struct{}), done: make(chan struct{})}
	for _, fd := range []int{listenFd, connectFd} {
		syscall.CloseOnExec(fd)
		if syscall.SetNonblock(fd, true) != nil {
			return 2
		}
	}
	listener := os.NewFile(listenFd, "control")
	go s.accept(listener)
	go func() {
		s.serve(os.NewFile(connectFd, "engine"))
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.procs[""] == nil {
			s.stop() // the engine went before there was a container
		}
	}()
	<-s.done
	// A process may end before the request that started it is answered.
	s.answering.Lock()
	s.flushClients()
	return 0
}

func (s *Shim) stop() { s.once.Do(func() { close(s.done) }) }

// flushLimit is how long the shim stays for a client that does not read the
// rest of the output, after all else has ended.
const flushLimit = time.Minute

func (s *Shim) flushClients() {
	s.mu.Lock()
	writers := s.writers
	s.mu.Unlock()
	limit := time.NewTimer(flushLimit)
	for _, c := range writers {
		select {
		case <-c.gone:
		case <-limit.C:
			return
		}
	}
}

func (s *Shim) accept(listener *os.File) {
	raw, err := listener.SyscallConn()
	if err != nil {
		return
	}
	for {
		var fd int
		var e error
		err := raw.Read(func(l uintptr) bool {
			fd, _, e = syscall.Accept4(int(l), syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK)
			return e != syscall.EAGAIN
		})
		if err != nil {
			return
		}
		if e != nil {
			continue // the client went away
		}
		go s.serve(os.NewFile(uintptr(fd), "client"))
	}
}

// reap collects every child, the container's own and those that were left to
// the shim.
func (s *Shim) reap() {
	const (
		pAll    = 0
		wNowait = 0x1000000
		wExited = 4
	)
	for {
		// Found first and reaped under the lock: until then its pid stays taken.
		_, _, e := syscall.Syscall6(syscall.SYS_WAITID, pAll, 0, 0, wExited|wNowait, 0, 0)
		if e == syscall.ECHILD {
			close(s.childless) // the first process is reaped, and so is all else
			return
		}
		if e == 0 {
			s.reapOne()
		}
	}
}

func (s *Shim) reapOne() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
	if err != nil || pid <= 0 {
		return
	}
	for _, p := range s.procs {
		if p.pid == pid {
			p.pid, p.status, p.at = 0, status, time.Now()
			syscall.Close(p.pidfd)
			p.pidfd = -1
			if p.id == "" {
				s.ending = true
			}
			close(p.reaped)
		}
	}
}

// exitCode is the shell's convention, which Docker's is too.
func exitCode(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// watchExec tells of the end of an exec.
func (s *Shim) watchExec(p *process) {
	clients := p.finish()
	s.mu.Lock()
	s.writers = append(s.writers, clients...)
	delete(s.procs, p.id)
	s.keepExec(p)
	x := wire.Exit{Process: p.id, Code: exitCode(p.status), At: p.at.UnixNano()}
	s.mu.Unlock()
	s.tell(&x)
	close(p.ended)
}

// watchFirst sees to everything that follows the end of the first process.
func (s *Shim) watchFirst(p *process) {
	<-p.reaped
	if s.create.KillPath != "" {
		killAll(s.create.KillPath)
		limit := time.NewTimer(drainLimit)
		select {
		case <-s.childless:
		case <-limit.C:
		}
		limit.Stop()
	}
	clients := p.finish()
	s.mu.Lock()
	s.writers = append(s.writers, clients...)
	var execs []*process
	for _, o := range s.procs {
		if o != p && o.started {
			execs = append(execs, o)
		}
	}
	s.mu.Unlock()
	limit := time.NewTimer(2 * drainLimit)
	for _, o := range execs {
		select {
		case <-o.ended:
		case <-limit.C:
		}
	}
	s.log.close()
	x := wire.Exit{Code: exitCode(p.status), OOM: oomKilled(s.create.OOMPath), At: p.at.UnixNano()}
	if failed := s.startOutcome(p); failed != 0 {
		x.Code = failed
	}
	writeExit(s.create.ExitPath, &x, p.at)
	s.tell(&x)
	s.stop()
}

// startOutcome is the exit code of a first process that has ended without ever
// having been its program; 0 for others. The process may be reaped before the
// start that is under way has read why.
func (s *Shim) startOutcome(p *process) int {
	s.mu.Lock()
	started := p.started
	s.mu.Unlock()
	if !started {
		return 0 // nor can it be any more
	}
	<-p.settled
	return p.startFailed
}

// tell sends x to all that said hello.
func (s *Shim) tell(x *wire.Exit) {
	e := wire.Encoder{B: make([]byte, wire.HeaderSize, 64)}
	e.U8(uint8(wire.KindExit))
	e.U32(0)
	x.Encode(&e)
	s.mu.Lock()
	conns := s.conns
	s.mu.Unlock()
	for _, c := range conns {
		c.send(e.B)
	}
}
