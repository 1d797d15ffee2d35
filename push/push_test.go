package push

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gantry/internal/control"
	"gantry/internal/problem"
	"gantry/internal/testenv"
	"gantry/push/kube"
)

func three() *int32 { n := int32(3); return &n }

func TestMergeKeepsWhatIsNotGiven(t *testing.T) {
	ran := settings{name: "web", image: "web:1", replicas: 5, env: []kube.EnvVar{{Name: "A", Value: "1"}}, port: 8080, portFrom: observed, host: "web.example.org"}
	declared := ran
	declared.portFrom, declared.port, declared.probed = given, 9000, true
	for _, c := range []struct {
		rule  string
		had   settings
		image string
		ports []int
		req   Request
		want  settings
	}{
		{"a new app has two replicas, a local host name and no port yet", settings{}, "web:1", nil, Request{},
			settings{name: "web", image: "web:1", replicas: 2, host: "web.localhost"}},
		{"an exposed port is probed", settings{}, "web:1", []int{9090, 8080}, Request{},
			settings{name: "web", image: "web:1", replicas: 2, host: "web.localhost", port: 8080, portFrom: exposed, probed: true}},
		{"an observed port does not replace what runs", ran, "web:1", nil, Request{}, ran},
		{"a new image is probed at the observed port", ran, "web:2", nil, Request{},
			settings{name: "web", image: "web:2", replicas: 5, env: ran.env, port: 8080, portFrom: observed, host: "web.example.org", probed: true}},
		{"replicas, host and variables change when they are given", ran, "web:1", nil, Request{Replicas: three(), Host: "x.org", Env: map[string]string{"A": "2", "B": "3"}},
			settings{name: "web", image: "web:1", replicas: 3, env: []kube.EnvVar{{Name: "A", Value: "2"}, {Name: "B", Value: "3"}}, port: 8080, portFrom: observed, host: "x.org"}},
		{"a given port wins over the image's and is told to the app", ran, "web:1", []int{80}, Request{Port: 9000},
			settings{name: "web", image: "web:1", replicas: 5, env: []kube.EnvVar{{Name: "A", Value: "1"}, {Name: "PORT", Value: "9000"}}, port: 9000, portFrom: given, host: "web.example.org", probed: true}},
		{"a port once given stays", declared, "web:2", []int{80}, Request{},
			settings{name: "web", image: "web:2", replicas: 5, env: []kube.EnvVar{{Name: "A", Value: "1"}, {Name: "PORT", Value: "9000"}}, port: 9000, portFrom: given, host: "web.example.org", probed: true}},
	} {
		got := merge(c.had, "web", c.image, c.ports, c.req)
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(settings{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.rule, diff)
		}
	}
}

