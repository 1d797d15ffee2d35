package dockerapi_test

import (
	"encoding/json"
	"regexp"
	"runtime"
	"strings"
	"testing"

	dsystem "github.com/moby/moby/api/types/system"
)

func TestInfoTellsOfTheHost(t *testing.T) {
	d := newDaemon(t)
	d.do("run", "-d", "--name", "runs", "busybox", "sleep", "600")
	d.do("run", "-d", "--name", "waits", "busybox", "sleep", "600")
	d.do("pause", "waits")
	d.do("run", "--name", "ended", "busybox", "true")
	info := func() (out dsystem.Info) {
		t.Helper()
		status, _, body := d.request("GET", "/info", "")
		if err := json.Unmarshal([]byte(body), &out); err != nil || status != 200 {
			t.Fatalf("%d %v: %s", status, err, body)
		}
		return out
	}
	got := info()
	if got.Containers != 3 || got.ContainersRunning != 1 || got.ContainersPaused != 1 || got.ContainersStopped != 1 || got.Images != 1 {
		t.Errorf("containers and images: %+v", got)
	}
	if got.NCPU != runtime.NumCPU() || got.MemTotal == 0 || got.KernelVersion == "" || got.OSType != "linux" || got.Name == "" || !strings.HasPrefix(got.CgroupVersion, "1") && got.CgroupVersion != "2" {
		t.Errorf("the host: %+v", got)
	}
	if got.DockerRootDir != d.Instance.DataDir || got.Driver != "overlay2" || got.DriverStatus[0][0] != "Backing Filesystem" {
		t.Errorf("the storage: %s %s %v", got.DockerRootDir, got.Driver, got.DriverStatus)
	}
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(got.ID) {
		t.Errorf("ID %q", got.ID)
	}
	d.server.Close()
	d.Restart(t)
	d.serve()
	if again := info(); again.ID != got.ID {
		t.Errorf("ID %s after a restart, %s before", again.ID, got.ID)
	}
}

func TestVersionHasItsComponents(t *testing.T) {
	d := newDaemon(t)
	if out := d.do("version", "--format", "{{range .Server.Components}}{{.Name}} {{.Version}};{{end}}"); out != "Engine test;gantry-shim test;" {
		t.Errorf("components: %q", out)
	}
	if out := d.do("version"); !strings.Contains(out, "Engine:") || !strings.Contains(out, "gantry-shim:") {
		t.Errorf("version: %s", out)
	}
}

// An archive comes from standard input, compressed too.
func TestCopyOfAStream(t *testing.T) {
	d := newDaemon(t)
	d.do("run", "-d", "--name", "from", "busybox", "sh", "-c", "mkdir /d; echo x >/d/f; chmod 600 /d/f; echo ready; exec sleep 600")
	d.do("run", "-d", "--name", "into", "busybox", "sleep", "600")
	d.awaitLog("from", "ready")
	archive := d.try("cp", "from:/d", "-")
	cmd := d.command("cp", "-", "into:/tmp")
	cmd.Stdin = strings.NewReader(archive.out)
	if got := run(t, cmd); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	if out := d.do("exec", "into", "sh", "-c", "cat /tmp/d/f; stat -c %a /tmp/d/f"); out != "x\n600" {
		t.Errorf("copied: %q", out)
	}
	if got := d.try("cp", "from:/d", "into:/tmp"); got.code == 0 || !strings.Contains(got.err, "copying between containers is not supported") {
		t.Errorf("between containers: %+v", got)
	}
}

func TestTopAndAnnotations(t *testing.T) {
	d := newDaemon(t)
	d.do("run", "-d", "--name", "noted", "--annotation", "a=b", "--hostname", "odd!name", "busybox", "sleep", "600")
	for filter, want := range map[string]bool{"a": true, "a=b": true, "a=c": false, "b": false} {
		status, _, body := d.request("GET", `/containers/json?filters={"annotation":["`+filter+`"]}`, "")
		if status != 200 || strings.Contains(body, `"/noted"`) != want {
			t.Errorf("annotation %s: %d %s", filter, status, body)
		}
	}
	if out := d.do("exec", "noted", "hostname"); out != "odd!name" {
		t.Errorf("host name %q", out)
	}
	rows := strings.Split(d.do("top", "noted", "aux"), "\n")
	if len(rows) != 2 || !regexp.MustCompile(`^USER +PID +%CPU +%MEM +VSZ +RSS +TTY +STAT +START +TIME +COMMAND$`).MatchString(strings.TrimSpace(rows[0])) ||
		!regexp.MustCompile(`^root +[0-9]+ +[0-9.]+ +[0-9.]+ +[0-9]+ +[0-9]+ +\? +S.* +[0-9:]+ +0:00 +sleep 600$`).MatchString(strings.TrimSpace(rows[1])) {
		t.Errorf("top: %q", rows)
	}
}

// What older versions of the API have otherwise.
func TestOlderVersions(t *testing.T) {
	d := newDaemon(t)
	d.do("run", "-d", "--name", "old", "--annotation", "a=b", "busybox", "sleep", "600")
	for _, c := range []struct {
		path       string
		has, lacks string
	}{
		{"/v1.24/info", `"ExecutionDriver":"\u003cnot supported\u003e","SecurityOptions":[`, `"name=`},
		{"/v1.24/info", `"seccomp","cgroupns"]`, `"name=`}, // "apparmor" before them, where the host has it
		{"/v1.25/info", `"name=seccomp,profile=builtin"`, "ExecutionDriver"},
		{"/v1.27/networks", `"Name":"old"`, ""},
		{"/v1.28/networks", `"Name":"bridge"`, `"Containers"`},
		{"/v1.45/containers/json", `"/old"`, "Annotations"},
		{"/v1.46/containers/json", `"Annotations":{"a":"b"}`, ""},
		{"/v1.43/system/df", `"VirtualSize"`, `"Annotations"`},
		{"/v1.44/system/df", `"LayersSize"`, "VirtualSize"},
		{"/v1.51/system/df", `"LayersSize"`, "ImageUsage"},
		{"/v1.52/system/df", "ImageUsage", "LayersSize"},
	} {
		status, _, body := d.request("GET", c.path, "")
		if status != 200 || !strings.Contains(body, c.has) || c.lacks != "" && strings.Contains(body, c.lacks) {
			t.Errorf("%s: %d %s; want %s, not %s", c.path, status, body, c.has, c.lacks)
		}
	}
}
