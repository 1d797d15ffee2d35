// Package wire is the protocol between the engine and a container's shim: the
// encoding of its messages and their framing. It imports next to nothing,
// because the shim is as small as what it imports.
//
// A connection carries frames: a length of four bytes, little-endian, and a
// message of that many. A message begins with its Kind and a request number.
// Each request is answered by one KindReply with the same number; KindExit
// frames, with number 0, arrive in between on connections that said hello.
// After the reply to KindAttach the connection carries stream frames alone,
// whose length has the Stream in its top byte.
//
// The first request on a connection is KindHello or KindAttach; both carry the
// version that the engine wants to speak, and a shim that does not speak it
// answers FailVersion with its newest. A shim lives as long as its container, so
// an engine meets shims of earlier versions, and, after a downgrade, of later
// ones: a change that the other side would misread needs a new version, and both
// sides keep speaking those from the oldest on. What is only added, at the end of
// a message or as a Kind of its own, needs none.
package wire

import "gantry/engine/container/program"

// Kind says what a message is.
type Kind uint8

// The requests, and what the shim sends.
const (
	KindHello      Kind = 1  // Version -> the shim's pid, State
	KindCreate     Kind = 2  // Create -> pid
	KindStart      Kind = 3  // -> nothing
	KindSignal     Kind = 4  // process, signal -> nothing
	KindResize     Kind = 5  // process, rows, columns -> nothing
	KindExecCreate Kind = 6  // process, Process -> nothing
	KindExecStart  Kind = 7  // process -> pid
	KindAttach     Kind = 8  // Version, process, Attach flags -> stream
	KindReopenLog  Kind = 9  // -> nothing
	KindAbandon    Kind = 10 // the shim kills its container and ends -> nothing
	KindExecRemove Kind = 11 // process, not started or exited -> nothing
	KindExecs      Kind = 12 // -> the execs that have a note; a shim before it answers FailRequest
	KindReply      Kind = 64
	KindExit       Kind = 65
)

// Failure is the outcome of a request.
type Failure uint8

// The outcomes. What the numbers A and B of the Reply mean is beside each.
const (
	OK          Failure = iota // A: the pid, where one was asked for
	FailProgram                // A: the message number of the failed operation; B: errno
	FailErrno                  // the shim's own: A: Step; B: errno
	FailState                  // not in a state that allows the request
	FailProcess                // no such process
	FailRequest                // a message that cannot be decoded, or of an unknown kind
	FailVersion                // A: the shim's version
)

// The shim's own steps, for FailErrno.
const (
	StepLog = iota + 1
	StepStdio
	StepClone
	StepTerminal
	StepUserMap
	StepSync
	StepKill
	StepResize
)

// Stream is the kind of a stream frame.
type Stream uint8

// The streams. To the shim go Stdin and StdinEnd, from it Stdout, Stderr and End.
const (
	Stdin    Stream = 0
	Stdout   Stream = 1
	Stderr   Stream = 2
	StdinEnd Stream = 3
	End      Stream = 4 // all output has been sent
)

// MaxFrame bounds a message; MaxChunk the payload of a stream frame.
const (
	MaxFrame = 4 << 20
	MaxChunk = 16 << 10
)

// HeaderSize is the size of a frame's header.
const HeaderSize = 4

// PutHeader writes the header of a stream frame with n bytes of payload to b.
func PutHeader(b []byte, s Stream, n int) {
	b[0], b[1], b[2], b[3] = byte(n), byte(n>>8), byte(n>>16), byte(s)
}

// Header reads a stream frame's header.
func Header(b []byte) (Stream, int) {
	return Stream(b[3]), int(b[0]) | int(b[1])<<8 | int(b[2])<<16
}

// Encoder appends to B.
type Encoder struct{ B []byte }

// U8 appends v.
func (e *Encoder) U8(v uint8) { e.B = append(e.B, v) }

// U16 appends v.
func (e *Encoder) U16(v uint16) { e.B = append(e.B, byte(v), byte(v>>8)) }

// U32 appends v.
func (e *Encoder) U32(v uint32) { e.B = append(e.B, byte(v), byte(v>>8), byte(v>>16), byte(v>>24)) }

// U64 appends v.
func (e *Encoder) U64(v uint64) { e.U32(uint32(v)); e.U32(uint32(v >> 32)) }

// Bool appends v.
func (e *Encoder) Bool(v bool) {
	if v {
		e.U8(1)
	} else {
		e.U8(0)
	}
}

// Str appends v with its length.
func (e *Encoder) Str(v string) { e.U32(uint32(len(v))); e.B = append(e.B, v...) }

// Bytes appends v with its length.
func (e *Encoder) Bytes(v []byte) { e.U32(uint32(len(v))); e.B = append(e.B, v...) }

// Decoder consumes B. After the first thing that is not there, all else is
// zero and Bad is true.
type Decoder struct {
	B     []byte
	Bad   bool
	Arena *program.Arena // where a program goes; nil: to the heap
}

func (d *Decoder) take(n int) []byte {
	if d.Bad || n < 0 || n > len(d.B) {
		d.Bad = true
		return nil
	}
	b := d.B[:n]
	d.B = d.B[n:]
	return b
}

// U8 consumes a number.
func (d *Decoder) U8() uint8 {
	b := d.take(1)
	if b == nil {
		return 0
	}
	return b[0]
}

// U16 consumes a number.
func (d *Decoder) U16() uint16 {
	b := d.take(2)
	if b == nil {
		return 0
	}
	return uint16(b[0]) | uint16(b[1])<<8
}

// U32 consumes a number.
func (d *Decoder) U32() uint32 {
	b := d.take(4)
	if b == nil {
		return 0
	}
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

// U64 consumes a number.
func (d *Decoder) U64() uint64 {
	lo := d.U32()
	return uint64(lo) | uint64(d.U32())<<32
}

// Bool consumes a truth value.
func (d *Decoder) Bool() bool { return d.U8() != 0 }

// Str consumes a string.
func (d *Decoder) Str() string { return string(d.take(int(d.U32()))) }

// Bytes consumes bytes; the result shares B's memory.
func (d *Decoder) Bytes() []byte { return d.take(int(d.U32())) }

// Count consumes the number of things that follow, each at least size bytes.
func (d *Decoder) Count(size int) int {
	n := int(d.U32())
	if n < 0 || n*size > len(d.B) {
		d.Bad = true
		return 0
	}
	return n
}
