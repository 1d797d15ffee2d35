package plan

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/engine/container/cgroup"
	"gantry/engine/container/program"
	"gantry/internal/problem"
)

// mounter compiles what happens to the file system of a new container. Every
// path inside the container is resolved by openat2 below the root's handle,
// so that no symbolic link of an image leads out of it.
type mounter struct {
	b      *program.Builder
	l      *program.List
	root   uint8 // register: the root's handle, O_PATH
	host   *cgroup.Host
	group  *cgroup.Group
	user   bool   // in a user namespace
	cgroup bool   // in a cgroup namespace of its own
	joined bool   // in its cgroup
	label  string // SELinux context of new file systems

	// Of the process that clones: what needs the host's rights.
	pre, post *program.List
	users     func(uids, gids string) (string, error)
	mapped    []specs.LinuxIDMapping // the container's own
	mappedGID []specs.LinuxIDMapping
	direct    bool // not for a shim

	temp [3]uint8 // registers used by one step at a time
}

const oPath = unix.O_PATH | unix.O_CLOEXEC

func newMounter(b *program.Builder, l *program.List) *mounter {
	return &mounter{b: b, l: l, root: b.Reg(), temp: [3]uint8{b.Reg(), b.Reg(), b.Reg()}}
}

// how is the argument of openat2 for a path below the root.
func (m *mounter) how(flags uint64) program.Arg {
	return m.b.Words(flags, 0, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

// open appends: reg = openat2(root, p).
func (m *mounter) open(p string, flags uint64, reg uint8) *program.Op {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if p == "" {
		p = "."
	}
	return m.l.Call(unix.SYS_OPENAT2, program.InReg(m.root), m.b.Str(p), m.how(flags), program.Val(24)).Into(reg)
}

// target leaves a handle of p in reg, and makes p, and the directories above
// it, where it is missing: a directory, or an empty file.
func (m *mounter) target(p string, directory bool, reg uint8) {
	p = path.Clean("/" + p)
	there := m.l.Len()
	m.open(p, oPath, reg).Allow(unix.ENOENT)
	parts := strings.Split(strings.Trim(p, "/"), "/")
	for i, part := range parts {
		m.open(path.Join(parts[:i]...), oPath|unix.O_DIRECTORY, m.temp[2])
		if i < len(parts)-1 || directory {
			m.l.Call(unix.SYS_MKDIRAT, program.InReg(m.temp[2]), m.b.Str(part), program.Val(0o755)).Allow(unix.EEXIST)
		} else {
			m.l.Call(unix.SYS_MKNODAT, program.InReg(m.temp[2]), m.b.Str(part), program.Val(unix.S_IFREG|0o644), program.Val(0)).Allow(unix.EEXIST)
		}
	}
	m.open(p, oPath, reg)
	m.l.SkipTo(there)
}

// attach moves the detached mount in from to the handle in to.
func (m *mounter) attach(from, to uint8) *program.Op {
	empty := m.b.Str("")
	return m.l.Call(unix.SYS_MOVE_MOUNT, program.InReg(from), empty, program.InReg(to), empty,
		program.Val(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

// setAttributes changes a mount by its handle.
func (m *mounter) setAttributes(reg uint8, flags int, set, clear, propagation uint64) *program.Op {
	attr := m.b.Words(set, clear, propagation, 0)
	return m.l.Call(unix.SYS_MOUNT_SETATTR, program.InReg(reg), m.b.Str(""), program.Val(unix.AT_EMPTY_PATH|flags), attr, program.Val(32))
}

// mount compiles one entry of the runtime-spec's mounts.
func (m *mounter) mount(s specs.Mount) error {
	if path.Clean("/"+s.Destination) == "/" {
		return problem.New(problem.Invalid, "mount %s: the destination is the root", s.Destination)
	}
	o, err := parseOptions(s.Options)
	if err != nil {
		return fmt.Errorf("mount %s: %w", s.Destination, err)
	}
	if len(s.UIDMappings)+len(s.GIDMappings) > 0 {
		o.idmap = true
	}
	doing := fmt.Sprintf("error mounting %q to rootfs at %q: mount %s:%s", s.Source, s.Destination, s.Source, s.Destination)
	switch {
	case o.remount:
		m.l.Doing(doing)
		m.open(s.Destination, oPath, m.temp[0])
		m.setAttributes(m.temp[0], 0, o.set, o.clear, 0)
		m.propagate(m.temp[0], o)
		return nil
	case o.bind || s.Type == "bind":
		return m.bind(s, o)
	case o.idmap:
		return problem.New(problem.Unsupported, "mount %s: a mapping of users for a mount that is no bind mount", s.Destination)
	case o.copyUp && (s.Type != "tmpfs" || !m.direct):
		return problem.New(problem.Unsupported, "mount %s: mount option tmpcopyup is not supported", s.Destination)
	case s.Type == "cgroup" || s.Type == "cgroup2":
		m.cgroups(s, o)
		return nil
	case s.Type == "":
		return problem.New(problem.Invalid, "mount %s: no type", s.Destination)
	default:
		m.l.Doing(doing)
		m.target(s.Destination, true, m.temp[0])
		if o.copyUp {
			m.freshCopy(s, o)
		} else {
			m.fresh(s.Type, s.Source, o, m.temp[1])
		}
		m.attach(m.temp[1], m.temp[0])
		m.propagate(m.temp[1], o)
		return nil
	}
}

// freshCopy makes a file system in temp[1] with a copy of what is at temp[0].
func (m *mounter) freshCopy(s specs.Mount, o mountOptions) {
	readOnly := o.set & unix.MOUNT_ATTR_RDONLY
	o.set &^= readOnly
	m.fresh(s.Type, s.Source, o, m.temp[1])
	m.l.Sync(program.SyncCopyFrom, program.InReg(m.temp[0]))
	m.l.Sync(program.SyncCopyTo, program.InReg(m.temp[1]))
	if readOnly != 0 {
		m.setAttributes(m.temp[1], 0, readOnly, 0, 0)
	}
}

// fresh makes a detached mount of a new file system in reg.
func (m *mounter) fresh(kind, source string, o mountOptions, reg uint8) {
	const setFlag, setString, create = unix.FSCONFIG_SET_FLAG, unix.FSCONFIG_SET_STRING, unix.FSCONFIG_CMD_CREATE
	l := m.l
	l.Call(unix.SYS_FSOPEN, m.b.Str(kind), program.Val(unix.FSOPEN_CLOEXEC)).Into(m.temp[2])
	context := program.InReg(m.temp[2])
	if source != "" {
		l.Call(unix.SYS_FSCONFIG, context, program.Val(setString), m.b.Str("source"), m.b.Str(source), program.Val(0))
	}
	for _, option := range o.data {
		if key, value, ok := strings.Cut(option, "="); ok {
			l.Call(unix.SYS_FSCONFIG, context, program.Val(setString), m.b.Str(key), m.b.Str(value), program.Val(0))
		} else {
			l.Call(unix.SYS_FSCONFIG, context, program.Val(setFlag), m.b.Str(option), program.Null, program.Val(0))
		}
	}
	if m.label != "" && kind != "proc" && kind != "sysfs" && kind != "cgroup" && kind != "cgroup2" {
		l.Call(unix.SYS_FSCONFIG, context, program.Val(setString), m.b.Str("context"), m.b.Str(m.label), program.Val(0))
	}
	l.Call(unix.SYS_FSCONFIG, context, program.Val(create), program.Null, program.Null, program.Val(0))
	l.Call(unix.SYS_FSMOUNT, context, program.Val(unix.FSMOUNT_CLOEXEC), program.Val(o.set|o.deepSet)).Into(reg)
	l.Call(unix.SYS_CLOSE, context)
}

func (m *mounter) propagate(reg uint8, o mountOptions) {
	if o.propagation != 0 {
		m.setAttributes(reg, recursive(o.propagation), 0, 0, o.propagation&^unix.MS_REC)
	}
}

func recursive(flags uint64) int {
	if flags&unix.MS_REC != 0 {
		return unix.AT_RECURSIVE
	}
	return 0
}

// bind compiles a bind mount. What the source is decides what is made where the
// destination is missing.
func (m *mounter) bind(s specs.Mount, o mountOptions) error {
	o.data = slices.DeleteFunc(o.data, func(option string) bool { return ofFileSystem[option] })
	// runc ignores them, and its callers pass some.
	if len(o.data) > 0 && !m.direct {
		return problem.New(problem.Invalid, "mount %s: a bind mount has no option %q", s.Destination, o.data[0])
	}
	info, err := os.Stat(s.Source)
	if err != nil {
		return problem.New(problem.Invalid, "mount %s: %w", s.Destination, err)
	}
	doing := fmt.Sprintf("error mounting %q to rootfs at %q: mount %s:%s", s.Source, s.Destination, s.Source, s.Destination)
	m.l.Doing(doing)
	if o.idmap {
		m.pre.Doing(doing)
		return m.bindMapped(s, o, info.IsDir())
	}
	m.bindFrom(program.Cwd, s.Source, s.Destination, info.IsDir(), o)
	return nil
}

func (m *mounter) bindFrom(dir program.Arg, source, destination string, directory bool, o mountOptions) {
	flags := unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
	if o.recursive {
		flags |= unix.AT_RECURSIVE
	}
	m.l.Call(unix.SYS_OPEN_TREE, dir, m.b.Str(source), program.Val(flags)).Into(m.temp[1])
	if o.set|o.clear != 0 {
		m.setAttributes(m.temp[1], 0, o.set, o.clear, 0)
	}
	if o.deepSet|o.deepClear != 0 {
		m.setAttributes(m.temp[1], unix.AT_RECURSIVE, o.deepSet, o.deepClear, 0)
	}
	m.target(destination, directory, m.temp[0])
	m.attach(m.temp[1], m.temp[0])
	m.propagate(m.temp[1], o)
}

// cgroups mounts what the container sees of its cgroups: every hierarchy that
// the host has.
func (m *mounter) cgroups(s specs.Mount, o mountOptions) {
	m.l.Doing(fmt.Sprintf("error mounting cgroups at %q", s.Destination))
	one := func(at, kind string, data []string, host string) {
		if m.cgroup {
			m.target(at, true, m.temp[0])
			m.fresh(kind, "cgroup", mountOptions{set: o.set, data: data}, m.temp[1])
			m.attach(m.temp[1], m.temp[0])
			return
		}
		m.bindFrom(program.Cwd, host, at, true, mountOptions{set: o.set})
	}
	if m.host.Pure() {
		one(s.Destination, "cgroup2", nil, m.group.CloneDir())
		return
	}
	m.target(s.Destination, true, m.temp[0])
	m.fresh("tmpfs", "tmpfs", mountOptions{set: o.set &^ unix.MOUNT_ATTR_RDONLY, data: []string{"mode=755"}}, m.temp[1])
	m.attach(m.temp[1], m.temp[0])
	byMount := map[string][]string{}
	for controller, mountPoint := range m.host.V1 {
		byMount[mountPoint] = append(byMount[mountPoint], controller)
	}
	var mountPoints []string
	for mountPoint, controllers := range byMount {
		slices.Sort(controllers)
		mountPoints = append(mountPoints, mountPoint)
	}
	slices.Sort(mountPoints)
	for _, mountPoint := range mountPoints {
		controllers := byMount[mountPoint]
		one(path.Join(s.Destination, path.Base(mountPoint)), "cgroup", controllers, path.Join(mountPoint, m.group.Name()))
	}
	if m.host.Unified != "" {
		one(path.Join(s.Destination, "unified"), "cgroup2", nil, m.group.CloneDir())
	}
	if o.set&unix.MOUNT_ATTR_RDONLY != 0 {
		m.open(s.Destination, oPath, m.temp[0])
		m.setAttributes(m.temp[0], 0, unix.MOUNT_ATTR_RDONLY, 0, 0)
	}
}
