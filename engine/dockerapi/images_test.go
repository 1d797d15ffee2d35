package dockerapi_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/build"
	dimage "github.com/moby/moby/api/types/image"
	dvolume "github.com/moby/moby/api/types/volume"

	"gantry/engine/internal/enginetest"
)

// build builds an image of a Dockerfile.
func (d *daemon) build(t *testing.T, tag, dockerfile string) {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "Dockerfile"), dockerfile)
	d.do("build", "-q", "-t", tag, dir)
}

func TestSaveAndLoad(t *testing.T) {
	d := newDaemon(t)
	d.build(t, "derived:1", "FROM busybox\nRUN echo one >/one\nENV A=b\n")
	d.do("tag", "derived:1", "derived:2")
	file := filepath.Join(t.TempDir(), "images.tar")
	d.do("save", "-o", file, "busybox", "derived")
	want := d.do("images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}")
	d.do("rmi", "-f", "derived:1", "derived:2", "busybox")
	if out := d.do("images", "-qa"); out != "" {
		t.Fatalf("images left: %s", out)
	}
	if out := d.do("load", "-i", file); !strings.Contains(out, "Loaded image: busybox:latest") || !strings.Contains(out, "Loaded image: derived:2") {
		t.Errorf("load: %s", out)
	}
	if got := d.do("images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"); got != want {
		t.Errorf("loaded:\n%s\nsaved:\n%s", got, want)
	}
	if out := d.do("run", "--rm", "derived:2", "sh", "-c", "cat /one; echo $A"); out != "one\nb" {
		t.Errorf("the loaded image: %q", out)
	}
	d.do("rmi", "derived:1", "derived:2", "busybox")
	layout := filepath.Join(t.TempDir(), "layout.tar")
	withoutFile(t, file, layout, "manifest.json")
	d.do("load", "-i", layout)
	if got := d.do("images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"); got != want {
		t.Errorf("loaded from the OCI layout:\n%s\nsaved:\n%s", got, want)
	}
	if got := d.try("save", "nothing:1"); got.code == 0 || !strings.Contains(got.err, "No such image: nothing:1") {
		t.Errorf("save of nothing: %+v", got)
	}
}

// withoutFile copies an archive without one of its files.
func withoutFile(t *testing.T, from, to, name string) {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	r := tar.NewReader(strings.NewReader(read(t, from)))
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == name {
			continue
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestPlatformsOfImages(t *testing.T) {
	d := newDaemon(t)
	file := filepath.Join(t.TempDir(), "arm.tar")
	if err := os.WriteFile(file, enginetest.BusyboxArchive(t), 0o600); err != nil {
		t.Fatal(err)
	}
	d.do("import", "--platform", "linux/arm64", "--change", "ENV A=b", "--change", "CMD [\"x\"]", "--message", "by hand", file, "arm:1")
	if out := d.do("inspect", "--format", "{{.Architecture}} {{.Config.Env}} {{.Config.Cmd}} {{.Comment}}", "arm:1"); out != "arm64 [A=b] [x] by hand" {
		t.Errorf("imported: %q", out)
	}
	both := filepath.Join(t.TempDir(), "both.tar")
	d.do("save", "-o", both, "busybox", "arm:1")
	const wrong = "was found but its platform (linux/arm64) does not match the specified platform (linux/amd64)"
	for _, args := range [][]string{{"save", "--platform", "linux/amd64", "arm:1"}, {"image", "inspect", "--platform", "linux/amd64", "arm:1"}, {"history", "--platform", "linux/amd64", "arm:1"}} {
		if got := d.try(args...); got.code == 0 || !strings.Contains(got.err, wrong) {
			t.Errorf("docker %v: %+v", args, got)
		}
	}
	d.do("save", "--platform", "linux/arm64", "-o", both+".arm", "arm:1")
	d.do("rmi", "arm:1", "busybox")
	if got := d.try("load", "--platform", "linux/s390x", "-i", both); got.code == 0 || !strings.Contains(got.err, "requested platform (linux/s390x) does not match") {
		t.Errorf("load for a platform that is not there: %+v", got)
	}
	d.do("load", "--platform", "linux/arm64", "-i", both)
	if out := d.do("images", "--format", "{{.Repository}}:{{.Tag}}"); out != "arm:1" {
		t.Errorf("loaded: %q", out)
	}
}

func TestImportFromAServer(t *testing.T) {
	d := newDaemon(t)
	archive := enginetest.BusyboxArchive(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/root.tar" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(archive)
	}))
	defer server.Close()
	if out := d.do("import", server.URL+"/root.tar", "far:1"); !strings.Contains(out, "Downloading from "+server.URL) || !strings.Contains(out, "sha256:") {
		t.Errorf("import: %s", out)
	}
	if out := d.do("history", "--format", "{{.Comment}}", "far:1"); out != "Imported from "+server.URL+"/root.tar" {
		t.Errorf("history: %q", out)
	}
	if got := d.try("import", server.URL+"/gone.tar"); got.code == 0 || !strings.Contains(got.err, "404") {
		t.Errorf("a missing file: %+v", got)
	}
}

