package dockerapi_test

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// dir writes files into a new directory.
func dir(t *testing.T, files map[string]string) string {
	t.Helper()
	at := t.TempDir()
	for name, body := range files {
		path := filepath.Join(at, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return at
}

// TestBuildMounts runs in real containers what package builder's scenes run in
// a mount namespace alone.
func TestBuildMounts(t *testing.T) {
	d := newDaemon(t)
	context := dir(t, map[string]string{"src/a": "from the context\n", "Dockerfile": `FROM busybox AS base
RUN mkdir -p /stuff/sub && echo below > /stuff/one && echo gone > /stuff/two
FROM base AS made
RUN rm /stuff/two && echo above > /stuff/sub/three
FROM busybox
RUN --mount=target=/ctx cat /ctx/src/a && ! touch /ctx/x 2>/dev/null
RUN --mount=from=made,source=/stuff,target=/stuff cat /stuff/one /stuff/sub/three && ls /stuff && ! touch /stuff/x 2>/dev/null
RUN --mount=from=made,source=/stuff,target=/stuff,rw touch /stuff/x && ls /stuff
RUN --mount=from=made,source=/stuff/one,target=/deep/file cat /deep/file
RUN --mount=type=cache,target=/cache,sharing=locked touch /cache/kept
RUN --mount=type=cache,target=/cache,sharing=locked ls /cache
RUN [ ! -e /stuff ] && [ ! -e /deep ] && [ ! -e /cache ] && echo nothing left
`})
	out := d.do("build", "-t", "mounts", context)
	for _, want := range []string{"from the context\n", "below\nabove\none\nsub\n", "one\nsub\nx\n", "kept\n", "nothing left\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
}

func TestBuildOptions(t *testing.T) {
	d := newDaemon(t)
	context := dir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN cat /etc/hosts\n"})
	if out := d.do("build", "--add-host", "example:192.0.2.7", "--cgroup-parent", "test-builds", "--no-cache", context); !strings.Contains(out, "192.0.2.7\texample") {
		t.Errorf("--add-host:\n%s", out)
	}
	for name, c := range map[string]struct{ option, value, want string }{
		"isolation":        {"--isolation", "hyperv", "invalid isolation (hyperv)"},
		"cgroup parent":    {"--cgroup-parent", "a/../b", "must be without"},
		"security options": {"--security-opt", "seccomp=unconfined", "Error response from daemon: The daemon on this platform does not support setting security options on build\n"},
		"platforms":        {"--platform", "linux/amd64,linux/arm64", `"amd64,linux" is an invalid component of "linux/amd64,linux/arm64": platform specifier component must match`},
		"target":           {"--target", "none", "failed to reach build target none in Dockerfile"},
		"network":          {"--network", "none-such", "network none-such not found"},
		"memory":           {"--memory", "1m", "Minimum memory limit allowed is 6MB"},
	} {
		if got := d.try("build", "--no-cache", c.option, c.value, context); got.code != 1 || !strings.Contains(got.err, c.want) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestBuildLimits gives a RUN step all limits there are, and looks from inside.
func TestBuildLimits(t *testing.T) {
	d := newDaemon(t)
	context := dir(t, map[string]string{"Dockerfile": `FROM busybox AS base
RUN ulimit -n; ulimit -Hn; df -k /dev/shm | tail -n1; grep Cpus_allowed_list /proc/self/status
RUN cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max
RUN cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us || cat /sys/fs/cgroup/cpu.max
FROM base AS other
RUN exit 1
`})
	out := d.do("build", "--ulimit", "nofile=123:456", "--shm-size", "3m", "--memory", "32m", "--memory-swap", "32m", "--cpuset-cpus", "0", "--cpu-quota", "50000",
		"--cpu-period", "100000", "--cpu-shares", "512", "--target", "base", "--label", "a=b", "--compress", "--force-rm", "--rm=false", "-t", "limited", context)
	for _, want := range []string{"\n123\n456\n", " 3072 ", "Cpus_allowed_list:\t0\n", "\n33554432\n", "\n50000", "Successfully tagged limited:latest"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
	if got := d.do("inspect", "-f", "{{.Config.Labels}}", "limited"); got != "map[a:b]" {
		t.Errorf("labels %s", got)
	}
}

func TestBuildNetworks(t *testing.T) {
	d := newDaemon(t)
	d.do("network", "create", "mine")
	d.do("run", "-d", "--name", "peer", "--network", "mine", "busybox", "sleep", "1000")
	context := dir(t, map[string]string{"Dockerfile": "FROM busybox\nARG PEER\nRUN ls /sys/class/net; [ -z $PEER ] || nslookup $PEER\n"})
	if out := d.do("build", "--no-cache", "--network", "none", context); !strings.Contains(out, "\nlo\n") || strings.Contains(out, "eth0") {
		t.Errorf("none:\n%s", out)
	}
	if out := d.do("build", "--no-cache", "--network", "mine", "--build-arg", "PEER=peer", context); !strings.Contains(out, "eth0") {
		t.Errorf("a network of the user's:\n%s", out)
	}
	if out := d.do("build", "--no-cache", "--network", "host", context); strings.Contains(out, "eth0@") {
		t.Errorf("host:\n%s", out)
	}
	if out := d.do("build", "--no-cache", "--network", "container:peer", "--build-arg", "PEER=peer", context); !strings.Contains(out, "eth0") {
		t.Errorf("a container's:\n%s", out)
	}
	d.do("rm", "-f", "peer")
	if got := d.try("build", "--no-cache", "--network", "container:peer", context); !strings.Contains(got.err, "No such container: peer") {
		t.Errorf("of no container: %+v", got)
	}
}

// TestBuildCacheFrom builds with the cache that is in an image: of this store,
// and of a registry after everything here is gone.
func TestBuildCacheFrom(t *testing.T) {
	d := newDaemon(t)
	far := farRegistry(t, "")
	context := dir(t, map[string]string{"a": "a\n", "Dockerfile": "FROM busybox\nCOPY a /a\nRUN date +%N > /made\n"})
	name := far + "/app:1"
	d.do("build", "--build-arg", "BUILDKIT_INLINE_CACHE=1", "-t", name, context)
	made := d.do("run", "--rm", name, "cat", "/made")
	d.do("push", name)
	d.do("rmi", name)
	d.do("builder", "prune", "-f", "-a")
	out := d.do("build", "--cache-from", name, "-t", "again", context)
	if !strings.Contains(out, "Using cache") || strings.Contains(out, "Running in") {
		t.Errorf("from the registry:\n%s", out)
	}
	if got := d.do("run", "--rm", "again", "cat", "/made"); got != made {
		t.Errorf("the cached layer says %s, not %s", got, made)
	}
	d.do("builder", "prune", "-f", "-a")
	if out := d.do("build", "--cache-from", "none:1,"+name, context); !strings.Contains(out, "[Warning] importing cache from none:1: ") || strings.Contains(out, "Running in") {
		t.Errorf("from the store:\n%s", out)
	}
}

// TestCancelledBuildLeavesNothing kills the client in the middle of two steps at
// a time.
func TestCancelledBuildLeavesNothing(t *testing.T) {
	d := newDaemon(t)
	context := dir(t, map[string]string{"Dockerfile": `FROM busybox AS other
RUN --mount=type=cache,target=/c touch /c/1; until [ -e /c/2 ]; do usleep 10000; done; echo both are up; sleep 1000
FROM busybox
RUN --mount=type=cache,target=/c until [ -e /c/1 ]; do usleep 10000; done; touch /c/2; sleep 1000
COPY --from=other /c /c
`})
	cmd := d.command("build", "-t", "never", context)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "both are up" {
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	gone(t, "build")
	if left, err := os.ReadDir(filepath.Join(d.Instance.DataDir, "steps")); err != nil || len(left) > 0 {
		t.Errorf("steps that are left: %v, %v", left, err)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), filepath.Join(d.Instance.DataDir, "image")) {
		t.Errorf("mounts that are left: %v\n%s", err, mounts)
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*/" + d.Instance.Cgroup() + "/builds/*/")
	if err != nil || len(groups) > 0 {
		t.Errorf("cgroups that are left: %v, %v", groups, err)
	}
	if got := d.do("ps", "-aq") + d.do("images", "-q", "never"); got != "" {
		t.Errorf("left: %s", got)
	}
	d.Check(t)
}
