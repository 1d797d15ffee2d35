package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"gantry/internal/testenv"
	"gantry/test/harness"
)

// listen takes a port in the server's network namespace until the test ends.
func listen(t *testing.T, s *harness.Server, address string) {
	t.Helper()
	var l net.Listener
	err := s.Inside(func() error {
		var err error
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
}

// refused checks that a command fails with one clear error.
func refused(t *testing.T, r harness.Result, parts ...string) {
	t.Helper()
	contains(t, r.Stdout+r.Stderr, parts...)
	if strings.Contains(r.Stderr, "goroutine ") {
		t.Errorf("it panicked:\n%s", r.Stderr)
	}
}

// TestPortInUse names who has the port: of the API as an error, of the ingress
// as a note, because there another port does as well.
func TestPortInUse(t *testing.T) {
	me := fmt.Sprintf("pid %d", os.Getpid())
	s := harness.Start(t, harness.Options{Stopped: true})
	t.Run("of the API", func(t *testing.T) {
		listen(t, s, "127.0.0.1:6443")
		refused(t, s.Fails("gantry", s.UpArgs()...), "127.0.0.1:6443", me, "--api-listen")
		contains(t, s.Fails("gantry", "doctor").Stdout, "127.0.0.1:6443 is taken by", me, "--api-listen")
	})
	t.Run("of the ingress", func(t *testing.T) {
		listen(t, s, ":80")
		contains(t, s.Up(), "port 80 is taken by", me, "port 8080")
		contains(t, s.Gantry("status"), "port 80 is taken by", "[::]:8080")
	})
}

func TestBadSettings(t *testing.T) {
	s := harness.Start(t, harness.Options{Args: []string{"--disable=cluster"}})
	t.Run("a second server on the data directory", func(t *testing.T) {
		pid, err := s.PID()
		if err != nil {
			t.Fatal(err)
		}
		r := s.Fails("gantryd", "server", "--instance", "t-second", "--data-dir", s.Config.DataDir, "--run-dir", filepath.Join(t.TempDir(), "run"))
		refused(t, r, fmt.Sprintf("another gantryd (pid %d) uses %s", pid, s.Config.DataDir), "try:")
	})
	t.Run("no root", func(t *testing.T) {
		cmd := s.Command(t.Context(), "gantryd", "server", "--data-dir", t.TempDir())
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Error("it started")
		}
		contains(t, string(out), "needs to be root", "sudo")
	})
	t.Run("settings that mean nothing", func(t *testing.T) {
		refused(t, s.Fails("gantryd", "server", "--disable=kitchen"), "kitchen", "cluster")
		refused(t, s.Fails("gantryd", "server", "--instance=UPPER"), "UPPER", "lower-case")
		refused(t, s.Fails("gantryd", "server", "--config", "/no/such/file"), "/no/such/file", "--config")
		refused(t, s.Fails("gantry", "nonsense"), "nonsense")
		refused(t, s.Fails("gantry", "scale", "hello"), "NAME=REPLICAS")
		refused(t, s.Fails("gantry", "push", "."), "without the cluster")
	})
}

func TestBadBuilds(t *testing.T) {
	testenv.NeedCommand(t, "docker")
	s := harness.Start(t, harness.Options{Args: []string{"--disable=cluster"}})
	s.ImportBusybox()
	dir := t.TempDir()
	for _, c := range []struct {
		rule, dockerfile string
		want             []string
		args             []string
	}{
		{"an unknown instruction, with its line", "FROM busybox\nCOPPY . /\n", []string{"line 2", "COPPY"}, nil},
		{"a step that fails, with its output and exit code", "FROM busybox\nRUN echo working; exit 7\n", []string{"working", "non-zero code: 7", "exit 7"}, nil},
		{"a file that is not in the context", "FROM busybox\nCOPY missing /\n", []string{"missing"}, nil},
		{"an image that is not here", "FROM nosuch:1\n", []string{"nosuch:1"}, nil},
		{"an image for another CPU, with both named", "FROM busybox\nRUN true\n", []string{"arm64", "amd64"}, []string{"--platform", "linux/arm64"}},
	} {
		write(t, dir, "Dockerfile", c.dockerfile)
		r := s.Fails("docker", append(append([]string{"build"}, c.args...), dir)...)
		t.Run(c.rule, func(t *testing.T) { refused(t, r, c.want...) })
	}
	refused(t, s.Fails("docker", "run", "--platform", "linux/arm64", "busybox", "true"), "arm64", "amd64")
	if out := s.Docker("ps", "-aq"); out != "" {
		t.Errorf("containers are left: %s", out)
	}
}

// TestNoSpace builds more than the data directory's file system holds.
func TestNoSpace(t *testing.T) {
	testenv.NeedCommand(t, "docker")
	small := t.TempDir()
	if err := unix.Mount("none", small, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	s := harness.Start(t, harness.Options{Args: []string{"--disable=cluster", "--data-dir", filepath.Join(small, "gantry", "data")}})
	dir := t.TempDir()
	write(t, dir, "Dockerfile", "FROM scratch\nCOPY large /\n")
	if err := os.Truncate(touch(t, dir, "large"), 128<<20); err != nil {
		t.Fatal(err)
	}
	refused(t, s.Fails("docker", "build", "-q", dir), "no space left on device")
	if out := s.Docker("images", "-aq"); out != "" {
		t.Errorf("images are left: %s", out)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(small, &st); err != nil {
		t.Fatal(err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < 48<<20 {
		t.Errorf("only %d MiB are free after the build that failed", free>>20)
	}
	contains(t, s.Fails("gantry", "doctor").Stdout, "MiB left", "--data-dir")
}

func touch(t *testing.T, dir, name string) string {
	t.Helper()
	write(t, dir, name, "")
	return filepath.Join(dir, name)
}

// TestBadManifests checks the reference's wording, on which scripts match.
func TestBadManifests(t *testing.T) {
	testenv.NeedCommand(t, "kubectl")
	s := harness.Start(t, harness.Options{})
	for _, c := range []struct{ rule, manifest, want string }{
		{"an unknown field", "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {prots: []}\n", `unknown field "spec.prots"`},
		{"a wrong type", "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{port: http}]}\n", "cannot unmarshal string into Go struct field ServicePort.spec.ports.port of type int32"},
		{"a missing field", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {}\n", "spec.selector: Required value"},
		{"an unknown kind", "apiVersion: example.com/v1\nkind: Foo\nmetadata: {name: x}\n", `no matches for kind "Foo" in version "example.com/v1"`},
	} {
		t.Run(c.rule, func(t *testing.T) {
			r := s.Try(c.manifest, "kubectl", "apply", "-f", "-")
			if r.Code != 1 {
				t.Errorf("exit status %d, want 1", r.Code)
			}
			contains(t, r.Stderr, c.want)
		})
	}
}
