package oci_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/internal/testenv"
)

func bind(source, at string, options ...string) specs.Mount {
	return specs.Mount{Destination: at, Type: "bind", Source: source, Options: options}
}

func mounts(list ...specs.Mount) func(*specs.Spec) {
	return func(o *specs.Spec) { o.Mounts = append(o.Mounts, list...) }
}

func inUserNamespace(o *specs.Spec) {
	o.Linux.Namespaces = append(o.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	o.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 1000}}
	o.Linux.GIDMappings = o.Linux.UIDMappings
}

// TestFields runs a command in a container with one field set, and compares
// what it prints.
func TestFields(t *testing.T) {
	data := t.TempDir()
	for dir := data; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(data, "sub"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "file"), []byte("content"), 0o640); err != nil {
		t.Fatal(err)
	}
	mapping := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 5000, Size: 10}}
	mapped := bind(data, "/mnt", "bind")
	mapped.UIDMappings, mapped.GIDMappings = mapping, mapping
	cases := map[string]struct {
		command, want string
		edit          func(*specs.Spec)
	}{
		"time offsets": {"read up rest < /proc/uptime; [ ${up%.*} -gt 1000000 ] && echo moved", "moved", func(o *specs.Spec) {
			o.Linux.Namespaces = append(o.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
			o.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 2000000}, "monotonic": {Secs: 5}}
		}},
		"personality": {"uname -m", "i686", func(o *specs.Spec) { o.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32} }},
		"nice":        {"set -- $(cat /proc/self/stat); echo ${19}", "7", func(o *specs.Spec) { o.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Nice: 7} }},
		"scheduler":   {"grep policy /proc/self/sched | tr -d ' '", "policy:3", func(o *specs.Spec) { o.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch} }},
		"I/O priority": {"ionice -p $$", "best-effort: prio 6", func(o *specs.Spec) {
			o.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
		}},
		"memory policy": {"grep -m1 -o 'bind:0' /proc/self/numa_maps", "bind:0", func(o *specs.Spec) {
			o.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0"}
		}},
		"a copy of what a tmpfs covers": {"cat /mnt/file; echo; stat -c %a /mnt/file; stat -f -c %T /mnt", "content\n640\ntmpfs",
			mounts(bind(data, "/mnt", "bind"), specs.Mount{Destination: "/mnt", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup", "ro"}})},
		"read-only in depth": {"touch /mnt/x /mnt/sub/x 2>&1 | grep -c Read-only", "2",
			mounts(bind(data, "/mnt", "rbind", "rro"))},
		"a mapped mount": {"stat -c %u:%g /mnt/file", "5000:5000", mounts(mapped)},
		"a mapped mount of a user namespace": {"stat -c %u:%g /mnt/file; id -u", "0:0\n0", func(o *specs.Spec) {
			inUserNamespace(o)
			o.Mounts = append(o.Mounts, bind(data, "/mnt", "bind", "idmap"))
		}},
		"no mapping of a user namespace": {"stat -c %u:%g /mnt/file; cat /proc/self/uid_map | tr -s ' '", "65534:65534\n 0 100000 1000", func(o *specs.Spec) {
			inUserNamespace(o)
			o.Mounts = append(o.Mounts, bind(data, "/mnt", "bind"))
		}},
		"a filter older than what makes the process": {"echo made", "made", func(o *specs.Spec) {
			enosys := uint(unix.ENOSYS)
			o.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
				{Names: []string{"close_range", "openat2", "clone3", "faccessat2"}, Action: specs.ActErrno, ErrnoRet: &enosys}}}
		}},
		"an unknown capability": {"echo warned", "warned", func(o *specs.Spec) {
			o.Process.Capabilities.Bounding = append(o.Process.Capabilities.Bounding, "CAP_TO_COME")
		}},
		"a bind with a file system's options": {"cat /mnt/file", "content", mounts(bind(data, "/mnt", "bind", "mode=755"))},
		"a shared root":                       {"grep -c ' / [^ ]* shared:' /proc/self/mountinfo", "1", func(o *specs.Spec) { o.Linux.RootfsPropagation = "shared" }},
		"a remount":                           {"touch /tmp/x 2>&1 | grep -c Read-only", "1", mounts(specs.Mount{Destination: "/tmp", Type: "tmpfs"}, specs.Mount{Destination: "/tmp", Type: "none", Options: []string{"remount", "ro"}})},
		"a domain name":                       {"cat /proc/sys/kernel/domainname", "example", func(o *specs.Spec) { o.Domainname = "example" }},
		"an empty PATH":                       {"", "box", func(o *specs.Spec) { o.Process.Args, o.Process.Env = []string{"/bin/hostname"}, []string{"PATH="} }},
		"the root moved":                      {"ls /proc/1/root/bin | grep -c busybox", "1", nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var edits []func(*specs.Spec)
			if c.edit != nil {
				edits = append(edits, c.edit)
			}
			h := newHost(t, c.command, edits...)
			args := []string{"run"}
			if name == "the root moved" {
				args = append(args, "--no-pivot")
			}
			if out, errs, code := h.run(append(args, h.id)...); out != c.want || code != 0 {
				t.Errorf("printed %q, want %q; status %d, %s", out, c.want, code, errs)
			}
		})
	}
}

