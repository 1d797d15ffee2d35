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
	// OpFork forks a sibling, which goes on in place of the process; the process
	// tells the sibling's pid and ends. For a pid namespace that was unshared.
	OpFork = 0xffff0003
)

// Points of OpSync.
const (
	SyncMapUsers = 1 // the shim writes the user namespace's maps
	SyncReady    = 2 // value: the terminal's file descriptor, where there is one; a shim lets it go on at start
	// Those that only gantry-oci knows.
	SyncHooks    = 3 // the hooks of the time before pivot_root
	SyncCopyFrom = 4 // value: a descriptor of the directory whose content is to be copied,
	SyncCopyTo   = 5 // and of the file system that takes it
	SyncListener = 6 // value: the descriptor on which the seccomp filter notifies
	SyncCreated  = 7 // all is done but the exec
)

// Registers that the shim sets. The others are the program's own.
const (
	RegStdin  = 0
	RegStdout = 1
	RegStderr = 2
	RegInit   = 3 // pidfd of the container's first process, for an exec
	// The parent's ends of the two pipes, for a child that closes them.
	RegStatusEnd  = 4
	RegReleaseEnd = 5
	RegFree       = 8 // the first of the program's own
	Registers     = 250
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
