// Package enginetest gives tests a whole engine on the real kernel: image store,
// runtime with its shim, network and volumes, in temporary directories and under
// an instance name of their own.
//
// The test's TestMain must isolate it (testenv.Isolate): the network belongs to
// its own namespace.
package enginetest

import (
	"archive/tar"
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

	"golang.org/x/sys/unix"

	"gantry/engine"
	"gantry/engine/builder"
	"gantry/engine/container"
	"gantry/engine/image"
	"gantry/engine/network"
	"gantry/engine/registry"
	"gantry/engine/volume"
	"gantry/internal/instance"
	"gantry/internal/testenv"
)

// Host is one instance of the engine.
type Host struct {
	Instance instance.Config
	Engine   *engine.Engine
	Images   *image.Store
	Networks *network.Host
	Volumes  *volume.Store
	Runtime  *container.Runtime
	Builder  *builder.Builder
	Registry *registry.Client

	shim   string
	log    *slog.Logger
	cancel context.CancelFunc
	ended  sync.WaitGroup
	errs   chan error // of the parts' Run; room for each
}

// New starts an engine for a test, and removes all of it at the test's end.
func New(t testing.TB) *Host {
	t.Helper()
	testenv.NeedRoot(t)
	var suffix [3]byte
	rand.Read(suffix[:]) // never fails
	name := "t" + hex.EncodeToString(suffix[:])
	run, err := os.MkdirTemp("/run", "gt-")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := instance.Config{Name: name, DataDir: t.TempDir(), RunDir: run}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	h := &Host{Instance: cfg, shim: Shim(t), log: slog.New(slog.NewTextHandler(writer{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	t.Cleanup(func() { h.destroy(t) })
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	return h
}

// Open starts the engine of an instance that another process has made, for as
// long as this process lives.
func Open(name, dataDir, runDir, shim string) (*Host, error) {
	cfg, err := instance.Config{Name: name, DataDir: dataDir, RunDir: runDir}.WithDefaults()
	if err != nil {
		return nil, err
	}
	h := &Host{Instance: cfg, shim: shim, log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))}
	return h, h.Start()
}

// Start opens the instance's directories and waits until the engine is ready.
func (h *Host) Start() (err error) {
	data := h.Instance.DataDir
	if h.Images, err = image.Open(image.Config{Dir: filepath.Join(data, "image"), Logger: h.log}); err != nil {
		return err
	}
	if h.Networks, err = network.New(network.Config{Instance: h.Instance, Logger: h.log}); err != nil {
		return err
	}
	if h.Volumes, err = volume.Open(volume.Config{Dir: filepath.Join(data, "volumes"), Logger: h.log}); err != nil {
		return err
	}
	h.Runtime, err = container.New(container.Config{RunDir: h.Instance.RunDir, Shim: h.shim, Cgroup: h.Instance.Cgroup(), Logger: h.log})
	if err != nil {
		return err
	}
	if h.Registry, err = h.openRegistry(); err != nil {
		return err
	}
	h.Engine, err = engine.New(engine.Config{
		Dir: data, RunDir: h.Instance.RunDir, Images: h.Images, Runtime: h.Runtime,
		Networks: h.Networks, Volumes: h.Volumes, Allowed: h.Registry.Allowed, Logger: h.log,
	})
	if err != nil {
		return err
	}
	h.Builder, err = builder.New(builder.Config{
		Dir: filepath.Join(data, "build"), Images: h.Images, Runner: engine.StepRunner{Engine: h.Engine}, Allowed: h.Registry.Allowed, Logger: h.log,
	})
	if err != nil {
		return err
	}
	return h.run()
}

// openRegistry returns the client, with the policy of signatures that the
// instance names.
func (h *Host) openRegistry() (*registry.Client, error) {
	cfg := registry.Config{Images: h.Images, Dir: filepath.Join(h.Instance.DataDir, "registry"), Logger: h.log}
	if file := h.Instance.SignaturePolicy; file != "" {
		var err error
		if cfg.Policy, err = registry.ReadPolicy(file); err != nil {
			return nil, err
		}
	}
	return registry.New(cfg)
}

func (h *Host) run() error {
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel, h.errs = cancel, make(chan error, 2)
	h.ended.Go(func() { h.errs <- h.Engine.Run(ctx) })
	select {
	case <-h.Engine.Ready():
	case err := <-h.errs:
		return fmt.Errorf("engine: %w", err)
	case <-time.After(30 * time.Second):
		return errors.New("the engine is not ready after 30 s")
	}
	h.ended.Go(func() { h.errs <- h.Networks.Run(ctx) })
	return nil
}

// Stop ends the daemon's part: containers go on running.
func (h *Host) Stop() error {
	h.cancel()
	h.ended.Wait()
	return errors.Join(h.Runtime.Close(), h.Networks.Close(), h.Builder.Close(), h.Images.Close())
}

// Restart is Stop and Start, and says that the engine's Check is content.
func (h *Host) Restart(t testing.TB) {
	t.Helper()
	if err := errors.Join(h.Stop(), h.Start()); err != nil {
		t.Fatal(err)
	}
	h.Check(t)
}

// Check fails the test for each violation that the engine, the volumes and the
// build cache find in their state.
func (h *Host) Check(t testing.TB) {
	t.Helper()
	errs := h.Engine.Check(context.Background())
	errs = append(errs, h.Volumes.Check(context.Background())...)
	for _, err := range append(errs, h.Builder.Check()...) {
		t.Errorf("check: %v", err)
	}
}

// destroy removes everything, and fails the test for what stays.
func (h *Host) destroy(t testing.TB) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if h.Engine == nil || h.cancel == nil {
		return
	}
	for _, s := range h.Engine.Sandboxes(ctx) {
		if err := h.Engine.RemoveSandbox(ctx, s.ID); err != nil {
			t.Errorf("remove sandbox: %v", err)
		}
	}
	for _, c := range h.Engine.Containers(ctx) {
		if err := h.Engine.Remove(ctx, c.ID, engine.RemoveOptions{Force: true, Volumes: true}); err != nil {
			t.Errorf("remove container %s: %v", c.Name, err)
		}
	}
	h.Check(t)
	if err := h.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	h.purge(ctx, t)
}

func (h *Host) purge(ctx context.Context, t testing.TB) {
	runtime, err := container.New(container.Config{RunDir: h.Instance.RunDir, Shim: h.shim, Cgroup: h.Instance.Cgroup(), Logger: h.log})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(runtime.Sweep(ctx, nil), runtime.RemoveGroup(ctx, "/"), runtime.Close()); err != nil {
		t.Errorf("purge the runtime: %v", err)
	}
	if err := h.Networks.Purge(ctx); err != nil {
		t.Errorf("purge the network: %v", err)
	}
	h.unmountPins(t)
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, h.Instance.RunDir) || strings.Contains(line, h.Instance.DataDir) {
				t.Errorf("left mounted: %s", line)
			}
		}
	}
	if err := os.RemoveAll(h.Instance.RunDir); err != nil {
		t.Error(err)
	}
}

