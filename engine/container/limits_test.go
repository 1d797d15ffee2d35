package container

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func limited(r *specs.LinuxResources) func(*Spec) {
	return func(s *Spec) { s.OCI.Linux.Resources = r }
}

func TestMemoryLimitKills(t *testing.T) {
	r := testRuntime(t)
	root := busybox(t)
	limit := ptr(int64(20 << 20))
	memory := limited(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: limit, Swap: limit}})
	// The tmpfs counts as the container's memory.
	_, errs, exit := run(t, r, shell(t, root, "exec dd if=/dev/zero of=/dev/shm/x bs=1M count=60", memory))
	if !exit.OOMKilled || exit.Code != 137 {
		t.Errorf("exit %+v, want 137 by the OOM killer; stderr %s", exit, errs)
	}
	_, _, exit = run(t, r, shell(t, root, "dd if=/dev/zero of=/dev/shm/x bs=1M count=5", memory))
	if exit.OOMKilled || exit.Code != 0 {
		t.Errorf("below the limit: exit %+v", exit)
	}
}

func TestPidsLimit(t *testing.T) {
	r := testRuntime(t)
	out, errs, _ := run(t, r, shell(t, busybox(t), "for i in 1 2 3 4 5 6 7 8 9; do sleep 100 & done; echo never",
		limited(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(5))}})))
	if !strings.Contains(errs, "can't fork") || strings.Contains(out, "never") {
		t.Errorf("printed %q and %q, want a refused fork", out, errs)
	}
}

func TestLimitsReachTheKernelAndUpdate(t *testing.T) {
	r := testRuntime(t)
	ctx := testContext(t)
	c := create(t, r, shell(t, busybox(t), "sleep 1000", limited(&specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20))},
		CPU:    &specs.LinuxCPU{Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Shares: ptr(uint64(512)), Cpus: "0"},
		Pids:   &specs.LinuxPids{Limit: ptr(int64(77))},
	})))
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	value := func(controller, v1, v2 string) string {
		file := v1
		if r.host.Pure() {
			file = v2
		}
		data, err := os.ReadFile(filepath.Join(c.group.Dir(controller), file))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(data))
	}
	quota := map[bool]string{true: "50000 100000", false: "50000"}[r.host.Pure()]
	if got := value("cpu", "cpu.cfs_quota_us", "cpu.max"); got != quota {
		t.Errorf("cpu quota %q, want %q", got, quota)
	}
	if got := value("cpuset", "cpuset.cpus", "cpuset.cpus"); got != "0" {
		t.Errorf("cpuset %q, want 0", got)
	}
	if err := c.Update(ctx, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(128 << 20))}}); err != nil {
		t.Fatal(err)
	}
	if got := value("memory", "memory.limit_in_bytes", "memory.max"); got != "134217728" {
		t.Errorf("memory limit %q after the update, want 134217728", got)
	}
	if got := value("cpu", "cpu.cfs_quota_us", "cpu.max"); got != quota {
		t.Errorf("cpu quota %q after the update of memory, want %q", got, quota)
	}
	s, err := c.Stats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if s.MemoryLimit != 128<<20 || s.PidsLimit != 77 || s.Pids == 0 || s.MemoryBytes == 0 || s.CPUNanos == 0 || s.WorkingSet > s.MemoryBytes {
		t.Errorf("statistics %+v", s)
	}
	if (len(s.CPUNanosEach) == 0) != r.host.Pure() {
		t.Errorf("time of each CPU: %v; only v1 counts it", s.CPUNanosEach)
	}
}

// memoryHog is a command that wants 60 MiB. The kernel kills it rather than the
// shell, as it may when a pipe of two wants memory.
const memoryHog = "(echo 1000 >/proc/self/oom_score_adj; exec dd if=/dev/zero of=/dev/null bs=60M count=1)"

func TestReachedMemoryLimitsAreCounted(t *testing.T) {
	r := testRuntime(t)
	// Without a limit of memory and swap: v1 would count that one's failures instead.
	c := create(t, r, shell(t, busybox(t), memoryHog+"; echo ready; sleep 1000",
		limited(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(20 << 20))}})))
	if err := c.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	waitForLog(t, c, "ready")
	s, err := c.Stats(testContext(t))
	if err != nil || s.MemoryFails == 0 {
		t.Errorf("%d failures, %v", s.MemoryFails, err)
	}
}

