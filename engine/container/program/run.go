package program

import (
	"syscall"
	"unsafe"
)

// op is an Op ready to run: addresses resolved.
type op struct {
	nr       uintptr
	args     [6]uintptr
	regs     uint8 // bit i: args[i] is a register's number
	dst      uint8
	skip     uint16
	fail     uint16
	tolerate [4]uint16
	message  uint16
}

// Loaded is a Program in memory, with its registers. It is used once.
type Loaded struct {
	Regs             [Registers]int64
	pre, child, post []op
	data             []byte // keeps alive what ops point to
	status, release  int    // the child's ends of the pipes to and from the shim
	record           [12]byte
	pidfd            int32 // of the child; here because clone3 writes to its address
}

// Load is LoadIn of the heap.
func Load(p *Program) (*Loaded, bool) { return LoadIn(nil, p) }

// LoadIn resolves p's addresses, and says whether they all lie inside p.
// Spans are not checked: the engine is trusted.
func LoadIn(a *Arena, p *Program) (*Loaded, bool) {
	l := &Loaded{data: a.Bytes((len(p.Data) + 15) &^ 7)}
	copy(l.data, p.Data)
	base := uintptr(unsafe.Pointer(&l.data[0]))
	for _, r := range p.Relocs {
		if int(r.At)+8 > len(p.Data) || int(r.To) > len(p.Data) || r.At%8 != 0 {
			return nil, false
		}
		*(*uintptr)(unsafe.Pointer(&l.data[r.At])) = base + uintptr(r.To)
	}
	ok := true
	load := func(ops []Op) []op {
		out := slice[op](a, len(ops))
		for i := range ops {
			o := &ops[i]
			out[i] = op{nr: uintptr(o.Nr), dst: o.Dst, skip: o.Skip, fail: o.Fail, tolerate: o.Tolerate, message: o.Message}
			if o.Dst != NoReg && o.Dst >= Registers {
				ok = false
			}
			for j, a := range o.Args {
				switch o.Kinds >> (2 * j) & 3 {
				case Imm:
					out[i].args[j] = uintptr(a)
				case Data:
					ok = ok && a <= uint64(len(p.Data))
					out[i].args[j] = base + uintptr(a)
				case Reg:
					ok = ok && a < Registers
					out[i].args[j] = uintptr(a)
					out[i].regs |= 1 << j
				}
			}
		}
		return out
	}
	l.pre, l.child, l.post = load(p.Pre), load(p.Child), load(p.Post)
	return l, ok
}

// Pre runs the program's first part on the calling thread.
func (l *Loaded) Pre() (message uint16, errno syscall.Errno) { return l.run(l.pre) }

// Post runs the program's last part on the calling thread.
func (l *Loaded) Post() (message uint16, errno syscall.Errno) { return l.run(l.post) }

// run executes ops. It is used in a forked child, where nothing may grow the
// stack, allocate or schedule.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (l *Loaded) run(ops []op) (uint16, syscall.Errno) {
	for i := 0; i < len(ops); i++ {
		o := &ops[i]
		var a [6]uintptr
		for j := 0; j < 6; j++ {
			a[j] = o.args[j]
			if o.regs&(1<<j) != 0 {
				a[j] = uintptr(l.Regs[o.args[j]])
			}
		}
		var r uintptr
		var e syscall.Errno
		switch o.nr {
		case OpSync:
			e = l.sync(uint32(a[0]), uint32(a[1]))
		case OpRaise:
			e = syscall.Errno(a[0])
		case OpFork:
			e = l.sibling()
		default:
			r, _, e = syscall.RawSyscall6(o.nr, a[0], a[1], a[2], a[3], a[4], a[5])
		}
		// openat2 gives EAGAIN when a rename elsewhere makes it unsure about "..".
		if e == syscall.EINTR || e == syscall.EAGAIN && o.nr == sysOpenat2 {
			i--
			continue
		}
		if e == 0 {
			if o.dst != NoReg {
				l.Regs[o.dst] = int64(r)
			}
			i += int(o.skip)
			continue
		}
		tolerated := false
		for j := 0; j < 4; j++ {
			t := o.tolerate[j]
			if t != 0 && (t == AnyError || syscall.Errno(t) == e) {
				tolerated = true
			}
		}
		if !tolerated {
			return o.message, e
		}
		i += int(o.fail)
	}
	return 0, 0
}

const sysOpenat2 = 437

// Record kinds that a child writes to its status pipe: twelve bytes, three
// numbers in the machine's order. The end of the pipe without RecordFailed is
// the success of execve.
const (
	RecordSync   = 1 // point, value
	RecordFailed = 2 // message, errno
	RecordForked = 3 // pid of the process that goes on
)

//go:nosplit
//go:norace
func (l *Loaded) report(kind, a, b uint32) syscall.Errno {
	r := (*[3]uint32)(unsafe.Pointer(&l.record))
	r[0], r[1], r[2] = kind, a, b
	_, _, e := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(l.status), uintptr(unsafe.Pointer(&l.record)), 12)
	return e
}

//go:nosplit
//go:norace
func (l *Loaded) sync(point, value uint32) syscall.Errno {
	if e := l.report(RecordSync, point, value); e != 0 {
		return e
	}
	for {
		n, _, e := syscall.RawSyscall(syscall.SYS_READ, uintptr(l.release), uintptr(unsafe.Pointer(&l.record)), 1)
		if e == syscall.EINTR {
			continue
		}
		if e != 0 {
			return e
		}
		if n == 0 {
			// The shim is gone.
			exit()
		}
		return 0
	}
}

// sibling returns in the forked process alone.
//
//go:nosplit
//go:norace
func (l *Loaded) sibling() syscall.Errno {
	r, _, e := syscall.RawSyscall6(syscall.SYS_CLONE, syscall.CLONE_PARENT|uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if e != 0 || r == 0 {
		return e
	}
	l.report(RecordForked, uint32(r), 0)
	exit()
	return 0
}

//go:nosplit
//go:norace
func exit() {
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 1, 0, 0)
	}
}
