package node

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// facts are what does not change while the machine runs.
type facts struct {
	cpus        int
	memoryBytes int64
	info        v1.NodeSystemInfo
}

func readFacts() facts {
	f := facts{cpus: runtime.NumCPU(), memoryBytes: meminfo("MemTotal")}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		f.info.KernelVersion = unix.ByteSliceToString(u.Release[:])
	}
	f.info.OperatingSystem, f.info.Architecture = runtime.GOOS, runtime.GOARCH
	f.info.MachineID = firstLine("/etc/machine-id")
	f.info.SystemUUID = firstLine("/sys/class/dmi/id/product_uuid")
	if f.info.SystemUUID == "" {
		f.info.SystemUUID = f.info.MachineID
	}
	f.info.BootID = firstLine("/proc/sys/kernel/random/boot_id")
	f.info.OSImage = prettyName()
	return f
}

func firstLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSpace(line)
}

func prettyName() string {
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return runtime.GOOS
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"`)
		}
	}
	return runtime.GOOS
}

// meminfo returns a field of /proc/meminfo in bytes, 0 if it is not there.
func meminfo(field string) int64 {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		rest, ok := strings.CutPrefix(line, field+":")
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
		if err != nil {
			return 0
		}
		return n << 10
	}
	return 0
}

func diskBytes(dir string) int64 {
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil {
		return 0
	}
	return int64(s.Blocks) * s.Bsize
}

// Below these amounts the node says that it is under pressure, and the
// scheduler keeps new pods away. No pod is evicted for it yet.
const (
	memoryFloor = 100 << 20
	diskFloor   = 512 << 20
)

func (r *Reporter) pressure() []v1.NodeCondition {
	condition := func(t v1.NodeConditionType, bad bool, badReason, badMessage, reason, message string) v1.NodeCondition {
		if bad {
			return v1.NodeCondition{Type: t, Status: v1.ConditionTrue, Reason: badReason, Message: badMessage}
		}
		return v1.NodeCondition{Type: t, Status: v1.ConditionFalse, Reason: reason, Message: message}
	}
	memory := meminfo("MemAvailable")
	var disk unix.Statfs_t
	diskErr := unix.Statfs(r.cfg.RootDir, &disk)
	return []v1.NodeCondition{
		condition(v1.NodeMemoryPressure, memory > 0 && memory < memoryFloor,
			"KubeletHasInsufficientMemory", "kubelet has insufficient memory available",
			"KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
		condition(v1.NodeDiskPressure, diskErr == nil && int64(disk.Bavail)*disk.Bsize < diskFloor,
			"KubeletHasDiskPressure", "kubelet has disk pressure",
			"KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
		condition(v1.NodePIDPressure, pidsShort(),
			"KubeletHasInsufficientPID", "kubelet has insufficient PID available",
			"KubeletHasSufficientPID", "kubelet has sufficient PID available"),
	}
}

// pidsShort tells whether less than a tenth of the process IDs is free.
func pidsShort() bool {
	limit, err := strconv.Atoi(firstLine("/proc/sys/kernel/pid_max"))
	if err != nil {
		return false
	}
	fields := strings.Fields(firstLine("/proc/loadavg"))
	if len(fields) < 4 {
		return false
	}
	_, total, _ := strings.Cut(fields[3], "/")
	n, err := strconv.Atoi(total)
	return err == nil && n > limit/10*9
}
