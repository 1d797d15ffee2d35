// Package plan compiles a runtime-spec to the program of system calls that makes
// a container's first process, or a further one. It decides everything and does
// nothing: who executes the program is gantry-shim, for the engine, or
// gantry-oci. A field of the spec that is not supported is refused by name.
package plan

import (
	"fmt"
	"path"
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
	specs.CgroupNamespace: unix.CLONE_NEWCGROUP,
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
	for _, n := range o.Linux.Namespaces {
		if n.Path != "" {
			p.joinByPath(n.Path, string(n.Type), namespaceFlags[n.Type])
		}
	}
	p.openCgroup()
	l := p.child
	if create&unix.CLONE_NEWUSER != 0 {
		l.Doing("set up the user namespace")
		l.Sync(program.SyncMapUsers, program.Null)
		p.becomeRoot()
	}
	p.session(o.Process)
	m := newMounter(p.b, l)
	m.host, m.group = p.Host, p.Group
	m.user, m.cgroup = create&unix.CLONE_NEWUSER != 0, all&unix.CLONE_NEWCGROUP != 0
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
	if !m.cgroup {
		p.joinCgroup()
	}
	if err := p.becomeProgram(o.Process, m.user); err != nil {
		return nil, err
	}
	w := &wire.Process{Terminal: o.Process.Terminal, Clone: create &^ unix.CLONE_NEWCGROUP,
		CgroupReg: p.cgroupReg, Program: p.b.Program(p.pre, p.child, p.post)}
	if m.user {
		w.UIDMap, w.GIDMap = idMap(o.Linux.UIDMappings), idMap(o.Linux.GIDMappings)
	}
	return w, nil
}

