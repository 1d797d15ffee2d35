package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	dcontainer "github.com/moby/moby/api/types/container"
	dmount "github.com/moby/moby/api/types/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/engine/container"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

const defaultShmBytes = 64 << 20

// surroundings are what a container's specification is made from besides its
// configuration: what exists only while it starts or runs.
type surroundings struct {
	account  account
	network  string // path of the network namespace; empty: the host's
	ipc, uts string // path of a namespace to join; empty: as the configuration says
	pid      string
	shm      string // directory of the shared memory of a sandbox, or of containers that share it
	files    string // directory of hosts, hostname, resolv.conf
	cgroup   string // parent of the container's cgroup, relative to the instance's
	hostname string
	linked   []string          // variables of legacy links
	apparmor string            // profile; empty: none
	init     string            // program that is to be process 1; empty: the container\'s own
	possible []string          // capabilities that this host can give
	sources  map[string]string // what mounts are bound from, by destination; else their own source

	writableCgroups bool // set by buildSpec
}

// buildSpec translates a container's configuration into a runtime specification.
func buildSpec(cfg *config, in surroundings) (*specs.Spec, error) {
	c, h := cfg.Config, cfg.HostConfig
	opts, err := parseSecurity(h.SecurityOpt)
	if err = errors.Join(err, refuseDevices(h)); err != nil {
		return nil, err
	}
	in.writableCgroups = h.Privileged
	if opts.writableCgroups != nil {
		in.writableCgroups = *opts.writableCgroups
	}
	caps, err := capabilitiesFor(h, in.possible)
	if err != nil {
		return nil, err
	}
	spec := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs", Readonly: h.ReadonlyRootfs},
		Process: &specs.Process{
			Terminal:        c.Tty,
			User:            in.account.User,
			Args:            append([]string{cfg.Path}, cfg.Args...),
			Env:             environment(c, in),
			Cwd:             c.WorkingDir,
			NoNewPrivileges: opts.noNewPrivileges,
			ApparmorProfile: in.apparmor,
			Capabilities:    capabilitySets(caps, in.account.User.UID == 0),
			Rlimits:         rlimits(h.Ulimits),
		},
		Annotations: h.Annotations,
		Linux: &specs.Linux{
			Namespaces:    namespaces(h, in),
			CgroupsPath:   filepath.Join(in.cgroup, cfg.ID),
			MaskedPaths:   h.MaskedPaths,
			ReadonlyPaths: h.ReadonlyPaths,
			Sysctl:        h.Sysctls,
		},
	}
	spec.Process.User.Umask = h.Umask
	if spec.Process.Cwd == "" {
		spec.Process.Cwd = "/"
	}
	// Always: else it would be the daemon's own, which is protected.
	spec.Process.OOMScoreAdj = &h.OomScoreAdj
	if c.Tty && h.ConsoleSize != [2]uint{} {
		spec.Process.ConsoleSize = &specs.Box{Height: h.ConsoleSize[0], Width: h.ConsoleSize[1]}
	}
	if in.uts == "" && !h.UTSMode.IsHost() {
		spec.Hostname, spec.Domainname = in.hostname, c.Domainname
	}
	if spec.Linux.Resources, err = resources(&h.Resources); err != nil {
		return nil, err
	}
	if err := addDevices(spec, h); err != nil {
		return nil, err
	}
	addMounts(spec, cfg, in)
	if in.init != "" {
		spec.Process.Args = append([]string{container.InitPath, "--"}, spec.Process.Args...)
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: container.InitPath, Type: "bind", Source: in.init, Options: []string{"bind", "ro"}})
	}
	spec.Linux.Seccomp, err = seccompFor(opts.seccomp, h.Privileged, caps)
	if err != nil {
		return nil, err
	}
	return spec, nil
}

// environment returns the process's variables: the defaults, then the
// configuration's, then what the user's account gives.
func environment(c *dcontainer.Config, in surroundings) []string {
	env := []string{defaultPath, "HOSTNAME=" + in.hostname}
	if c.Tty {
		env = append(env, "TERM=xterm")
	}
	env = append(env, in.linked...)
	return withHome(mergeEnv(env, c.Env), in.account.Home)
}

func withHome(env []string, home string) []string {
	for _, entry := range env {
		if strings.HasPrefix(entry, "HOME=") {
			return env
		}
	}
	return append(env, "HOME="+home)
}

// capabilitySets gives the sets of a process: only root's are effective at once.
func capabilitySets(caps []string, root bool) *specs.LinuxCapabilities {
	sets := &specs.LinuxCapabilities{Bounding: caps}
	if root {
		sets.Permitted, sets.Effective = caps, caps
	}
	return sets
}

