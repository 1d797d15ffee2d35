package container

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"gantry/internal/problem"
	"gantry/internal/testenv"
)

// shimBinary is built once for all tests.
var shimBinary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "gantry-shim-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	shimBinary = filepath.Join(dir, "gantry-shim")
	if err := buildShim(shimBinary, ""); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// buildShim links the shim with further flags.
func buildShim(path, flags string) error {
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w "+flags, "-o", path, "gantry/cmd/gantry-shim")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the shim: %w\n%s", err, out)
	}
	return nil
}

// testRuntime returns a Runtime of its own for the test, and checks at the end
// that nothing is left of it.
func testRuntime(t testing.TB) *Runtime {
	t.Helper()
	testenv.NeedRoot(t)
	var suffix [4]byte
	rand.Read(suffix[:])
	// Not below TMPDIR, whose path some systems make long; sockets are here.
	run, err := os.MkdirTemp("/run", "gt-test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(run, 0o711); err != nil {
		t.Fatal(err)
	}
	cfg := Config{RunDir: run, Shim: shimBinary, Cgroup: "gt-test-" + hex.EncodeToString(suffix[:]),
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil))}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		// What a failed test left; a passed one leaves nothing.
		again, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		left, err := filepath.Glob(filepath.Join(run, "shim", "*.json"))
		if err != nil || len(left) > 0 {
			t.Errorf("state left behind: %v, %v", left, err)
		}
		if names, err := again.host.List(cfg.Cgroup); err != nil || len(names) > 0 {
			t.Errorf("cgroups left behind: %v, %v", names, err)
		}
		if err := again.Sweep(ctx, nil); err != nil {
			t.Error(err)
		}
		if err := again.RemoveGroup(ctx, "/"); err != nil {
			t.Error(err)
		}
		if text, err := os.ReadFile(filepath.Join(run, "shim", "log")); err == nil && len(text) > 0 {
			t.Errorf("a shim said: %s", text)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(run); err != nil {
			t.Error(err)
		}
	})
	return r
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// busybox returns a root file system with busybox and its applets.
func busybox(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "root"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	binary := testenv.NeedCommand(t, "busybox")
	data, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, applet := range []string{"sh", "true", "cat", "echo", "sleep", "id", "ls", "mkdir", "mount", "hostname", "kill", "stty", "tty",
		"ps", "grep", "dd", "head", "tail", "pwd", "chmod", "touch", "yes", "seq", "date", "test", "umount", "mknod", "readlink", "ip", "nproc", "chroot", "unshare", "usleep", "wc", "od"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "etc/not-executable"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	return root
}

// testSpec is a container as the engine makes one, with Docker's defaults, that
// runs args over an overlay of a busybox root.
func testSpec(t testing.TB, lower string, args ...string) Spec {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var id [16]byte
	rand.Read(id[:])
	caps := DefaultCapabilities()
	filter, err := DefaultSeccomp(caps)
	if err != nil {
		t.Fatal(err)
	}
	return Spec{
		ID: hex.EncodeToString(id[:]), Dir: dir,
		Overlay: &Overlay{Lower: []string{lower}, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work")},
		Log:     Log{Format: LogJSON, Path: filepath.Join(dir, "log")},
		OCI: &specs.Spec{
			Version:  specs.Version,
			Hostname: "box",
			Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin", "HOME=/root"},
				Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}},
			Mounts: defaultMounts(),
			Linux: &specs.Linux{
				Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace},
					{Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.CgroupNamespace}},
				MaskedPaths: DefaultMaskedPaths(), ReadonlyPaths: DefaultReadonlyPaths(), Seccomp: filter,
			},
		},
	}
}

func defaultMounts() []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=67108864"}},
	}
}

// buffer collects output; safe for concurrent use.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// create makes a container that the test's end deletes.
func create(t testing.TB, r *Runtime, s Spec) *Container {
	t.Helper()
	c, err := r.Create(testContext(t), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		// A test that restarts the runtime deletes by the later one.
		if err := c.Delete(ctx); err != nil && !errors.Is(err, problem.Unavailable) {
			t.Errorf("delete: %v", err)
		}
	})
	return c
}

// run runs a container to its end and returns its output and exit.
func run(t testing.TB, r *Runtime, s Spec) (stdout, stderr string, exit Exit) {
	t.Helper()
	ctx := testContext(t)
	c := create(t, r, s)
	var out, errs buffer
	attached, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- c.Attach(ctx, Streams{Stdout: &out, Stderr: &errs}, func() { close(attached) })
	}()
	select {
	case <-attached:
	case err := <-ended:
		t.Fatalf("attach: %v", err)
	}
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatalf("attach: %v", err)
	}
	exit, err := c.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), exit
}
