// Package plan compiles a runtime-spec to the program of system calls that makes
// a container's first process, or a further one. It decides everything and does
// nothing: who executes the program is gantry-shim, for the engine, or
// gantry-oci. A field of the spec that is not supported is refused by name.
package plan

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/engine/container/cgroup"
	"gantry/engine/container/program"
	"gantry/engine/container/seccomp"
	"gantry/engine/container/wire"
)

// namespaces of a container, by kind.
var namespaceFlags = map[specs.LinuxNamespaceType]uint64{
	specs.PIDNamespace: unix.CLONE_NEWPID, specs.NetworkNamespace: unix.CLONE_NEWNET, specs.MountNamespace: unix.CLONE_NEWNS,
	specs.IPCNamespace: unix.CLONE_NEWIPC, specs.UTSNamespace: unix.CLONE_NEWUTS, specs.UserNamespace: unix.CLONE_NEWUSER,
	specs.CgroupNamespace: unix.CLONE_NEWCGROUP, specs.TimeNamespace: unix.CLONE_NEWTIME,
}

// NamespaceNames lists the kinds of namespaces.
func NamespaceNames() []string {
	var list []string
	for kind := range namespaceFlags {
		list = append(list, string(kind))
	}
	slices.Sort(list)
	return list
}

// Namespaces are the flags of the container's new namespaces; with those that
// it shares by path too, if joined.
func Namespaces(o *specs.Spec, joined bool) uint64 {
	var flags uint64
	for _, n := range o.Linux.Namespaces {
		if joined || n.Path == "" {
			flags |= namespaceFlags[n.Type]
		}
	}
	return flags
}

// Config is what a plan depends on beside the runtime-spec.
type Config struct {
	Limits  Limits
	Host    *cgroup.Host
	Group   *cgroup.Group   // the container's
	MountAt string          // an empty directory where the root is mounted, in the container's own mount namespace
	Empty   string          // another, where an empty file system is mounted meanwhile
	Filter  *seccomp.Filter // nil for none
	Direct  *Direct         // nil where a shim executes the program

	// UserNamespace makes a user namespace with these maps, in the lines of
	// /proc/PID/uid_map, and returns a file of it that exists until the program
	// has run. Nil where no mount may map users.
	UserNamespace func(uids, gids string) (path string, err error)
}

// Direct is what differs where gantry-oci executes the program and may end
// before the container is started: all is done and checked before it is ready.
type Direct struct {
	Fifo         string // from which a byte is read before the program is executed; empty: none
	NoPivot      bool   // move the root instead, for a host whose root is a ramdisk
	NoKeyring    bool   // stay in the session keyring of who calls
	PreservedFds int    // descriptors from 3 on that the program gets
	Program      string // what is executed in place of the first argument; empty: that
	Stdio        bool   // stdio is what the registers say; otherwise it is who executes the program's
}

// Planner compiles what one new process does. It is used once.
type Planner struct {
	Config

	b                *program.Builder
	pre, child, post *program.List
	joins            []uint8 // registers with the cgroups' files
	cgroupReg        int
	warnings         []string
}

// New returns a planner that has compiled nothing yet.
func New(c Config) *Planner {
	b := program.NewBuilder()
	return &Planner{Config: c, b: b, pre: b.List(), child: b.List(), post: b.List(), cgroupReg: -1}
}

// Messages are the texts that the program's failures refer to.
func (p *Planner) Messages() []string { return p.b.Messages() }

// Warnings are what cannot be done on this host as asked, and is done otherwise.
func (p *Planner) Warnings() []string { return p.warnings }

func (p *Planner) warn(format string, args ...any) {
	p.warnings = append(p.warnings, fmt.Sprintf(format, args...))
}

