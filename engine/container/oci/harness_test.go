package oci_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"gantry/engine/container"
	"gantry/internal/testenv"
)

// program is gantry-oci, built once with the fault points in it.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "gantry-oci-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	program = filepath.Join(dir, "gantry-oci")
	build := exec.Command("go", "build", "-trimpath", "-tags=fault", "-o", program, "gantry/cmd/gantry-oci")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build gantry-oci: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// host is a state directory and a bundle for one test.
type host struct {
	t      *testing.T
	root   string // of the states
	bundle string
	id     string
	env    []string
}

// newHost makes a bundle that runs a shell command, changed by edits.
func newHost(t *testing.T, command string, edits ...func(*specs.Spec)) *host {
	t.Helper()
	testenv.NeedRoot(t)
	base := t.TempDir()
	h := &host{t: t, root: filepath.Join(base, "state"), bundle: filepath.Join(base, "bundle"), id: "oci-test-" + filepath.Base(filepath.Dir(base)) + filepath.Base(base)}
	h.makeRoot()
	// The container's root passes through.
	for dir := base; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	o := testSpec(t, h.id, command)
	for _, edit := range edits {
		edit(o)
	}
	h.write(o)
	t.Cleanup(func() {
		h.run("delete", "--force", h.id)
		if left, err := filepath.Glob(h.root + "/[a-z]*"); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		if left, err := filepath.Glob("/sys/fs/cgroup/*/gantry-oci-test/" + h.id); err != nil || len(left) > 0 {
			t.Errorf("cgroups left behind: %v, %v", left, err)
		}
	})
	return h
}

func (h *host) makeRoot() {
	h.t.Helper()
	root := filepath.Join(h.bundle, "rootfs")
	for _, dir := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "mnt"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			h.t.Fatal(err)
		}
	}
	data, err := os.ReadFile(testenv.NeedCommand(h.t, "busybox"))
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), data, 0o755); err != nil {
		h.t.Fatal(err)
	}
	for _, applet := range []string{"sh", "true", "cat", "sleep", "id", "ls", "mkdir", "mount", "uname", "ps", "readlink", "stat", "touch", "tty", "stty", "nice", "ionice", "env", "hostname", "kill", "grep", "tr", "ip"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
			h.t.Fatal(err)
		}
	}
}

func (h *host) write(o *specs.Spec) {
	h.t.Helper()
	data, err := json.Marshal(o)
	if err == nil {
		err = os.WriteFile(filepath.Join(h.bundle, "config.json"), data, 0o644)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

func testSpec(t *testing.T, id, command string) *specs.Spec {
	caps := container.DefaultCapabilities()
	filter, err := container.DefaultSeccomp(caps)
	if err != nil {
		t.Fatal(err)
	}
	mount := func(at, kind string, options ...string) specs.Mount {
		return specs.Mount{Destination: at, Type: kind, Source: kind, Options: options}
	}
	return &specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: "rootfs"}, Hostname: "box", Annotations: map[string]string{"of": "the test"},
		Process: &specs.Process{Args: []string{"sh", "-c", command}, Cwd: "/", Env: []string{"PATH=/bin"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}},
		Mounts: []specs.Mount{mount("/proc", "proc"), mount("/dev", "tmpfs", "nosuid", "mode=755"),
			mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"), mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro")},
		Linux: &specs.Linux{
			CgroupsPath: "/gantry-oci-test/" + id,
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace}},
			MaskedPaths: container.DefaultMaskedPaths(), ReadonlyPaths: container.DefaultReadonlyPaths(), Seccomp: filter,
		},
	}
}

// command is gantry-oci with the test's state directory.
func (h *host) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	h.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program, append([]string{"--root", h.root}, args...)...)
	cmd.Dir, cmd.Env = h.bundle, append(os.Environ(), h.env...)
	return cmd
}

// run runs gantry-oci to its end. Output goes to files: a container that was
// created holds what it was given, and a pipe would be waited for.
func (h *host) run(args ...string) (stdout, stderr string, code int) {
	h.t.Helper()
	cmd := h.command(args...)
	var files [2]*os.File
	for i := range files {
		f, err := os.CreateTemp(h.t.TempDir(), "out")
		if err != nil {
			h.t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	cmd.Stdout, cmd.Stderr = files[0], files[1]
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatalf("gantry-oci %v: %v", args, err)
	}
	text := func(f *os.File) string {
		data, err := os.ReadFile(f.Name())
		if err != nil {
			h.t.Fatal(err)
		}
		return string(bytes.TrimSpace(data))
	}
	return text(files[0]), text(files[1]), cmd.ProcessState.ExitCode()
}

// must is run, and fails the test if the command does.
func (h *host) must(args ...string) string {
	h.t.Helper()
	out, errs, code := h.run(args...)
	if code != 0 {
		h.t.Fatalf("gantry-oci %v: status %d: %s%s", args, code, out, errs)
	}
	return out
}

func (h *host) status() specs.ContainerState {
	h.t.Helper()
	var s specs.State
	if err := json.Unmarshal([]byte(h.must("state", h.id)), &s); err != nil {
		h.t.Fatal(err)
	}
	return s.Status
}

// stopped waits until the container has ended: the test sees its pid go.
func (h *host) stopped() {
	h.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for h.status() != specs.StateStopped {
		if time.Now().After(deadline) {
			h.t.Fatal("the container does not end")
		}
	}
}
