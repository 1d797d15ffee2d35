package cri_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"gantry/engine/cri/critest"
)

func TestLimitsOfAPod(t *testing.T) {
	h := critest.New(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	sc := sandboxConfig(t, "bounded")
	sc.Linux.Resources = &runtimeapi.LinuxContainerResources{
		CpuShares: 512, CpuPeriod: 100000, CpuQuota: 50000, MemoryLimitInBytes: 64 << 20,
	}
	id, err := h.CRI.RunPodSandbox(ctx, sc, "")
	if err != nil {
		t.Fatal(err)
	}
	check := func(controller, v1, v2, want1, want2 string) {
		t.Helper()
		files, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", controller, "*/pods", id, v1))
		if len(files) == 0 {
			files, _ = filepath.Glob(filepath.Join("/sys/fs/cgroup/*/pods", id, v2))
		}
		if len(files) != 1 {
			t.Fatalf("%s: %v", controller, files)
		}
		data, err := os.ReadFile(files[0])
		if got := strings.TrimSpace(string(data)); err != nil || got != want1 && got != want2 {
			t.Errorf("%s: %q, %v; want %s or %s", files[0], got, err, want1, want2)
		}
	}
	check("memory", "memory.limit_in_bytes", "memory.max", "67108864", "67108864")
	check("cpu", "cpu.shares", "cpu.weight", "512", "59")
	check("cpu", "cpu.cfs_quota_us", "cpu.max", "50000", "50000 100000")
	_, err = h.CRI.UpdatePodSandboxResources(ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{
		PodSandboxId: id, Resources: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 128 << 20},
	})
	if err != nil {
		t.Fatal(err)
	}
	check("memory", "memory.limit_in_bytes", "memory.max", "134217728", "134217728")
	check("cpu", "cpu.cfs_quota_us", "cpu.max", "50000", "50000 100000")
}
