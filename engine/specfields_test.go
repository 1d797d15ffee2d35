package engine

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/blkiodev"
	dcontainer "github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/internal/testenv"
)

// What a host may be unable to limit is looked for in the specification.
func TestFieldsOfTheSpecification(t *testing.T) {
	testenv.NeedRoot(t)
	disk := filepath.Join(t.TempDir(), "disk")
	if err := unix.Mknod(disk, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 9))); err != nil {
		t.Fatal(err)
	}
	throttle := func(rate uint64) []*blkiodev.ThrottleDevice {
		return []*blkiodev.ThrottleDevice{{Path: disk, Rate: rate}}
	}
	resources := dcontainer.Resources{
		CPUShares: 100, CPUPeriod: 5000, CPUQuota: 2500, CPURealtimePeriod: 7000, CPURealtimeRuntime: 6000, CpusetCpus: "0", CpusetMems: "1",
		Memory: 64 << 20, MemoryReservation: 32 << 20, MemorySwap: 128 << 20, MemorySwappiness: pointer(int64(11)), OomKillDisable: pointer(true),
		PidsLimit: pointer(int64(12)), BlkioWeight: 300, BlkioWeightDevice: []*blkiodev.WeightDevice{{Path: disk, Weight: 400}},
		BlkioDeviceReadBps: throttle(1), BlkioDeviceWriteBps: throttle(2), BlkioDeviceReadIOps: throttle(3), BlkioDeviceWriteIOps: throttle(4),
		Devices: []dcontainer.DeviceMapping{{PathOnHost: disk, PathInContainer: "/dev/d", CgroupPermissions: "r"}},
	}
	throttled := func(rate uint64) []specs.LinuxThrottleDevice {
		var d specs.LinuxThrottleDevice
		d.Major, d.Minor, d.Rate = 7, 9, rate
		return []specs.LinuxThrottleDevice{d}
	}
	var weight specs.LinuxWeightDevice
	weight.Major, weight.Minor, weight.Weight = 7, 9, pointer(uint16(400))
	want := &specs.LinuxResources{
		CPU: &specs.LinuxCPU{
			Shares: pointer(uint64(100)), Period: pointer(uint64(5000)), Quota: pointer(int64(2500)),
			RealtimePeriod: pointer(uint64(7000)), RealtimeRuntime: pointer(int64(6000)), Cpus: "0", Mems: "1",
		},
		Memory: &specs.LinuxMemory{
			Limit: pointer(int64(64 << 20)), Reservation: pointer(int64(32 << 20)), Swap: pointer(int64(128 << 20)),
			Swappiness: pointer(uint64(11)), DisableOOMKiller: pointer(true),
		},
		Pids: &specs.LinuxPids{Limit: pointer(int64(12))},
		BlockIO: &specs.LinuxBlockIO{
			Weight: pointer(uint16(300)), WeightDevice: []specs.LinuxWeightDevice{weight},
			ThrottleReadBpsDevice: throttled(1), ThrottleWriteBpsDevice: throttled(2),
			ThrottleReadIOPSDevice: throttled(3), ThrottleWriteIOPSDevice: throttled(4),
		},
		Devices: append(deviceRules(), specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: pointer(int64(7)), Minor: pointer(int64(9)), Access: "r"}),
	}
	cfg := &config{Config: &dcontainer.Config{}, HostConfig: &dcontainer.HostConfig{Resources: resources, Annotations: map[string]string{"a": "b"}}}
	spec, err := buildSpec(cfg, surroundings{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, spec.Linux.Resources); diff != "" {
		t.Error(diff)
	}
	if spec.Annotations["a"] != "b" {
		t.Errorf("annotations: %v", spec.Annotations)
	}
	cpus := cpuLimits(&dcontainer.Resources{NanoCPUs: 1_500_000_000})
	if *cpus.Quota != 150_000 || *cpus.Period != 100_000 {
		t.Errorf("1.5 CPUs: %d of %d", *cpus.Quota, *cpus.Period)
	}
}
