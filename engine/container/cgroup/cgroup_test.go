package cgroup

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/runtime-spec/specs-go"

	"gantry/internal/problem"
)

const (
	hybrid = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:3 - cgroup cgroup rw,memory
37 31 0:34 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
50 31 0:32 /sub /elsewhere rw,relatime - cgroup cgroup rw,memory
`
	pure = `26 23 0:23 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate` + "\n"
)

func TestHostsAreToldApart(t *testing.T) {
	cases := map[string]struct {
		text string
		want Host
		pure bool
	}{
		"hybrid": {hybrid, Host{Unified: "/sys/fs/cgroup/unified", V1: map[string]string{"cpu": "/sys/fs/cgroup/cpu,cpuacct",
			"cpuacct": "/sys/fs/cgroup/cpu,cpuacct", "memory": "/sys/fs/cgroup/memory", "name=systemd": "/sys/fs/cgroup/systemd"}}, false},
		"pure": {pure, Host{Unified: "/sys/fs/cgroup", V1: map[string]string{}}, true},
	}
	for name, c := range cases {
		got, err := parseHost(strings.NewReader(c.text))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&c.want, got, cmpopts.IgnoreUnexported(Host{})); diff != "" || got.Pure() != c.pure {
			t.Errorf("%s: pure %v (-want +got)\n%s", name, got.Pure(), diff)
		}
	}
	if _, err := parseHost(strings.NewReader("1 2 0:1 / / rw - ext4 /dev/vda rw\n")); !errors.Is(err, problem.Unsupported) {
		t.Errorf("a host without cgroups: %v", err)
	}
}

func TestFilesOfAGroup(t *testing.T) {
	h, err := parseHost(strings.NewReader(hybrid))
	if err != nil {
		t.Fatal(err)
	}
	g := h.Group("gantry/../gantry/x")
	want := []string{"/sys/fs/cgroup/cpu,cpuacct/gantry/x/cgroup.procs", "/sys/fs/cgroup/memory/gantry/x/cgroup.procs", "/sys/fs/cgroup/systemd/gantry/x/cgroup.procs"}
	if diff := cmp.Diff(want, g.JoinFiles()); diff != "" {
		t.Errorf("joined files (-want +got)\n%s", diff)
	}
	if g.CloneDir() != "/sys/fs/cgroup/unified/gantry/x" || g.OOMFile() != "/sys/fs/cgroup/memory/gantry/x/memory.oom_control" {
		t.Errorf("clone into %s, OOM in %s", g.CloneDir(), g.OOMFile())
	}
	if h, err = parseHost(strings.NewReader(pure)); err != nil {
		t.Fatal(err)
	}
	g = h.Group("gantry/x")
	if g.JoinFiles() != nil || g.CloneDir() != "/sys/fs/cgroup/gantry/x" || g.OOMFile() != "/sys/fs/cgroup/gantry/x/memory.events" || g.Dir("cpu") != "/sys/fs/cgroup/gantry/x" {
		t.Errorf("on cgroup2: join %v, clone into %s, OOM in %s", g.JoinFiles(), g.CloneDir(), g.OOMFile())
	}
}

func FuzzParseHost(f *testing.F) {
	f.Add(hybrid + pure)
	f.Fuzz(func(t *testing.T, text string) {
		h, err := parseHost(strings.NewReader(text))
		if err == nil && h.Unified == "" && len(h.V1) == 0 {
			t.Errorf("%q is a host without cgroups", text)
		}
	})
}

func TestResources(t *testing.T) {
	v1, v2 := &Host{V1: map[string]string{"cpu": "/x"}}, &Host{Unified: "/y"}
	shares, limit := uint64(1024), int64(9)
	r := &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}, Pids: &specs.LinuxPids{Limit: &limit}}
	a, err := v1.Limits(r)
	if err != nil || a.CpuShares != 1024 || a.CpuWeight != 0 || *a.PidsLimit != 9 || !a.SkipDevices {
		t.Errorf("v1: %+v, %v", a, err)
	}
	b, err := v2.Limits(r)
	if err != nil || b.CpuWeight == 0 {
		t.Errorf("v2: %+v, %v", b, err)
	}
	c, err := v2.Resources(nil)
	if err != nil || c.SkipDevices || len(c.Devices) != len(defaultDevices()) {
		t.Errorf("a container without limits: %+v, %v", c, err)
	}
	refused := map[string]struct {
		host *Host
		r    specs.LinuxResources
		want problem.Kind
	}{
		"rdma":              {v1, specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"x": {}}}, problem.Unsupported},
		"unified on v1":     {v1, specs.LinuxResources{Unified: map[string]string{"a": "b"}}, problem.Unsupported},
		"an unknown device": {v2, specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Type: "x"}}}, problem.Invalid},
		"an unknown access": {v2, specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Type: "c", Access: "rq"}}}, problem.Invalid},
	}
	for name, c := range refused {
		if got, err := c.host.Resources(&c.r); !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v; want %v", name, got, err, c.want)
		}
	}
}

func TestRdmaLimits(t *testing.T) {
	handles := uint32(3)
	r := &specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"mlx5_1": {HcaHandles: &handles}}}
	for name, h := range map[string]*Host{"v1": {V1: map[string]string{"rdma": "/x"}}, "v2": {Unified: "/y"}} {
		got, err := h.Limits(r)
		if err != nil || *got.Rdma["mlx5_1"].HcaHandles != 3 || got.Rdma["mlx5_1"].HcaObjects != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestCounter(t *testing.T) {
	const events = "low 0\nhigh 0\nmax 27\noom 4\noom_kill 2\n"
	for name, want := range map[string]uint64{"oom": 4, "oom_kill": 2, "max": 27, "kill": 0, "": 0} {
		if got := counter(events, name); got != want {
			t.Errorf("%q: got %d, want %d", name, got, want)
		}
	}
}

func TestListIsChildrenFirst(t *testing.T) {
	dir := t.TempDir()
	h := &Host{Unified: dir}
	for _, name := range []string{"g/a", "g/a/b", "g/c"} {
		if err := os.MkdirAll(dir+"/"+name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	names, err := h.List("g")
	if err != nil || len(names) != 3 || slices.Index(names, "g/a/b") > slices.Index(names, "g/a") {
		t.Errorf("listed %v, %v", names, err)
	}
	if names, err := h.List("absent"); err != nil || len(names) != 0 {
		t.Errorf("listed %v, %v of nothing", names, err)
	}
}

func TestTheHostIsNotKilled(t *testing.T) {
	h := &Host{Unified: "/sys/fs/cgroup"}
	for name, pids := range map[string][]int{"/": {1 << 30}, "": {1 << 30}, "a/..": {1 << 30}, "/ours": {1 << 30, os.Getpid()}} {
		if err := h.Group(name).checkKill(pids); !errors.Is(err, problem.Invalid) {
			t.Errorf("%q with %d: %v", name, pids, err)
		}
	}
	if err := h.Group("/container").checkKill([]int{1 << 30}); err != nil {
		t.Error(err)
	}
}
