package engine

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	dcontainer "github.com/moby/moby/api/types/container"
	dmount "github.com/moby/moby/api/types/mount"
	"github.com/opencontainers/go-digest"

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
	DriverOpts   map[string]string `json:",omitempty"` // of a volume to be made
	Subpath      string            `json:",omitempty"` // of a volume or image: what is mounted of it
	Image        digest.Digest     `json:",omitempty"` // of an image mount, with its layers
	Layers       []digest.Digest   `json:",omitempty"`
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
		if p.Type == dmount.TypeTmpfs || p.Type == dmount.TypeImage {
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
	if p.Mode == "" {
		return p, nil
	}
	given := map[string]bool{}
	for mode := range strings.SplitSeq(p.Mode, ",") {
		// One word of each class.
		if class := modeClass(mode); given[class] || !p.setMode(mode) {
			return mountPoint{}, problem.New(problem.Invalid, "invalid mode: %s", p.Mode)
		} else {
			given[class] = true
		}
	}
	return p, nil
}

// modeClass tells which words of a bind's mode exclude each other.
func modeClass(mode string) string {
	switch mode {
	case "rw", "ro":
		return "access"
	case "z", "Z":
		return "label"
	case "consistent", "cached", "delegated":
		return "consistency"
	case "nocopy":
		return "copy"
	}
	return "propagation"
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

// mountConfigError refuses a mount of the API's structured form.
func mountConfigError(m dmount.Mount, format string, args ...any) error {
	return problem.New(problem.Invalid, "invalid mount config for type %q: %s", m.Type, fmt.Sprintf(format, args...))
}

// fromMount is parseBind for the API's structured form.
func fromMount(m dmount.Mount) (mountPoint, error) {
	if m.Target == "" {
		return mountPoint{}, mountConfigError(m, "field Target must not be empty")
	}
	destination, err := destinationOf(m.Target)
	if err != nil {
		return mountPoint{}, mountConfigError(m, "%v", err)
	}
	for _, f := range []struct {
		set  bool
		name string
		kind dmount.Type
	}{
		{m.BindOptions != nil, "BindOptions", dmount.TypeBind}, {m.VolumeOptions != nil, "VolumeOptions", dmount.TypeVolume},
		{m.TmpfsOptions != nil, "TmpfsOptions", dmount.TypeTmpfs}, {m.ImageOptions != nil, "ImageOptions", dmount.TypeImage},
		{m.ClusterOptions != nil, "ClusterOptions", dmount.TypeCluster},
	} {
		if f.set && m.Type != f.kind {
			return mountPoint{}, mountConfigError(m, "field %s must not be specified", f.name)
		}
	}
	p := mountPoint{MountPoint: dcontainer.MountPoint{Type: m.Type, Destination: destination, RW: !m.ReadOnly}}
	switch m.Type {
	case dmount.TypeBind:
		return p, p.fromBind(m)
	case dmount.TypeVolume:
		return p, p.fromVolume(m)
	case dmount.TypeImage:
		return p, p.fromImage(m)
	case dmount.TypeTmpfs:
		if m.Source != "" {
			return p, mountConfigError(m, "field Source must not be specified")
		}
		p.Options, err = tmpfsOptions(m.TmpfsOptions)
		if err != nil {
			return p, mountConfigError(m, "%v", err)
		}
		return p, nil
	default:
		return p, mountConfigError(m, "mount type unknown")
	}
}

func (p *mountPoint) fromBind(m dmount.Mount) error {
	if m.Source == "" {
		return mountConfigError(m, "field Source must not be empty")
	}
	if !path.IsAbs(m.Source) {
		return mountConfigError(m, "invalid mount path: '%s' mount path must be absolute", m.Source)
	}
	p.Source, p.Propagation = path.Clean(m.Source), dmount.PropagationRPrivate
	o := m.BindOptions
	if o == nil {
		return nil
	}
	if o.Propagation != "" {
		p.Propagation = o.Propagation
	}
	switch {
	case !slices.Contains(dmount.Propagations, p.Propagation):
		return mountConfigError(m, "invalid propagation mode: %s", p.Propagation)
	case o.ReadOnlyForceRecursive && o.ReadOnlyNonRecursive:
		return mountConfigError(m, "conflicting options: ReadOnlyForceRecursive and ReadOnlyNonRecursive")
	case o.ReadOnlyForceRecursive && p.Propagation != dmount.PropagationRPrivate:
		return mountConfigError(m, "ReadOnlyForceRecursive requires the propagation rprivate")
	}
	p.NonRecursive, p.CreateSource, p.ReadOnlyTop = o.NonRecursive, o.CreateMountpoint, o.ReadOnlyNonRecursive
	return nil
}

func (p *mountPoint) fromVolume(m dmount.Mount) error {
	p.Name, p.Driver, p.Anonymous = m.Source, volume.Driver, m.Source == ""
	if m.ReadOnly && p.Anonymous {
		return mountConfigError(m, "must not set ReadOnly mode when using anonymous volumes")
	}
	o := m.VolumeOptions
	if o == nil {
		return nil
	}
	p.NoCopy, p.Labels, p.Subpath = o.NoCopy, o.Labels, o.Subpath
	if d := o.DriverConfig; d != nil {
		p.DriverOpts = d.Options
		if d.Name != "" {
			p.Driver = d.Name
		}
	}
	if p.Subpath != "" && p.Anonymous {
		return mountConfigError(m, "must not set Subpath when using anonymous volumes")
	}
	return checkSubpath(m, p.Subpath)
}

func (p *mountPoint) fromImage(m dmount.Mount) error {
	if m.Source == "" {
		return mountConfigError(m, "field Source must not be empty")
	}
	p.Source, p.Propagation = m.Source, dmount.PropagationRPrivate
	if m.ImageOptions == nil {
		return nil
	}
	p.Subpath = m.ImageOptions.Subpath
	return checkSubpath(m, p.Subpath)
}

func checkSubpath(m dmount.Mount, subpath string) error {
	if subpath != "" && !filepath.IsLocal(subpath) {
		return mountConfigError(m, "subpath must be a relative path within the volume")
	}
	return nil
}

// tmpfsOptions translates the options of a mount of type tmpfs.
func tmpfsOptions(o *dmount.TmpfsOptions) ([]string, error) {
	options := []string{"noexec", "nosuid", "nodev"}
	if o == nil {
		return options, nil
	}
	for _, words := range o.Options {
		if len(words) < 1 || len(words) > 2 {
			return nil, errors.New("invalid option array length")
		}
		switch {
		case words[0] == "exec" && len(words) == 1:
			options = slices.DeleteFunc(options, func(s string) bool { return s == "noexec" })
		case words[0] == "noexec" && len(words) == 1:
		default:
			return nil, errors.New("invalid option: " + words[0])
		}
	}
	if o.Mode != 0 {
		options = append(options, fmt.Sprintf("mode=%o", o.Mode))
	}
	if o.SizeBytes != 0 {
		options = append(options, "size="+strconv.FormatInt(o.SizeBytes, 10))
	}
	return options, nil
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
