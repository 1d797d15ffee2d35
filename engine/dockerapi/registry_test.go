package dockerapi_test

import (
	"bufio"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gantry/engine/registry/server"
	"gantry/internal/testenv"
)

// farRegistry runs Debian's docker-registry, with basic authentication when
// htpasswd holds users, and returns its address.
func farRegistry(t testing.TB, htpasswd string) string {
	t.Helper()
	program := testenv.NeedCommand(t, "docker-registry")
	dir := t.TempDir()
	config := fmt.Sprintf("version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\nhttp: {addr: '127.0.0.1:0'}\n", dir)
	if htpasswd != "" {
		file := filepath.Join(dir, "htpasswd")
		if err := os.WriteFile(file, []byte(htpasswd), 0o600); err != nil {
			t.Fatal(err)
		}
		config += fmt.Sprintf("auth: {htpasswd: {realm: far, path: %s}}\n", file)
	}
	file := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "serve", file)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	drained := make(chan struct{})
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-drained
		_ = cmd.Wait() // it was killed
	})
	listening := make(chan string, 1)
	go func() {
		defer close(drained)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if at := listeningOn.FindStringSubmatch(lines.Text()); at != nil {
				listening <- at[1]
			}
		}
		close(listening)
	}()
	address := <-listening
	if address == "" {
		t.Fatal("docker-registry did not start")
	}
	return address
}

var listeningOn = regexp.MustCompile(`listening on (127\.0\.0\.1:[0-9]+)`)

func TestPushAndPull(t *testing.T) {
	d := newDaemon(t)
	far := farRegistry(t, "")
	d.do("tag", "busybox", far+"/box:1")
	before := d.do("inspect", "-f", "{{.Id}}", far+"/box:1")

	pushed := d.do("push", far+"/box:1")
	for _, want := range []string{"The push refers to repository [" + far + "/box]", ": Preparing", ": Pushed", "1: digest: sha256:"} {
		if !strings.Contains(pushed, want) {
			t.Errorf("push lacks %q:\n%s", want, pushed)
		}
	}
	digest := regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(pushed)
	if again := d.do("push", far+"/box:1"); !strings.Contains(again, ": Layer already exists") || !strings.Contains(again, digest) {
		t.Errorf("pushing again:\n%s", again)
	}
	d.do("tag", "busybox", far+"/other/box:1")
	if mounted := d.do("push", far+"/other/box:1"); !strings.Contains(mounted, ": Mounted from box") {
		t.Errorf("pushing to another repository:\n%s", mounted)
	}

	d.do("rmi", far+"/box:1", far+"/other/box:1", "busybox")
	pulled := d.do("pull", far+"/box:1")
	for _, want := range []string{"1: Pulling from box", ": Pulling fs layer", ": Verifying Checksum", ": Download complete", ": Pull complete",
		"Digest: " + digest, "Status: Downloaded newer image for " + far + "/box:1"} {
		if !strings.Contains(pulled, want) {
			t.Errorf("pull lacks %q:\n%s", want, pulled)
		}
	}
	if after := d.do("inspect", "-f", "{{.Id}}", far+"/box:1"); after != before {
		t.Errorf("the image that came back is %s, not %s", after, before)
	}
	if got := d.do("push", far+"/box:1"); !strings.Contains(got, digest) {
		t.Errorf("what was pulled is pushed as something else than %s:\n%s", digest, got)
	}
	if got := d.do("pull", far+"/box:1"); !strings.Contains(got, "Status: Image is up to date for "+far+"/box:1") {
		t.Errorf("pulling again:\n%s", got)
	}
	d.do("rmi", far+"/box:1")
	if got := d.do("run", "--rm", far+"/box@"+digest, "echo", "hello"); !strings.HasSuffix(got, "hello") {
		t.Errorf("run pulls and says %q", got)
	}

	got := d.try("pull", far+"/none:1")
	want := fmt.Sprintf("Error response from daemon: manifest for %s/none:1 not found: manifest unknown: manifest unknown\n", far)
	if got.code != 1 || got.err != want {
		t.Errorf("a missing image: %+v, want %q", got, want)
	}
	got = d.try("push", far+"/none:1")
	if got.code != 1 || !strings.Contains(got.err, "An image does not exist locally with the tag: "+far+"/none") {
		t.Errorf("pushing a missing image: %+v", got)
	}
}

func TestBuildPullsWhatFromNames(t *testing.T) {
	d := newDaemon(t)
	far := farRegistry(t, "")
	d.do("tag", "busybox", far+"/box:1")
	d.do("push", far+"/box:1")
	d.do("rmi", far+"/box:1", "busybox")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM "+far+"/box:1\nRUN echo built > /made\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	built := d.do("build", "-t", "made", dir)
	if !strings.Contains(built, "Status: Downloaded newer image for "+far+"/box:1") {
		t.Errorf("build does not show the pull:\n%s", built)
	}
	if built = d.do("build", "--pull", "-t", "made", dir); !strings.Contains(built, "Status: Image is up to date for "+far+"/box:1") {
		t.Errorf("build --pull does not ask the registry:\n%s", built)
	}
	if built = d.do("build", "-t", "made", dir); strings.Contains(built, "Pulling from") {
		t.Errorf("build pulls what is here:\n%s", built)
	}
	if got := d.do("run", "--rm", "made", "cat", "/made"); got != "built" {
		t.Errorf("got %q", got)
	}
}

// farUsers is the user ann with password "secret", by bcrypt.
const farUsers = "ann:$2b$04$F4PcK7zfVNI6WLW68lX.zuD3KSOoGI1cAeq1RBZVbmpfWu4X8G1Sq\n"

