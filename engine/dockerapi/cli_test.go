package dockerapi_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gantry/engine/internal/enginetest"
)

func TestVersionAndInfo(t *testing.T) {
	d := newDaemon(t)
	if out := d.do("version", "--format", "{{.Server.APIVersion}} {{.Server.Version}}"); out != "1.56 test" {
		t.Errorf("version: %q", out)
	}
	if out := d.do("version"); !strings.Contains(out, "Server: Gantry") {
		t.Errorf("version: %s", out)
	}
	r := d.try("info")
	if r.code != 0 || !strings.Contains(r.out, "Storage Driver: overlay2") || strings.Contains(r.err, "WARNING") {
		t.Errorf("info: %d\n%s%s", r.code, r.out, r.err)
	}
	if out := d.do("images", "--format", "{{.Repository}}:{{.Tag}}"); out != "busybox:latest" {
		t.Errorf("images: %q", out)
	}
}

func TestRunInTheForeground(t *testing.T) {
	d := newDaemon(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("content\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		want result
	}{
		"output and exit code":    {[]string{"run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3"}, result{"out\n", "err\n", 3}},
		"variables":               {[]string{"run", "--rm", "-e", "A=b", "busybox", "sh", "-c", "echo $A"}, result{"b\n", "", 0}},
		"working directory, user": {[]string{"run", "--rm", "-w", "/tmp", "-u", "web", "busybox", "sh", "-c", "pwd; id -un"}, result{"/tmp\nweb\n", "", 0}},
		"a file bound":            {[]string{"run", "--rm", "-v", file + ":/file", "busybox", "cat", "/file"}, result{"content\n", "", 0}},
		"no network":              {[]string{"run", "--rm", "--network", "none", "busybox", "ls", "/sys/class/net"}, result{"lo\n", "", 0}},
		"limits": {[]string{"run", "--rm", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "50", "busybox", "sh", "-c",
			"cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true"}, result{"67108864\n", "", 0}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := d.try(c.args...); got != c.want {
				t.Errorf("docker %s: %+v, want %+v", strings.Join(c.args, " "), got, c.want)
			}
		})
	}
	if out := d.do("ps", "-aq"); out != "" {
		t.Errorf("left after --rm: %s", out)
	}
}

func TestErrorsOfRun(t *testing.T) {
	d := newDaemon(t)
	for name, c := range map[string]struct {
		args []string
		code int
		text string
	}{
		"no such program": {[]string{"run", "--rm", "busybox", "nosuchprogram"}, 127,
			`failed to create shim task: OCI runtime create failed: unable to start container process: exec: "nosuchprogram": executable file not found in $PATH: unknown` + "\n"},
		"not executable":        {[]string{"run", "--rm", "busybox", "/etc/passwd"}, 126, "permission denied"},
		"no such image":         {[]string{"run", "--rm", "127.0.0.1:1/missing:image"}, 125, "connection refused"},
		"an unsupported option": {[]string{"run", "--rm", "--storage-opt", "size=1g", "busybox", "true"}, 125, "--storage-opt is supported only for overlay over xfs"},
		"no such user":          {[]string{"run", "--rm", "-u", "nobody-here", "busybox", "true"}, 125, "no matching entries in passwd file"},
		"another CPU":           {[]string{"run", "--rm", "--platform", "linux/s390x", "busybox", "true"}, 125, "s390x"},
		"too little memory":     {[]string{"run", "--rm", "-m", "1m", "busybox", "true"}, 125, "Minimum memory limit allowed is 6MB"},
	} {
		t.Run(name, func(t *testing.T) {
			got := d.try(c.args...)
			if got.code != c.code || !strings.Contains(got.err, c.text) {
				t.Errorf("exit %d, want %d; %q lacks %q", got.code, c.code, got.err, c.text)
			}
		})
	}
	if out := d.do("ps", "-aq"); out != "" {
		t.Errorf("left behind: %s", out)
	}
	if r := d.try("inspect", "nothing"); r.code != 1 || !strings.Contains(strings.ToLower(r.err), "no such object: nothing") {
		t.Errorf("inspect of nothing: %+v", r)
	}
}

