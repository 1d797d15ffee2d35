package program

import (
	"syscall"
	"unsafe"
)

// The runtime's hooks around a fork, which block signals and, in the child,
// take the Go handlers away. Package syscall's fork uses the same.

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

const (
	sysClone3       = 435
	clonePidfd      = 0x1000
	cloneIntoCgroup = 0x200000000
)

type cloneArgs struct {
	flags, pidfd, childTid, parentTid, exitSignal uint64
	stack, stackSize, tls, setTid, setTidSize     uint64
	cgroup                                        uint64
}

// Clone makes a child in new namespaces that runs the program's Child part.
// status and release are the child's ends of the pipes on which it reports and
// waits; cgroup is the descriptor of a cgroup2 directory, or -1. The caller's
// goroutine is locked to its thread.
func (l *Loaded) Clone(flags uint64, cgroup, status, release int) (pid, pidfd int, errno syscall.Errno) {
	l.status, l.release = status, release
	l.pidfd = -1
	args := &cloneArgs{flags: flags | clonePidfd, exitSignal: uint64(syscall.SIGCHLD)}
	args.pidfd = uint64(uintptr(unsafe.Pointer(&l.pidfd)))
	if cgroup >= 0 {
		args.flags |= cloneIntoCgroup
		args.cgroup = uint64(cgroup)
	}
	// No descriptor may be born without close-on-exec in between.
	syscall.ForkLock.Lock()
	pid, errno = l.fork(args)
	syscall.ForkLock.Unlock()
	return pid, int(l.pidfd), errno
}

//go:noinline
//go:norace
//go:nosplit
//go:nocheckptr
func (l *Loaded) fork(args *cloneArgs) (int, syscall.Errno) {
	beforeFork()
	r, _, e := syscall.RawSyscall(sysClone3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0)
	if e != 0 || r != 0 {
		afterFork()
		return int(r), e
	}
	afterForkInChild()
	message, errno := l.run(l.child)
	l.report(RecordFailed, uint32(message), uint32(errno))
	exit()
	return 0, 0
}