func TestReadIsTheInverseOfDeployment(t *testing.T) {
	for _, s := range []settings{
		{name: "web", image: "web:1", replicas: 0},
		{name: "web", image: "web:1", replicas: 3, port: 80, portFrom: observed, env: []kube.EnvVar{{Name: "A"}}},
		{name: "web", image: "web:1", replicas: 3, port: 80, portFrom: given, probed: true},
	} {
		got := read(s.deployment().value.(kube.Deployment))
		if diff := cmp.Diff(s, got, cmp.AllowUnexported(settings{})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestTheServiceHasPort80AndTheAppsOwn(t *testing.T) {
	for port, want := range map[int]int{80: 1, 8080: 2} {
		s := settings{name: "web", port: port}.service().value.(kube.Service)
		if len(s.Spec.Ports) != want || s.Spec.Ports[0].Port != 80 || s.Spec.Ports[0].TargetPort != port {
			t.Errorf("port %d: %+v", port, s.Spec.Ports)
		}
	}
}

func TestChoosePrefersWhatIsReachable(t *testing.T) {
	for _, c := range []struct {
		rule  string
		ports []control.Port
		want  int
		noted bool
	}{
		{"nothing listens", nil, 0, false},
		{"one port", []control.Port{{Port: 4000, Protocol: "tcp"}}, 4000, false},
		{"loopback does not count", []control.Port{{Port: 80, Protocol: "tcp", Loopback: true}, {Port: 4000, Protocol: "tcp"}}, 4000, false},
		{"loopback alone is told", []control.Port{{Port: 80, Protocol: "tcp", Loopback: true}}, 0, true},
		{"of several the usual one", []control.Port{{Port: 4000, Protocol: "tcp"}, {Port: 8080, Protocol: "tcp"}}, 8080, true},
		{"of several unusual ones the lowest", []control.Port{{Port: 6060, Protocol: "tcp"}, {Port: 4000, Protocol: "tcp"}}, 4000, true},
	} {
		got, note := choose(c.ports)
		if got != c.want || (note != "") != c.noted {
			t.Errorf("%s: %d, %q", c.rule, got, note)
		}
	}
}

func TestFindNamesWhatItLookedFor(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	for rule, c := range map[string]struct {
		dir  string
		kind error
	}{
		"a directory that does not exist":   {filepath.Join(dir, "none"), problem.NotFound},
		"a directory with nothing to build": {dir, problem.Invalid},
	} {
		if _, err := find(ctx, c.dir); !errors.Is(err, c.kind) || problem.Try(err) == "" {
			t.Errorf("%s: %v", rule, err)
		}
	}
	app := filepath.Join(dir, "My_App.v2")
	if err := errors.Join(os.Mkdir(app, 0o700), os.WriteFile(filepath.Join(app, "go.mod"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	s, err := find(ctx, app)
	if err != nil || s.name != "my-app-v2" || s.dockerfile {
		t.Errorf("%+v, %v", s, err)
	}
	if err := os.WriteFile(filepath.Join(app, "Dockerfile"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err = find(ctx, app); err != nil || !s.dockerfile {
		t.Errorf("a Dockerfile wins over go.mod: %+v, %v", s, err)
	}
}

func TestTheProgramOfAModuleIsFound(t *testing.T) {
	testenv.NeedCommand(t, "go")
	for _, c := range []struct {
		rule  string
		files map[string]string
		want  string // empty: refused
	}{
		{"the directory itself", map[string]string{"main.go": "package main", "cmd/x/main.go": "package main"}, "."},
		{"the only one below it", map[string]string{"lib.go": "package lib", "cmd/x/main.go": "package main\nfunc main() {}"}, "example.org/app/cmd/x"},
		{"several", map[string]string{"cmd/x/main.go": "package main\nfunc main() {}", "cmd/y/main.go": "package main\nfunc main() {}"}, ""},
		{"none", map[string]string{"lib.go": "package lib"}, ""},
	} {
		dir := t.TempDir()
		c.files["go.mod"] = "module example.org/app\n\ngo 1.26\n"
		for path, text := range c.files {
			full := filepath.Join(dir, path)
			if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(text), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		got, err := mainPackage(t.Context(), dir)
		if got != c.want || (err != nil) != (c.want == "") || err != nil && problem.Try(err) == "" {
			t.Errorf("%s: %q, %v, want %q", c.rule, got, err, c.want)
		}
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	minus := int32(-1)
	for rule, c := range map[string]struct {
		name string
		req  Request
	}{
		"empty name":          {"", Request{}},
		"upper case":          {"Web", Request{}},
		"leading digit":       {"1web", Request{}},
		"name too long":       {"a23456789012345678901234567890123456789012345678", Request{}},
		"port too large":      {"web", Request{Port: 65536}},
		"host in upper case":  {"web", Request{Host: "Web.example.org"}},
		"host with a path":    {"web", Request{Host: "example.org/x"}},
		"negative replicas":   {"web", Request{Replicas: &minus}},
		"variable with space": {"web", Request{Env: map[string]string{"A B": ""}}},
	} {
		if err := validate(c.name, c.req); !errors.Is(err, problem.Invalid) {
			t.Errorf("%s: %v, want Invalid", rule, err)
		}
	}
	if err := validate("web", Request{Port: 80, Host: "*.example.org", Env: map[string]string{"A_1": ""}}); err != nil {
		t.Error(err)
	}
}

func names(t *testing.T, archive []byte) map[string]tar.Header {
	t.Helper()
	found := make(map[string]tar.Header)
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		found[h.Name] = *h
	}
}

func TestTheContextLeavesOutWhatIsIgnored(t *testing.T) {
	dir := t.TempDir()
	for path, content := range map[string]string{
		"Dockerfile": "FROM scratch", ".dockerignore": "*\n!src\nsrc/*.tmp\n", "secret": "x",
		"src/main.c": "int main;", "src/a.tmp": "x", "other/deep/file": "x",
	} {
		full := filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("main.c", filepath.Join(dir, "src/link")); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := archiveDir(&archive, dir); err != nil {
		t.Fatal(err)
	}
	got := names(t, archive.Bytes())
	for _, want := range []string{"Dockerfile", ".dockerignore", "src/", "src/main.c", "src/link"} {
		if _, ok := got[want]; !ok {
			t.Errorf("%s is missing", want)
		}
		delete(got, want)
	}
	for name := range got {
		t.Errorf("%s is there", name)
	}
}

func TestTheGoContextIsTheSameEachTime(t *testing.T) {
	program := filepath.Join(t.TempDir(), "app")
	if err := os.WriteFile(program, []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	if err := errors.Join(archiveGo(&first, program), archiveGo(&second, program)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two archives of one program differ")
	}
	got := names(t, first.Bytes())
	if h := got["app"]; h.Mode != 0o755 {
		t.Errorf("app has mode %o", h.Mode)
	}
	if h := got["base/tmp/"]; h.Mode != 0o1777 {
		t.Errorf("tmp has mode %o", h.Mode)
	}
}

func TestSizesAreForPeople(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 5 << 20: "5.0 MiB", 3 << 30: "3.0 GiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %s, want %s", n, got, want)
		}
	}
}

func TestAddressesNameThePortWhereNeeded(t *testing.T) {
	for listen, want := range map[string]string{":80": "http://a.localhost/", "[::]:8080": "http://a.localhost:8080/", "127.0.0.1:80": "http://a.localhost/"} {
		if got := address("a.localhost", listen); got != want {
			t.Errorf("listening at %s: %s, want %s", listen, got, want)
		}
	}
}