func TestStdin(t *testing.T) {
	d := newDaemon(t)
	cmd := d.command("run", "-i", "--rm", "busybox", "sh", "-c", "cat; echo end")
	big := strings.Repeat("0123456789abcdef", 64<<10) // 1 MiB: more than any buffer on the way
	cmd.Stdin = strings.NewReader(big)
	if got := run(t, cmd); got.out != big+"end\n" || got.code != 0 {
		same := 0
		for same < min(len(got.out), len(big)) && got.out[same] == big[same] {
			same++
		}
		t.Errorf("exit %d, %d bytes of output, the first %d right, the last %q, %q", got.code, len(got.out), same, got.out[max(0, len(got.out)-10):], got.err)
	}
}

func TestLifeOfADetachedContainer(t *testing.T) {
	d := newDaemon(t)
	id := d.do("run", "-d", "--name", "web", "-p", "127.0.0.1:8099:80", "-v", "data:/data", "-l", "a=b", "busybox",
		"sh", "-c", "echo started; trap 'echo stopping; exit 0' TERM; while :; do sleep 0.1; done")
	if out := d.do("ps", "--format", "{{.ID}} {{.Names}} {{.Ports}} {{.Image}}", "--no-trunc"); out != id+" web 127.0.0.1:8099->80/tcp busybox" {
		t.Errorf("ps: %q", out)
	}
	if out := d.do("inspect", "-f", "{{.State.Status}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}} {{(index .Mounts 0).Name}} {{.Config.Labels.a}}", "web"); !strings.HasPrefix(out, "running 172.") || !strings.HasSuffix(out, " data b") {
		t.Errorf("inspect: %q", out)
	}
	if out := d.do("exec", "web", "cat", "/data/seed"); out != "seed" {
		t.Errorf("exec: %q", out)
	}
	if got := d.try("exec", "web", "sh", "-c", "exit 4"); got.code != 4 {
		t.Errorf("exec's exit code: %+v", got)
	}
	if got := d.try("exec", "web", "nosuchprogram"); got.code != 127 {
		t.Errorf("exec of nothing: %+v", got)
	}
	if out := d.do("top", "web"); !strings.Contains(out, "started; trap") {
		t.Errorf("top: %q", out)
	}
	if out := d.do("stats", "--no-stream", "--format", "{{.Name}}", "web"); out != "web" {
		t.Errorf("stats: %q", out)
	}
	d.do("rename", "web", "site")
	d.do("pause", "site")
	d.do("unpause", "site")
	d.do("update", "--memory", "64m", "--memory-swap", "128m", "site")
	d.do("stop", "site")
	if out := d.do("logs", "site"); out != "started\nstopping" {
		t.Errorf("logs: %q", out)
	}
	if out := d.do("logs", "-t", "--tail", "1", "site"); !strings.HasSuffix(out, "Z stopping") {
		t.Errorf("logs -t: %q", out)
	}
	if out := d.do("wait", "site"); out != "0" {
		t.Errorf("wait: %q", out)
	}
	if out := d.do("ps", "-a", "--format", "{{.Status}}", "--filter", "label=a=b"); !strings.HasPrefix(out, "Exited (0)") {
		t.Errorf("ps -a: %q", out)
	}
	d.do("start", "site")
	d.do("restart", "-t", "1", "site")
	d.do("kill", "-s", "KILL", "site")
	if out := d.do("diff", "site"); strings.Contains(out, "/bin") {
		t.Errorf("diff: %q", out)
	}
	d.do("rm", "-v", "site")
	if out := d.do("volume", "ls", "-q"); out != "data" {
		t.Errorf("volumes: %q", out)
	}
	d.do("volume", "rm", "data")
}

func TestFollowLogs(t *testing.T) {
	d := newDaemon(t)
	d.do("run", "-d", "--name", "counter", "busybox", "sh", "-c", "for i in 1 2 3 4 5; do echo $i; sleep 0.05; done")
	if out := d.do("logs", "-f", "counter"); out != "1\n2\n3\n4\n5" {
		t.Errorf("logs -f: %q", out)
	}
}

