package shim

import (
	"gantry/engine/container/program"
	"gantry/engine/container/wire"
)

// dropProgram lets go of a program that has run: it is the largest thing in memory.
func (p *process) dropProgram() {
	p.spec.Program = program.Program{}
	p.spec.Arena.Free()
}

func (s *Shim) createExec(d *wire.Decoder) wire.Reply {
	id := d.Str()
	spec := &wire.Process{}
	spec.Decode(d)
	spec.DecodeNote(d)
	if d.Bad || id == "" {
		d.Arena.Free()
		return wire.Reply{Failure: wire.FailRequest}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if init := s.procs[""]; init == nil || !init.started || s.ending || s.procs[id] != nil {
		d.Arena.Free()
		return wire.Reply{Failure: wire.FailState}
	}
	s.procs[id] = newProcess(id, spec, nil)
	return wire.Reply{}
}

func (s *Shim) startExec(id string) wire.Reply {
	s.mu.Lock()
	p := s.procs[id]
	ready := p != nil && id != "" && !p.started && !s.ending
	if ready {
		p.started = true
	}
	s.mu.Unlock()
	if !ready {
		return wire.Reply{Failure: wire.FailState}
	}
	r := s.spawn(p)
	if pid := r.A; r.Failure == wire.OK {
		r = p.execute()
		if r.Failure == wire.OK {
			r.A = pid
		}
	}
	p.dropProgram()
	if r.Failure != wire.OK {
		go s.endFailed(p)
		return r
	}
	go s.watchExec(p)
	return r
}

// endFailed ends an exec that never became its program: its clients see the
// end, and no exit is told.
func (s *Shim) endFailed(p *process) {
	s.mu.Lock()
	forked := p.forked
	s.mu.Unlock()
	if !forked {
		close(p.reaped)
	}
	if !p.pumping {
		close(p.drained)
	}
	p.dropProgram()
	clients := p.finish()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writers = append(s.writers, clients...)
	delete(s.procs, p.id)
	close(p.ended)
}

// execsKept bounds the ended execs that are kept while an engine hears of them:
// it may die before it has made use of what it has heard.
const execsKept = 16

// keepExec keeps the end of an exec for engines to come. The caller holds mu.
func (s *Shim) keepExec(p *process) {
	if len(p.spec.Note) == 0 {
		return
	}
	if len(s.over) >= execsKept && len(s.conns) > 0 {
		s.over = append(s.over[:0], s.over[1:]...)
	}
	s.over = append(s.over, wire.ExecState{ID: p.id, Note: p.spec.Note, Code: exitCode(p.status), At: p.at.UnixNano()})
}

// execs lists the execs that run, and those that have ended.
func (s *Shim) execs() wire.Reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := wire.Reply{Execs: append([]wire.ExecState(nil), s.over...)}
	for _, p := range s.procs {
		switch {
		case len(p.spec.Note) == 0 || !p.forked:
		case p.pid != 0:
			r.Execs = append(r.Execs, wire.ExecState{ID: p.id, Note: p.spec.Note, Pid: p.pid})
		default: // reaped: what it has printed is still on its way
			r.Execs = append(r.Execs, wire.ExecState{ID: p.id, Note: p.spec.Note, Code: exitCode(p.status), At: p.at.UnixNano()})
		}
	}
	return r
}

// removeExec forgets an exec that was not started.
func (s *Shim) removeExec(id string) wire.Reply {
	s.mu.Lock()
	p := s.procs[id]
	ready := p != nil && id != "" && !p.started
	if ready {
		p.started = true
	}
	s.mu.Unlock()
	if !ready {
		return wire.Reply{Failure: wire.FailState}
	}
	go s.endFailed(p)
	return wire.Reply{}
}
