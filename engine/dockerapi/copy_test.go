package dockerapi_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	dcontainer "github.com/moby/moby/api/types/container"
)

// entries lists the names in an archive, with content of the small files.
func entries(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	found := map[string]string{}
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if len(body) > 100 {
			body = nil
		}
		found[h.Name] = string(body)
		if h.Linkname != "" {
			found[h.Name] = "-> " + h.Linkname
		}
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestCopyBothWays(t *testing.T) {
	d := newDaemon(t)
	here, bound := t.TempDir(), t.TempDir()
	write(t, filepath.Join(bound, "b"), "in the bind\n")
	write(t, filepath.Join(here, "one"), "1\n")
	write(t, filepath.Join(here, "dir/two"), "2\n")
	if err := os.Symlink("two", filepath.Join(here, "dir/link")); err != nil {
		t.Fatal(err)
	}
	args := []string{"-v", "vol:/vol", "-v", bound + ":/bound", "--tmpfs", "/scratch", "busybox", "sh", "-c",
		"ln -s /etc/hostname /name; ln -s /data /abs; ln -s ../../../../../../etc /up; echo x >/scratch/x; echo ready; exec sleep 600"}
	d.do(append([]string{"run", "-d", "--name", "runs"}, args...)...)
	d.do(append([]string{"create", "--name", "made"}, args...)...)
	d.do(append([]string{"run", "--name", "ended"}, append(args[:len(args)-1:len(args)-1], "ln -s /etc/hostname /name; ln -s /data /abs; ln -s ../../../../../../etc /up")...)...)
	d.awaitLog("runs", "ready")
	for _, c := range []string{"runs", "ended", "made"} {
		t.Run(c, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			d.do("cp", filepath.Join(here, "one"), c+":/tmp/renamed")
			d.do("cp", filepath.Join(here, "dir"), c+":/tmp")
			d.do("cp", filepath.Join(here, "dir")+"/.", c+":/vol")
			d.do("cp", filepath.Join(here, "one"), c+":/bound/from-"+c)
			d.do("cp", c+":/tmp/renamed", out)
			if got := read(t, out); got != "1\n" {
				t.Errorf("file: %q", got)
			}
			d.do("cp", c+":/tmp/dir", out+"-dir")
			if got := read(t, out+"-dir/two"); got != "2\n" {
				t.Errorf("directory: %q", got)
			}
			if to, err := os.Readlink(out + "-dir/link"); to != "two" {
				t.Errorf("link in a directory: %q, %v", to, err)
			}
			d.do("cp", c+":/data/.", out+"-content")
			if got := read(t, out+"-content/seed"); got != "seed\n" {
				t.Errorf("content of a directory: %q", got)
			}
			if got := read(t, filepath.Join(bound, "from-"+c)); got != "1\n" {
				t.Errorf("into a bind mount: %q", got)
			}
			if got := entries(t, []byte(d.try("cp", c+":/vol/", "-").out)); got["vol/two"] != "2\n" || got["vol/link"] != "-> two" {
				t.Errorf("stream of a volume: %q", got)
			}
			if got := d.try("cp", c+":/no/where", out); got.code == 0 || !strings.Contains(got.err, "Could not find the file /no/where in container "+c) {
				t.Errorf("a missing file: %+v", got)
			}
			if got := d.try("cp", filepath.Join(here, "one"), c+":/no/where"); got.code == 0 || !strings.Contains(got.err, "Could not find the file /no in container "+c) {
				t.Errorf("a missing directory: %+v", got)
			}
			if got := d.try("cp", filepath.Join(here, "dir"), c+":/etc/passwd"); got.code == 0 {
				t.Errorf("a directory over a file: %+v", got)
			}
			if got := d.try("cp", c+":/scratch/x", out); got.code == 0 {
				t.Error("a tmpfs is the container's own, as in the reference")
			}
		})
	}
	if out := d.do("exec", "runs", "sh", "-c", "cat /vol/two /tmp/renamed /tmp/dir/link"); out != "2\n1\n2" {
		t.Errorf("what the container sees: %q", out)
	}
	for _, c := range []string{"runs", "ended"} {
		d.copyLinks(t, c)
	}
	d.do("start", "made")
	if out := d.do("exec", "made", "cat", "/tmp/renamed", "/bound/b"); out != "1\nin the bind" {
		t.Errorf("after the first start: %q", out)
	}
}

