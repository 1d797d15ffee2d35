package plan

import (
	"fmt"
	"math"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/engine/container/program"
	"gantry/internal/problem"
)

// terminal opens a terminal in the container's own devpts, makes it the
// controlling one and stdio; without one, stdio is what the shim made.
// It returns the terminal's descriptor for ready.
func (p *Planner) terminal(process *specs.Process, console bool) program.Arg {
	l := p.child
	if !process.Terminal && p.Direct != nil && !p.Direct.Stdio {
		return program.Null // it has what its parent has
	}
	if !process.Terminal {
		l.Doing("connect stdio")
		for fd := range 3 {
			l.Call(unix.SYS_DUP3, program.InReg(uint8(program.RegStdin+fd)), program.Val(fd), program.Val(0))
		}
		return program.Null
	}
	master, slave := p.b.Reg(), p.b.Reg()
	l.Doing("open a terminal in /dev/pts")
	l.Call(unix.SYS_OPENAT, program.Cwd, p.b.Str("/dev/pts/ptmx"), program.Val(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)).Into(master)
	l.Call(unix.SYS_IOCTL, program.InReg(master), program.Val(unix.TIOCSPTLCK), p.b.Words(0))
	l.Call(unix.SYS_IOCTL, program.InReg(master), program.Val(unix.TIOCGPTPEER), program.Val(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)).Into(slave)
	if size := process.ConsoleSize; size != nil {
		l.Call(unix.SYS_IOCTL, program.InReg(master), program.Val(unix.TIOCSWINSZ), p.b.Bytes([]byte{
			byte(size.Height), byte(size.Height >> 8), byte(size.Width), byte(size.Width >> 8), 0, 0, 0, 0}))
	}
	if console {
		tree, target, empty := p.b.Reg(), p.b.Str("/dev/console"), p.b.Str("")
		l.Doing("mount the terminal at /dev/console")
		l.Call(unix.SYS_MKNODAT, program.Cwd, target, program.Val(unix.S_IFREG|0o620), program.Val(0)).Allow(unix.EEXIST)
		l.Call(unix.SYS_OPEN_TREE, program.InReg(slave), empty, program.Val(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)).Into(tree)
		l.Call(unix.SYS_MOVE_MOUNT, program.InReg(tree), empty, program.Cwd, target, program.Val(unix.MOVE_MOUNT_F_EMPTY_PATH))
	}
	l.Doing("take the terminal")
	l.Call(unix.SYS_IOCTL, program.InReg(slave), program.Val(unix.TIOCSCTTY), program.Val(0))
	for fd := range 3 {
		l.Call(unix.SYS_DUP3, program.InReg(slave), program.Val(fd), program.Val(0))
	}
	return program.InReg(master)
}

// ready stops until start; the shim takes the terminal meanwhile.
func (p *Planner) ready(terminal program.Arg) {
	p.child.Doing("wait for start")
	p.child.Sync(program.SyncReady, terminal)
}

// becomeProgram limits the process to what the spec grants it, and executes.
// The order is runc's: each step needs what a later one takes away.
func (p *Planner) becomeProgram(s *specs.Process, personality *specs.LinuxPersonality, user bool) error {
	l := p.child
	if err := p.rlimits(s.Rlimits); err != nil {
		return err
	}
	if err := p.scheduling(s); err != nil {
		return err
	}
	p.personality(personality)
	p.labels(s, user)
	// Before the seccomp filter, which may be older than the call. What is opened
	// later closes itself.
	l.Doing("close what is open")
	first := 3
	if p.Direct != nil {
		first += p.Direct.PreservedFds
	}
	l.Call(unix.SYS_CLOSE_RANGE, program.Val(first), program.Val(uint32(math.MaxUint32)), program.Val(unix.CLOSE_RANGE_CLOEXEC))
	l.Doing("give stdio to the user")
	for fd := range 3 {
		// Not for /dev/null, which is everybody's; others may refuse.
		if fd > 0 || s.Terminal {
			l.Call(unix.SYS_FCHOWN, program.Val(fd), program.Val(s.User.UID), program.Val(-1)).AllowAll()
		}
	}
	if !s.NoNewPrivileges {
		p.seccomp() // needs CAP_SYS_ADMIN
	}
	caps, err := p.capabilities(s.Capabilities, user)
	if err != nil {
		return err
	}
	p.dropBounding(caps.bounding)
	p.setUser(s.User)
	p.setCapabilities(caps)
	umask := uint32(0o022)
	if s.User.Umask != nil {
		umask = *s.User.Umask
	}
	l.Call(unix.SYS_UMASK, program.Val(umask))
	cwd := path.Clean("/" + s.Cwd)
	l.Doing(fmt.Sprintf("chdir to cwd (%q) set in config.json failed", cwd))
	l.Call(unix.SYS_CHDIR, p.b.Str(cwd))
	if s.NoNewPrivileges {
		l.Doing("set no_new_privs")
		l.Call(unix.SYS_PRCTL, program.Val(unix.PR_SET_NO_NEW_PRIVS), program.Val(1), program.Null, program.Null, program.Null)
		if p.Direct == nil {
			p.seccomp()
		}
	}
	if p.Direct != nil {
		p.lookup(s)
		if s.NoNewPrivileges {
			p.seccomp()
		}
		p.created()
	}
	return p.execute(s)
}

