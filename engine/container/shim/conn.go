package shim

import (
	"io"
	"os"
	"sync"
	"syscall"

	"gantry/engine/container/program"
	"gantry/engine/container/wire"
)

// conn is a connection that makes requests.
type conn struct {
	f  *os.File
	mu sync.Mutex // a frame goes out whole
}

// send completes frame's header and writes it. A reader that is gone misses it;
// the exit record is there for it.
func (c *conn) send(frame []byte) {
	n := len(frame) - wire.HeaderSize
	c.mu.Lock()
	defer c.mu.Unlock()
	h := [wire.HeaderSize]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}
	copy(frame, h[:])
	_, _ = c.f.Write(frame)
}

// What makes a process is read into an arena, which is freed when the process
// is there. Decoded and loaded, an operation of 20 bytes takes eight times as many.
const (
	largeMessage = 4 << 10
	arenaFactor  = 10
)

// serve answers the requests on f until it ends.
func (s *Shim) serve(f *os.File) {
	c := &conn{f: f}
	defer f.Close()
	defer s.unsubscribe(c)
	for {
		var h [wire.HeaderSize]byte
		if _, err := io.ReadFull(f, h[:]); err != nil {
			return
		}
		n := int(h[0]) | int(h[1])<<8 | int(h[2])<<16 | int(h[3])<<24
		if n < 5 || n > wire.MaxFrame {
			return
		}
		var arena *program.Arena
		if n >= largeMessage {
			arena = program.NewArena(arenaFactor * n)
		}
		message := arena.Bytes(n)
		if _, err := io.ReadFull(f, message); err != nil {
			return
		}
		d := &wire.Decoder{B: message, Arena: arena}
		kind, number := wire.Kind(d.U8()), d.U32()
		if kind == wire.KindAttach {
			if s.serveAttach(f, d, number) {
				return
			}
			continue
		}
		s.answering.RLock()
		r := s.handle(c, kind, d)
		c.send(encodeReply(number, &r))
		s.answering.RUnlock()
		if kind == wire.KindAbandon || kind == wire.KindCreate && r.Failure != wire.OK {
			s.stop()
		}
	}
}

func encodeReply(number uint32, r *wire.Reply) []byte {
	e := wire.Encoder{B: make([]byte, wire.HeaderSize, 32)}
	e.U8(uint8(wire.KindReply))
	e.U32(number)
	r.Encode(&e)
	return e.B
}

func (s *Shim) unsubscribe(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rest []*conn
	for _, o := range s.conns {
		if o != c {
			rest = append(rest, o)
		}
	}
	s.conns = rest
}

// serveAttach turns the connection into a stream. It returns true when that has
// ended, false if the request was refused.
func (s *Shim) serveAttach(f *os.File, d *wire.Decoder, number uint32) bool {
	version, id := d.U32(), d.Str()
	stdin, out, err := d.Bool(), d.Bool(), d.Bool()
	r := wire.Reply{}
	p := s.process(id)
	switch {
	case !s.versions.Speaks(version):
		r = wire.Reply{Failure: wire.FailVersion, A: s.versions.Newest}
	case d.Bad:
		r.Failure = wire.FailRequest
	case p == nil:
		r.Failure = wire.FailProcess
	}
	reply := encodeReply(number, &r)
	n := len(reply) - wire.HeaderSize
	copy(reply, []byte{byte(n), 0, 0, 0})
	if r.Failure != wire.OK {
		_, _ = f.Write(reply) // gone is gone
		return false
	}
	c := newClient(f)
	c.out, c.err = out, err
	p.attach(c, reply)
	p.serveInput(c, stdin)
	<-c.gone
	return true
}

func (s *Shim) process(id string) *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.procs[id]
}