// Container compiles the first process of a container, over a valid spec. The
// root is overlay, or, if that is nil, o.Root.
func (p *Planner) Container(o *specs.Spec, overlay *Overlay) (*wire.Process, error) {
	create, all := Namespaces(o, false), Namespaces(o, true)
	l := p.child
	p.closeParents()
	for _, n := range sharedNamespaces(o) {
		p.joinByPath(n.Path, n.Type)
	}
	p.openCgroup()
	clone, foreign := create&^(unix.CLONE_NEWCGROUP|unix.CLONE_NEWTIME), all&^create&unix.CLONE_NEWUSER != 0
	switch {
	case foreign:
		// What is new belongs to the user namespace only if it is made inside.
		l.Doing("make namespaces in the user namespace")
		p.becomeRoot()
		l.Call(unix.SYS_UNSHARE, program.Val(clone))
		if clone&unix.CLONE_NEWPID != 0 {
			l.Call(program.OpFork)
		}
		clone = 0
	case create&unix.CLONE_NEWUSER != 0:
		l.Doing("set up the user namespace")
		l.Sync(program.SyncMapUsers, program.Null)
		p.becomeRoot()
	}
	p.session(o.Process)
	p.clocks(o)
	m := newMounter(p.b, l)
	m.pre, m.post, m.host, m.group = p.pre, p.post, p.Host, p.Group
	m.user, m.cgroup = all&unix.CLONE_NEWUSER != 0, all&unix.CLONE_NEWCGROUP != 0
	m.label, m.users, m.direct = o.Linux.MountLabel, p.UserNamespace, p.Direct != nil
	m.mapped, m.mappedGID = o.Linux.UIDMappings, o.Linux.GIDMappings
	if err := p.filesystem(m, o, overlay); err != nil {
		return nil, err
	}
	p.hostnames(o, all)
	terminal := p.terminal(o.Process, true)
	if o.Root != nil && o.Root.Readonly {
		l.Doing("make the root read-only")
		l.Call(unix.SYS_MOUNT_SETATTR, program.Cwd, p.b.Str("/"), program.Val(0), p.b.Words(unix.MOUNT_ATTR_RDONLY, 0, 0, 0), program.Val(32))
	}
	p.ready(terminal)
	if !m.cgroup && !m.joined {
		p.joinCgroup()
	}
	if err := p.memoryPolicy(o.Linux.MemoryPolicy); err != nil {
		return nil, err
	}
	if err := p.becomeProgram(o.Process, o.Linux.Personality, m.user); err != nil {
		return nil, err
	}
	w := &wire.Process{Terminal: o.Process.Terminal, Clone: clone, CgroupReg: p.cgroupReg, Program: p.b.Program(p.pre, p.child, p.post)}
	if create&unix.CLONE_NEWUSER != 0 {
		w.UIDMap, w.GIDMap = idMap(o.Linux.UIDMappings), idMap(o.Linux.GIDMappings)
	}
	return w, nil
}

// closeParents closes the other ends of the pipes, which a child that was forked
// without an exec has too: else it would not see that its parent has ended.
func (p *Planner) closeParents() {
	if p.Direct == nil {
		return
	}
	p.child.Doing("close the parent's pipes")
	p.child.Call(unix.SYS_CLOSE, program.InReg(program.RegStatusEnd))
	p.child.Call(unix.SYS_CLOSE, program.InReg(program.RegReleaseEnd))
}

func idMap(mappings []specs.LinuxIDMapping) string {
	var b strings.Builder
	for _, m := range mappings {
		fmt.Fprintf(&b, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
	}
	return b.String()
}

// sharedNamespaces are those by path, the user namespace last: what is entered
// before it may be its parent's.
func sharedNamespaces(o *specs.Spec) []specs.LinuxNamespace {
	var list, user []specs.LinuxNamespace
	for _, n := range o.Linux.Namespaces {
		switch {
		case n.Path == "":
		case n.Type == specs.UserNamespace:
			user = append(user, n)
		default:
			list = append(list, n)
		}
	}
	return append(list, user...)
}

var namespaceFiles = map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "net", specs.MountNamespace: "mnt"}

// joinByPath brings the cloning thread into a namespace, and back afterwards,
// so that the child is born in it. Into some only the child can go, as it has
// one thread.
func (p *Planner) joinByPath(path string, kind specs.LinuxNamespaceType) {
	flag := program.Val(namespaceFlags[kind])
	theirs := p.b.Reg()
	doing := fmt.Sprintf("join %s namespace %s", kind, path)
	p.pre.Doing(doing)
	if kind == specs.UserNamespace || kind == specs.MountNamespace || kind == specs.TimeNamespace {
		p.pre.Call(unix.SYS_OPENAT, program.Cwd, p.b.Str(path), program.Val(unix.O_RDONLY|unix.O_CLOEXEC)).Into(theirs)
		p.child.Doing(doing)
		p.child.Call(unix.SYS_SETNS, program.InReg(theirs), flag)
		p.post.Call(unix.SYS_CLOSE, program.InReg(theirs))
		return
	}
	name := string(kind)
	if file, ok := namespaceFiles[kind]; ok {
		name = file
	}
	own := p.b.Reg()
	p.pre.Call(unix.SYS_OPENAT, program.Cwd, p.b.Str("/proc/thread-self/ns/"+name), program.Val(unix.O_RDONLY|unix.O_CLOEXEC)).Into(own)
	p.pre.Call(unix.SYS_OPENAT, program.Cwd, p.b.Str(path), program.Val(unix.O_RDONLY|unix.O_CLOEXEC)).Into(theirs)
	p.pre.Call(unix.SYS_SETNS, program.InReg(theirs), flag)
	p.post.Call(unix.SYS_SETNS, program.InReg(own), flag)
	p.post.Call(unix.SYS_CLOSE, program.InReg(theirs))
	p.post.Call(unix.SYS_CLOSE, program.InReg(own))
}