func rlimits(ulimits []*dcontainer.Ulimit) []specs.POSIXRlimit {
	var limits []specs.POSIXRlimit
	for _, u := range ulimits {
		limits = append(limits, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard)})
	}
	return limits
}

func namespaces(h *dcontainer.HostConfig, in surroundings) []specs.LinuxNamespace {
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	if in.network != "" {
		list = append(list, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: in.network})
	}
	if !h.IpcMode.IsHost() {
		list = append(list, specs.LinuxNamespace{Type: specs.IPCNamespace, Path: in.ipc})
	}
	if !h.UTSMode.IsHost() {
		list = append(list, specs.LinuxNamespace{Type: specs.UTSNamespace, Path: in.uts})
	}
	if !h.PidMode.IsHost() {
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: in.pid})
	}
	if !h.CgroupnsMode.IsHost() {
		list = append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return list
}

// addMounts lists what is mounted over the root file system, parents first.
func addMounts(spec *specs.Spec, cfg *config, in surroundings) {
	h := cfg.HostConfig
	own := map[string]bool{}
	for _, p := range cfg.Mounts {
		own[p.Destination] = true
	}
	for _, m := range kernelMounts(h, in) {
		if !own[m.Destination] {
			spec.Mounts = append(spec.Mounts, m)
		}
	}
	for _, name := range []string{"resolv.conf", "hostname", "hosts"} {
		if target := "/etc/" + name; !own[target] && in.files != "" {
			spec.Mounts = append(spec.Mounts, specs.Mount{
				Destination: target, Type: "bind", Source: filepath.Join(in.files, name), Options: []string{"rbind", "rprivate"},
			})
		}
	}
	for _, p := range cfg.Mounts {
		if source := in.sources[p.Destination]; source != "" {
			p.Source = source
		}
		spec.Mounts = append(spec.Mounts, p.oci())
		switch p.Propagation {
		case dmount.PropagationShared, dmount.PropagationRShared:
			spec.Linux.RootfsPropagation = "shared"
		case dmount.PropagationSlave, dmount.PropagationRSlave:
			if spec.Linux.RootfsPropagation == "" {
				spec.Linux.RootfsPropagation = "rslave"
			}
		}
	}
}

func kernelMounts(h *dcontainer.HostConfig, in surroundings) []specs.Mount {
	access := "ro"
	if h.Privileged {
		access = "rw"
	}
	cgroupAccess := "ro"
	if in.writableCgroups {
		cgroupAccess = "rw"
	}
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{cgroupAccess, "nosuid", "noexec", "nodev"}},
	}
	bind := func(target, source string) specs.Mount {
		return specs.Mount{Destination: target, Type: "bind", Source: source, Options: []string{"rbind", "rprivate"}}
	}
	// Of the IPC namespace that the container is in, also if that is the host's.
	mounts = append(mounts, specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}})
	switch {
	case h.IpcMode.IsNone():
	case h.IpcMode.IsHost():
		mounts = append(mounts, bind("/dev/shm", "/dev/shm"))
	case in.shm != "":
		mounts = append(mounts, bind("/dev/shm", in.shm))
	default:
		size := h.ShmSize
		if size == 0 {
			size = defaultShmBytes
		}
		mounts = append(mounts, specs.Mount{
			Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
			Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + strconv.FormatInt(size, 10)},
		})
	}
	return mounts
}

// oci translates a mount point.
func (p mountPoint) oci() specs.Mount {
	if p.Type == dmount.TypeTmpfs {
		options := p.Options
		if !p.RW {
			options = append(options[:len(options):len(options)], "ro")
		}
		return specs.Mount{Destination: p.Destination, Type: "tmpfs", Source: "tmpfs", Options: options}
	}
	m := specs.Mount{Destination: p.Destination, Type: "bind", Source: p.Source, Options: []string{"rbind"}}
	if p.NonRecursive {
		m.Options[0] = "bind"
	}
	propagation := p.Propagation
	if propagation == "" {
		propagation = dmount.PropagationRPrivate
	}
	m.Options = append(m.Options, string(propagation))
	switch {
	case p.RW:
	case p.ReadOnlyTop || p.Propagation != "" && p.Propagation != dmount.PropagationRPrivate:
		m.Options = append(m.Options, "ro")
	default:
		// What is mounted below must not be a way around "read-only".
		m.Options = append(m.Options, "ro", "rro")
	}
	return m
}

// hostHostname is what a container on the host's network is called.
func hostHostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return name
}