func (s *Shim) handle(c *conn, kind wire.Kind, d *wire.Decoder) wire.Reply {
	switch kind {
	case wire.KindHello:
		return s.hello(c, d)
	case wire.KindCreate:
		return s.createContainer(d)
	case wire.KindStart:
		return s.start("")
	case wire.KindSignal:
		return s.signal(d.Str(), syscall.Signal(d.U32()))
	case wire.KindResize:
		return s.resize(d)
	case wire.KindExecCreate:
		return s.createExec(d)
	case wire.KindExecStart:
		return s.startExec(d.Str())
	case wire.KindExecRemove:
		return s.removeExec(d.Str())
	case wire.KindExecs:
		return s.execs()
	case wire.KindReopenLog:
		if s.log != nil {
			if err := s.log.reopen(); err != nil {
				return failErrno(wire.StepLog, err)
			}
		}
		return wire.Reply{}
	case wire.KindAbandon:
		return s.signal("", syscall.SIGKILL)
	case wire.KindAttach, wire.KindReply, wire.KindExit:
	}
	return wire.Reply{Failure: wire.FailRequest}
}

func (s *Shim) hello(c *conn, d *wire.Decoder) wire.Reply {
	if !s.versions.Speaks(d.U32()) || d.Bad {
		return wire.Reply{Failure: wire.FailVersion, A: s.versions.Newest}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns[:len(s.conns):len(s.conns)], c)
	r := wire.Reply{A: uint32(os.Getpid())}
	if p := s.procs[""]; p != nil {
		r.State = wire.State{Pid: p.pid, Started: p.started, Exited: p.pid == 0}
	}
	return r
}

func (s *Shim) createContainer(d *wire.Decoder) wire.Reply {
	create := &wire.Create{}
	create.Decode(d)
	if d.Bad {
		return wire.Reply{Failure: wire.FailRequest}
	}
	log, err := newLog(create)
	if err != nil {
		return failErrno(wire.StepLog, err)
	}
	p := newProcess("", &create.Process, log)
	s.mu.Lock()
	taken := s.create != nil
	if !taken {
		s.create, s.log, s.procs[""] = create, log, p
	}
	s.mu.Unlock()
	if taken {
		return wire.Reply{Failure: wire.FailState}
	}
	r := s.spawn(p)
	if r.Failure == wire.OK {
		p.dropProgram()
		go s.watchFirst(p)
	}
	return r
}

func (s *Shim) start(id string) wire.Reply {
	s.mu.Lock()
	p := s.procs[id]
	ready := p != nil && p.pid != 0 && !p.started
	if ready {
		p.started = true
	}
	s.mu.Unlock()
	if !ready {
		return wire.Reply{Failure: wire.FailState}
	}
	r := p.execute()
	p.settle(&r)
	return r
}

// settle keeps how the start of the first process went.
func (p *process) settle(r *wire.Reply) {
	if r.Failure != wire.OK {
		p.startFailed = 126
		if e := syscall.Errno(r.B); e == syscall.ENOENT || e == syscall.ENOTDIR {
			p.startFailed = 127
		}
	}
	close(p.settled)
}

func (s *Shim) signal(id string, sig syscall.Signal) wire.Reply {
	const sysPidfdSendSignal = 424
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.procs[id]
	if p == nil || p.pid == 0 {
		return wire.Reply{Failure: wire.FailState}
	}
	if _, _, e := syscall.Syscall6(sysPidfdSendSignal, uintptr(p.pidfd), uintptr(sig), 0, 0, 0, 0); e != 0 {
		if e == syscall.ESRCH {
			return wire.Reply{Failure: wire.FailState}
		}
		return failErrno(wire.StepKill, e)
	}
	return wire.Reply{}
}

func (s *Shim) resize(d *wire.Decoder) wire.Reply {
	id, rows, cols := d.Str(), d.U16(), d.U16()
	p := s.process(id)
	if p == nil || d.Bad {
		return wire.Reply{Failure: wire.FailProcess}
	}
	if !p.spec.Terminal {
		return wire.Reply{Failure: wire.FailState}
	}
	p.mu.Lock()
	terminal := p.terminal
	p.rows, p.cols = rows, cols
	p.mu.Unlock()
	if terminal != nil {
		if err := setSize(terminal, rows, cols); err != nil {
			return failErrno(wire.StepResize, err)
		}
	}
	return wire.Reply{}
}