func TestRemovalOfImages(t *testing.T) {
	d := newDaemon(t)
	d.build(t, "child:1", "FROM busybox\nRUN echo a >/a\nRUN echo b >/b\n")
	d.do("tag", "child:1", "other:1")
	id := d.do("images", "-q", "child")
	if got := d.try("rmi", id); got.code == 0 || !strings.Contains(got.err, "conflict: unable to delete "+id+" (must be forced) - image is referenced in multiple repositories") {
		t.Errorf("by ID, with two names: %+v", got)
	}
	if out := d.do("rmi", "other:1"); out != "Untagged: other:1" {
		t.Errorf("a further name: %q", out)
	}
	c := d.do("create", "child:1")
	if got := d.try("rmi", "child:1"); got.code == 0 || !strings.Contains(got.err, "conflict: unable to remove repository reference \"child:1\" (must force) - container "+c[:12]+" is using its referenced image "+id) {
		t.Errorf("in use: %+v", got)
	}
	d.do("rm", c)
	out := d.do("rmi", "child:1")
	if !strings.HasPrefix(out, "Untagged: child:1\nDeleted: sha256:") {
		t.Errorf("the last name: %q", out)
	}
	if got := d.try("rmi", "nothing"); got.code == 0 || !strings.Contains(got.err, "No such image: nothing") {
		t.Errorf("nothing: %+v", got)
	}
	d.build(t, "stays:1", "FROM busybox\nLABEL keep=yes\nRUN echo c >/c\n")
	d.build(t, "goes:1", "FROM busybox\nRUN echo d >/d\n")
	d.do("rmi", "--no-prune", "goes:1")
	if out := d.do("image", "prune", "-f", "-a", "--filter", "label!=keep=yes"); strings.Contains(out, "stays") || !strings.Contains(out, "untagged: busybox:latest") {
		t.Errorf("prune: %s", out)
	}
	if out := d.do("image", "prune", "-f", "-a", "--filter", "until=1h"); !strings.HasPrefix(out, "Total reclaimed space: 0B") {
		t.Errorf("prune of what is older: %s", out)
	}
	if out := d.do("images", "--format", "{{.Repository}}", "--filter", "label=keep"); out != "stays" {
		t.Errorf("left: %q", out)
	}
}

func TestDiskUsage(t *testing.T) {
	d := newDaemon(t)
	d.build(t, "one:1", "FROM busybox\nRUN head -c 100000 /dev/zero >/one\n")
	d.do("run", "--name", "box", "-v", "vol:/v", "one:1", "sh", "-c", "head -c 50000 /dev/zero >/rw; head -c 40960 /dev/zero >/v/f")
	var usage struct {
		LayersSize int64
		Images     []dimage.Summary
		Containers []struct{ SizeRw, SizeRootFs int64 }
		Volumes    []dvolume.Volume
		BuildCache []build.CacheRecord
	}
	status, _, body := d.request("GET", "/v1.50/system/df", "")
	if err := json.Unmarshal([]byte(body), &usage); err != nil || status != 200 {
		t.Fatalf("%d %v: %s", status, err, body)
	}
	byTag := map[string]dimage.Summary{}
	for _, img := range usage.Images {
		if len(img.RepoTags) > 0 {
			byTag[img.RepoTags[0]] = img
		}
	}
	base, one := byTag["busybox:latest"], byTag["one:1"]
	if one.Size-one.SharedSize != 100000 || base.SharedSize != base.Size || one.SharedSize != base.Size || one.Containers != 1 || base.Containers != 0 {
		t.Errorf("images: %+v %+v", base, one)
	}
	if usage.LayersSize != one.Size {
		t.Errorf("layers take %d, want %d", usage.LayersSize, one.Size)
	}
	if c := usage.Containers; len(c) != 1 || c[0].SizeRw != 50000 || c[0].SizeRootFs != one.Size+50000 {
		t.Errorf("containers: %+v", c)
	}
	if v := usage.Volumes; len(v) != 1 || v[0].UsageData.Size < 40960 || v[0].UsageData.RefCount != 1 {
		t.Errorf("volumes: %+v", v)
	}
	if len(usage.BuildCache) == 0 || !slices.ContainsFunc(usage.BuildCache, func(r build.CacheRecord) bool { return r.Shared && r.Size == 100000 }) {
		t.Errorf("build cache: %+v", usage.BuildCache)
	}
	_, _, body = d.request("GET", "/images/json?shared-size=1", "")
	if !strings.Contains(body, `"SharedSize":`+strings.TrimSpace(jsonNumber(one.SharedSize))) {
		t.Errorf("list with shared sizes: %s", body)
	}
	if out := d.do("system", "df", "-v"); !strings.Contains(out, "100kB") || !strings.Contains(out, "box") || !strings.Contains(out, "vol") {
		t.Errorf("df -v:\n%s", out)
	}
	if out := d.do("system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"); !strings.HasPrefix(out, "Images 2 1\nContainers 1 0\nLocal Volumes 1 1\nBuild Cache 1 0") {
		t.Errorf("df:\n%s", out)
	}
}

