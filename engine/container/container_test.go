package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/engine/container/logfile"
	"gantry/internal/problem"
)

// shell is the spec of a container that runs a script, changed by edits.
func shell(t testing.TB, root, script string, edits ...func(*Spec)) Spec {
	s := testSpec(t, root, "sh", "-c", script)
	for _, edit := range edits {
		edit(&s)
	}
	return s
}

func TestWhatAContainerSees(t *testing.T) {
	r := testRuntime(t)
	root := busybox(t)
	shared := t.TempDir()
	if err := os.WriteFile(filepath.Join(shared, "file"), []byte("shared\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	mount := func(m specs.Mount) func(*Spec) {
		return func(s *Spec) { s.OCI.Mounts = append(s.OCI.Mounts, m) }
	}
	user := func(u specs.User) func(*Spec) {
		return func(s *Spec) {
			s.OCI.Process.User = u
			s.OCI.Process.Capabilities.Effective, s.OCI.Process.Capabilities.Permitted = nil, nil
		}
	}
	capabilities := func(names ...string) func(*Spec) {
		return func(s *Spec) {
			s.OCI.Process.Capabilities = &specs.LinuxCapabilities{Bounding: names, Effective: names, Permitted: names}
		}
	}
	mode := os.FileMode(0o600)
	cases := map[string]struct {
		script string
		edits  []func(*Spec)
		want   string
	}{
		"it is process 1 of its own pid namespace": {script: "echo $$", want: "1\n"},
		"host name":                    {script: "hostname", want: "box\n"},
		"environment":                  {script: "echo $GREETING", edits: []func(*Spec){func(s *Spec) { s.OCI.Process.Env = append(s.OCI.Process.Env, "GREETING=hi") }}, want: "hi\n"},
		"a missing cwd is made":        {script: "pwd", edits: []func(*Spec){func(s *Spec) { s.OCI.Process.Cwd = "/made/for/it" }}, want: "/made/for/it\n"},
		"user and groups":              {script: "id -u; id -g; id -G", edits: []func(*Spec){user(specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{7, 8}})}, want: "1000\n1001\n1001 7 8\n"},
		"umask":                        {script: "umask", edits: []func(*Spec){user(specs.User{Umask: ptr(uint32(0o027))})}, want: "0027\n"},
		"stdio belongs to the user":    {script: "echo x > /dev/stdout", edits: []func(*Spec){user(specs.User{UID: 1000})}, want: "x\n"},
		"writes go to the upper layer": {script: "echo x > /new && cat /new", want: "x\n"},
		"read-only root":               {script: "echo x > /new || echo refused; echo y > /dev/shm/y && cat /dev/shm/y", edits: []func(*Spec){func(s *Spec) { s.OCI.Root = &specs.Root{Readonly: true} }}, want: "refused\ny\n"},
		"masked paths":                 {script: "wc -c < /proc/keys; ls /sys/firmware | wc -l; echo x > /sys/firmware/x || echo refused", want: "0\n0\nrefused\n"},
		"read-only paths":              {script: "echo 1 > /proc/sys/vm/swappiness || echo refused", want: "refused\n"},
		"devices work and no others":   {script: "echo x > /dev/null && head -c 3 /dev/zero | od -An -tx1; mknod /dev/sda b 8 0 && cat /dev/sda 2>&1 | grep -c 'not permitted'", want: " 00 00 00\n1\n"},
		"a device of its own": {script: "ls -l /dev/mem2 | cut -c1-10 2>/dev/null || ls -l /dev/mem2", edits: []func(*Spec){func(s *Spec) {
			s.OCI.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/mem2", Type: "c", Major: 1, Minor: 3, FileMode: &mode}}
		}}, want: "crw-------"},
		"bind mount":                     {script: "cat /data/file; echo x > /data/new && echo written", edits: []func(*Spec){mount(specs.Mount{Destination: "/data", Type: "bind", Source: shared, Options: []string{"rbind", "rprivate"}})}, want: "shared\nwritten\n"},
		"read-only bind mount of a file": {script: "cat /etc/one; echo x > /etc/one || echo refused", edits: []func(*Spec){mount(specs.Mount{Destination: "/etc/one", Type: "bind", Source: filepath.Join(shared, "file"), Options: []string{"bind", "ro"}})}, want: "shared\nrefused\n"},
		"recursive read-only bind mount": {script: "echo x > /data/x || echo refused", edits: []func(*Spec){mount(specs.Mount{Destination: "/data", Type: "bind", Source: shared, Options: []string{"rbind", "rro"}})}, want: "refused\n"},
		"tmpfs":                          {script: "grep -c ' /scratch tmpfs .*size=1024k' /proc/mounts", edits: []func(*Spec){mount(specs.Mount{Destination: "/scratch", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m", "mode=1777"}})}, want: "1\n"},
		"sysctl": {script: "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax", edits: []func(*Spec){func(s *Spec) {
			s.OCI.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1", "kernel.msgmax": "4096"}
		}}, want: "1\n4096\n"},
		"rlimits": {script: "ulimit -n; ulimit -Hn", edits: []func(*Spec){func(s *Spec) {
			s.OCI.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 99, Hard: 100}}
		}}, want: "99\n100\n"},
		"oom_score_adj":        {script: "cat /proc/self/oom_score_adj", edits: []func(*Spec){func(s *Spec) { s.OCI.Process.OOMScoreAdj = ptr(321) }}, want: "321\n"},
		"default capabilities": {script: "grep -E 'CapEff|CapBnd' /proc/self/status", want: "CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n"},
		"no capabilities":      {script: "grep -E 'CapEff|CapBnd|CapPrm' /proc/self/status", edits: []func(*Spec){capabilities()}, want: "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n"},
		"ambient capabilities for a user": {script: "grep -E 'CapEff|CapAmb' /proc/self/status", edits: []func(*Spec){func(s *Spec) {
			one := []string{"CAP_NET_BIND_SERVICE"}
			s.OCI.Process.User.UID = 1000
			s.OCI.Process.Capabilities = &specs.LinuxCapabilities{Bounding: one, Effective: one, Permitted: one, Inheritable: one, Ambient: one}
		}}, want: "CapEff:\t0000000000000400\nCapAmb:\t0000000000000400\n"},
		"no new privileges":               {script: "grep NoNewPrivs /proc/self/status", edits: []func(*Spec){func(s *Spec) { s.OCI.Process.NoNewPrivileges = true }}, want: "NoNewPrivs:\t1\n"},
		"the default filter is there":     {script: "grep '^Seccomp:' /proc/self/status; unshare -U true 2>/dev/null || echo refused", want: "Seccomp:\t2\nrefused\n"},
		"it is alone in its network":      {script: "ls /sys/class/net", want: "lo\n"},
		"nothing of the engine is open":   {edits: []func(*Spec){func(s *Spec) { s.OCI.Process.Args = []string{"ls", "-l", "/proc/self/fd"} }}, want: "total 0"},
		"signals are not ignored":         {edits: []func(*Spec){func(s *Spec) { s.OCI.Process.Args = []string{"grep", "SigIgn", "/proc/self/status"} }}, want: "SigIgn:\t0000000000000000\n"},
		"a link of the image stays in it": {script: "cat /etc/one", edits: []func(*Spec){func(s *Spec) { os.Symlink("/etc", filepath.Join(s.Overlay.Upper, "link")) }, mount(specs.Mount{Destination: "/link/one", Type: "bind", Source: filepath.Join(shared, "file"), Options: []string{"bind"}})}, want: "shared\n"},
		"root without an overlay":         {script: "ls / | grep -c busybox; ls /bin/busybox", edits: []func(*Spec){func(s *Spec) { s.OCI.Root = &specs.Root{Path: s.Overlay.Lower[0]}; s.Overlay = nil }}, want: "0\n/bin/busybox\n"},
		"the cgroup is its own root":      {script: "grep :pids: /proc/self/cgroup || cat /proc/self/cgroup", want: ":/\n"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			out, errs, _ := run(t, r, shell(t, root, c.script, c.edits...))
			switch {
			case name == "the cgroup is its own root" && strings.HasSuffix(out, c.want):
			case name == "nothing of the engine is open" && strings.Count(out, "\n") == 5: // stdio, and the directory itself
			case name == "a device of its own" && strings.HasPrefix(out, c.want):
			case out == c.want:
			default:
				t.Errorf("%s\nprinted %q, want %q; stderr:\n%s", c.script, out, c.want, errs)
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

func TestExitCodes(t *testing.T) {
	r := testRuntime(t)
	root := busybox(t)
	for script, want := range map[string]int{"exit 0": 0, "exit 42": 42, "kill -TERM $$; sleep 9": 0, "sh -c 'kill -KILL $$'; exit $?": 137} {
		if strings.HasPrefix(script, "kill") {
			continue // process 1 does not die of its own signals
		}
		_, _, exit := run(t, r, shell(t, root, script))
		if exit.Code != want || exit.OOMKilled || exit.At.IsZero() {
			t.Errorf("%q: exit %+v, want code %d", script, exit, want)
		}
	}
}

func TestStartFailsInRuncsWords(t *testing.T) {
	r := testRuntime(t)
	root := busybox(t)
	if err := os.WriteFile(filepath.Join(root, "bin/garbage"), []byte("\x00\x01"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/dangling"), []byte("#!/no/interpreter\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	const prefix = "OCI runtime create failed: unable to start container process: "
	cases := []struct {
		program string
		kind    problem.Kind
		want    string
		code    int
	}{
		{"absent", problem.NotFound, `exec: "absent": executable file not found in $PATH: unknown`, 127},
		{"/absent", problem.NotFound, `exec: "/absent": stat /absent: no such file or directory: unknown`, 127},
		{"/etc/not-executable", problem.Denied, `exec: "/etc/not-executable": permission denied: unknown`, 126},
		{"/etc", problem.Denied, `exec /etc: permission denied: unknown`, 126},
		{"garbage", problem.Denied, `exec /bin/garbage: exec format error: unknown`, 126},
		{"/bin/dangling", problem.NotFound, `exec /bin/dangling: no such file or directory: unknown`, 127},
	}
	for _, c := range cases {
		ctn := create(t, r, testSpec(t, root, c.program))
		err := ctn.Start(testContext(t))
		if !errors.Is(err, c.kind) || err.Error() != prefix+c.want {
			t.Errorf("start %s: %v\nwant %s%s (%v)", c.program, err, prefix, c.want, c.kind)
		}
		exit, err := ctn.Wait(testContext(t))
		if err != nil || exit.Code != c.code {
			t.Errorf("wait for %s: %+v, %v; want code %d", c.program, exit, err, c.code)
		}
	}
}

func TestCreateFailsWhole(t *testing.T) {
	r := testRuntime(t)
	root := busybox(t)
	with := func(edit func(*Spec)) Spec { return shell(t, root, "true", edit) }
	cases := map[string]struct {
		spec Spec
		kind error
		want string
	}{
		"a mount that the kernel refuses": {with(func(s *Spec) {
			s.OCI.Mounts = append(s.OCI.Mounts, specs.Mount{Destination: "/x", Type: "tmpfs", Source: "tmpfs", Options: []string{"nonsense=1"}})
		}), nil, `error mounting "tmpfs" to rootfs at "/x"`},
		"an unknown file system": {with(func(s *Spec) {
			s.OCI.Mounts = append(s.OCI.Mounts, specs.Mount{Destination: "/x", Type: "nofs", Source: "nofs"})
		}), nil, `no such device`},
		"a bind source that is not there": {with(func(s *Spec) {
			s.OCI.Mounts = append(s.OCI.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/no/such", Options: []string{"bind"}})
		}), problem.Invalid, "/no/such"},
		"a layer that is not there":     {with(func(s *Spec) { s.Overlay.Lower = []string{"/no/such/layer"} }), nil, "overlay"},
		"a namespace that is not there": {with(func(s *Spec) { s.OCI.Linux.Namespaces[4].Path = "/no/such/net" }), nil, "join network namespace /no/such/net"},
		"a sysctl of the host":          {with(func(s *Spec) { s.OCI.Linux.Sysctl = map[string]string{"no.such.key": "1"} }), nil, "set sysctl no.such.key=1"},
		"a log that cannot be written":  {with(func(s *Spec) { s.Log.Path = "/no/such/log" }), nil, "open the log"},
		"memory that is too little":     {with(func(s *Spec) { s.OCI.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "999"}} }), nil, "cgroup"},
		"an unknown capability":         {with(func(s *Spec) { s.OCI.Process.Capabilities.Bounding = []string{"CAP_NONE"} }), problem.Invalid, "CAP_NONE"},
		"hooks":                         {with(func(s *Spec) { s.OCI.Hooks = &specs.Hooks{} }), problem.Unsupported, "hooks"},
		"a user namespace by path": {with(func(s *Spec) {
			s.OCI.Linux.Namespaces = append(s.OCI.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: "/proc/self/ns/user"})
		}), problem.Unsupported, "user namespace by path"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			ctn, err := r.Create(testContext(t), c.spec)
			if err == nil {
				ctn.Delete(testContext(t))
				t.Fatal("it was created")
			}
			if !strings.Contains(err.Error(), c.want) || c.kind != nil && !errors.Is(err, c.kind) {
				t.Errorf("%v\nwant %q (%v)", err, c.want, c.kind)
			}
		})
	}
}

func TestALogHoldsWhatWasPrinted(t *testing.T) {
	r := testRuntime(t)
	root := busybox(t)
	for _, format := range []string{LogJSON, LogCRI} {
		s := shell(t, root, "seq 1 20000; printf end")
		s.Log.Format = format
		out, _, _ := run(t, r, s)
		var logged strings.Builder
		for e, err := range logfile.Read(t.Context(), s.Log.Path, logfile.Options{Format: format}) {
			if err != nil {
				t.Fatal(err)
			}
			logged.Write(e.Line)
		}
		if out != logged.String() || !strings.HasSuffix(out, "20000\nend") {
			t.Errorf("%s: attached to %d bytes, logged %d", format, len(out), logged.Len())
		}
	}
}

func TestSignal(t *testing.T) {
	r := testRuntime(t)
	ctx := testContext(t)
	c := create(t, r, shell(t, busybox(t), "trap 'exit 7' TERM; echo ready; while true; do sleep 1; done"))
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	waitForLog(t, c, "ready")
	if err := c.Signal(ctx, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if exit, err := c.Wait(ctx); err != nil || exit.Code != 7 {
		t.Errorf("exit %+v, %v; want code 7", exit, err)
	}
	if err := c.Signal(ctx, unix.SIGTERM); !errors.Is(err, problem.Conflict) {
		t.Errorf("signal after the exit: %v, want a conflict", err)
	}
	if c.Pid() != 0 {
		t.Errorf("pid %d after the exit", c.Pid())
	}
}

// waitForLog waits until the container has printed text.
func waitForLog(t *testing.T, c *Container, text string) {
	t.Helper()
	for e, err := range logfile.Read(testContext(t), filepath.Join(c.state.Dir, "log"), logfile.Options{Format: LogJSON, Follow: true, Done: c.Done()}) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(e.Line), text) {
			return
		}
	}
	t.Fatalf("the container ended before it printed %q", text)
}

func TestDeleteKills(t *testing.T) {
	r := testRuntime(t)
	ctx := testContext(t)
	s := shell(t, busybox(t), "trap '' TERM INT; sleep 1000 & sleep 1000 & echo ready; wait")
	c := create(t, r, s)
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	waitForLog(t, c, "ready")
	pids, err := c.Pids(ctx)
	if err != nil || len(pids) != 3 {
		t.Fatalf("pids %v, %v; want three", pids, err)
	}
	if _, err := r.Create(ctx, s); !errors.Is(err, problem.Exists) {
		t.Errorf("a second container of the same id: %v", err)
	}
	for range 2 {
		if err := c.Delete(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, pid := range pids {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid)); err == nil {
			t.Errorf("process %d lives", pid)
		}
	}
	if exit, err := c.Wait(ctx); err != nil || exit.Code != 137 {
		t.Errorf("exit %+v, %v; want code 137", exit, err)
	}
}

func TestDeleteOfACreatedContainer(t *testing.T) {
	r := testRuntime(t)
	c := create(t, r, testSpec(t, busybox(t), "true"))
	if c.Pid() == 0 {
		t.Error("no pid")
	}
	if err := c.Delete(testContext(t)); err != nil {
		t.Fatal(err)
	}
}

// A container that shares the host's pids leaves processes that no namespace's
// end kills.
func TestTheWholeCgroupEndsWithTheFirstProcess(t *testing.T) {
	r := testRuntime(t)
	ctx := testContext(t)
	s := shell(t, busybox(t), "sleep 1000 & exit 5", func(s *Spec) { s.OCI.Linux.Namespaces = s.OCI.Linux.Namespaces[1:] })
	c := create(t, r, s)
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if exit, err := c.Wait(ctx); err != nil || exit.Code != 5 {
		t.Errorf("exit %+v, %v; want code 5", exit, err)
	}
	if pids, err := c.Pids(ctx); err != nil || len(pids) != 0 {
		t.Errorf("left: %v, %v", pids, err)
	}
}

func TestWarningsWhereTheHostHasLess(t *testing.T) {
	r := testRuntime(t)
	if r.limits.Resource {
		t.Skip("this host lets raise every limit")
	}
	s := shell(t, busybox(t), "ulimit -Hn", func(s *Spec) {
		s.OCI.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1 << 30, Hard: 1 << 30}}
		s.OCI.Process.OOMScoreAdj = ptr(-999)
		s.OCI.Process.Capabilities.Bounding = AllCapabilities()
	})
	c := create(t, r, s)
	want := []string{
		"oom_score_adj -999: this host lets it go no lower than " + fmt.Sprint(r.limits.OOMScoreAdj),
		fmt.Sprintf("RLIMIT_NOFILE: this host lets it go no higher than %d, not %d", r.limits.Rlimits[7], 1<<30),
		"CAP_SYS_RESOURCE: this host has not got it to give",
	}
	if diff := cmp.Diff(want, c.Warnings()); diff != "" {
		t.Errorf("warnings (-want +got)\n%s", diff)
	}
	if err := c.Start(testContext(t)); err != nil {
		t.Error(err)
	}
}