func TestOOMKillsAreToldWhileTheContainerRuns(t *testing.T) {
	r := testRuntime(t)
	ctx := testContext(t)
	s := shell(t, busybox(t), "read go; "+memoryHog+"; echo ready; sleep 1000",
		limited(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(20 << 20))}}))
	s.OpenStdin = true
	c := create(t, r, s)
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	told, stop, err := c.WatchOOM(false)
	if err != nil || len(told) > 0 {
		t.Fatalf("before: %d kills, %v", len(told), err)
	}
	go func() { _ = c.Attach(ctx, Streams{Stdin: strings.NewReader("go\n")}, func() {}) }()
	select {
	case <-told:
	case <-ctx.Done():
		t.Fatal("no kill was told")
	}
	stop()
	stop()
	waitForLog(t, c, "ready")
	for _, known := range []bool{true, false} {
		told, stop, err := c.WatchOOM(known)
		if err != nil || (len(told) == 0) != known {
			t.Errorf("known %v: %d kills, %v", known, len(told), err)
		}
		stop()
	}
}

func TestPause(t *testing.T) {
	r := testRuntime(t)
	ctx := testContext(t)
	c := create(t, r, shell(t, busybox(t), "echo ready; while true; do :; done"))
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	waitForLog(t, c, "ready")
	if err := c.Pause(ctx); err != nil || !c.Paused() {
		t.Fatalf("pause: %v, paused %v", err, c.Paused())
	}
	before, err := c.Stats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// Long enough for a process that runs to be seen running.
	<-time.After(20 * time.Millisecond)
	after, err := c.Stats(ctx)
	if err != nil || after.CPUNanos != before.CPUNanos {
		t.Errorf("a paused container used %d ns of cpu, %v", after.CPUNanos-before.CPUNanos, err)
	}
	if err := c.Resume(ctx); err != nil || c.Paused() {
		t.Fatalf("resume: %v, paused %v", err, c.Paused())
	}
	if err := c.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	// A frozen container must be deleted too.
	if err := c.Delete(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestGroupsOfPods(t *testing.T) {
	r := testRuntime(t)
	ctx := testContext(t)
	if err := r.CreateGroup(ctx, "pod1", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(9))}}); err != nil {
		t.Fatal(err)
	}
	s := shell(t, busybox(t), "for i in 1 2 3 4 5 6 7 8 9; do sleep 100 & done; echo never")
	s.OCI.Linux.CgroupsPath = "pod1/" + s.ID
	_, errs, _ := run(t, r, s)
	if !strings.Contains(errs, "can't fork") {
		t.Errorf("the pod's limit does not hold: %q", errs)
	}
	idle := shell(t, busybox(t), "sleep 1000")
	idle.OCI.Linux.CgroupsPath = "pod1/" + idle.ID
	c := create(t, r, idle)
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.RemoveGroup(ctx, "pod1"); err != nil {
			t.Fatal(err)
		}
	}
	if exit, err := c.Wait(ctx); err != nil || exit.Code != 137 {
		t.Errorf("a container of a removed group: %+v, %v", exit, err)
	}
	// What the failed loop of the first container's cleanup has yet to see is gone too.
	if err := c.Delete(ctx); err != nil {
		t.Error(err)
	}
}

func TestUserNamespace(t *testing.T) {
	r := testRuntime(t)
	root := busybox(t)
	// The files belong to the container's root.
	if err := filepath.WalkDir(root, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, 100000, 100000)
	}); err != nil {
		t.Fatal(err)
	}
	s := shell(t, root, "id -u; cat /proc/self/uid_map; touch /mine && ls -ln /mine | grep -c ' 0 *0 '; echo x > /dev/null && echo null; cat /proc/1/comm; echo 1 > /proc/sys/vm/swappiness || echo refused")
	// A process that is not the host's root must reach it.
	for p := filepath.Dir(root); p != os.TempDir(); p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.OCI.Root = &specs.Root{Path: root}
	s.Overlay = nil
	s.OCI.Linux.Namespaces = append(s.OCI.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.OCI.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	s.OCI.Linux.GIDMappings = s.OCI.Linux.UIDMappings
	out, errs, _ := run(t, r, s)
	want := []string{"0", "0 100000 65536", "1", "null", "sh", "refused"}
	if got := strings.Fields(out); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("printed %q, want %q; stderr %s", got, want, errs)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(root, "mine"), &st); err != nil || st.Uid != 100000 {
		t.Errorf("a file made by the container's root belongs to %d, %v; want 100000", st.Uid, err)
	}
}
