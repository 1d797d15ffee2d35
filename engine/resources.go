package engine

import (
	"runtime"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/blkiodev"
	dcontainer "github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/engine/container"
)

const minMemory = 6 << 20 // the reference's

// validateLimits refuses limits that are wrong on every host.
func validateLimits(h *dcontainer.HostConfig) error {
	switch {
	case h.Memory != 0 && h.Memory < minMemory:
		return invalid("Minimum memory limit allowed is 6MB")
	case h.MemoryReservation != 0 && h.MemoryReservation < minMemory:
		return invalid("Minimum memory reservation allowed is 6MB")
	case h.Memory > 0 && h.MemoryReservation > h.Memory:
		return invalid("Minimum memory limit can not be less than memory reservation limit, see usage")
	case h.MemorySwap < -1:
		return invalid("Invalid memory swap limit: %d", h.MemorySwap)
	case h.Memory == 0 && h.MemorySwap > 0:
		return invalid("You should always set the Memory limit when using Memoryswap limit, see usage")
	case h.MemorySwap > 0 && h.MemorySwap < h.Memory:
		return invalid("Minimum memoryswap limit should be larger than memory limit, see usage")
	case h.MemorySwappiness != nil && (*h.MemorySwappiness < -1 || *h.MemorySwappiness > 100):
		return invalid("Invalid value: %d, valid memory swappiness range is 0-100", *h.MemorySwappiness)
	case h.OomScoreAdj < -1000 || h.OomScoreAdj > 1000:
		return invalid("Invalid value %d, range for oom score adj is [-1000, 1000]", h.OomScoreAdj)
	case h.ShmSize < 0:
		return invalid("SHM size can not be less than 0")
	case strings.Contains(h.CgroupParent, ".."):
		return invalid("CgroupParent %q must be without \"..\"", h.CgroupParent)
	case h.BlkioWeight != 0 && (h.BlkioWeight < 10 || h.BlkioWeight > 1000):
		return invalid("Range of blkio weight is from 10 to 1000")
	case h.IOMaximumBandwidth != 0 || h.IOMaximumIOps != 0:
		return invalid("Invalid QoS settings: %s does not support Maximum IO Bandwidth or Maximum IO IOps", runtime.GOOS)
	}
	for _, u := range h.Ulimits {
		if _, err := units.ParseUlimit(u.String()); err != nil {
			return invalid("%w", err)
		}
	}
	return validateCPU(&h.Resources)
}

func validateCPU(r *dcontainer.Resources) error {
	switch cpus := runtime.NumCPU(); {
	case r.NanoCPUs > 0 && r.CPUPeriod > 0:
		return invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set")
	case r.NanoCPUs > 0 && r.CPUQuota > 0:
		return invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
	case r.NanoCPUs < 0 || r.NanoCPUs > int64(cpus)*1e9:
		return invalid("range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", cpus, cpus)
	case r.CPUShares < 0:
		return invalid("invalid CPU shares (%d): value must be a positive integer", r.CPUShares)
	case r.CPUPeriod != 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1000000):
		return invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case r.CPUQuota > 0 && r.CPUQuota < 1000:
		return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	case r.CPURealtimePeriod != 0 && r.CPURealtimeRuntime > r.CPURealtimePeriod:
		return invalid("cpu real-time runtime cannot be higher than cpu real-time period")
	}
	return nil
}

// Limits is what this host's cgroups can limit.
func (e *Engine) Limits() (container.Features, error) { return e.cfg.Runtime.Features() }

// fitToHost takes what this host cannot limit out of r, and warns of it in the
// reference's words; what the reference refuses is refused.
func fitToHost(r *dcontainer.Resources, f container.Features) (warnings []string, err error) {
	if r.MemorySwappiness != nil && *r.MemorySwappiness == -1 {
		r.MemorySwappiness = nil
	}
	switch {
	case r.NanoCPUs > 0 && !f.CPUQuota:
		return nil, invalid("NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted")
	case (r.CPURealtimePeriod != 0 || r.CPURealtimeRuntime != 0) && !f.CPURealtime:
		return nil, invalid("kernel does not support CPU real-time scheduler")
	}
	for _, field := range []struct {
		set, has bool
		warning  string
		discard  func()
	}{
		{r.Memory > 0, f.Memory, "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.",
			func() { r.Memory, r.MemorySwap = 0, -1 }},
		{r.Memory > 0 && r.MemorySwap != -1, f.Swap || !f.Memory, "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.",
			func() { r.MemorySwap = -1 }},
		{r.MemorySwappiness != nil, f.Swappiness, "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.",
			func() { r.MemorySwappiness = nil }},
		{r.MemoryReservation > 0, f.MemoryReservation, "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded.",
			func() { r.MemoryReservation = 0 }},
		{r.OomKillDisable != nil && *r.OomKillDisable, f.OOMKillDisable, "Your kernel does not support OomKillDisable. OomKillDisable discarded.",
			func() { r.OomKillDisable = nil }},
		{r.PidsLimit != nil && *r.PidsLimit > 0, f.Pids, "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.",
			func() { r.PidsLimit = nil }},
		{r.CPUShares > 0, f.CPUShares, "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.",
			func() { r.CPUShares = 0 }},
		{r.CPUPeriod != 0 || r.CPUQuota != 0, f.CPUQuota, "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.",
			func() { r.CPUPeriod, r.CPUQuota = 0, 0 }},
		{r.CPUPercent > 0, false, runtime.GOOS + " does not support CPU percent. Percent discarded.",
			func() { r.CPUPercent = 0 }},
		{r.CpusetCpus != "" || r.CpusetMems != "", f.Cpuset, "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.",
			func() { r.CpusetCpus, r.CpusetMems = "", "" }},
		{r.BlkioWeight > 0, f.IOWeight, "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.",
			func() { r.BlkioWeight = 0 }},
		{len(r.BlkioWeightDevice) > 0, f.IOWeightDevice, "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.",
			func() { r.BlkioWeightDevice = nil }},
		{len(r.BlkioDeviceReadBps) > 0, f.ReadBps, "Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit discarded.",
			func() { r.BlkioDeviceReadBps = nil }},
		{len(r.BlkioDeviceWriteBps) > 0, f.WriteBps, "Your kernel does not support BPS Block I/O write limit or the cgroup is not mounted. Block I/O BPS write limit discarded.",
			func() { r.BlkioDeviceWriteBps = nil }},
		{len(r.BlkioDeviceReadIOps) > 0, f.ReadIOps, "Your kernel does not support IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS read limit discarded.",
			func() { r.BlkioDeviceReadIOps = nil }},
		{len(r.BlkioDeviceWriteIOps) > 0, f.WriteIOps, "Your kernel does not support IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS write limit discarded.",
			func() { r.BlkioDeviceWriteIOps = nil }},
	} {
		if field.set && !field.has {
			warnings = append(warnings, field.warning)
			field.discard()
		}
	}
	if r.OomKillDisable != nil && *r.OomKillDisable && r.Memory == 0 {
		warnings = append(warnings, "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.")
	}
	return warnings, checkCpuset(r, f)
}