// TestNamespacesByPath joins the namespaces of another container.
func TestNamespacesByPath(t *testing.T) {
	first := newHost(t, "exec sleep 1000", inUserNamespace)
	first.must("run", "--detach", "--pid-file", filepath.Join(first.bundle, "pid"), first.id)
	pid, err := os.ReadFile(filepath.Join(first.bundle, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	link := func(kind string) string {
		text, err := os.Readlink("/proc/" + string(pid) + "/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	second := newHost(t, "readlink /proc/self/ns/user; readlink /proc/self/ns/net; id -u; echo $$", func(o *specs.Spec) {
		for i, n := range o.Linux.Namespaces {
			if n.Type == specs.NetworkNamespace {
				o.Linux.Namespaces[i].Path = "/proc/" + string(pid) + "/ns/net"
			}
		}
		o.Linux.Namespaces = append(o.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: "/proc/" + string(pid) + "/ns/user"})
	})
	want := link("user") + "\n" + link("net") + "\n0\n1"
	if out, errs, code := second.run("run", second.id); out != want || code != 0 {
		t.Errorf("printed %q, want %q; status %d, %s", out, want, code, errs)
	}
	if out := first.must("exec", first.id, "sh", "-c", "id -u; readlink /proc/self/ns/user"); out != "0\n"+link("user") {
		t.Errorf("exec printed %q", out)
	}
}

func TestPreservedDescriptors(t *testing.T) {
	h := newHost(t, "cat <&3; cat <&4; [ -e /proc/self/fd/5 ] && echo more; echo $LISTEN_FDS")
	var files []*os.File
	for i := range 3 {
		path := filepath.Join(h.bundle, strconv.Itoa(i))
		if err := os.WriteFile(path, []byte("file "+strconv.Itoa(i)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	cmd := h.command("run", "--preserve-fds", "1", h.id)
	cmd.ExtraFiles, cmd.Env = files, append(cmd.Env, "LISTEN_FDS=1")
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "file 0\nfile 1\n1\n" {
		t.Errorf("printed %q, %v", out, err)
	}
	if _, errs, code := h.run("run", "--preserve-fds", "1", h.id); code == 0 || !strings.Contains(errs, "preserved-fd") {
		t.Errorf("a descriptor that is not there: %d, %s", code, errs)
	}
}

// TestCPUAffinity looks at a process on which both parts of the field act.
func TestCPUAffinity(t *testing.T) {
	h := newHost(t, "exec sleep 1000")
	h.must("run", "--detach", h.id)
	process := filepath.Join(h.bundle, "process.json")
	if err := os.WriteFile(process, []byte(`{"args":["grep","Cpus_allowed_list","/proc/self/status"],"cwd":"/","env":["PATH=/bin"],"user":{"uid":0,"gid":0},`+
		`"execCPUAffinity":{"initial":"0","final":"0"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := h.must("exec", "--process", process, h.id); out != "Cpus_allowed_list:\t0" {
		t.Errorf("printed %q", out)
	}
}

// TestForegroundForwardsSignals ends a container by a signal to gantry-oci.
func TestForegroundForwardsSignals(t *testing.T) {
	h := newHost(t, "trap 'exit 9' TERM; echo ready; while :; do sleep 1000 & wait $!; done")
	cmd := h.command("run", h.id)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 9 {
		t.Errorf("ended with %v, want status 9", err)
	}
}

// TestNetworkDevices moves one end of a veth pair into a container, in a network
// namespace of the test's own.
func TestNetworkDevices(t *testing.T) {
	h := newHost(t, "ip -o addr show dev inner; ip -o link show dev inner", func(o *specs.Spec) {
		o.Linux.NetDevices = map[string]specs.LinuxNetDevice{"gt-outer": {Name: "inner"}}
	})
	script := `set -e
ip link add gt-outer type veth peer gt-peer
ip addr add 10.77.0.5/24 dev gt-outer
ip addr add fd77::5/64 dev gt-outer nodad
exec "$0" "$@"`
	cmd := h.command("run", h.id)
	cmd.Args = append([]string{"unshare", "--net", testenv.NeedCommand(t, "sh"), "-c", script}, cmd.Args...)
	cmd.Path = testenv.NeedCommand(t, "unshare")
	out, err := cmd.CombinedOutput()
	text := string(out)
	for _, want := range []string{"inet 10.77.0.5/24", "inet6 fd77::5/64", "UP"} {
		if !strings.Contains(text, want) {
			t.Errorf("%v: no %q in\n%s", err, want, text)
		}
	}
	bad := newHost(t, "true", func(o *specs.Spec) { o.Linux.NetDevices = map[string]specs.LinuxNetDevice{"gt-none": {}} })
	if _, errs, code := bad.run("run", bad.id); code != 1 || !strings.Contains(errs, "gt-none") {
		t.Errorf("a device that is not there: %d, %s", code, errs)
	}
}