// created tells that all is done but the exec, and waits for start.
func (p *Planner) created() {
	l := p.child
	l.Doing("wait for start")
	if p.Direct.Fifo == "" {
		l.Sync(program.SyncCreated, program.Null)
		return
	}
	fifo := p.b.Reg()
	p.pre.Doing("open " + p.Direct.Fifo)
	// To write too: so it does not wait for a writer, nor see the end of one.
	p.pre.Call(unix.SYS_OPENAT, program.Cwd, p.b.Str(p.Direct.Fifo), program.Val(unix.O_RDWR|unix.O_CLOEXEC)).Into(fifo)
	p.post.Call(unix.SYS_CLOSE, program.InReg(fifo))
	l.Sync(program.SyncCreated, program.Null)
	l.Call(unix.SYS_READ, program.InReg(fifo), p.b.Bytes(make([]byte, 8)), program.Val(1))
}

func (p *Planner) seccomp() {
	if p.Filter == nil {
		return
	}
	var code []byte
	for _, i := range p.Filter.Program {
		code = append(code, byte(i.Code), byte(i.Code>>8), i.Jt, i.Jf, byte(i.K), byte(i.K>>8), byte(i.K>>16), byte(i.K>>24))
	}
	// struct sock_fprog: a length of 16 bits, and the address.
	header := p.b.Words(uint64(len(p.Filter.Program)), 0)
	p.b.PointAt(header, 8, p.b.Bytes(code))
	p.child.Doing("install the seccomp filter")
	if p.Filter.Flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
		p.child.Call(unix.SYS_SECCOMP, program.Val(unix.SECCOMP_SET_MODE_FILTER), program.Val(p.Filter.Flags), header)
		return
	}
	listener := p.b.Reg()
	p.child.Call(unix.SYS_SECCOMP, program.Val(unix.SECCOMP_SET_MODE_FILTER), program.Val(p.Filter.Flags), header).Into(listener)
	p.child.Sync(program.SyncListener, program.InReg(listener))
}

func (p *Planner) setUser(u specs.User) {
	l := p.child
	l.Doing(fmt.Sprintf("become user %d:%d", u.UID, u.GID))
	l.Call(unix.SYS_PRCTL, program.Val(unix.PR_SET_KEEPCAPS), program.Val(1), program.Null, program.Null, program.Null)
	l.Call(unix.SYS_SETGROUPS, program.Val(len(u.AdditionalGids)), p.b.Halves(u.AdditionalGids...))
	l.Call(unix.SYS_SETRESGID, program.Val(u.GID), program.Val(u.GID), program.Val(u.GID))
	l.Call(unix.SYS_SETRESUID, program.Val(u.UID), program.Val(u.UID), program.Val(u.UID))
	l.Call(unix.SYS_PRCTL, program.Val(unix.PR_SET_KEEPCAPS), program.Val(0), program.Null, program.Null, program.Null)
}

var rlimitNumbers = map[string]int{
	"RLIMIT_CPU": 0, "RLIMIT_FSIZE": 1, "RLIMIT_DATA": 2, "RLIMIT_STACK": 3, "RLIMIT_CORE": 4, "RLIMIT_RSS": 5, "RLIMIT_NPROC": 6,
	"RLIMIT_NOFILE": 7, "RLIMIT_MEMLOCK": 8, "RLIMIT_AS": 9, "RLIMIT_LOCKS": 10, "RLIMIT_SIGPENDING": 11, "RLIMIT_MSGQUEUE": 12,
	"RLIMIT_NICE": 13, "RLIMIT_RTPRIO": 14, "RLIMIT_RTTIME": 15,
}

