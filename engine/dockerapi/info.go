package dockerapi

import (
	"net/http"
	"os"
	"path"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"
	dswarm "github.com/moby/moby/api/types/swarm"
	dsystem "github.com/moby/moby/api/types/system"
	"golang.org/x/sys/unix"

	"gantry/engine"
	"gantry/engine/container"
	"gantry/engine/network"
)

func kernelVersion() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

func (c *call) showVersion() error {
	v := dsystem.VersionResponse{
		Version: c.cfg.Version, APIVersion: maxVersion, MinAPIVersion: minVersion,
		Os: runtime.GOOS, Arch: runtime.GOARCH, GoVersion: runtime.Version(), KernelVersion: kernelVersion(),
	}
	v.Platform.Name = "Gantry"
	v.GitCommit, v.BuildTime = revision()
	v.Components = []dsystem.ComponentVersion{{
		Name: "Engine", Version: c.cfg.Version,
		Details: map[string]string{
			"ApiVersion": maxVersion, "MinAPIVersion": minVersion, "Os": v.Os, "Arch": v.Arch,
			"GoVersion": v.GoVersion, "KernelVersion": v.KernelVersion, "Experimental": "false",
			"GitCommit": v.GitCommit, "BuildTime": v.BuildTime,
		},
	}, {
		Name: "gantry-shim", Version: c.cfg.Version, Details: map[string]string{"GitCommit": v.GitCommit},
	}}
	return c.answer(http.StatusOK, v)
}

func (c *call) info() error {
	ctx := c.r.Context()
	images, err := c.cfg.Images.List(ctx)
	if err != nil {
		return err
	}
	memory, err := engine.HostMemory()
	if err != nil {
		return err
	}
	limits, err := c.cfg.Engine.Limits()
	if err != nil {
		return err
	}
	out := dsystem.Info{
		Images: len(images), Driver: engine.StorageDriver,
		DriverStatus: storageStatus(c.cfg.DataDir),
		MemoryLimit:  limits.Memory, SwapLimit: limits.Swap, OomKillDisable: limits.OOMKillDisable, PidsLimit: limits.Pids,
		CPUCfsPeriod: limits.CPUQuota, CPUCfsQuota: limits.CPUQuota, CPUShares: limits.CPUShares, CPUSet: limits.Cpuset,
		IPv4Forwarding: forwards(), LoggingDriver: c.cfg.Engine.LogDriver(),
		OSVersion: releaseField("VERSION_ID"), IndexServerAddress: indexServer, SystemTime: time.Now().Format(time.RFC3339Nano),
		CgroupDriver: "cgroupfs", CgroupVersion: cgroupVersion(), KernelVersion: kernelVersion(),
		OperatingSystem: operatingSystem(), OSType: runtime.GOOS, Architecture: machine(), NCPU: runtime.NumCPU(), MemTotal: int64(memory),
		DockerRootDir: c.cfg.DataDir, ServerVersion: c.cfg.Version, DefaultRuntime: engine.RuntimeName,
		Runtimes:   map[string]dsystem.RuntimeWithStatus{engine.RuntimeName: {}},
		InitBinary: path.Base(container.InitPath), InitCommit: dsystem.Commit{ID: c.cfg.Version},
		Swarm:       dswarm.Info{LocalNodeState: dswarm.LocalNodeStateInactive},
		NGoroutines: runtime.NumGoroutine(),
		Labels:      []string{}, LiveRestoreEnabled: true,
		SecurityOptions: []string{"name=seccomp,profile=builtin", "name=cgroupns"},
		Plugins:         dsystem.PluginsInfo{Volume: []string{"local"}, Network: []string{"bridge", "host", "macvlan", "null"}, Log: engine.LogDrivers},
		RegistryConfig:  c.registryConfig(),
		CDISpecDirs:     []string{}, Warnings: append(limitWarnings(limits), c.cfg.Networks.Warnings(ctx)...),
		FirewallBackend: firewall(c.cfg.Networks),
	}
	switch armor := c.cfg.Engine.AppArmor(); {
	case armor.Default:
		out.SecurityOptions = append([]string{"name=apparmor"}, out.SecurityOptions...)
	case armor.Enabled:
		out.Warnings = append(out.Warnings, "WARNING: apparmor_parser is missing: containers run without the AppArmor profile docker-default")
	}
	if out.ID, err = c.cfg.Engine.Identity(); err != nil {
		return err
	}
	if out.Name, err = os.Hostname(); err != nil {
		return err
	}
	for _, found := range c.cfg.Engine.Containers(ctx) {
		out.Containers++
		switch found.Status {
		case dcontainer.StateRunning, dcontainer.StateRestarting:
			out.ContainersRunning++
		case dcontainer.StatePaused:
			out.ContainersPaused++
		default:
			out.ContainersStopped++
		}
	}
	if c.version.less(1, 25) {
		return c.answer(http.StatusOK, oldInfo(out))
	}
	return c.answer(http.StatusOK, out)
}

