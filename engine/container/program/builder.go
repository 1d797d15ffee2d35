package program

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Arg is an argument of an operation.
type Arg struct {
	kind  uint16
	value uint64
}

// Val passes a value.
func Val[T ~int | ~int32 | ~int64 | ~uint | ~uint32 | ~uint64 | ~uintptr](v T) Arg {
	return Arg{Imm, uint64(v)}
}

// InReg passes a register's content.
func InReg(r uint8) Arg { return Arg{Reg, uint64(r)} }

// Cwd is AT_FDCWD; Null a null pointer.
var (
	Cwd  = Arg{Imm, ^uint64(99)} // -100
	Null = Arg{}
)

// Builder makes a Program. The engine uses it; the shim does not.
type Builder struct {
	data     []byte
	relocs   []Reloc
	strings  map[string]uint32
	messages []string
	next     uint8
}

// NewBuilder returns an empty builder.
func NewBuilder() *Builder {
	return &Builder{strings: map[string]uint32{}, next: RegFree, messages: []string{""}}
}

// Reg returns a register that nothing uses yet.
func (b *Builder) Reg() uint8 {
	b.next++
	return b.next - 1
}

// Str returns the address of s as a C string.
func (b *Builder) Str(s string) Arg {
	at, ok := b.strings[s]
	if !ok {
		at = uint32(len(b.data))
		b.data = append(append(b.data, s...), 0)
		b.strings[s] = at
	}
	return Arg{Data, uint64(at)}
}

// Bytes returns the address of a copy of p, aligned for any number.
func (b *Builder) Bytes(p []byte) Arg {
	b.data = append(b.data, make([]byte, -len(b.data)&7)...)
	at := len(b.data)
	b.data = append(b.data, p...)
	return Arg{Data, uint64(at)}
}

// Words returns the address of numbers of 64 bits.
func (b *Builder) Words(words ...uint64) Arg {
	var p []byte
	for _, w := range words {
		p = binary.NativeEndian.AppendUint64(p, w)
	}
	return b.Bytes(p)
}

// Halves returns the address of numbers of 32 bits.
func (b *Builder) Halves(words ...uint32) Arg {
	var p []byte
	for _, w := range words {
		p = binary.NativeEndian.AppendUint32(p, w)
	}
	return b.Bytes(p)
}

// Pointers returns the address of an array of addresses, ended by a null, as
// execve takes them.
func (b *Builder) Pointers(strings []string) Arg {
	args := make([]Arg, len(strings))
	for i, s := range strings {
		args[i] = b.Str(s)
	}
	array := b.Bytes(make([]byte, 8*(len(args)+1)))
	for i, a := range args {
		b.PointAt(array, 8*i, a)
	}
	return array
}

// PointAt stores the address of to at offset in what at is the address of.
func (b *Builder) PointAt(at Arg, offset int, to Arg) {
	b.relocs = append(b.relocs, Reloc{At: uint32(at.value) + uint32(offset), To: uint32(to.value)})
}

// Message returns the text of a failure.
func (b *Builder) Message(n uint16) string {
	if int(n) >= len(b.messages) {
		return ""
	}
	return b.messages[n]
}

// Messages returns all texts, for Message after the builder is gone.
func (b *Builder) Messages() []string { return b.messages }

// Program returns the program of the three parts.
func (b *Builder) Program(pre, child, post *List) Program {
	return Program{Pre: pre.ops, Child: child.ops, Post: post.ops, Data: b.data, Relocs: b.relocs}
}

// List is one part of a program.
type List struct {
	b       *Builder
	ops     []Op
	message uint16
}

// List returns an empty part.
func (b *Builder) List() *List { return &List{b: b} }

// Doing sets what the operations from here on are reported as when they fail.
func (l *List) Doing(message string) {
	l.message = uint16(len(l.b.messages))
	l.b.messages = append(l.b.messages, message)
}

// Len is the number of operations so far: the position of the next.
func (l *List) Len() int { return len(l.ops) }

// Call appends a system call. The result may be changed until the next Call.
func (l *List) Call(nr uint32, args ...Arg) *Op {
	o := Op{Nr: nr, Dst: NoReg, Message: l.message}
	for i, a := range args {
		o.Kinds |= a.kind << (2 * i)
		o.Args[i] = a.value
	}
	l.ops = append(l.ops, o)
	return &l.ops[len(l.ops)-1]
}

// Into puts the result in register r.
func (o *Op) Into(r uint8) *Op {
	o.Dst = r
	return o
}

// Allow tolerates errors.
func (o *Op) Allow(errs ...unix.Errno) *Op {
	for i, e := range errs {
		o.Tolerate[i] = uint16(e)
	}
	return o
}

// AllowAll tolerates every error.
func (o *Op) AllowAll() *Op {
	o.Tolerate[0] = AnyError
	return o
}

// SkipTo makes the operation at position from go on at the end of the list as
// it is now, after success.
func (l *List) SkipTo(from int) { l.ops[from].Skip = uint16(len(l.ops) - from - 1) }

// FailTo does the same after a tolerated error.
func (l *List) FailTo(from int) { l.ops[from].Fail = uint16(len(l.ops) - from - 1) }

// Sync waits for the shim at point, telling it value.
func (l *List) Sync(point int, value Arg) {
	l.Call(OpSync, Val(point), value)
}

// Raise fails with errno.
func (l *List) Raise(errno unix.Errno) { l.Call(OpRaise, Val(int(errno))) }