func jsonNumber(n int64) string {
	data, err := json.Marshal(n)
	if err != nil {
		panic(err)
	}
	return string(data)
}

func TestPrunes(t *testing.T) {
	d := newDaemon(t)
	d.build(t, "one:1", "FROM busybox\nRUN head -c 100000 /dev/zero >/one\n")
	d.do("rmi", "one:1")
	if out := d.do("builder", "prune", "-f", "--filter", "until=1h"); !strings.Contains(out, "0B") {
		t.Errorf("builder prune of what is older: %s", out)
	}
	if out := d.do("builder", "prune", "-f", "--filter", "label=x"); !strings.Contains(out, "0B") {
		t.Errorf("builder prune by label: %s", out)
	}
	if out := d.do("builder", "prune", "-f", "--keep-storage", "1mb"); !strings.Contains(out, "0B") {
		t.Errorf("builder prune that keeps enough: %s", out)
	}
	if out := d.do("builder", "prune", "-f"); !strings.Contains(out, "100kB") {
		t.Errorf("builder prune: %s", out)
	}
	d.build(t, "two:1", "FROM busybox\nRUN head -c 100000 /dev/zero >/one\n")
	d.do("rmi", "two:1")
	d.do("run", "--name", "ended", "busybox", "true")
	d.do("run", "-d", "--name", "runs", "busybox", "sleep", "600")
	d.do("network", "create", "unused")
	d.do("volume", "create", "named")
	out := d.do("system", "prune", "-f", "--volumes")
	for _, want := range []string{"Deleted Containers:", "Deleted Networks:\nunused", "Total reclaimed space: 100kB"} {
		if !strings.Contains(out, want) {
			t.Errorf("system prune lacks %q:\n%s", want, out)
		}
	}
	if out := d.do("volume", "ls", "-q"); out != "named" {
		t.Errorf("volumes left: %q", out)
	}
	if out := d.do("ps", "-a", "--format", "{{.Names}}"); out != "runs" {
		t.Errorf("containers left: %q", out)
	}
	d.do("system", "prune", "-f", "-a", "--filter", "until=24h")
	if out := d.do("images", "--format", "{{.Repository}}"); out != "busybox" {
		t.Errorf("images left: %q", out)
	}
}

func TestCommitWithEveryOption(t *testing.T) {
	d := newDaemon(t)
	d.do("run", "-d", "--name", "runs", "-e", "OLD=1", "-v", "vol:/vol", "busybox", "sh", "-c", "echo made >/made; rm /data/seed; echo v >/vol/v; echo ready; exec sleep 600")
	d.awaitLog("runs", "ready")
	d.do("commit", "--author", "A <a@b>", "--message", "why", "--change", "ENV NEW=2", "--change", `CMD ["cat","/made"]`, "--change", "EXPOSE 80", "runs", "committed:1")
	if out := d.do("run", "--rm", "committed:1"); out != "made" {
		t.Errorf("the committed image: %q", out)
	}
	if out := d.do("run", "--rm", "committed:1", "sh", "-c", "echo $OLD $NEW; ls /data /vol"); out != "1 2\n/data:\n\n/vol:" {
		t.Errorf("its files and variables: %q", out)
	}
	if out := d.do("inspect", "--format", "{{.Author}}|{{.Comment}}|{{.Config.ExposedPorts}}", "committed:1"); out != "A <a@b>|why|map[80/tcp:{}]" {
		t.Errorf("its configuration: %q", out)
	}
	if out := d.do("inspect", "--format", "{{.State.Status}}", "runs"); out != "running" {
		t.Errorf("after the commit the container is %s", out)
	}
	d.do("pause", "runs")
	d.do("commit", "--pause=false", "runs", "committed:2")
	if out := d.do("inspect", "--format", "{{.State.Status}}", "runs"); out != "paused" {
		t.Errorf("a paused container is %s after a commit", out)
	}
	d.do("rm", "-f", "runs")
	d.do("create", "--name", "made", "busybox", "true")
	id := d.do("commit", "made")
	if out := d.do("history", "--format", "{{.ID}}", "--no-trunc", id); !strings.HasPrefix(out, id) {
		t.Errorf("history: %q", out)
	}
	if got := d.try("commit", "nobody"); got.code == 0 || !strings.Contains(got.err, "No such container: nobody") {
		t.Errorf("commit of nobody: %+v", got)
	}
	if got := d.try("commit", "--change", "RUN true", "made"); got.code == 0 || !strings.Contains(got.err, "is not a valid change command") {
		t.Errorf("a change that is none: %+v", got)
	}
}
