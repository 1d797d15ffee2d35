package plan

import (
	"strings"

	"golang.org/x/sys/unix"

	"gantry/internal/problem"
)

// mountOptions is the meaning of an OCI mount's options.
type mountOptions struct {
	bind, recursive bool
	set, clear      uint64 // MOUNT_ATTR_*
	deepSet         uint64 // MOUNT_ATTR_* for the whole tree
	propagation     uint64 // MS_SHARED and so on, MS_REC with it; 0: none
	data            []string
}

type attribute struct {
	set, clear, deep uint64
}

// attributes are the options that belong to a mount and not to its file system.
var attributes = map[string]attribute{
	"ro":          {set: unix.MOUNT_ATTR_RDONLY},
	"rw":          {clear: unix.MOUNT_ATTR_RDONLY},
	"nosuid":      {set: unix.MOUNT_ATTR_NOSUID},
	"suid":        {clear: unix.MOUNT_ATTR_NOSUID},
	"nodev":       {set: unix.MOUNT_ATTR_NODEV},
	"dev":         {clear: unix.MOUNT_ATTR_NODEV},
	"noexec":      {set: unix.MOUNT_ATTR_NOEXEC},
	"exec":        {clear: unix.MOUNT_ATTR_NOEXEC},
	"nodiratime":  {set: unix.MOUNT_ATTR_NODIRATIME},
	"diratime":    {clear: unix.MOUNT_ATTR_NODIRATIME},
	"nosymfollow": {set: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"symfollow":   {clear: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"noatime":     {set: unix.MOUNT_ATTR_NOATIME, clear: unix.MOUNT_ATTR__ATIME},
	"relatime":    {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	"strictatime": {set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME},
	"atime":       {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	"rro":         {deep: unix.MOUNT_ATTR_RDONLY},
	"rnosuid":     {deep: unix.MOUNT_ATTR_NOSUID},
	"rnodev":      {deep: unix.MOUNT_ATTR_NODEV},
	"rnoexec":     {deep: unix.MOUNT_ATTR_NOEXEC},
	"defaults":    {},
}

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
		switch a, isAttribute := attributes[o]; {
		case isAttribute:
			m.set = m.set&^a.clear | a.set
			m.clear = m.clear&^a.set | a.clear
			m.deepSet |= a.deep
		case propagations[o] != 0:
			m.propagation = propagations[o]
		case o == "bind":
			m.bind = true
		case o == "rbind":
			m.bind, m.recursive = true, true
		case o == "tmpcopyup", o == "copy-symlink", o == "idmap", o == "ridmap":
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