// unmountPins unmounts the directory of the sandboxes' pins, of which none may
// be left.
func (h *Host) unmountPins(t testing.TB) {
	dir := filepath.Join(h.Instance.RunDir, "sandboxes")
	if left, err := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("pins left behind: %v, %v", left, err)
	}
	err := unix.Unmount(dir, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		t.Errorf("unmount %s: %v", dir, err)
	}
}

var built struct {
	sync.Once
	path string
	err  error
}

// Shim builds gantry-shim once for the test binary and returns its path.
func Shim(t testing.TB) string {
	t.Helper()
	built.Do(func() {
		var dir string
		if dir, built.err = os.MkdirTemp("", "gantry-shim-*"); built.err != nil {
			return
		}
		built.path = filepath.Join(dir, "gantry-shim")
		build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", built.path, "gantry/cmd/gantry-shim")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("build the shim: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

// Clean removes what Shim built. TestMain calls it last.
func Clean() {
	if built.path != "" {
		os.RemoveAll(filepath.Dir(built.path)) // a leftover in the temporary directory does no harm
	}
}

// Busybox imports the host's static busybox as the image "busybox".
func (h *Host) Busybox(t testing.TB) {
	t.Helper()
	archive := BusyboxArchive(t)
	opts := image.ImportOptions{Ref: "busybox"}
	opts.Config.Config.Cmd = []string{"sh"}
	if _, err := h.Images.Import(context.Background(), bytes.NewReader(archive), opts); err != nil {
		t.Fatal(err)
	}
}

// BusyboxArchive returns a root file system with busybox, links for its applets,
// and a passwd and group file.
func BusyboxArchive(t testing.TB) []byte {
	t.Helper()
	path := testenv.NeedCommand(t, "busybox")
	binary, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	list, err := exec.Command(path, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	add := func(header tar.Header, body string) {
		header.Size = int64(len(body))
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	for dir, mode := range map[string]int64{"bin/": 0o755, "etc/": 0o755, "tmp/": 0o1777, "root/": 0o700, "data/": 0o755, "var/": 0o755} {
		add(tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: mode}, "")
	}
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, string(binary))
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			add(tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, "")
		}
	}
	add(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n")
	add(tar.Header{Name: "etc/group", Typeflag: tar.TypeReg, Mode: 0o644}, "root:x:0:\nwheel:x:10:root\nweb:x:1000:\n")
	add(tar.Header{Name: "data/seed", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 7, Gid: 8}, "seed\n")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// writer passes log lines to the test.
type writer struct{ t testing.TB }

func (w writer) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
