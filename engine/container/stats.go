package container

import (
	"os"
	"time"

	"gantry/engine/container/cgroup"
)

// readStats is the part of the library's statistics that Stats has.
func readStats(s *cgroup.Stats, at time.Time) Stats {
	out := Stats{
		At:           at,
		CPUNanos:     s.CpuStats.CpuUsage.TotalUsage,
		CPUUserNanos: s.CpuStats.CpuUsage.UsageInUsermode,
		CPUSysNanos:  s.CpuStats.CpuUsage.UsageInKernelmode,
		CPUNanosEach: s.CpuStats.CpuUsage.PercpuUsage,
		Throttled: Throttling{
			Periods:   s.CpuStats.ThrottlingData.Periods,
			Throttled: s.CpuStats.ThrottlingData.ThrottledPeriods,
			Nanos:     s.CpuStats.ThrottlingData.ThrottledTime,
		},
		MemoryBytes:   s.MemoryStats.Usage.Usage,
		MemoryMax:     s.MemoryStats.Usage.MaxUsage,
		MemoryFails:   s.MemoryStats.Usage.Failcnt,
		MemoryLimit:   bounded(s.MemoryStats.Usage.Limit),
		MemoryDetails: s.MemoryStats.Stats,
		Pids:          s.PidsStats.Current,
		PidsLimit:     bounded(s.PidsStats.Limit),
	}
	inactive := s.MemoryStats.Stats["total_inactive_file"] // v1
	if inactive == 0 {
		inactive = s.MemoryStats.Stats["inactive_file"]
	}
	out.WorkingSet = out.MemoryBytes - min(inactive, out.MemoryBytes)
	devices := map[[2]uint64]*IOStat{}
	var order [][2]uint64
	device := func(major, minor uint64) *IOStat {
		key := [2]uint64{major, minor}
		if devices[key] == nil {
			devices[key] = &IOStat{Major: major, Minor: minor}
			order = append(order, key)
		}
		return devices[key]
	}
	for _, e := range s.BlkioStats.IoServiceBytesRecursive {
		d := device(e.Major, e.Minor)
		switch e.Op {
		case "Read", "read":
			d.ReadBytes = e.Value
		case "Write", "write":
			d.WriteBytes = e.Value
		}
	}
	for _, e := range s.BlkioStats.IoServicedRecursive {
		d := device(e.Major, e.Minor)
		switch e.Op {
		case "Read", "read":
			d.ReadOps = e.Value
		case "Write", "write":
			d.WriteOps = e.Value
		}
	}
	for _, key := range order {
		out.IO = append(out.IO, *devices[key])
	}
	return out
}

// bounded is 0 for the kernel's various ways to say that there is no limit.
func bounded(limit uint64) uint64 {
	const most = 1 << 62
	if limit >= most {
		return 0
	}
	return limit
}

// WatchOOM returns a channel that receives after the kernel has killed a process
// of the container for want of memory; kills of before count unless known. The
// container may go on running. stop, which may be called more than once, ends it.
func (c *Container) WatchOOM(known bool) (kills <-chan struct{}, stop func(), err error) {
	w, err := c.r.oomWatcher()
	if err != nil {
		return nil, func() {}, err
	}
	return w.Watch(c.group, known)
}

func (r *Runtime) oomWatcher() (*cgroup.OOMWatcher, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, os.ErrClosed
	}
	if r.oom == nil {
		w, err := cgroup.NewOOMWatcher()
		if err != nil {
			return nil, err
		}
		r.oom = w
		r.watchers.Go(w.Run)
	}
	return r.oom, nil
}