// Exec compiles a further process in a container, whose namespaces are flags.
func (p *Planner) Exec(process *specs.Process, personality *specs.LinuxPersonality, flags uint64) (*wire.Process, error) {
	p.closeParents()
	p.joinPidOf(flags)
	p.openCgroup()
	if err := p.affinity(process.ExecCPUAffinity, func(c *specs.CPUAffinity) string { return c.Initial }); err != nil {
		return nil, err
	}
	p.joinCgroup()
	if err := p.affinity(process.ExecCPUAffinity, func(c *specs.CPUAffinity) string { return c.Final }); err != nil {
		return nil, err
	}
	p.session(process)
	p.joinContainer(flags)
	user := flags&unix.CLONE_NEWUSER != 0
	terminal := p.terminal(process, false)
	p.ready(terminal)
	if err := p.becomeProgram(process, personality, user); err != nil {
		return nil, err
	}
	return &wire.Process{Terminal: process.Terminal, CgroupReg: p.cgroupReg, Program: p.b.Program(p.pre, p.child, p.post)}, nil
}

// joinPidOf makes the child be born in the pid namespace of the first process,
// if that is among flags: a process cannot enter one, only have children there.
func (p *Planner) joinPidOf(flags uint64) {
	if flags&unix.CLONE_NEWPID == 0 {
		return
	}
	own := p.b.Reg()
	p.pre.Doing("join the pid namespace")
	p.pre.Call(unix.SYS_OPENAT, program.Cwd, p.b.Str("/proc/thread-self/ns/pid"), program.Val(unix.O_RDONLY|unix.O_CLOEXEC)).Into(own)
	p.pre.Call(unix.SYS_SETNS, program.InReg(program.RegInit), program.Val(unix.CLONE_NEWPID))
	p.post.Call(unix.SYS_SETNS, program.InReg(own), program.Val(unix.CLONE_NEWPID))
	p.post.Call(unix.SYS_CLOSE, program.InReg(own))
}

// joinContainer enters the first process's namespaces but that of pids.
func (p *Planner) joinContainer(flags uint64) {
	l := p.child
	p.hide()
	l.Doing("join the container's namespaces")
	if rest := flags &^ (unix.CLONE_NEWPID | unix.CLONE_NEWUSER); rest != 0 {
		l.Call(unix.SYS_SETNS, program.InReg(program.RegInit), program.Val(rest))
	}
	if flags&unix.CLONE_NEWUSER != 0 {
		l.Call(unix.SYS_SETNS, program.InReg(program.RegInit), program.Val(unix.CLONE_NEWUSER))
		p.becomeRoot()
	}
}

// hide keeps the container's own processes from the memory of this one, and from
// the program file that it still runs, until it executes the container's.
func (p *Planner) hide() {
	p.child.Doing("hide from the container")
	p.child.Call(unix.SYS_PRCTL, program.Val(unix.PR_SET_DUMPABLE), program.Val(0), program.Null, program.Null, program.Null)
}

// Hook compiles a hook, whose stdio is in the registers, in the namespaces
// flags of the first process; 0: in those of who executes it.
func (p *Planner) Hook(h *specs.Hook, dir string, flags uint64) *wire.Process {
	p.closeParents()
	l := p.child
	p.joinPidOf(flags)
	l.Doing("set up the hook")
	for fd := range 3 {
		l.Call(unix.SYS_DUP3, program.InReg(uint8(program.RegStdin+fd)), program.Val(fd), program.Val(0))
	}
	p.resetSignals()
	if flags != 0 {
		p.joinContainer(flags)
	}
	l.Call(unix.SYS_CLOSE_RANGE, program.Val(3), program.Val(uint32(math.MaxUint32)), program.Val(unix.CLOSE_RANGE_CLOEXEC))
	l.Call(unix.SYS_CHDIR, p.b.Str(dir))
	args := h.Args
	if len(args) == 0 {
		args = []string{h.Path}
	}
	l.Doing("exec " + h.Path)
	l.Call(unix.SYS_EXECVE, p.b.Str(h.Path), p.b.Pointers(args), p.b.Pointers(h.Env))
	return &wire.Process{CgroupReg: -1, Program: p.b.Program(p.pre, p.child, p.post)}
}

