package cgroup

import (
	"os"
	"path"
	"strings"
)

// Features is what the host's cgroups can limit.
type Features struct {
	Memory, Swap, MemoryReservation  bool
	Swappiness, OOMKillDisable       bool
	Pids                             bool
	CPUShares, CPUQuota, CPURealtime bool
	Cpuset                           bool
	IOWeight, IOWeightDevice         bool
	ReadBps, WriteBps, ReadIOps      bool
	WriteIOps                        bool
	CPUs, MemoryNodes                string // those there are, as a list: "0-3,8"
}

// Features looks at the files of the group, which exists where all controllers
// are cgroup2's; elsewhere at those of the hierarchies' roots.
func (g *Group) Features() Features {
	if g.host.Pure() {
		return g.features2()
	}
	has := func(controller, file string) bool {
		dir := g.host.V1[controller]
		return dir != "" && exists(path.Join(dir, file))
	}
	return Features{
		Memory: has("memory", "memory.limit_in_bytes"), Swap: has("memory", "memory.memsw.limit_in_bytes"),
		MemoryReservation: has("memory", "memory.soft_limit_in_bytes"),
		Swappiness:        has("memory", "memory.swappiness"), OOMKillDisable: has("memory", "memory.oom_control"),
		Pids:      g.host.V1["pids"] != "",
		CPUShares: has("cpu", "cpu.shares"), CPUQuota: has("cpu", "cpu.cfs_quota_us"), CPURealtime: has("cpu", "cpu.rt_runtime_us"),
		Cpuset:         g.host.V1["cpuset"] != "",
		IOWeight:       has("blkio", "blkio.weight") || has("blkio", "blkio.bfq.weight"),
		IOWeightDevice: has("blkio", "blkio.weight_device") || has("blkio", "blkio.bfq.weight_device"),
		ReadBps:        has("blkio", "blkio.throttle.read_bps_device"), WriteBps: has("blkio", "blkio.throttle.write_bps_device"),
		ReadIOps: has("blkio", "blkio.throttle.read_iops_device"), WriteIOps: has("blkio", "blkio.throttle.write_iops_device"),
		CPUs: text(path.Join(g.host.V1["cpuset"], "cpuset.cpus")), MemoryNodes: text(path.Join(g.host.V1["cpuset"], "cpuset.mems")),
	}
}

func (g *Group) features2() Features {
	dir := g.unified()
	has := func(file string) bool { return exists(path.Join(dir, file)) }
	io := has("io.max")
	return Features{
		Memory: has("memory.max"), Swap: has("memory.swap.max"), MemoryReservation: has("memory.low"),
		Pids: has("pids.max"), CPUShares: has("cpu.weight"), CPUQuota: has("cpu.max"), Cpuset: has("cpuset.cpus"),
		IOWeight: has("io.weight") || has("io.bfq.weight"), IOWeightDevice: has("io.bfq.weight"),
		ReadBps: io, WriteBps: io, ReadIOps: io, WriteIOps: io,
		CPUs: text(path.Join(dir, "cpuset.cpus.effective")), MemoryNodes: text(path.Join(dir, "cpuset.mems.effective")),
	}
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// text is what a file holds; empty if there is none.
func text(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}