// checkCpuset refuses CPUs and memory nodes that the host does not have.
func checkCpuset(r *dcontainer.Resources, f container.Features) error {
	for _, set := range []struct{ name, what, want, have string }{
		{"cpus", "CPUs", r.CpusetCpus, f.CPUs}, {"mems", "memory nodes", r.CpusetMems, f.MemoryNodes},
	} {
		wanted, err := parseSet(set.want)
		if err != nil {
			return invalid("Invalid value %s for cpuset %s: %w", set.want, set.name, err)
		}
		had, err := parseSet(set.have)
		if err != nil {
			return err
		}
		for n := range wanted {
			if !had[n] {
				return invalid("Requested %s are not available - requested %s, available: %s", set.what, set.want, set.have)
			}
		}
	}
	return nil
}

// resources translates the limits, without the devices that may be used.
func resources(r *dcontainer.Resources) (*specs.LinuxResources, error) {
	out := &specs.LinuxResources{Memory: memoryLimits(r), CPU: cpuLimits(r)}
	if r.PidsLimit != nil && *r.PidsLimit != 0 {
		limit := *r.PidsLimit
		out.Pids = &specs.LinuxPids{Limit: &limit}
	}
	var err error
	out.BlockIO, err = ioLimits(r)
	return out, err
}

func memoryLimits(r *dcontainer.Resources) *specs.LinuxMemory {
	m := &specs.LinuxMemory{DisableOOMKiller: r.OomKillDisable}
	for field, value := range map[**int64]int64{
		&m.Limit: r.Memory, &m.Reservation: r.MemoryReservation, &m.Swap: r.MemorySwap,
	} {
		if value != 0 {
			*field = &value
		}
	}
	if r.MemorySwappiness != nil && *r.MemorySwappiness >= 0 {
		swappiness := uint64(*r.MemorySwappiness)
		m.Swappiness = &swappiness
	}
	return m
}

func cpuLimits(r *dcontainer.Resources) *specs.LinuxCPU {
	cpu := &specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	if r.CPUShares != 0 {
		shares := uint64(r.CPUShares)
		cpu.Shares = &shares
	}
	quota, period := r.CPUQuota, uint64(r.CPUPeriod)
	if r.NanoCPUs > 0 {
		period = 100_000 // microseconds
		quota = r.NanoCPUs * int64(period) / 1e9
	}
	if quota != 0 {
		cpu.Quota = &quota
	}
	if period != 0 {
		cpu.Period = &period
	}
	if r.CPURealtimePeriod != 0 {
		period := uint64(r.CPURealtimePeriod)
		cpu.RealtimePeriod = &period
	}
	if r.CPURealtimeRuntime != 0 {
		cpu.RealtimeRuntime = &r.CPURealtimeRuntime
	}
	return cpu
}

func ioLimits(r *dcontainer.Resources) (*specs.LinuxBlockIO, error) {
	out := &specs.LinuxBlockIO{}
	if r.BlkioWeight != 0 {
		out.Weight = &r.BlkioWeight
	}
	for _, d := range r.BlkioWeightDevice {
		number, err := blockDevice(d.Path)
		if err != nil {
			return nil, err
		}
		w := specs.LinuxWeightDevice{Weight: &d.Weight}
		w.Major, w.Minor = number[0], number[1]
		out.WeightDevice = append(out.WeightDevice, w)
	}
	for to, from := range map[*[]specs.LinuxThrottleDevice][]*blkiodev.ThrottleDevice{
		&out.ThrottleReadBpsDevice: r.BlkioDeviceReadBps, &out.ThrottleWriteBpsDevice: r.BlkioDeviceWriteBps,
		&out.ThrottleReadIOPSDevice: r.BlkioDeviceReadIOps, &out.ThrottleWriteIOPSDevice: r.BlkioDeviceWriteIOps,
	} {
		for _, d := range from {
			number, err := blockDevice(d.Path)
			if err != nil {
				return nil, err
			}
			t := specs.LinuxThrottleDevice{Rate: d.Rate}
			t.Major, t.Minor = number[0], number[1]
			*to = append(*to, t)
		}
	}
	return out, nil
}

// blockDevice returns the numbers of the device at path.
func blockDevice(path string) ([2]int64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return [2]int64{}, invalid("block device %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return [2]int64{}, invalid("%s is not a block device", path)
	}
	return [2]int64{int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))}, nil
}