func idMap(mappings []specs.LinuxIDMapping) string {
	var b strings.Builder
	for _, m := range mappings {
		fmt.Fprintf(&b, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
	}
	return b.String()
}

// joinByPath brings the cloning thread into a namespace, and back afterwards,
// so that the child is born in it.
func (p *Planner) joinByPath(path, kind string, flag uint64) {
	names := map[string]string{"network": "net", "mount": "mnt"}
	name := kind
	if n, ok := names[kind]; ok {
		name = n
	}
	own, theirs := p.b.Reg(), p.b.Reg()
	p.pre.Doing(fmt.Sprintf("join %s namespace %s", kind, path))
	p.pre.Call(unix.SYS_OPENAT, program.Cwd, p.b.Str("/proc/thread-self/ns/"+name), program.Val(unix.O_RDONLY|unix.O_CLOEXEC)).Into(own)
	p.pre.Call(unix.SYS_OPENAT, program.Cwd, p.b.Str(path), program.Val(unix.O_RDONLY|unix.O_CLOEXEC)).Into(theirs)
	p.pre.Call(unix.SYS_SETNS, program.InReg(theirs), program.Val(flag))
	p.post.Call(unix.SYS_SETNS, program.InReg(own), program.Val(flag))
	p.post.Call(unix.SYS_CLOSE, program.InReg(theirs))
	p.post.Call(unix.SYS_CLOSE, program.InReg(own))
}

// Exec compiles a further process in a container, whose namespaces are flags.
func (p *Planner) Exec(process *specs.Process, flags uint64) (*wire.Process, error) {
	if flags&unix.CLONE_NEWPID != 0 {
		// A thread cannot enter a pid namespace, only have its children born there.
		own := p.b.Reg()
		p.pre.Doing("join the pid namespace")
		p.pre.Call(unix.SYS_OPENAT, program.Cwd, p.b.Str("/proc/thread-self/ns/pid"), program.Val(unix.O_RDONLY|unix.O_CLOEXEC)).Into(own)
		p.pre.Call(unix.SYS_SETNS, program.InReg(program.RegInit), program.Val(unix.CLONE_NEWPID))
		p.post.Call(unix.SYS_SETNS, program.InReg(own), program.Val(unix.CLONE_NEWPID))
		p.post.Call(unix.SYS_CLOSE, program.InReg(own))
	}
	p.openCgroup()
	l := p.child
	p.joinCgroup()
	p.session(process)
	l.Doing("join the container's namespaces")
	l.Call(unix.SYS_SETNS, program.InReg(program.RegInit), program.Val(flags&^(unix.CLONE_NEWPID|unix.CLONE_NEWUSER)))
	user := flags&unix.CLONE_NEWUSER != 0
	if user {
		l.Call(unix.SYS_SETNS, program.InReg(program.RegInit), program.Val(unix.CLONE_NEWUSER))
		p.becomeRoot()
	}
	terminal := p.terminal(process, false)
	p.ready(terminal)
	if err := p.becomeProgram(process, user); err != nil {
		return nil, err
	}
	return &wire.Process{Terminal: process.Terminal, CgroupReg: p.cgroupReg, Program: p.b.Program(p.pre, p.child, p.post)}, nil
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
	l.Call(unix.SYS_KEYCTL, program.Val(joinSessionKeyring), program.Null).AllowAll() // kernels without keys; quota
	// What the engine's starter ignored would stay ignored in the container.
	ignored := p.b.Words(0, 0, 0, 0) // SIG_DFL
	for sig := 1; sig <= 64; sig++ {
		l.Call(unix.SYS_RT_SIGACTION, program.Val(sig), ignored, program.Null, program.Val(8)).Allow(unix.EINVAL)
	}
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

// filesystem mounts the root and everything in it, and pivots.
func (p *Planner) filesystem(m *mounter, o *specs.Spec, overlay *Overlay) error {
	l := p.child
	propagation := uint64(unix.MS_SLAVE | unix.MS_REC)
	if want := o.Linux.RootfsPropagation; want != "" {
		propagation = propagations[want] | unix.MS_REC
	}
	l.Doing("make the mounts the container's own")
	l.Call(unix.SYS_MOUNT, program.Null, p.b.Str("/"), program.Null, program.Val(propagation), program.Null)
	nothing := p.b.Reg()
	if len(o.Linux.MaskedPaths) > 0 {
		// Mounted for a moment, because only what is mounted can be cloned.
		l.Doing("mount an empty directory to mask paths")
		m.fresh("tmpfs", "tmpfs", mountOptions{set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC,
			data: []string{"nr_blocks=1", "nr_inodes=1"}}, nothing)
		l.Call(unix.SYS_MOVE_MOUNT, program.InReg(nothing), p.b.Str(""), program.Cwd, p.b.Str(p.Empty), program.Val(unix.MOVE_MOUNT_F_EMPTY_PATH))
	}
	if err := p.mountRoot(m, o, overlay); err != nil {
		return err
	}
	now, last := split(o.Mounts)
	for _, mount := range now {
		if err := m.mount(mount); err != nil {
			return err
		}
	}
	if err := m.devices(o); err != nil {
		return err
	}
	m.sysctls(o.Linux.Sysctl)
	if cwd := path.Clean("/" + o.Process.Cwd); cwd != "/" {
		l.Doing(fmt.Sprintf("mkdir %s", cwd))
		m.target(cwd, true, m.temp[0])
	}
	// As late as possible: the first process in a while to join a v1 cgroup
	// waits for an RCU grace period, 5-20 ms, which Create has set going. Without
	// a cgroup namespace nothing here depends on it, and it waits for start.
	if m.cgroup {
		p.joinCgroup()
	}
	if Namespaces(o, false)&unix.CLONE_NEWCGROUP != 0 {
		l.Doing("unshare the cgroup namespace")
		l.Call(unix.SYS_UNSHARE, program.Val(unix.CLONE_NEWCGROUP))
	}
	for _, mount := range last {
		if err := m.mount(mount); err != nil {
			return err
		}
	}
	m.readonly(o.Linux.ReadonlyPaths)
	m.mask(o.Linux.MaskedPaths, nothing)
	l.Doing("pivot_root")
	dot := p.b.Str(".")
	l.Call(unix.SYS_FCHDIR, program.InReg(m.root))
	l.Call(unix.SYS_PIVOT_ROOT, dot, dot)
	// The old root lies over the new one now. Its unmounting must not reach the host.
	l.Call(unix.SYS_MOUNT, program.Null, dot, program.Null, program.Val(unix.MS_SLAVE|unix.MS_REC), program.Null)
	l.Call(unix.SYS_UMOUNT2, dot, program.Val(unix.MNT_DETACH))
	l.Call(unix.SYS_CHDIR, p.b.Str("/"))
	return nil
}

// split returns the mounts in two parts: those of cgroups come last, if nothing
// is mounted below or over them.
func split(mounts []specs.Mount) (now, last []specs.Mount) {
	for i, s := range mounts {
		covered := slices.ContainsFunc(mounts[i+1:], func(later specs.Mount) bool {
			a, b := path.Clean(s.Destination)+"/", path.Clean(later.Destination)+"/"
			return strings.HasPrefix(a, b) || strings.HasPrefix(b, a)
		})
		if (s.Type == "cgroup" || s.Type == "cgroup2") && !covered {
			last = append(last, s)
		} else {
			now = append(now, s)
		}
	}
	return now, last
}

// mountRoot mounts the root file system and opens its handle.
func (p *Planner) mountRoot(m *mounter, o *specs.Spec, overlay *Overlay) error {
	l := p.child
	at := p.b.Str(p.MountAt)
	if overlay == nil {
		tree := p.b.Reg()
		l.Doing("mount the root " + o.Root.Path)
		l.Call(unix.SYS_OPEN_TREE, program.Cwd, p.b.Str(o.Root.Path),
			program.Val(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)).Into(tree)
		// A shared root cannot be pivoted to, and what is mounted in it stays the container's.
		m.setAttributes(tree, unix.AT_RECURSIVE, 0, 0, unix.MS_PRIVATE)
		l.Call(unix.SYS_MOVE_MOUNT, program.InReg(tree), p.b.Str(""), program.Cwd, at, program.Val(unix.MOVE_MOUNT_F_EMPTY_PATH))
	} else {
		base, data, err := overlay.options(m.user)
		if err != nil {
			return err
		}
		l.Doing("mount the overlay of the container's layers")
		l.Call(unix.SYS_CHDIR, p.b.Str(base))
		l.Call(unix.SYS_MOUNT, p.b.Str("overlay"), at, p.b.Str("overlay"), program.Val(0), p.b.Str(data))
	}
	l.Call(unix.SYS_OPENAT, program.Cwd, at, program.Val(oPath|unix.O_DIRECTORY)).Into(m.root)
	return nil
}
