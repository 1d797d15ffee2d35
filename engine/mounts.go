package engine

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	dcontainer "github.com/moby/moby/api/types/container"
	dmount "github.com/moby/moby/api/types/mount"

	"gantry/engine/volume"
	"gantry/internal/problem"
)

// mountPoint is one thing mounted in a container, as inspect shows it, and what
// else must be known to mount it.
type mountPoint struct {
	dcontainer.MountPoint
	NoCopy       bool              `json:",omitempty"` // of a volume: do not fill it from the image
	Labels       map[string]string `json:",omitempty"` // of a volume to be made
	Anonymous    bool              `json:",omitempty"` // a volume made for this container
	CreateSource bool              `json:",omitempty"` // of a bind: make a missing directory
	NonRecursive bool              `json:",omitempty"` // of a bind: without what is mounted below
	ReadOnlyTop  bool              `json:",omitempty"` // read-only without what is mounted below
	Options      []string          `json:",omitempty"` // of a tmpfs
	Implied      bool              `json:",omitempty"` // by the image or VolumesFrom: gives way to what is asked for
}

// planMounts decides what is mounted in a container: the mounts of other
// containers, then binds, then mounts, then tmpfs, then the image's volumes,
// each giving way to those that the request names. others resolves VolumesFrom.
func planMounts(cfg *dcontainer.Config, host *dcontainer.HostConfig, others func(ref string) ([]mountPoint, error)) ([]mountPoint, error) {
	points := map[string]mountPoint{}
	add := func(p mountPoint) error {
		if old, taken := points[p.Destination]; taken && !old.Implied {
			if p.Implied {
				return nil
			}
			return problem.New(problem.Invalid, "Duplicate mount point: %s", p.Destination)
		}
		points[p.Destination] = p
		return nil
	}
	for _, from := range host.VolumesFrom {
		if err := addVolumesFrom(from, others, add); err != nil {
			return nil, err
		}
	}
	for _, bind := range host.Binds {
		p, err := parseBind(bind)
		if err != nil {
			return nil, err
		}
		if err := add(p); err != nil {
			return nil, err
		}
	}
	for _, m := range host.Mounts {
		p, err := fromMount(m)
		if err != nil {
			return nil, err
		}
		if err := add(p); err != nil {
			return nil, err
		}
	}
	for _, target := range slices.Sorted(maps.Keys(host.Tmpfs)) {
		p, err := fromTmpfs(target, host.Tmpfs[target])
		if err != nil {
			return nil, err
		}
		if err := add(p); err != nil {
			return nil, err
		}
	}
	for _, target := range slices.Sorted(maps.Keys(cfg.Volumes)) {
		destination, err := destinationOf(target)
		if err != nil {
			return nil, err
		}
		p := mountPoint{Anonymous: true, Implied: true}
		p.MountPoint = dcontainer.MountPoint{Type: dmount.TypeVolume, Driver: volume.Driver, Destination: destination, RW: true}
		if err := add(p); err != nil {
			return nil, err
		}
	}
	// Parents before what is mounted inside them.
	return slices.SortedFunc(maps.Values(points), func(a, b mountPoint) int {
		return strings.Compare(a.Destination, b.Destination)
	}), nil
}

func addVolumesFrom(spec string, others func(string) ([]mountPoint, error), add func(mountPoint) error) error {
	ref, mode, _ := strings.Cut(spec, ":")
	if ref == "" {
		return problem.New(problem.Invalid, "volumes-from specification cannot be an empty string")
	}
	if mode != "" && mode != "rw" && mode != "ro" && mode != "z" {
		return problem.New(problem.Invalid, "invalid mode for volumes-from: %s", mode)
	}
	points, err := others(ref)
	if err != nil {
		return err
	}
	for _, p := range points {
		if p.Type == dmount.TypeTmpfs {
			continue
		}
		p.RW = p.RW && mode != "ro"
		p.NoCopy, p.Anonymous, p.Implied = true, false, true
		if err := add(p); err != nil {
			return err
		}
	}
	return nil
}

// parseBind parses SOURCE:DESTINATION[:MODE]. A source which is no absolute
// path is the name of a volume.
func parseBind(bind string) (mountPoint, error) {
	invalid := func() (mountPoint, error) {
		return mountPoint{}, problem.New(problem.Invalid, "invalid volume specification: '%s'", bind)
	}
	parts := strings.Split(bind, ":")
	if len(parts) > 3 || slices.Contains(parts, "") {
		return invalid()
	}
	if len(parts) == 1 {
		parts = []string{"", parts[0]}
	}
	p := mountPoint{MountPoint: dcontainer.MountPoint{RW: true}}
	if len(parts) == 3 {
		p.Mode = parts[2]
	}
	var err error
	if p.Destination, err = destinationOf(parts[1]); err != nil {
		return mountPoint{}, err
	}
	if path.IsAbs(parts[0]) {
		p.Type, p.Source, p.CreateSource = dmount.TypeBind, path.Clean(parts[0]), true
		p.Propagation = dmount.PropagationRPrivate
	} else {
		p.Type, p.Name, p.Driver, p.Anonymous = dmount.TypeVolume, parts[0], volume.Driver, parts[0] == ""
	}
	if p.Mode != "" {
		for mode := range strings.SplitSeq(p.Mode, ",") {
			if !p.setMode(mode) {
				return mountPoint{}, problem.New(problem.Invalid, "invalid mode: %s", p.Mode)
			}
		}
	}
	return p, nil
}

