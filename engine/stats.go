package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"

	"gantry/engine/container"
)

// Stats returns one sample of a container's use of resources. Its PreCPUStats
// are empty. That of a container which does not run is all zero.
func (e *Engine) Stats(ctx context.Context, ref string) (dcontainer.StatsResponse, error) {
	r, err := e.find(ref)
	if err != nil {
		return dcontainer.StatsResponse{}, err
	}
	out := dcontainer.StatsResponse{ID: r.id, Name: "/" + r.config().Name, OSType: "linux"}
	this := r.running()
	if this == nil {
		return out, nil
	}
	s, err := this.proc.Stats(ctx)
	if err != nil {
		select {
		case <-this.proc.Done():
			return out, nil // it ended meanwhile
		default:
			return out, err
		}
	}
	fillStats(&out, s)
	if out.CPUStats.SystemUsage, err = hostCPUNanos(); err != nil {
		return out, err
	}
	memory, err := HostMemory()
	if err != nil {
		return out, err
	}
	if limit := out.MemoryStats.Limit; limit == 0 || limit > memory {
		out.MemoryStats.Limit = memory
	}
	out.Networks, err = networkStats(this.proc.Pid(), r.config())
	return out, err
}

func fillStats(out *dcontainer.StatsResponse, s container.Stats) {
	out.Read = s.At
	out.CPUStats.CPUUsage = dcontainer.CPUUsage{TotalUsage: s.CPUNanos, UsageInUsermode: s.CPUUserNanos, UsageInKernelmode: s.CPUSysNanos, PercpuUsage: s.CPUNanosEach}
	out.CPUStats.OnlineCPUs = uint32(runtime.NumCPU())
	out.CPUStats.ThrottlingData = dcontainer.ThrottlingData{
		Periods: s.Throttled.Periods, ThrottledPeriods: s.Throttled.Throttled, ThrottledTime: s.Throttled.Nanos,
	}
	out.MemoryStats = dcontainer.MemoryStats{Usage: s.MemoryBytes, MaxUsage: s.MemoryMax, Failcnt: s.MemoryFails, Limit: s.MemoryLimit, Stats: s.MemoryDetails}
	out.PidsStats = dcontainer.PidsStats{Current: s.Pids, Limit: s.PidsLimit}
	for _, io := range s.IO {
		entry := func(op string, value uint64) dcontainer.BlkioStatEntry {
			return dcontainer.BlkioStatEntry{Major: io.Major, Minor: io.Minor, Op: op, Value: value}
		}
		out.BlkioStats.IoServiceBytesRecursive = append(out.BlkioStats.IoServiceBytesRecursive, entry("read", io.ReadBytes), entry("write", io.WriteBytes))
		out.BlkioStats.IoServicedRecursive = append(out.BlkioStats.IoServicedRecursive, entry("read", io.ReadOps), entry("write", io.WriteOps))
	}
}

// hostCPUNanos is the CPU time that all processes of the host have used.
func hostCPUNanos() (uint64, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	fields := strings.Fields(line)
	if len(fields) < 8 || fields[0] != "cpu" {
		return 0, errors.New("/proc/stat does not begin with the line of all CPUs")
	}
	var ticks uint64
	for _, field := range fields[1:8] { // guest time is in user time already
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		ticks += n
	}
	const nanosPerTick = uint64(time.Second) / 100 // USER_HZ
	return ticks * nanosPerTick, nil
}

// HostMemory is the size of the host's memory in bytes.
func HostMemory() (uint64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	var kib uint64
	if _, err := fmt.Sscanf(string(data), "MemTotal: %d kB", &kib); err != nil {
		return 0, fmt.Errorf("/proc/meminfo: %w", err)
	}
	return kib << 10, nil
}

// networkStats reads the counters of a process's network namespace. A container
// on the host's network, or on another's, has none of its own.
func networkStats(pid int, cfg *config) (map[string]dcontainer.NetworkStats, error) {
	if mode := cfg.HostConfig.NetworkMode; pid == 0 || mode.IsHost() || mode.IsContainer() {
		return nil, nil
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/net/dev", pid))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all := map[string]dcontainer.NetworkStats{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if name, s, ok := parseNetDev(lines.Text()); ok && name != "lo" {
			all[name] = s
		}
	}
	return all, lines.Err()
}

// parseNetDev parses one line of /proc/net/dev.
func parseNetDev(line string) (name string, s dcontainer.NetworkStats, ok bool) {
	name, rest, ok := strings.Cut(line, ":")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 12 {
		return "", s, false
	}
	for i, to := range map[int]*uint64{
		0: &s.RxBytes, 1: &s.RxPackets, 2: &s.RxErrors, 3: &s.RxDropped,
		8: &s.TxBytes, 9: &s.TxPackets, 10: &s.TxErrors, 11: &s.TxDropped,
	} {
		n, err := strconv.ParseUint(fields[i], 10, 64)
		if err != nil {
			return "", s, false
		}
		*to = n
	}
	return strings.TrimSpace(name), s, true
}

// Top lists the processes of a container. args are ps's; only the default and
// those that choose a format of the default's fields are known.
func (e *Engine) Top(ctx context.Context, ref string, args []string) (dcontainer.TopResponse, error) {
	r, err := e.find(ref)
	if err != nil {
		return dcontainer.TopResponse{}, err
	}
	this := r.running()
	if this == nil {
		return dcontainer.TopResponse{}, notRunning(r.id)
	}
	pids, err := this.proc.Pids(ctx)
	if err != nil {
		return dcontainer.TopResponse{}, err
	}
	slices.Sort(pids)
	return processTable(pids, args)
}
