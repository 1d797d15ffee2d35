package plan

import (
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/internal/problem"
)

// mountOptions is the meaning of an OCI mount's options.
type mountOptions struct {
	bind, recursive bool
	set, clear      uint64 // MOUNT_ATTR_*
	deepSet         uint64 // MOUNT_ATTR_* for the whole tree
	deepClear       uint64
	propagation     uint64 // MS_SHARED and so on, MS_REC with it; 0: none
	data            []string
	idmap, deepMap  bool // users are mapped, in the whole tree
	copyUp          bool // a tmpfs begins with what it covers
	remount         bool // changes a mount that is there
}

type attribute struct {
	set, clear uint64
}

// attributes are the options that belong to a mount and not to its file system.
var attributes = map[string]attribute{
	"ro":            {set: unix.MOUNT_ATTR_RDONLY},
	"rw":            {clear: unix.MOUNT_ATTR_RDONLY},
	"nosuid":        {set: unix.MOUNT_ATTR_NOSUID},
	"suid":          {clear: unix.MOUNT_ATTR_NOSUID},
	"nodev":         {set: unix.MOUNT_ATTR_NODEV},
	"dev":           {clear: unix.MOUNT_ATTR_NODEV},
	"noexec":        {set: unix.MOUNT_ATTR_NOEXEC},
	"exec":          {clear: unix.MOUNT_ATTR_NOEXEC},
	"nodiratime":    {set: unix.MOUNT_ATTR_NODIRATIME},
	"diratime":      {clear: unix.MOUNT_ATTR_NODIRATIME},
	"nosymfollow":   {set: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"symfollow":     {clear: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"noatime":       {set: unix.MOUNT_ATTR_NOATIME, clear: unix.MOUNT_ATTR__ATIME},
	"relatime":      {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	"strictatime":   {set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME},
	"atime":         {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	"norelatime":    {}, // back to the default, which is relatime
	"nostrictatime": {},
	"defaults":      {},
	"silent":        {}, // what the kernel logs
	"loud":          {},
}

// ofFileSystem are options that the kernel takes for a file system as a whole;
// it ignores them for a bind mount.
var ofFileSystem = map[string]bool{
	"sync": true, "async": true, "dirsync": true, "lazytime": true, "nolazytime": true, "mand": true, "nomand": true,
	"iversion": true, "noiversion": true, "acl": true, "noacl": true,
}

// MountOptions lists the options that are not a file system's own.
func MountOptions() []string {
	list := []string{"bind", "rbind", "remount", "idmap", "ridmap", "tmpcopyup"}
	for name := range attributes {
		list = append(list, name)
		if recursiveName(name) {
			list = append(list, "r"+name)
		}
	}
	list = slices.AppendSeq(list, maps.Keys(propagations))
	list = slices.AppendSeq(list, maps.Keys(ofFileSystem))
	slices.Sort(list)
	return list
}

// recursiveName says whether the attribute also comes with an r before its name,
// for the mounts below too.
func recursiveName(name string) bool { return name != "defaults" && name != "silent" && name != "loud" }

var propagations = map[string]uint64{
	"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC,
	"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC,
	"unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// parseOptions reads the options of a mount; what it does not know is data for
// the file system.
func parseOptions(options []string) (mountOptions, error) {
	var m mountOptions
	for _, o := range options {
		a, isAttribute := attributes[o]
		deep, isDeep := attributes[strings.TrimPrefix(o, "r")]
		switch {
		case isAttribute:
			m.set = m.set&^a.clear | a.set
			m.clear = m.clear&^a.set | a.clear
		case isDeep && recursiveName(o[1:]):
			m.deepSet = m.deepSet&^deep.clear | deep.set
			m.deepClear = m.deepClear&^deep.set | deep.clear
		case propagations[o] != 0:
			m.propagation = propagations[o]
		case o == "bind":
			m.bind = true
		case o == "rbind":
			m.bind, m.recursive = true, true
		case o == "idmap":
			m.idmap = true
		case o == "ridmap":
			m.idmap, m.deepMap = true, true
		case o == "tmpcopyup":
			m.copyUp = true
		case o == "remount":
			m.remount = true
		case o == "copy-symlink":
			return m, problem.New(problem.Unsupported, "mount option %s is not supported", o)
		case o == "":
		default:
			if _, value, _ := strings.Cut(o, "="); len(value) > 255 {
				return m, problem.New(problem.Invalid, "mount option %.40s... is longer than 255 bytes", o)
			}
			m.data = append(m.data, o)
		}
	}
	return m, nil
}
