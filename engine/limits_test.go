package engine_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/blkiodev"
	dcontainer "github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"gantry/engine"
)

// limit reads a file of a container's cgroup: v1's or v2's. It is empty where
// the host has no such file.
func (b *bench) limit(id, controller, v1, v2 string) string {
	b.t.Helper()
	membership, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", b.state(id).Pid))
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range strings.Lines(string(membership)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		file := filepath.Join("/sys/fs/cgroup", controller, fields[2], v1)
		switch fields[1] {
		case controller:
		case "":
			file = filepath.Join("/sys/fs/cgroup", fields[2], v2)
		default:
			continue
		}
		if data, err := os.ReadFile(file); err == nil {
			return strings.TrimSpace(string(data))
		}
	}
	return ""
}

// anyDisk returns a node of a block device of this host, if there is one.
func anyDisk(t *testing.T) (path, number string) {
	t.Helper()
	names, err := filepath.Glob("/sys/block/*/dev")
	if err != nil || len(names) == 0 {
		return "", ""
	}
	data, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	number = strings.TrimSpace(string(data))
	var major, minor uint32
	if _, err := fmt.Sscanf(number, "%d:%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "disk")
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))); err != nil {
		t.Fatal(err)
	}
	return path, number
}

func TestLimitsAndUpdate(t *testing.T) {
	b := newBench(t)
	disk, number := anyDisk(t)
	throttle := func(rate uint64) []*blkiodev.ThrottleDevice {
		if disk == "" {
			return nil
		}
		return []*blkiodev.ThrottleDevice{{Path: disk, Rate: rate}}
	}
	pids := int64(50)
	id := b.create("echo ready; sleep 60", func(r *engine.CreateRequest) {
		r.HostConfig.Resources = dcontainer.Resources{
			Memory: 64 << 20, MemoryReservation: 32 << 20, CPUShares: 512, CPUQuota: 50000, CpusetCpus: "0", PidsLimit: &pids,
			BlkioDeviceReadBps: throttle(1 << 20), BlkioDeviceWriteIOps: throttle(100),
		}
	})
	b.startReady(id)
	type want struct{ controller, v1, v2, value1, value2 string }
	check := func(when string, list ...want) {
		t.Helper()
		for _, w := range list {
			got := b.limit(id, w.controller, w.v1, w.v2)
			if got != w.value1 && !strings.HasPrefix(got, w.value2) {
				t.Errorf("%s: %s or %s is %q, want %q or %q", when, w.v1, w.v2, got, w.value1, w.value2)
			}
		}
	}
	check("after the start",
		want{"memory", "memory.limit_in_bytes", "memory.max", "67108864", "67108864"},
		want{"memory", "memory.soft_limit_in_bytes", "memory.low", "33554432", "33554432"},
		want{"cpu", "cpu.shares", "cpu.weight", "512", "59"},
		want{"cpu", "cpu.cfs_quota_us", "cpu.max", "50000", "50000 100000"},
		want{"cpuset", "cpuset.cpus", "cpuset.cpus", "0", "0"},
		want{"pids", "pids.max", "pids.max", "50", "50"})
	if disk != "" {
		check("after the start",
			want{"blkio", "blkio.throttle.read_bps_device", "io.max", number + " 1048576", number + " rbps=1048576"},
			want{"blkio", "blkio.throttle.write_iops_device", "io.max", number + " 100", number + " rbps=1048576 wbps=max riops=max wiops=100"})
	}
	none := int64(0)
	_, err := b.Engine.Update(b.ctx, id, dcontainer.UpdateConfig{Resources: dcontainer.Resources{
		Memory: 128 << 20, MemorySwap: 256 << 20, CPUShares: 2048, CPUQuota: 20000, PidsLimit: &none, BlkioDeviceReadBps: throttle(2 << 20),
	}})
	if err != nil {
		t.Fatal(err)
	}
	check("after the update",
		want{"memory", "memory.limit_in_bytes", "memory.max", "134217728", "134217728"},
		want{"memory", "memory.soft_limit_in_bytes", "memory.low", "33554432", "33554432"},
		want{"cpu", "cpu.shares", "cpu.weight", "2048", "174"},
		want{"cpu", "cpu.cfs_quota_us", "cpu.max", "20000", "20000 100000"},
		want{"cpuset", "cpuset.cpus", "cpuset.cpus", "0", "0"},
		want{"pids", "pids.max", "pids.max", "max", "max"})
	if disk != "" {
		check("after the update", want{"blkio", "blkio.throttle.read_bps_device", "io.max", number + " 2097152", number + " rbps=2097152"})
	}
}

func TestCgroupParents(t *testing.T) {
	b := newBench(t)
	absolute := "/gt-parent-" + b.Instance.Name
	t.Cleanup(func() {
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + absolute)
		for _, dir := range append(dirs, "/sys/fs/cgroup"+absolute) {
			if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
				t.Errorf("remove %s: %v", dir, err)
			}
		}
	})
	for parent, want := range map[string]string{
		"":         "/" + b.Instance.Cgroup() + "/containers/",
		"some/dir": "/" + b.Instance.Cgroup() + "/some/dir/",
		absolute:   absolute + "/",
	} {
		id := b.create("sleep 60", func(r *engine.CreateRequest) { r.HostConfig.CgroupParent = parent })
		b.start(id)
		membership, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", b.state(id).Pid))
		if err != nil || !strings.Contains(string(membership), ":"+want+id) {
			t.Errorf("parent %q: want %s in\n%s%v", parent, want, membership, err)
		}
		if err := b.Engine.Remove(b.ctx, id, engine.RemoveOptions{Force: true}); err != nil {
			t.Error(err)
		}
	}
}
