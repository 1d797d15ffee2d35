package oci

import (
	"bytes"
	"os"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/internal/problem"
)

// Statistics are what runc's events command shows; its callers decode them by
// these names.
type Statistics struct {
	CPU               cpuStatistics               `json:"cpu"`
	Memory            memoryStatistics            `json:"memory"`
	Pids              cgroups.PidsStats           `json:"pids"`
	Blkio             blockStatistics             `json:"blkio"`
	Hugetlb           map[string]memoryOfPageSize `json:"hugetlb"`
	IntelRdt          struct{}                    `json:"intel_rdt"`
	NetworkInterfaces []struct{}                  `json:"network_interfaces"`
}

type cpuStatistics struct {
	Usage struct {
		Total  uint64   `json:"total,omitempty"`
		Percpu []uint64 `json:"percpu,omitempty"`
		Kernel uint64   `json:"kernel"`
		User   uint64   `json:"user"`
	} `json:"usage"`
	Throttling struct {
		Periods          uint64 `json:"periods,omitempty"`
		ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
		ThrottledTime    uint64 `json:"throttledTime,omitempty"`
	} `json:"throttling"`
}

type memoryEntry struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

type memoryStatistics struct {
	Cache     uint64            `json:"cache,omitempty"`
	Usage     memoryEntry       `json:"usage"`
	Swap      memoryEntry       `json:"swap"`
	Kernel    memoryEntry       `json:"kernel"`
	KernelTCP memoryEntry       `json:"kernelTCP"`
	Raw       map[string]uint64 `json:"raw,omitempty"`
}

type memoryOfPageSize struct {
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

type blockStatistics struct {
	IoServiceBytesRecursive []cgroups.BlkioStatEntry `json:"ioServiceBytesRecursive,omitempty"`
	IoServicedRecursive     []cgroups.BlkioStatEntry `json:"ioServicedRecursive,omitempty"`
	IoQueuedRecursive       []cgroups.BlkioStatEntry `json:"ioQueueRecursive,omitempty"`
	IoServiceTimeRecursive  []cgroups.BlkioStatEntry `json:"ioServiceTimeRecursive,omitempty"`
	IoWaitTimeRecursive     []cgroups.BlkioStatEntry `json:"ioWaitTimeRecursive,omitempty"`
	IoMergedRecursive       []cgroups.BlkioStatEntry `json:"ioMergedRecursive,omitempty"`
	IoTimeRecursive         []cgroups.BlkioStatEntry `json:"ioTimeRecursive,omitempty"`
	SectorsRecursive        []cgroups.BlkioStatEntry `json:"sectorsRecursive,omitempty"`
}

// Statistics reads the container's cgroup.
func (c *Container) Statistics() (*Statistics, error) {
	if c.Status() == specs.StateStopped {
		return nil, problem.New(problem.Conflict, "container with id %s is not running", c.rec.ID)
	}
	s, err := c.group.Stats()
	if err != nil {
		return nil, err
	}
	return convert(s), nil
}

func convert(s *cgroups.Stats) *Statistics {
	entry := func(m cgroups.MemoryData) memoryEntry {
		return memoryEntry{Limit: m.Limit, Usage: m.Usage, Max: m.MaxUsage, Failcnt: m.Failcnt}
	}
	out := &Statistics{Pids: s.PidsStats, Hugetlb: map[string]memoryOfPageSize{}}
	cpu := &s.CpuStats.CpuUsage
	out.CPU.Usage.Total, out.CPU.Usage.Percpu = cpu.TotalUsage, cpu.PercpuUsage
	out.CPU.Usage.Kernel, out.CPU.Usage.User = cpu.UsageInKernelmode, cpu.UsageInUsermode
	throttling := &s.CpuStats.ThrottlingData
	out.CPU.Throttling.Periods, out.CPU.Throttling.ThrottledPeriods = throttling.Periods, throttling.ThrottledPeriods
	out.CPU.Throttling.ThrottledTime = throttling.ThrottledTime
	m := &s.MemoryStats
	out.Memory = memoryStatistics{Cache: m.Cache, Usage: entry(m.Usage), Swap: entry(m.SwapUsage), Kernel: entry(m.KernelUsage),
		KernelTCP: entry(m.KernelTCPUsage), Raw: m.Stats}
	b := &s.BlkioStats
	out.Blkio = blockStatistics{IoServiceBytesRecursive: b.IoServiceBytesRecursive, IoServicedRecursive: b.IoServicedRecursive,
		IoQueuedRecursive: b.IoQueuedRecursive, IoServiceTimeRecursive: b.IoServiceTimeRecursive, IoWaitTimeRecursive: b.IoWaitTimeRecursive,
		IoMergedRecursive: b.IoMergedRecursive, IoTimeRecursive: b.IoTimeRecursive, SectorsRecursive: b.SectorsRecursive}
	for size, h := range s.HugetlbStats {
		out.Hugetlb[size] = memoryOfPageSize{Usage: h.Usage, Max: h.MaxUsage, Failcnt: h.Failcnt}
	}
	return out
}

// Watch shows the statistics at every interval, and that the OOM killer came,
// until the container ends. OOM kills are looked for at the same times.
func (c *Container) Watch(interval time.Duration, show func(kind string, s *Statistics) error) error {
	if interval <= 0 {
		return invalid("duration interval must be greater than 0")
	}
	pidfd, err := c.open()
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	kills := c.oomKills()
	for {
		ended := waitEnd(pidfd, interval)
		if n := c.oomKills(); n != kills {
			kills = n
			if err := show("oom", nil); err != nil {
				return err
			}
		}
		if ended {
			return nil
		}
		s, err := c.group.Stats()
		if err != nil {
			return err
		}
		if err := show("stats", convert(s)); err != nil {
			return err
		}
	}
}

// oomKills is the line of the cgroup's file that counts OOM kills.
func (c *Container) oomKills() string {
	data, err := os.ReadFile(c.group.OOMFile())
	if err != nil {
		return "" // no memory controller, or the cgroup is gone
	}
	for line := range bytes.Lines(data) {
		if n, ok := bytes.CutPrefix(line, []byte("oom_kill ")); ok && string(bytes.TrimSpace(n)) != "0" {
			return string(n)
		}
	}
	return ""
}