func TestBuildTagSaveLoad(t *testing.T) {
	d := newDaemon(t)
	dir := t.TempDir()
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("Dockerfile", "FROM busybox\nARG who=nobody\nCOPY file /file\nRUN echo hello $who > /made && cat /made\nCMD [\"cat\", \"/made\", \"/file\"]\n")
	write("file", "from the context\n")
	out := d.do("build", "-t", "app:1", "--build-arg", "who=world", dir)
	for _, want := range []string{"Step 1/5 : FROM busybox", "hello world", "Successfully built ", "Successfully tagged app:1"} {
		if !strings.Contains(out, want) {
			t.Errorf("build's output lacks %q:\n%s", want, out)
		}
	}
	if out := d.do("run", "--rm", "app:1"); out != "hello world\nfrom the context" {
		t.Errorf("the built image says %q", out)
	}
	if again := d.do("build", "-q", "--build-arg", "who=world", dir); again != d.do("images", "-q", "--no-trunc", "app:1") {
		t.Errorf("the second build made %q", again)
	}
	write("Dockerfile", "FROM busybox\nRUN echo before; exit 9\n")
	if got := d.try("build", dir); got.code != 9 || !strings.Contains(got.out, "before") || !strings.Contains(got.err, "returned a non-zero code: 9\nDockerfile:2:1: RUN echo before; exit 9") {
		t.Errorf("a failing step: %+v", got)
	}
	if got := d.try("build", "-q", "--no-cache", dir); got.code != 9 || got.out != "" || !strings.Contains(got.err, "\nbefore\n") || !strings.Contains(got.err, "Step 2/2") {
		t.Errorf("a failing step of a quiet build: %+v", got)
	}
	d.do("tag", "app:1", "other/name:2")
	archive := filepath.Join(t.TempDir(), "app.tar")
	d.do("save", "-o", archive, "app:1")
	d.do("rmi", "app:1", "other/name:2")
	if out := d.do("load", "-i", archive); !strings.Contains(out, "Loaded image: app:1") {
		t.Errorf("load: %q", out)
	}
	if out := d.do("history", "--format", "{{.CreatedBy}}", "app:1"); !strings.Contains(out, "CMD") {
		t.Errorf("history: %q", out)
	}
	d.do("create", "--name", "holder", "app:1")
	if got := d.try("rmi", "app:1"); got.code != 1 || !strings.Contains(got.err, "is using its referenced image") {
		t.Errorf("rmi of an image in use: %+v", got)
	}
}

func TestImport(t *testing.T) {
	d := newDaemon(t)
	cmd := d.command("import", "--change", "CMD [\"id\", \"-u\"]", "--change", "USER web", "-", "imported:1")
	cmd.Stdin = bytes.NewReader(enginetest.BusyboxArchive(t))
	if got := run(t, cmd); got.code != 0 || !strings.HasPrefix(got.out, "sha256:") {
		t.Fatalf("import: %+v", got)
	}
	if out := d.do("run", "--rm", "imported:1"); out != "1000" {
		t.Errorf("run of the import: %q", out)
	}
}

func TestCommit(t *testing.T) {
	d := newDaemon(t)
	d.do("run", "-d", "--name", "work", "-e", "A=b", "busybox", "sh", "-c", "echo made > /made; rm /data/seed; sleep 60")
	for d.try("exec", "work", "test", "!", "-e", "/data/seed").code != 0 {
	}
	if out := d.do("diff", "work"); out != "C /data\nD /data/seed\nA /made" {
		t.Errorf("diff: %q", out)
	}
	d.do("commit", "-m", "by hand", "-c", "CMD cat /made", "work", "saved:1")
	if out := d.do("run", "--rm", "saved:1"); out != "made" {
		t.Errorf("the committed image says %q", out)
	}
	if out := d.do("run", "--rm", "saved:1", "sh", "-c", "ls /data; echo $A"); out != "b" {
		t.Errorf("the committed image has %q", out)
	}
	if out := d.do("inspect", "-f", "{{.State.Status}}", "work"); out != "running" {
		t.Errorf("after the commit it is %s", out)
	}
}

