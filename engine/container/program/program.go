// Package program is the language in which the engine tells the shim what a
// new process has to do before it becomes the container's: a flat list of
// system calls with registers for their results, a few tolerated errors and
// forward jumps. The engine decides everything; the shim only executes, so it
// stays small and an old shim can do what a newer engine thinks of.
//
// A child is forked off the shim without an exec in between, which saves the
// start of a second Go runtime (1.1 ms). Until it executes the container's
// program it runs nothing but the loop over Child in run.go, which allocates
// nothing and never enters the Go scheduler.
package program

// Op is one operation.
type Op struct {
	Nr       uint32    // number of the system call, or one of the pseudo operations below
	Kinds    uint16    // two bits for each argument: Imm, Data, Reg
	Dst      uint8     // register for the result; NoReg: none
	Skip     uint16    // operations to leave out after success
	Fail     uint16    // operations to leave out after a tolerated error
	Tolerate [4]uint16 // errors that are no failure; AnyError: all
	Message  uint16    // what to report a failure as; the engine has the text
	Args     [6]uint64
}

// The kinds of arguments.
const (
	Imm  = 0 // a value
	Data = 1 // an offset into Program.Data; the address is passed
	Reg  = 2 // a register's number; its content is passed
)

// NoReg is no register; AnyError is every errno.
const (
	NoReg    = 0xff
	AnyError = 0xffff
)

// Pseudo operations.
const (
	// OpSync tells the shim that the point Args[0] is reached, with the value
	// Args[1], and waits until it lets the child go on.
	OpSync = 0xffff0001
	// OpRaise fails with the errno Args[0].
	OpRaise = 0xffff0002
)

// Points of OpSync.
const (
	SyncMapUsers = 1 // the shim writes the user namespace's maps
	SyncReady    = 2 // value: the terminal's file descriptor, where there is one; goes on at start
)

// Registers that the shim sets. The others are the program's own.
const (
	RegStdin  = 0
	RegStdout = 1
	RegStderr = 2
	RegInit   = 3 // pidfd of the container's first process, for an exec
	RegFree   = 8 // the first of the program's own
	Registers = 250
)

// Reloc asks for the address of Data[To] to be stored at Data[At].
type Reloc struct{ At, To uint32 }

// Program is what a new process does.
type Program struct {
	Pre    []Op // by the shim's thread that clones, before
	Child  []Op // by the new process; ends in an execve
	Post   []Op // by the shim's thread afterwards, also when the clone failed
	Data   []byte
	Relocs []Reloc
}
