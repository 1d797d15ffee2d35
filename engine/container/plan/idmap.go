package plan

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/engine/container/program"
	"gantry/internal/problem"
)

// mapFd is the descriptor by which mount_setattr finds the user namespace: its
// argument is in memory, where no register's content comes.
const mapFd = 250

// bindMapped is bind with a mapping of users. The kernel asks for the rights of
// the file system's owner, so it is made by the process that clones, with all
// its attributes; only the move to its place is the child's.
func (m *mounter) bindMapped(s specs.Mount, o mountOptions, directory bool) error {
	uids, gids := s.UIDMappings, s.GIDMappings
	if len(uids)+len(gids) == 0 {
		uids, gids = m.mapped, m.mappedGID
	}
	if len(uids) == 0 || len(gids) == 0 {
		return problem.New(problem.Invalid, "mount %s: idmap needs uidMappings and gidMappings, of the mount or of the container", s.Destination)
	}
	if m.users == nil {
		return problem.New(problem.Unsupported, "mount %s: idmapped mounts are not supported", s.Destination)
	}
	file, err := m.users(idMap(uids), idMap(gids))
	if err != nil {
		return err
	}
	namespace, tree := m.b.Reg(), m.b.Reg()
	flags := unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
	if o.recursive {
		flags |= unix.AT_RECURSIVE
	}
	set := func(flags int, set, clear, propagation, namespace uint64) {
		m.pre.Call(unix.SYS_MOUNT_SETATTR, program.InReg(tree), m.b.Str(""), program.Val(unix.AT_EMPTY_PATH|flags),
			m.b.Words(set, clear, propagation, namespace), program.Val(32))
	}
	deep := 0
	if o.deepMap {
		deep = unix.AT_RECURSIVE
	}
	m.pre.Call(unix.SYS_OPENAT, program.Cwd, m.b.Str(file), program.Val(unix.O_RDONLY|unix.O_CLOEXEC)).Into(namespace)
	m.pre.Call(unix.SYS_DUP3, program.InReg(namespace), program.Val(mapFd), program.Val(unix.O_CLOEXEC))
	m.pre.Call(unix.SYS_CLOSE, program.InReg(namespace))
	m.pre.Call(unix.SYS_OPEN_TREE, program.Cwd, m.b.Str(s.Source), program.Val(flags)).Into(tree)
	set(deep, unix.MOUNT_ATTR_IDMAP, 0, 0, mapFd)
	m.pre.Call(unix.SYS_CLOSE, program.Val(mapFd))
	if o.set|o.clear != 0 {
		set(0, o.set, o.clear, 0, 0)
	}
	if o.deepSet|o.deepClear != 0 {
		set(unix.AT_RECURSIVE, o.deepSet, o.deepClear, 0, 0)
	}
	// What the host's mount shares is not the container's.
	set(unix.AT_RECURSIVE, 0, 0, unix.MS_PRIVATE, 0)
	m.post.Call(unix.SYS_CLOSE, program.InReg(tree))
	m.target(s.Destination, directory, m.temp[0])
	m.attach(tree, m.temp[0])
	m.propagate(tree, o)
	return nil
}