func TestNetworksAndVolumes(t *testing.T) {
	d := newDaemon(t)
	d.do("network", "create", "--subnet", "10.99.0.0/24", "backend")
	if out := d.do("run", "--rm", "--network", "backend", "--ip", "10.99.0.77", "busybox", "sh", "-c", "ip -4 -o addr show eth0"); !strings.Contains(out, "10.99.0.77/24") {
		t.Errorf("address: %q", out)
	}
	d.do("run", "-d", "--name", "two", "busybox", "sleep", "60")
	d.do("network", "connect", "backend", "two")
	if out := d.do("exec", "two", "ls", "/sys/class/net"); out != "eth0\neth1\nlo" {
		t.Errorf("after connect: %q", out)
	}
	if out := d.do("network", "inspect", "-f", "{{range .Containers}}{{.Name}}{{end}}", "backend"); out != "two" {
		t.Errorf("network inspect: %q", out)
	}
	d.do("network", "disconnect", "backend", "two")
	if out := d.do("network", "ls", "--format", "{{.Name}}"); out != "backend\nbridge\nhost\nnone" {
		t.Errorf("networks: %q", out)
	}
	d.do("network", "rm", "backend")
	if got := d.try("network", "rm", "bridge"); got.code != 1 || !strings.Contains(got.err, "pre-defined network") {
		t.Errorf("removing bridge: %+v", got)
	}
	d.do("volume", "create", "--label", "x=y", "vol")
	if out := d.do("volume", "inspect", "-f", "{{.Name}} {{.Driver}} {{.Labels.x}}", "vol"); out != "vol local y" {
		t.Errorf("volume: %q", out)
	}
	d.do("system", "df")
	d.do("system", "df", "-v")
	d.do("rm", "-f", "two")
	d.do("volume", "prune", "-af")
	d.do("container", "prune", "-f")
	d.do("image", "prune", "-af")
	if out := d.do("images", "-q"); out != "" {
		t.Errorf("after prune: %q", out)
	}
}

func TestPortInUse(t *testing.T) {
	d := newDaemon(t)
	d.do("run", "-d", "--name", "first", "-p", "8098:80", "busybox", "sleep", "60")
	got := d.try("run", "--rm", "-p", "8098:80", "busybox", "true")
	if got.code != 125 || !strings.Contains(got.err, "port is already allocated") {
		t.Errorf("port in use: %+v", got)
	}
	if out := d.do("port", "first"); out != "80/tcp -> 0.0.0.0:8098" {
		t.Errorf("port: %q", out)
	}
}

func TestTerminal(t *testing.T) {
	d := newDaemon(t)
	terminal(t, d.command("run", "-it", "--rm", "--name", "term", "busybox", "sh"), func(in io.Writer, expect func(string)) {
		expect("# ")
		io.WriteString(in, "echo $((40+2)); tty\r")
		expect("42")
		expect("/dev/pts/0")
		io.WriteString(in, "exit 5\r")
	}, 5)
	d.do("run", "-d", "--name", "back", "busybox", "sleep", "60")
	terminal(t, d.command("exec", "-it", "back", "sh"), func(in io.Writer, expect func(string)) {
		expect("# ")
		io.WriteString(in, "stty size; exit 6\r")
		expect("33 101")
	}, 6)
	d.do("run", "-dit", "--name", "detach", "busybox", "sh")
	terminal(t, d.command("attach", "detach"), func(in io.Writer, expect func(string)) {
		io.WriteString(in, "\r")
		expect("# ")
		in.Write([]byte{16, 17}) // ctrl-p ctrl-q
		expect("read escape sequence")
	}, 1)
	if out := d.do("inspect", "-f", "{{.State.Running}}", "detach"); out != "true" {
		t.Errorf("after the detach keys it runs: %s", out)
	}
}