// openCgroup opens the cgroup's files before the clone: with the host's
// credentials, and from the host's mounts.
func (p *Planner) openCgroup() {
	p.pre.Doing("open the cgroup " + p.Group.Name())
	if dir := p.Group.CloneDir(); dir != "" {
		r := p.b.Reg()
		p.pre.Call(unix.SYS_OPENAT, program.Cwd, p.b.Str(dir), program.Val(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)).Into(r)
		p.post.Call(unix.SYS_CLOSE, program.InReg(r))
		p.cgroupReg = int(r)
	}
	for _, file := range p.Group.JoinFiles() {
		r := p.b.Reg()
		p.pre.Call(unix.SYS_OPENAT, program.Cwd, p.b.Str(file), program.Val(unix.O_WRONLY|unix.O_CLOEXEC)).Into(r)
		p.post.Call(unix.SYS_CLOSE, program.InReg(r))
		p.joins = append(p.joins, r)
	}
}

func (p *Planner) joinCgroup() {
	p.child.Doing("join the cgroup " + p.Group.Name())
	for _, r := range p.joins {
		p.child.Call(unix.SYS_WRITE, program.InReg(r), p.b.Str("0"), program.Val(1))
	}
}

func (p *Planner) becomeRoot() {
	for _, nr := range []uint32{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
		p.child.Call(nr, program.Val(0), program.Val(0), program.Val(0))
	}
}

// session gives the process what it has for itself from the start.
func (p *Planner) session(process *specs.Process) {
	const joinSessionKeyring = 1
	l := p.child
	l.Doing("set up the session")
	l.Call(unix.SYS_SETSID)
	l.Call(unix.SYS_UMASK, program.Val(0))
	if p.Direct == nil || !p.Direct.NoKeyring {
		l.Call(unix.SYS_KEYCTL, program.Val(joinSessionKeyring), program.Null).AllowAll() // kernels without keys; quota
	}
	p.resetSignals()
	if process.OOMScoreAdj != nil {
		adj := *process.OOMScoreAdj
		if adj < p.Limits.OOMScoreAdj && !p.Limits.Resource {
			p.warn("oom_score_adj %d: this host lets it go no lower than %d", adj, p.Limits.OOMScoreAdj)
			adj = p.Limits.OOMScoreAdj
		}
		fd, text := p.b.Reg(), fmt.Sprint(adj)
		l.Doing("set oom_score_adj")
		l.Call(unix.SYS_OPENAT, program.Cwd, p.b.Str("/proc/self/oom_score_adj"), program.Val(unix.O_WRONLY|unix.O_CLOEXEC)).Into(fd)
		l.Call(unix.SYS_WRITE, program.InReg(fd), p.b.Str(text), program.Val(len(text))).Allow(unix.EACCES, unix.EPERM)
		l.Call(unix.SYS_CLOSE, program.InReg(fd))
	}
}

// resetSignals gives every signal its default action: what the engine's starter
// ignored would stay ignored in the container.
func (p *Planner) resetSignals() {
	standard := p.b.Words(0, 0, 0, 0) // SIG_DFL
	for sig := 1; sig <= 64; sig++ {
		p.child.Call(unix.SYS_RT_SIGACTION, program.Val(sig), standard, program.Null, program.Val(8)).Allow(unix.EINVAL)
	}
}

// hostnames sets the UTS namespace's names.
func (p *Planner) hostnames(o *specs.Spec, namespaces uint64) {
	if namespaces&unix.CLONE_NEWUTS == 0 {
		return
	}
	p.child.Doing("set the host name")
	if o.Hostname != "" {
		p.child.Call(unix.SYS_SETHOSTNAME, p.b.Str(o.Hostname), program.Val(len(o.Hostname)))
	}
	if o.Domainname != "" {
		p.child.Call(unix.SYS_SETDOMAINNAME, p.b.Str(o.Domainname), program.Val(len(o.Domainname)))
	}
}