func TestLogin(t *testing.T) {
	d := newDaemon(t)
	far := farRegistry(t, farUsers)
	login := func(password string) result {
		cmd := d.command("login", "-u", "ann", "--password-stdin", far)
		cmd.Stdin = strings.NewReader(password)
		return run(t, cmd)
	}
	if got := login("wrong"); got.code == 0 || !strings.Contains(got.err, "unauthorized: authentication required") {
		t.Errorf("with a wrong password: %+v", got)
	}
	d.do("tag", "busybox", far+"/box:1")
	if got := d.try("push", far+"/box:1"); got.code == 0 || !strings.Contains(got.err, "no basic auth credentials") {
		t.Errorf("push without logging in: %+v", got)
	}
	if got := login("secret"); got.code != 0 || !strings.Contains(got.out, "Login Succeeded") {
		t.Errorf("with the right password: %+v", got)
	}
	d.do("push", far+"/box:1")
	d.do("rmi", far+"/box:1")
	d.do("pull", far+"/box:1")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM "+far+"/box:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.do("rmi", far+"/box:1", "busybox")
	d.do("build", "-t", "made", dir)
	d.do("logout", far)
	if got := d.try("pull", far+"/box:1"); got.code == 0 || !strings.Contains(got.err, "no basic auth credentials") {
		t.Errorf("pull after logging out: %+v", got)
	}
}

// ourRegistry serves a daemon's images as gantryd does, and returns the address.
func ourRegistry(t testing.TB, d *daemon) string {
	t.Helper()
	s, err := server.Open(server.Config{Dir: t.TempDir(), Images: d.Images})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s)
	t.Cleanup(func() {
		web.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return strings.TrimPrefix(web.URL, "http://")
}

func TestManifestsMadeByTheClient(t *testing.T) {
	d := newDaemon(t)
	at := ourRegistry(t, d)
	d.do("tag", "busybox", at+"/box:amd64")
	d.do("push", at+"/box:amd64")
	if got := d.do("manifest", "inspect", "--insecure", at+"/box:amd64"); !strings.Contains(got, "application/vnd.oci.image.manifest.v1+json") {
		t.Errorf("inspect:\n%s", got)
	}
	d.do("manifest", "create", "--insecure", at+"/box:all", at+"/box:amd64")
	d.do("manifest", "annotate", at+"/box:all", at+"/box:amd64", "--arch", "amd64", "--os", "linux")
	if got := d.do("manifest", "push", "--insecure", at+"/box:all"); !strings.HasPrefix(got, "sha256:") {
		t.Errorf("push:\n%s", got)
	}
	if got := d.do("manifest", "inspect", "--insecure", at+"/box:all"); !strings.Contains(got, `"architecture": "amd64"`) {
		t.Errorf("inspect of the list:\n%s", got)
	}
	d.do("rmi", at+"/box:amd64")
	if got := d.do("run", "--rm", at+"/box:all", "echo", "hello"); !strings.HasSuffix(got, "hello") {
		t.Errorf("got %q", got)
	}
}

func TestDistributionInspect(t *testing.T) {
	d := newDaemon(t)
	at := ourRegistry(t, d)
	d.do("tag", "busybox", at+"/box:1")
	digest := regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(d.do("push", at+"/box:1"))
	status, _, body := d.request("GET", "/distribution/"+at+"/box:1/json", "")
	for _, want := range []string{`"digest":"` + digest + `"`, `"mediaType":"application/vnd.oci.image.manifest.v1+json"`, `"architecture":"amd64"`, `"os":"linux"`} {
		if status != 200 || !strings.Contains(body, want) {
			t.Errorf("%d %s: no %s", status, body, want)
		}
	}
	if status, _, body = d.request("GET", "/distribution/"+at+"/none:1/json", ""); status != 404 || !strings.Contains(body, "manifest unknown") {
		t.Errorf("what is not there: %d %s", status, body)
	}
}

func TestSearch(t *testing.T) {
	d := newDaemon(t)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/search" {
			return
		}
		if r.URL.Query().Get("q") != "box" || r.URL.Query().Get("n") != "5" {
			t.Errorf("asked for %s", r.URL)
		}
		_, _ = w.Write([]byte(`{"results":[{"name":"busybox","description":"small","star_count":7,"is_official":true},{"name":"ann/box","star_count":1}]}`))
	}))
	defer web.Close()
	at := strings.TrimPrefix(web.URL, "http://")
	if got := d.do("search", "--limit", "5", "--format", "{{.Name}} {{.StarCount}} {{.IsOfficial}}", at+"/box"); got != "busybox 7 [OK]\nann/box 1" {
		t.Errorf("got %q", got)
	}
	if got := d.do("search", "--limit", "5", "--filter", "is-official=true", "--format", "{{.Name}}", at+"/box"); got != "busybox" {
		t.Errorf("filtered: %q", got)
	}
}

func TestCredentialHelperOfTheClient(t *testing.T) {
	d := newDaemon(t)
	far := farRegistry(t, farUsers)
	bin := t.TempDir()
	script := "#!/bin/sh\n[ \"$1\" = get ] && echo '{\"ServerURL\":\"" + far + "\",\"Username\":\"ann\",\"Secret\":\"secret\"}'\n"
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-test"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.config, "config.json"), []byte(`{"credHelpers":{"`+far+`":"test"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	d.do("tag", "busybox", far+"/box:1")
	d.do("push", far+"/box:1")
	d.do("rmi", far+"/box:1")
	d.do("pull", far+"/box:1")
}
