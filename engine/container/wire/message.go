package wire

import "gantry/engine/container/program"

// Process is what the shim needs to make a process: the container's first, or
// an exec.
type Process struct {
	Terminal  bool
	OpenStdin bool
	StdinOnce bool // stdin ends with the first client's

	Clone     uint64 // CLONE_NEW* flags
	CgroupReg int    // register, set by Program.Pre, of a cgroup2 directory to clone into; -1: none
	UIDMap    string // for /proc/PID/uid_map; empty: no new user namespace
	GIDMap    string
	Program   program.Program
	Arena     *program.Arena // of the Program, in the shim; freed with it
	Note      []byte         // of an exec: kept and given back by KindExecs; empty: not listed there
}

// Create is the request that makes the container.
type Create struct {
	Process   Process
	LogFormat string
	LogPath   string
	MaxBytes  int64
	MaxFiles  int
	ExitPath  string // where the exit record goes
	OOMPath   string // file with a line "oom_kill N"; empty: unknown
	KillPath  string // cgroup.procs whose processes end with the first one; empty where the pid namespace sees to that

	// What follows is optional on the wire.
	LogAttrs  string // JSON object that each json-file entry carries; empty: none
	LogBuffer int64  // bytes of output that may wait for the log before more is dropped; 0: output waits
}

// State is the answer to hello.
type State struct {
	Pid     int // 0: not created
	Started bool
	Exited  bool // the exit record is about to be written
}

// Exit is the content of a KindExit frame.
type Exit struct {
	Process string // empty: the container's first
	Code    int
	OOM     bool
	At      int64 // nanoseconds since 1970
}

// Reply is the content of a KindReply frame.
type Reply struct {
	Failure Failure
	A, B    uint32
	State   State       // of hello
	Execs   []ExecState // of execs
}

// ExecState is one exec in the answer to KindExecs.
type ExecState struct {
	ID   string
	Note []byte
	Pid  int // 0 when it has ended
	Code int
	At   int64 // of its end, nanoseconds since 1970
}

// Encode appends p.
func (p *Process) Encode(e *Encoder) {
	e.Bool(p.Terminal)
	e.Bool(p.OpenStdin)
	e.Bool(p.StdinOnce)
	e.U64(p.Clone)
	e.U16(uint16(p.CgroupReg + 1))
	e.Str(p.UIDMap)
	e.Str(p.GIDMap)
	encodeOps(e, p.Program.Pre)
	encodeOps(e, p.Program.Child)
	encodeOps(e, p.Program.Post)
	e.Bytes(p.Program.Data)
	e.U32(uint32(len(p.Program.Relocs)))
	for _, r := range p.Program.Relocs {
		e.U32(r.At)
		e.U32(r.To)
	}
}

// EncodeNote appends what an exec has besides; a shim that does not know of it
// reads no further than Encode.
func (p *Process) EncodeNote(e *Encoder) { e.Bytes(p.Note) }

// DecodeNote reads it, if it is there.
func (p *Process) DecodeNote(d *Decoder) {
	if len(d.B) > 0 {
		p.Note = append([]byte(nil), d.Bytes()...) // not the whole message's memory
	}
}

// Decode reads p; d.Bad tells whether it was whole.
func (p *Process) Decode(d *Decoder) {
	p.Arena = d.Arena
	p.Terminal, p.OpenStdin, p.StdinOnce = d.Bool(), d.Bool(), d.Bool()
	p.Clone = d.U64()
	p.CgroupReg = int(d.U16()) - 1
	p.UIDMap, p.GIDMap = d.Str(), d.Str()
	p.Program.Pre = decodeOps(d)
	p.Program.Child = decodeOps(d)
	p.Program.Post = decodeOps(d)
	p.Program.Data = d.Bytes()
	p.Program.Relocs = make([]program.Reloc, d.Count(8))
	for i := range p.Program.Relocs {
		p.Program.Relocs[i] = program.Reloc{At: d.U32(), To: d.U32()}
	}
}