// setMode applies one word of a bind's mode and tells whether it is one.
func (p *mountPoint) setMode(mode string) bool {
	switch mode {
	case "rw":
		p.RW = true
	case "ro":
		p.RW = false
	case "z", "Z": // labels of SELinux, which no supported host has
	case "consistent", "cached", "delegated": // hints that Linux ignores
	case "nocopy":
		p.NoCopy = true
		return p.Type == dmount.TypeVolume
	default:
		p.Propagation = dmount.Propagation(mode)
		return p.Type == dmount.TypeBind && slices.Contains(dmount.Propagations, p.Propagation)
	}
	return true
}

// fromMount is parseBind for the API's structured form.
func fromMount(m dmount.Mount) (mountPoint, error) {
	invalid := func(format string, args ...any) (mountPoint, error) {
		return mountPoint{}, problem.New(problem.Invalid, "invalid mount config for type %q: %s", m.Type, fmt.Sprintf(format, args...))
	}
	destination, err := destinationOf(m.Target)
	switch {
	case m.Target == "":
		return invalid("field Target must not be empty")
	case err != nil:
		return invalid("%v", err)
	case m.ClusterOptions != nil || m.ImageOptions != nil:
		return invalid("cluster and image mounts are not supported by this version of Gantry")
	case m.BindOptions != nil && m.Type != dmount.TypeBind:
		return invalid("field BindOptions must not be specified")
	case m.VolumeOptions != nil && m.Type != dmount.TypeVolume:
		return invalid("field VolumeOptions must not be specified")
	case m.TmpfsOptions != nil && m.Type != dmount.TypeTmpfs:
		return invalid("field TmpfsOptions must not be specified")
	}
	p := mountPoint{MountPoint: dcontainer.MountPoint{Type: m.Type, Destination: destination, RW: !m.ReadOnly}}
	switch m.Type {
	case dmount.TypeBind:
		if !path.IsAbs(m.Source) {
			return invalid("invalid mount path: '%s' mount path must be absolute", m.Source)
		}
		p.Source, p.Propagation = path.Clean(m.Source), dmount.PropagationRPrivate
		if o := m.BindOptions; o != nil {
			if o.Propagation != "" {
				p.Propagation = o.Propagation
			}
			if !slices.Contains(dmount.Propagations, p.Propagation) {
				return invalid("invalid propagation mode: %s", p.Propagation)
			}
			p.NonRecursive, p.CreateSource, p.ReadOnlyTop = o.NonRecursive, o.CreateMountpoint, o.ReadOnlyNonRecursive
		}
	case dmount.TypeVolume:
		p.Name, p.Driver, p.Anonymous = m.Source, volume.Driver, m.Source == ""
		if o := m.VolumeOptions; o != nil {
			p.NoCopy, p.Labels = o.NoCopy, o.Labels
			if o.Subpath != "" {
				return invalid("field VolumeOptions.Subpath is not supported by this version of Gantry")
			}
			if d := o.DriverConfig; d != nil && (d.Name != "" && d.Name != volume.Driver || len(d.Options) > 0) {
				return invalid("volume driver %q with options %v is not supported by this version of Gantry", d.Name, d.Options)
			}
		}
	case dmount.TypeTmpfs:
		if m.Source != "" {
			return invalid("field Source must not be specified")
		}
		p.Options = tmpfsOptions(m.TmpfsOptions)
	default:
		return invalid("mount type is not supported by this version of Gantry")
	}
	return p, nil
}

func tmpfsOptions(o *dmount.TmpfsOptions) []string {
	options := []string{"noexec", "nosuid", "nodev"}
	if o == nil {
		return options
	}
	for _, pair := range o.Options {
		if option := strings.Join(pair, "="); option == "exec" {
			options = slices.DeleteFunc(options, func(s string) bool { return s == "noexec" })
		} else {
			options = append(options, option)
		}
	}
	if o.Mode != 0 {
		options = append(options, fmt.Sprintf("mode=%o", o.Mode))
	}
	if o.SizeBytes != 0 {
		options = append(options, "size="+strconv.FormatInt(o.SizeBytes, 10))
	}
	return options
}

// fromTmpfs parses the options of --tmpfs TARGET:OPTIONS.
func fromTmpfs(target, options string) (mountPoint, error) {
	destination, err := destinationOf(target)
	if err != nil {
		return mountPoint{}, err
	}
	p := mountPoint{Options: []string{"noexec", "nosuid", "nodev"}}
	p.MountPoint = dcontainer.MountPoint{Type: dmount.TypeTmpfs, Destination: destination, RW: true, Mode: options}
	if options == "" {
		return p, nil
	}
	opposite := map[string]string{"exec": "noexec", "suid": "nosuid", "dev": "nodev"}
	for option := range strings.SplitSeq(options, ",") {
		key, _, _ := strings.Cut(option, "=")
		switch key {
		case "exec", "suid", "dev":
			p.Options = slices.DeleteFunc(p.Options, func(s string) bool { return s == opposite[key] })
		case "ro":
			p.RW = false
		case "rw", "noexec", "nosuid", "nodev":
		case "size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol",
			"sync", "async", "dirsync", "atime", "noatime", "relatime", "norelatime", "strictatime", "diratime", "nodiratime":
			p.Options = append(p.Options, option)
		default:
			return mountPoint{}, problem.New(problem.Invalid, "invalid tmpfs option [%q]", option)
		}
	}
	return p, nil
}

func destinationOf(target string) (string, error) {
	if !path.IsAbs(target) {
		return "", problem.New(problem.Invalid, "invalid mount path: '%s' mount path must be absolute", target)
	}
	clean := path.Clean(target)
	if clean == "/" {
		return "", problem.New(problem.Invalid, "invalid specification: destination can't be '/'")
	}
	return clean, nil
}