func (p *Planner) rlimits(limits []specs.POSIXRlimit) error {
	for _, r := range limits {
		number, ok := rlimitNumbers[r.Type]
		if !ok {
			return problem.New(problem.Invalid, "rlimit %q is unknown", r.Type)
		}
		if r.Soft > r.Hard {
			return problem.New(problem.Invalid, "%s: the soft limit %d is above the hard limit %d", r.Type, r.Soft, r.Hard)
		}
		if most := p.Limits.Rlimits[number]; r.Hard > most && !p.Limits.Resource {
			p.warn("%s: this host lets it go no higher than %d, not %d", r.Type, most, r.Hard)
			r.Hard, r.Soft = most, min(r.Soft, most)
		}
		p.child.Doing("set " + r.Type)
		p.child.Call(unix.SYS_PRLIMIT64, program.Val(0), program.Val(number), p.b.Words(r.Soft, r.Hard), program.Null)
	}
	return nil
}

// file is the program's name, or its path.
func (p *Planner) file(s *specs.Process) string {
	if p.Direct != nil && p.Direct.Program != "" {
		return p.Direct.Program
	}
	return s.Args[0]
}

// places are where the PATH says the program may be.
func places(s *specs.Process) []string {
	var list []string
	for _, dir := range strings.Split(pathOf(s.Env), ":") {
		if dir == "" {
			dir = "."
		}
		list = append(list, path.Join(dir, s.Args[0]))
	}
	return list
}

const xOK = 1 // access(2)

// lookup fails as execute would, without executing.
func (p *Planner) lookup(s *specs.Process) {
	name := p.file(s)
	if strings.Contains(name, "/") {
		p.lookupPath(name)
		return
	}
	l := p.child
	var found []int
	for _, place := range places(s) {
		found = append(found, l.Len())
		l.Call(unix.SYS_FACCESSAT, program.Cwd, p.b.Str(place), program.Val(xOK)).AllowAll()
	}
	p.notFound(s)
	for _, at := range found {
		l.SkipTo(at)
	}
}

func (p *Planner) lookupPath(name string) {
	l := p.child
	l.Doing(fmt.Sprintf("exec: %q: stat %s", name, name))
	l.Call(unix.SYS_FACCESSAT, program.Cwd, p.b.Str(name), program.Val(0))
	l.Doing(fmt.Sprintf("exec: %q", name))
	l.Call(unix.SYS_FACCESSAT, program.Cwd, p.b.Str(name), program.Val(xOK))
}

// notFound fails, as there is no program in the PATH, or one that may not be executed.
func (p *Planner) notFound(s *specs.Process) {
	l := p.child
	l.Doing(fmt.Sprintf("exec: %q", s.Args[0]))
	for _, place := range places(s) {
		from := l.Len()
		l.Call(unix.SYS_FACCESSAT, program.Cwd, p.b.Str(place), program.Val(0)).AllowAll()
		l.Raise(unix.EACCES)
		l.FailTo(from)
	}
	l.Doing(fmt.Sprintf("exec: %q: executable file not found in $PATH", s.Args[0]))
	l.Raise(unix.ENOENT)
}

// execute tries the program at each place where the PATH says it may be.
func (p *Planner) execute(s *specs.Process) error {
	name := p.file(s)
	if strings.ContainsRune(name, 0) || name == "" {
		return problem.New(problem.Invalid, "program %q", name)
	}
	l := p.child
	argv, envp := p.b.Pointers(s.Args), p.b.Pointers(s.Env)
	if strings.Contains(name, "/") {
		if p.Direct == nil {
			p.lookupPath(name)
		}
		l.Doing("exec " + name)
		l.Call(unix.SYS_EXECVE, p.b.Str(name), argv, envp)
		return nil
	}
	for _, place := range places(s) {
		from := l.Len()
		l.Doing("exec " + place)
		l.Call(unix.SYS_FACCESSAT, program.Cwd, p.b.Str(place), program.Val(xOK)).AllowAll()
		l.Call(unix.SYS_EXECVE, p.b.Str(place), argv, envp).Allow(unix.EACCES)
		l.FailTo(from)
	}
	p.notFound(s)
	return nil
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func pathOf(env []string) string {
	for _, e := range env {
		if p, ok := strings.CutPrefix(e, "PATH="); ok {
			return p
		}
	}
	return defaultPath
}
