package cgroup

import (
	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runtime-spec/specs-go"

	"gantry/internal/problem"
)

// Resources translates the limits of a runtime-spec for a container's group:
// all devices but the default ones are denied unless r says otherwise.
func (h *Host) Resources(r *specs.LinuxResources) (*cgroups.Resources, error) {
	if r == nil {
		r = &specs.LinuxResources{}
	}
	out, err := h.Limits(r)
	if err != nil {
		return nil, err
	}
	out.SkipDevices = false
	for _, d := range r.Devices {
		rule := &devices.Rule{Major: devices.Wildcard, Minor: devices.Wildcard, Allow: d.Allow,
			Permissions: devices.Permissions(d.Access), Type: devices.WildcardDevice}
		if d.Type != "" {
			rule.Type = devices.Type(d.Type[0])
		}
		if d.Major != nil {
			rule.Major = *d.Major
		}
		if d.Minor != nil {
			rule.Minor = *d.Minor
		}
		if rule.Permissions == "" {
			rule.Permissions = "rwm"
		}
		if !rule.Type.IsValid() || !rule.Permissions.IsValid() {
			return nil, problem.New(problem.Invalid, "linux.resources.devices: type %q, access %q", d.Type, d.Access)
		}
		out.Devices = append(out.Devices, rule)
	}
	out.Devices = append(out.Devices, defaultDevices()...)
	return out, nil
}

// defaultDevices are allowed in every container, runtime-spec
// config-linux.md "Default Devices"; nodes of all devices may be made.
func defaultDevices() []*devices.Rule {
	rule := func(t devices.Type, major, minor int64, p devices.Permissions) *devices.Rule {
		return &devices.Rule{Type: t, Major: major, Minor: minor, Permissions: p, Allow: true}
	}
	const any = devices.Wildcard
	return []*devices.Rule{
		rule(devices.CharDevice, any, any, "m"),
		rule(devices.BlockDevice, any, any, "m"),
		rule(devices.CharDevice, 1, 3, "rwm"), // null
		rule(devices.CharDevice, 1, 5, "rwm"), // zero
		rule(devices.CharDevice, 1, 7, "rwm"), // full
		rule(devices.CharDevice, 1, 8, "rwm"), // random
		rule(devices.CharDevice, 1, 9, "rwm"), // urandom
		rule(devices.CharDevice, 5, 0, "rwm"), // tty
		rule(devices.CharDevice, 5, 1, "rwm"), // console
		rule(devices.CharDevice, 5, 2, "rwm"), // ptmx
		rule(devices.CharDevice, 136, any, "rwm"),
	}
}

// Limits translates r without its devices, which stay as they are: for an
// update, or for a group above containers. What r leaves out is not touched.
func (h *Host) Limits(r *specs.LinuxResources) (*cgroups.Resources, error) {
	out := &cgroups.Resources{SkipDevices: true}
	if r == nil {
		return out, nil
	}
	if len(r.Rdma) > 0 && !h.Pure() && h.V1["rdma"] == "" {
		return nil, problem.New(problem.Unsupported, "linux.resources.rdma needs a host with the rdma controller")
	}
	for device, l := range r.Rdma {
		if out.Rdma == nil {
			out.Rdma = map[string]cgroups.LinuxRdma{}
		}
		out.Rdma[device] = cgroups.LinuxRdma{HcaHandles: l.HcaHandles, HcaObjects: l.HcaObjects}
	}
	if len(r.Unified) > 0 && !h.Pure() {
		return nil, problem.New(problem.Unsupported, "linux.resources.unified needs a host with cgroup2 alone")
	}
	out.Unified = r.Unified
	if n := r.Network; n != nil {
		if n.ClassID != nil {
			out.NetClsClassid = *n.ClassID
		}
		for _, p := range n.Priorities {
			out.NetPrioIfpriomap = append(out.NetPrioIfpriomap, &cgroups.IfPrioMap{Interface: p.Name, Priority: int64(p.Priority)})
		}
	}
	for _, l := range r.HugepageLimits {
		out.HugetlbLimit = append(out.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: l.Pagesize, Limit: l.Limit})
	}
	if p := r.Pids; p != nil && p.Limit != nil {
		limit := *p.Limit
		out.PidsLimit = &limit
	}
	setMemory(out, r.Memory)
	setCPU(out, r.CPU, h.Pure())
	setBlockIO(out, r.BlockIO)
	return out, nil
}

func setMemory(out *cgroups.Resources, m *specs.LinuxMemory) {
	if m == nil {
		return
	}
	set(&out.Memory, m.Limit)
	set(&out.MemoryReservation, m.Reservation)
	set(&out.MemorySwap, m.Swap)
	out.MemorySwappiness = m.Swappiness
	set(&out.OomKillDisable, m.DisableOOMKiller)
	set(&out.MemoryCheckBeforeUpdate, m.CheckBeforeUpdate)
}

func setCPU(out *cgroups.Resources, c *specs.LinuxCPU, v2 bool) {
	if c == nil {
		return
	}
	set(&out.CpuShares, c.Shares)
	if v2 && out.CpuShares != 0 {
		out.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(out.CpuShares)
	}
	set(&out.CpuQuota, c.Quota)
	set(&out.CpuPeriod, c.Period)
	set(&out.CpuRtRuntime, c.RealtimeRuntime)
	set(&out.CpuRtPeriod, c.RealtimePeriod)
	out.CpuBurst = c.Burst
	out.CPUIdle = c.Idle
	out.CpusetCpus, out.CpusetMems = c.Cpus, c.Mems
}

func setBlockIO(out *cgroups.Resources, b *specs.LinuxBlockIO) {
	if b == nil {
		return
	}
	set(&out.BlkioWeight, b.Weight)
	set(&out.BlkioLeafWeight, b.LeafWeight)
	for _, d := range b.WeightDevice {
		var weight, leaf uint16
		set(&weight, d.Weight)
		set(&leaf, d.LeafWeight)
		out.BlkioWeightDevice = append(out.BlkioWeightDevice, cgroups.NewWeightDevice(d.Major, d.Minor, weight, leaf))
	}
	throttle := func(devices []specs.LinuxThrottleDevice) []*cgroups.ThrottleDevice {
		var t []*cgroups.ThrottleDevice
		for _, d := range devices {
			t = append(t, cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate))
		}
		return t
	}
	out.BlkioThrottleReadBpsDevice = throttle(b.ThrottleReadBpsDevice)
	out.BlkioThrottleWriteBpsDevice = throttle(b.ThrottleWriteBpsDevice)
	out.BlkioThrottleReadIOPSDevice = throttle(b.ThrottleReadIOPSDevice)
	out.BlkioThrottleWriteIOPSDevice = throttle(b.ThrottleWriteIOPSDevice)
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}
