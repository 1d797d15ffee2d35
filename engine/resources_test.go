package engine

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/blkiodev"
	dcontainer "github.com/moby/moby/api/types/container"

	"gantry/engine/container"
)

func pointer[T any](v T) *T { return &v }

func TestFitToHost(t *testing.T) {
	all := container.Features{
		Memory: true, Swap: true, MemoryReservation: true, Swappiness: true, OOMKillDisable: true, Pids: true,
		CPUShares: true, CPUQuota: true, CPURealtime: true, Cpuset: true, IOWeight: true, IOWeightDevice: true,
		ReadBps: true, WriteBps: true, ReadIOps: true, WriteIOps: true, CPUs: "0-3", MemoryNodes: "0",
	}
	device := []*blkiodev.ThrottleDevice{{Path: "/dev/x", Rate: 1}}
	everything := dcontainer.Resources{
		Memory: 1 << 30, MemorySwap: 2 << 30, MemoryReservation: 1 << 20, MemorySwappiness: pointer(int64(10)),
		OomKillDisable: pointer(true), PidsLimit: pointer(int64(9)), CPUShares: 2, CPUPeriod: 5000, CPUQuota: 5000,
		CpusetCpus: "0-1", CpusetMems: "0", BlkioWeight: 100, BlkioWeightDevice: []*blkiodev.WeightDevice{{Path: "/dev/x", Weight: 10}},
		BlkioDeviceReadBps: device, BlkioDeviceWriteBps: device, BlkioDeviceReadIOps: device, BlkioDeviceWriteIOps: device,
	}
	t.Run("what the host has stays", func(t *testing.T) {
		got := everything
		if warnings, err := fitToHost(&got, all); err != nil || len(warnings) > 0 {
			t.Errorf("%q, %v", warnings, err)
		}
		if diff := cmp.Diff(everything, got); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("what it lacks is discarded with one warning each", func(t *testing.T) {
		got := everything
		warnings, err := fitToHost(&got, container.Features{})
		if want := 14; err != nil || len(warnings) != want {
			t.Errorf("%d warnings, want %d; %v\n%s", len(warnings), want, err, strings.Join(warnings, "\n"))
		}
		if diff := cmp.Diff(dcontainer.Resources{MemorySwap: -1}, got); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("cgroup2 has no swappiness and no way to disable the OOM killer", func(t *testing.T) {
		got, v2 := everything, all
		v2.Swappiness, v2.OOMKillDisable = false, false
		if warnings, err := fitToHost(&got, v2); err != nil || len(warnings) != 2 || got.MemorySwappiness != nil || got.OomKillDisable != nil {
			t.Errorf("%q, %v, %+v", warnings, err, got)
		}
	})
	for want, r := range map[string]dcontainer.Resources{
		"kernel does not support CPU real-time scheduler":                               {CPURealtimeRuntime: 1},
		"NanoCPUs can not be set":                                                       {NanoCPUs: 1},
		"Requested CPUs are not available - requested 0-9, available: 0-3":              {CpusetCpus: "0-9"},
		"Requested memory nodes are not available - requested 1, available: 0":          {CpusetMems: "1"},
		"Invalid value x for cpuset cpus: invalid format: x":                            {CpusetCpus: "x"},
		"Invalid value 0-99999999 for cpuset mems: value of out range, maximum is 8192": {CpusetMems: "0-99999999"},
		"Invalid value 3-1 for cpuset cpus: invalid format: 3-1":                        {CpusetCpus: "3-1"},
	} {
		host := all
		host.CPURealtime, host.CPUQuota = false, false
		if _, err := fitToHost(&r, host); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestCPUUpdateConflicts(t *testing.T) {
	for want, c := range map[string]struct{ old, new dcontainer.Resources }{
		"Nano CPUs cannot be updated as CPU Period": {dcontainer.Resources{CPUPeriod: 1}, dcontainer.Resources{NanoCPUs: 1}},
		"Nano CPUs cannot be updated as CPU Quota":  {dcontainer.Resources{CPUQuota: 1}, dcontainer.Resources{NanoCPUs: 1}},
		"CPU Period cannot be updated as NanoCPUs":  {dcontainer.Resources{NanoCPUs: 1}, dcontainer.Resources{CPUPeriod: 1}},
		"CPU Quota cannot be updated as NanoCPUs":   {dcontainer.Resources{NanoCPUs: 1}, dcontainer.Resources{CPUQuota: 1}},
	} {
		if err := checkCPUUpdate(&c.old, &c.new); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestOOMScoreIsNotTheDaemons(t *testing.T) {
	// Left out, it would be inherited; a service's is -500.
	spec, err := buildSpec(&config{Config: &dcontainer.Config{}, HostConfig: &dcontainer.HostConfig{}}, surroundings{})
	if err != nil || spec.Process.OOMScoreAdj == nil || *spec.Process.OOMScoreAdj != 0 {
		t.Errorf("%v, %v", spec, err)
	}
}

func FuzzParseSet(f *testing.F) {
	for _, seed := range []string{"", "0", "0-3,8", "1-", "-1", "8192", "0-8193", ",", "0,,1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, list string) {
		set, err := parseSet(list)
		for n := range set {
			if err != nil || n < 0 || n > maxSet {
				t.Errorf("%q: %d, %v", list, n, err)
			}
		}
	})
}