func encodeOps(e *Encoder, ops []program.Op) {
	e.U32(uint32(len(ops)))
	for i := range ops {
		o := &ops[i]
		n := len(o.Args)
		for n > 0 && o.Args[n-1] == 0 && o.Kinds>>(2*(n-1))&3 == 0 {
			n--
		}
		e.U32(o.Nr)
		e.U16(o.Kinds)
		e.U8(o.Dst)
		e.U16(o.Skip)
		e.U16(o.Fail)
		e.U16(o.Message)
		for _, t := range o.Tolerate {
			e.U16(t)
		}
		e.U8(uint8(n))
		for _, a := range o.Args[:n] {
			e.U64(a)
		}
	}
}

func decodeOps(d *Decoder) []program.Op {
	ops := d.Arena.Ops(d.Count(20))
	for i := range ops {
		o := &ops[i]
		o.Nr, o.Kinds, o.Dst = d.U32(), d.U16(), d.U8()
		o.Skip, o.Fail, o.Message = d.U16(), d.U16(), d.U16()
		for j := range o.Tolerate {
			o.Tolerate[j] = d.U16()
		}
		n := int(d.U8())
		if n > len(o.Args) {
			d.Bad = true
			return nil
		}
		for j := range n {
			o.Args[j] = d.U64()
		}
	}
	return ops
}

// Encode appends c.
func (c *Create) Encode(e *Encoder) {
	c.Process.Encode(e)
	e.Str(c.LogFormat)
	e.Str(c.LogPath)
	e.U64(uint64(c.MaxBytes))
	e.U32(uint32(c.MaxFiles))
	e.Str(c.ExitPath)
	e.Str(c.OOMPath)
	e.Str(c.KillPath)
	e.Str(c.LogAttrs)
	e.U64(uint64(c.LogBuffer))
}

// Decode reads c; d.Bad tells whether it was whole.
func (c *Create) Decode(d *Decoder) {
	c.Process.Decode(d)
	c.LogFormat, c.LogPath = d.Str(), d.Str()
	c.MaxBytes, c.MaxFiles = int64(d.U64()), int(d.U32())
	c.ExitPath, c.OOMPath, c.KillPath = d.Str(), d.Str(), d.Str()
	if !d.Bad && len(d.B) > 0 {
		c.LogAttrs, c.LogBuffer = d.Str(), int64(d.U64())
	}
}

// Encode appends r.
func (r *Reply) Encode(e *Encoder) {
	e.U8(uint8(r.Failure))
	e.U32(r.A)
	e.U32(r.B)
	e.U32(uint32(r.State.Pid))
	e.Bool(r.State.Started)
	e.Bool(r.State.Exited)
	if len(r.Execs) == 0 {
		return
	}
	e.U32(uint32(len(r.Execs)))
	for i := range r.Execs {
		x := &r.Execs[i]
		e.Str(x.ID)
		e.Bytes(x.Note)
		e.U32(uint32(x.Pid))
		e.U32(uint32(x.Code))
		e.U64(uint64(x.At))
	}
}

// Decode reads r.
func (r *Reply) Decode(d *Decoder) {
	r.Failure, r.A, r.B = Failure(d.U8()), d.U32(), d.U32()
	r.State = State{Pid: int(d.U32()), Started: d.Bool(), Exited: d.Bool()}
	if len(d.B) == 0 {
		return
	}
	const least = 4 + 4 + 4 + 4 + 8
	r.Execs = make([]ExecState, d.Count(least))
	for i := range r.Execs {
		r.Execs[i] = ExecState{ID: d.Str(), Note: d.Bytes(), Pid: int(d.U32()), Code: int(d.U32()), At: int64(d.U64())}
	}
}

// Encode appends x.
func (x *Exit) Encode(e *Encoder) {
	e.Str(x.Process)
	e.U32(uint32(x.Code))
	e.Bool(x.OOM)
	e.U64(uint64(x.At))
}

// Decode reads x.
func (x *Exit) Decode(d *Decoder) {
	x.Process, x.Code, x.OOM, x.At = d.Str(), int(d.U32()), d.Bool(), int64(d.U64())
}