// copyLinks copies what links lead to: never out of the container.
func (d *daemon) copyLinks(t *testing.T, c string) {
	out := filepath.Join(t.TempDir(), "out")
	d.do("cp", c+":/name", out)
	if to, err := os.Readlink(out); to != "/etc/hostname" {
		t.Errorf("%s: a link: %q, %v", c, to, err)
	}
	d.do("cp", "-L", c+":/name", out+"-followed")
	if got, want := read(t, out+"-followed"), d.do("inspect", "--format", "{{.Config.Hostname}}", c)+"\n"; got != want {
		t.Errorf("%s: what a link leads to: %q, want %q", c, got, want)
	}
	d.do("cp", c+":/abs/seed", out+"-seed")
	if got := read(t, out+"-seed"); got != "seed\n" {
		t.Errorf("%s: below a link: %q", c, got)
	}
	d.do("cp", c+":/up/group", out+"-group")
	if got := read(t, out+"-group"); !strings.Contains(got, "web:x:1000:") {
		t.Errorf("%s: a link with ..: %q", c, got)
	}
	write(t, out+"-new", "new\n")
	d.do("cp", out+"-new", c+":/abs/new")
	d.do("cp", c+":/data/new", out+"-back")
	if got := read(t, out+"-back"); got != "new\n" {
		t.Errorf("%s: written through a link: %q", c, got)
	}
}

func TestPathStat(t *testing.T) {
	d := newDaemon(t)
	d.do("run", "--name", "box", "busybox", "sh", "-c", "ln -s data /to; ln -s /gone/away /dangling")
	for path, want := range map[string]dcontainer.PathStat{
		"/data/seed": {Name: "seed", Size: 5, Mode: 0o640},
		"data":       {Name: "data", Mode: os.ModeDir | 0o755},
		"/data/.":    {Name: ".", Mode: os.ModeDir | 0o755},
		"/to":        {Name: "to", Mode: os.ModeSymlink | 0o777, LinkTarget: "/data"},
		"/to/":       {Name: "to", Mode: os.ModeDir | 0o755},
		"/dangling":  {Name: "dangling", Mode: os.ModeSymlink | 0o777, LinkTarget: "/gone/away"},
		"/":          {Name: "/", Mode: os.ModeDir | 0o755},
		"/tmp":       {Name: "tmp", Mode: os.ModeDir | os.ModeSticky | 0o777},
	} {
		status, header, _ := d.request("HEAD", "/containers/box/archive?path="+path, "")
		data, err := base64.StdEncoding.DecodeString(header.Get("X-Docker-Container-Path-Stat"))
		if err != nil || status != 200 {
			t.Fatalf("%s: %d, %v", path, status, err)
		}
		var got dcontainer.PathStat
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		if got.Mtime.IsZero() {
			t.Errorf("%s: no time", path)
		}
		got.Mtime = want.Mtime
		if got.Mode.IsDir() || got.Mode&os.ModeSymlink != 0 {
			got.Size = 0
		}
		if got != want {
			t.Errorf("%s: %+v, want %+v", path, got, want)
		}
	}
	for _, c := range []struct {
		method, path, body string
		status             int
		text               string
	}{
		{"GET", "/containers/box/archive", "", 400, "bad parameter: path cannot be empty"},
		{"HEAD", "/containers/box/archive?path=/gone", "", 404, ""},
		{"GET", "/containers/box/archive?path=/gone", "", 404, "Could not find the file /gone in container box"},
		{"GET", "/containers/nobody/archive?path=/", "", 404, "No such container: nobody"},
		{"PUT", "/containers/box/archive?path=/etc/passwd", "", 400, "extraction point is not a directory"},
	} {
		if status, _, body := d.request(c.method, c.path, c.body); status != c.status || !strings.Contains(body, c.text) {
			t.Errorf("%s %s: %d %s, want %d %q", c.method, c.path, status, body, c.status, c.text)
		}
	}
}

func TestCopyKeepsWhatIsReadOnly(t *testing.T) {
	d := newDaemon(t)
	here := t.TempDir()
	write(t, filepath.Join(here, "f"), "f\n")
	d.do("create", "--name", "box", "--read-only", "-v", "ro:/ro:ro", "-v", "rw:/rw", "busybox", "sleep", "600")
	for _, state := range []string{"created", "running"} {
		if state == "running" {
			d.do("start", "box")
		}
		for target, want := range map[string]string{
			"/ro": "mounted volume is marked read-only", "/tmp": "container rootfs is marked read-only", "/rw": "",
		} {
			got := d.try("cp", filepath.Join(here, "f"), "box:"+target)
			if (want == "") != (got.code == 0) || !strings.Contains(got.err, want) {
				t.Errorf("%s: %s: %+v, want %q", state, target, got, want)
			}
		}
	}
}

func TestOwnersOfCopies(t *testing.T) {
	d := newDaemon(t)
	here := t.TempDir()
	write(t, filepath.Join(here, "f"), "f\n")
	if err := os.Chown(filepath.Join(here, "f"), 4711, 4712); err != nil {
		t.Fatal(err)
	}
	d.do("run", "-d", "--name", "box", "--user", "web", "busybox", "sleep", "600")
	d.do("cp", filepath.Join(here, "f"), "box:/tmp/as-it-is")
	d.do("cp", "-a", filepath.Join(here, "f"), "box:/tmp/of-the-user")
	if out := d.do("exec", "box", "stat", "-c", "%u:%g", "/tmp/as-it-is", "/tmp/of-the-user"); out != "4711:4712\n1000:1000" {
		t.Errorf("owners: %q", out)
	}
	d.do("cp", "-a", "box:/tmp/as-it-is", filepath.Join(here, "back"))
	if got := d.do("exec", "box", "stat", "-c", "%u", "/data/seed"); got != "7" {
		t.Errorf("owner in the image: %q", got)
	}
}

