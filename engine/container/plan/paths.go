package plan

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/engine/container/program"
	"gantry/internal/problem"
)

// defaultDevices are in every container, runtime-spec config-linux.md
// "Default Devices".
var defaultDevices = []specs.LinuxDevice{
	{Path: "/dev/null", Type: "c", Major: 1, Minor: 3},
	{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5},
	{Path: "/dev/full", Type: "c", Major: 1, Minor: 7},
	{Path: "/dev/random", Type: "c", Major: 1, Minor: 8},
	{Path: "/dev/urandom", Type: "c", Major: 1, Minor: 9},
	{Path: "/dev/tty", Type: "c", Major: 5, Minor: 0},
}

var devLinks = [][2]string{
	{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"},
	{"pts/ptmx", "ptmx"}, {"/proc/kcore", "core"},
}

// devices makes the device nodes. A /dev that is bound from the host is left
// as it is.
func (m *mounter) devices(o *specs.Spec) error {
	for _, s := range o.Mounts {
		if path.Clean(s.Destination) == "/dev" && (s.Type == "bind" || slices.Contains(s.Options, "bind") || slices.Contains(s.Options, "rbind")) {
			return nil
		}
	}
	seen := map[string]bool{}
	// The spec's own come first: it may give a default one another owner.
	for _, d := range slices.Concat(o.Linux.Devices, defaultDevices) {
		p := path.Clean("/" + d.Path)
		if seen[p] {
			continue
		}
		seen[p] = true
		if err := m.device(p, d); err != nil {
			return err
		}
	}
	m.l.Doing("make links in /dev")
	m.target("/dev", true, m.temp[0])
	for _, link := range devLinks {
		m.l.Call(unix.SYS_SYMLINKAT, m.b.Str(link[0]), program.InReg(m.temp[0]), m.b.Str(link[1])).Allow(unix.EEXIST)
	}
	return nil
}

func (m *mounter) device(p string, d specs.LinuxDevice) error {
	kinds := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}
	kind, ok := kinds[d.Type]
	if !ok {
		return problem.New(problem.Invalid, "device %s: type %q", d.Path, d.Type)
	}
	mode := os.FileMode(0o666)
	if d.FileMode != nil {
		mode = d.FileMode.Perm()
	}
	m.l.Doing(fmt.Sprintf("make device %s", p))
	if m.user {
		// A device node made in a user namespace cannot be opened.
		m.bindFrom(program.Cwd, p, p, false, mountOptions{})
		return nil
	}
	m.target(path.Dir(p), true, m.temp[0])
	dir, name := program.InReg(m.temp[0]), m.b.Str(path.Base(p))
	number := unix.Mkdev(uint32(d.Major), uint32(d.Minor))
	m.l.Call(unix.SYS_MKNODAT, dir, name, program.Val(kind|uint32(mode)), program.Val(number)).Allow(unix.EEXIST)
	if d.UID != nil || d.GID != nil {
		var uid, gid uint32
		if d.UID != nil {
			uid = *d.UID
		}
		if d.GID != nil {
			gid = *d.GID
		}
		m.l.Call(unix.SYS_FCHOWNAT, dir, name, program.Val(uid), program.Val(gid), program.Val(unix.AT_SYMLINK_NOFOLLOW))
	}
	return nil
}

// sysctls writes kernel parameters of the container's namespaces.
func (m *mounter) sysctls(sysctl map[string]string) {
	keys := make([]string, 0, len(sysctl))
	for key := range sysctl {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		file := "/proc/sys/" + strings.ReplaceAll(key, ".", "/")
		m.l.Doing(fmt.Sprintf("set sysctl %s=%s", key, sysctl[key]))
		m.open(file, unix.O_WRONLY|unix.O_CLOEXEC, m.temp[0])
		m.l.Call(unix.SYS_WRITE, program.InReg(m.temp[0]), m.b.Str(sysctl[key]), program.Val(len(sysctl[key])))
		m.l.Call(unix.SYS_CLOSE, program.InReg(m.temp[0]))
	}
}

// readonly makes what is at paths read-only, where it exists.
func (m *mounter) readonly(paths []string) {
	for _, p := range paths {
		m.l.Doing(fmt.Sprintf("make %s read-only", p))
		from := m.l.Len()
		m.open(p, oPath, m.temp[0]).Allow(unix.ENOENT, unix.ENOTDIR)
		m.l.Call(unix.SYS_OPEN_TREE, program.InReg(m.temp[0]), m.b.Str(""),
			program.Val(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)).Into(m.temp[1])
		m.setAttributes(m.temp[1], unix.AT_RECURSIVE, unix.MOUNT_ATTR_RDONLY, 0, 0)
		m.attach(m.temp[1], m.temp[0])
		m.l.FailTo(from)
	}
}

// mask hides what is at paths, where it exists: a file behind /dev/null, a
// directory behind the empty one whose mount is in the register nothing.
func (m *mounter) mask(paths []string, nothing uint8) {
	for _, p := range paths {
		m.l.Doing(fmt.Sprintf("mask %s", p))
		absent := m.l.Len()
		m.open(p, oPath, m.temp[0]).Allow(unix.ENOENT, unix.ENOTDIR)
		const clone = unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
		m.l.Call(unix.SYS_OPEN_TREE, program.Cwd, m.b.Str("/dev/null"), program.Val(clone)).Into(m.temp[1])
		file := m.l.Len()
		m.attach(m.temp[1], m.temp[0]).Allow(unix.EINVAL, unix.ENOTDIR) // a file onto a directory
		m.l.Call(unix.SYS_OPEN_TREE, program.InReg(nothing), m.b.Str(""), program.Val(clone|unix.AT_EMPTY_PATH)).Into(m.temp[1])
		m.attach(m.temp[1], m.temp[0])
		m.l.SkipTo(file)
		m.l.FailTo(absent)
	}
}