// firewall says whom published ports are open to.
func firewall(networks *network.Host) *dsystem.FirewallInfo {
	whom := "open to everybody, past the host's input chains"
	if networks.AsksInput() {
		whom = "open to whom the host's input chains accept (gantryd --bypass-input-policy: to everybody)"
	}
	return &dsystem.FirewallInfo{Driver: "nftables", Info: [][2]string{{"Published ports", whom}}}
}

// limitWarnings says what this host's cgroups cannot limit, in the reference's words.
func limitWarnings(f container.Features) []string {
	warnings := []string{}
	for _, w := range []struct {
		has  bool
		what string
	}{
		{f.Memory, "memory limit"}, {f.Swap, "swap limit"}, {f.OOMKillDisable || cgroupVersion() == "2", "oom kill disable"},
		{f.CPUQuota, "cpu cfs quota"}, {f.CPUQuota, "cpu cfs period"}, {f.CPUShares, "cpu shares"}, {f.Cpuset, "cpuset"},
		{f.ReadBps, "blkio throttle.read_bps_device"}, {f.WriteBps, "blkio throttle.write_bps_device"},
		{f.ReadIOps, "blkio throttle.read_iops_device"}, {f.WriteIOps, "blkio throttle.write_iops_device"},
	} {
		if !w.has {
			warnings = append(warnings, "WARNING: No "+w.what+" support")
		}
	}
	return warnings
}

func cgroupVersion() string {
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return "2"
	}
	return "1"
}

// machine is the kernel's name of the CPU, as the reference shows it.
func machine() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return runtime.GOARCH
	}
	return unix.ByteSliceToString(name.Machine[:])
}

func operatingSystem() string {
	if name := releaseField("PRETTY_NAME"); name != "" {
		return name
	}
	return "Linux"
}

// releaseField returns what the host's os-release says, or nothing.
func releaseField(name string) string {
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			return strings.Trim(value, `"'`)
		}
	}
	return ""
}

// indexServer is what clients log in to when no registry is named.
const indexServer = "https://index.docker.io/v1/"

// forwards tells whether the host passes packets on.
func forwards() bool {
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	return err == nil && strings.TrimSpace(string(data)) == "1"
}

// backings are the reference's names of file systems, by their magic numbers.
var backings = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "extfs", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
	unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs", unix.F2FS_SUPER_MAGIC: "f2fs",
}

// storageStatus says of the storage driver what the reference says.
func storageStatus(dir string) [][2]string {
	backing := "<unknown>"
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil && backings[st.Type] != "" {
		backing = backings[st.Type]
	}
	return [][2]string{
		{"Backing Filesystem", backing}, {"Supports d_type", "true"}, {"Using metacopy", "false"},
		{"Native Overlay Diff", "true"}, {"userxattr", "false"},
	}
}

// revision returns the commit that the program was built from, and when, as far
// as the build says so.
func revision() (commit, built string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "", ""
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			commit = s.Value[:min(7, len(s.Value))]
		case "vcs.time":
			built = s.Value
		}
	}
	return commit, built
}