func TestExportAndDiff(t *testing.T) {
	d := newDaemon(t)
	d.do("run", "--name", "box", "-v", "vol:/vol", "busybox", "sh", "-c", "echo new >/new; rm /data/seed; mkdir -p /a/b; echo v >/vol/v; ln /new /a/b/same")
	d.do("run", "-d", "--name", "runs", "busybox", "sh", "-c", "echo new >/new; rm /data/seed; echo ready; exec sleep 600")
	d.awaitLog("runs", "ready")
	got := entries(t, []byte(d.try("export", "box").out))
	if got["new"]+got["a/b/same"] != "new\n-> a/b/same" && got["new"]+got["a/b/same"] != "-> a/b/samenew\n" {
		t.Errorf("export: new is %q, its other name %q", got["new"], got["a/b/same"])
	}
	for name, want := range map[string]bool{"bin/busybox": true, "vol/": true, "vol/v": false, "data/seed": false, "data/": true} {
		if _, is := got[name]; is != want {
			t.Errorf("export has %s: %v, want %v", name, is, want)
		}
	}
	out := filepath.Join(t.TempDir(), "runs.tar")
	d.do("export", "-o", out, "runs")
	got = entries(t, []byte(read(t, out)))
	if _, deleted := got["data/seed"]; got["new"] != "new\n" || deleted {
		t.Errorf("export of a running container: %q", got["new"])
	}
	if out := d.do("diff", "box"); !slices.Equal(strings.Fields(out), strings.Fields("A /a A /a/b A /a/b/same C /data D /data/seed A /new A /vol")) {
		t.Errorf("diff: %q", out)
	}
	if out := d.do("diff", "runs"); !slices.Equal(strings.Fields(out), strings.Fields("C /data D /data/seed A /new")) {
		t.Errorf("diff of a running container: %q", out)
	}
	d.do("run", "--name", "idle", "busybox", "test", "-e", "/.dockerenv")
	if _, is := entries(t, []byte(d.try("export", "idle").out))[".dockerenv"]; !is {
		t.Error("export has no .dockerenv")
	}
	// What is mounted on is below the image, and in no writable layer.
	files, err := os.ReadDir(d.do("inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", "idle"))
	if out := d.do("diff", "idle"); err != nil || len(files) != 0 || out != "" {
		t.Errorf("a container that wrote nothing has %v, %v; diff %q", files, err, out)
	}
	if status, _, body := d.request("GET", "/containers/nobody/export", ""); status != 404 || !strings.Contains(body, "No such container") {
		t.Errorf("export of nobody: %d %s", status, body)
	}
}

// awaitLog waits until a running container has written a line.
func (d *daemon) awaitLog(c, line string) {
	d.t.Helper()
	cmd := d.command("logs", "-f", c)
	out, err := cmd.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	for s := bufio.NewScanner(out); ; {
		if !s.Scan() {
			d.t.Fatalf("the output of %s ended without %q", c, line)
		}
		if s.Text() == line {
			break
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
}

// A container that swaps directories for links while files are copied gets
// nothing of the host's, and changes nothing there.
func TestCopyAgainstAHostileContainer(t *testing.T) {
	d := newDaemon(t)
	outside := t.TempDir()
	write(t, filepath.Join(outside, "secret"), "secret\n")
	d.do("run", "-d", "--name", "evil", "busybox", "sh", "-c",
		"mkdir -p /a/real /a"+outside+"; echo ready; while :; do ln -s "+outside+" /a/x; rm /a/x; ln -s ../../../../../../.."+outside+
			" /a/x; rm /a/x; mkdir /a/x; mkfifo /a/x/secret; rm -rf /a/x; done")
	d.awaitLog("evil", "ready")
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, h := range []tar.Header{
		{Name: "x/", Typeflag: tar.TypeDir, Mode: 0o777}, {Name: "x/planted", Typeflag: tar.TypeReg, Mode: 0o777, Size: 1},
		{Name: "x/pipe", Typeflag: tar.TypeFifo, Mode: 0o777}, {Name: "x/sub/", Typeflag: tar.TypeDir, Mode: 0o777},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte("p")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		// Whether a copy succeeds depends on the moment.
		d.request("PUT", "/containers/evil/archive?path=/a", archive.String())
		if status, _, body := d.request("GET", "/containers/evil/archive?path=/a/x/secret", ""); status == 200 && strings.Contains(body, "secret\n") {
			t.Fatal("a file of the host was read")
		}
	}
	left, err := os.ReadDir(outside)
	if err != nil || len(left) != 1 || read(t, filepath.Join(outside, "secret")) != "secret\n" {
		t.Errorf("the host's directory: %v, %v", left, err)
	}
}
