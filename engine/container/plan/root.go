package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/engine/container/program"
)

// filesystem mounts the root and everything in it, and pivots.
func (p *Planner) filesystem(m *mounter, o *specs.Spec, overlay *Overlay) error {
	l := p.child
	propagation := uint64(unix.MS_SLAVE | unix.MS_REC)
	if want := o.Linux.RootfsPropagation; want != "" {
		propagation = propagations[want]
	}
	l.Doing("make the mounts the container's own")
	l.Call(unix.SYS_MOUNT, program.Null, p.b.Str("/"), program.Null, program.Val(propagation), program.Null)
	if propagation&(unix.MS_PRIVATE|unix.MS_SLAVE) == 0 {
		// The new root is mounted below it, and must not appear on the host.
		at, err := mountOf(p.MountAt)
		if err != nil {
			return err
		}
		l.Call(unix.SYS_MOUNT, program.Null, p.b.Str(at), program.Null, program.Val(unix.MS_PRIVATE), program.Null)
	}
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
	if p.Direct != nil && (o.Hooks != nil || len(o.Linux.NetDevices) > 0) {
		if !m.cgroup {
			p.joinCgroup() // hooks look for the container's cgroup
			m.joined = true
		}
		l.Doing("run hooks")
		l.Sync(program.SyncHooks, program.Null)
	}
	p.hide()
	p.enterRoot(m)
	if propagation&unix.MS_PRIVATE == 0 && o.Linux.RootfsPropagation != "" {
		l.Doing("set the propagation of the root")
		l.Call(unix.SYS_MOUNT, program.Null, p.b.Str("/"), program.Null, program.Val(propagation), program.Null)
	}
	return nil
}

// enterRoot makes the new root the process's.
func (p *Planner) enterRoot(m *mounter) {
	l, dot, root := p.child, p.b.Str("."), p.b.Str("/")
	if p.Direct != nil && p.Direct.NoPivot {
		l.Doing("move the root")
		// Else a user namespace could mount others, having seen these.
		for _, full := range []string{"/proc", "/sys"} {
			l.Call(unix.SYS_UMOUNT2, p.b.Str(full), program.Val(unix.MNT_DETACH)).AllowAll()
		}
		l.Call(unix.SYS_FCHDIR, program.InReg(m.root))
		l.Call(unix.SYS_MOUNT, dot, root, program.Null, program.Val(unix.MS_MOVE), program.Null)
		l.Call(unix.SYS_CHROOT, dot)
		l.Call(unix.SYS_CHDIR, root)
		return
	}
	l.Doing("pivot_root")
	l.Call(unix.SYS_FCHDIR, program.InReg(m.root))
	l.Call(unix.SYS_PIVOT_ROOT, dot, dot)
	// The old root lies over the new one now. Its unmounting must not reach the host.
	l.Call(unix.SYS_MOUNT, program.Null, dot, program.Null, program.Val(unix.MS_SLAVE|unix.MS_REC), program.Null)
	l.Call(unix.SYS_UMOUNT2, dot, program.Val(unix.MNT_DETACH))
	l.Call(unix.SYS_CHDIR, root)
}

// mountOf is the mount point that dir lies on.
func mountOf(dir string) (string, error) {
	for dir != "/" {
		var x unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, 0, &x); err != nil {
			return "", fmt.Errorf("find the mount of %s: %w", dir, err)
		}
		if x.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
			break
		}
		dir = path.Dir(dir)
	}
	return dir, nil
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
