// Package critest runs a real engine behind package cri for tests: image store,
// network, volumes, runtime and shim, with a busybox image. Its user's TestMain
// is
//
//	func TestMain(m *testing.M) { os.Exit(critest.Main(m)) }
package critest

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
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gantry/engine"
	"gantry/engine/container"
	"gantry/engine/cri"
	"gantry/engine/image"
	"gantry/engine/network"
	"gantry/engine/registry"
	"gantry/engine/volume"
	"gantry/internal/instance"
	"gantry/internal/testenv"
)

// shimVariable tells the isolated process where the shim is.
const shimVariable = "GANTRY_TEST_SHIM"

// Image is the name of the image that every engine has.
const Image = "busybox:test"

// Main runs the tests in namespaces of their own, with the shim built.
func Main(m *testing.M) int {
	if os.Geteuid() != 0 || os.Getenv(shimVariable) != "" {
		return testenv.Isolate(m)
	}
	dir, err := os.MkdirTemp("", "gantry-shim-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	shim := filepath.Join(dir, "gantry-shim")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", shim, "gantry/cmd/gantry-shim")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the shim: %v\n%s", err, out)
		return 1
	}
	if err := os.Setenv(shimVariable, shim); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return testenv.Isolate(m)
}

// Host is one instance of the engine. Stop and Start take it through restarts
// of the daemon.
type Host struct {
	t        testing.TB
	instance instance.Config
	log      *slog.Logger

	Policy *registry.Policy // of signatures, from the next Start on
	Images *image.Store
	Engine *engine.Engine
	CRI    *cri.Service
	stop   func() error
}

// New starts an engine, and removes all traces of it when the test ends.
func New(t testing.TB) *Host {
	t.Helper()
	testenv.NeedRoot(t)
	suffix := make([]byte, 4)
	rand.Read(suffix) // never fails
	dir, err := os.MkdirTemp("/tmp", "gt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	h := &Host{t: t, log: slog.New(slog.NewTextHandler(output{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	h.instance, err = instance.Config{Name: "t" + hex.EncodeToString(suffix), DataDir: filepath.Join(dir, "d"), RunDir: filepath.Join(dir, "r")}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{h.instance.DataDir, h.instance.RunDir} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	h.Start()
	t.Cleanup(h.purge)
	h.addImage()
	return h
}

type output struct{ t testing.TB }

func (o output) Write(p []byte) (int, error) {
	o.t.Logf("%s", p)
	return len(p), nil
}

// Start starts the engine over what is there.
func (h *Host) Start() {
	h.t.Helper()
	networks, err := network.New(network.Config{Instance: h.instance, Logger: h.log})
	must(h.t, err)
	runtime, err := container.New(container.Config{RunDir: h.instance.RunDir, Shim: os.Getenv(shimVariable), Cgroup: h.instance.Cgroup(), Logger: h.log})
	must(h.t, err)
	h.Images, err = image.Open(image.Config{Dir: filepath.Join(h.instance.DataDir, "image"), Logger: h.log})
	must(h.t, err)
	volumes, err := volume.Open(volume.Config{Dir: filepath.Join(h.instance.DataDir, "volumes"), Logger: h.log})
	must(h.t, err)
	client, err := registry.New(registry.Config{Images: h.Images, Policy: h.Policy, Dir: filepath.Join(h.instance.DataDir, "registry"), Logger: h.log})
	must(h.t, err)
	h.Engine, err = engine.New(engine.Config{Dir: h.instance.DataDir, RunDir: h.instance.RunDir, Images: h.Images, Runtime: runtime,
		Networks: networks, Volumes: volumes, Allowed: client.Allowed, Logger: h.log})
	must(h.t, err)
	h.CRI, err = cri.New(cri.Config{Engine: h.Engine, Images: h.Images, Registry: client, Dir: h.instance.DataDir})
	must(h.t, err)

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- h.Engine.Run(ctx) }()
	go func() { <-h.Engine.Ready(); done <- networks.Run(ctx) }()
	h.stop = func() error {
		cancel()
		return errors.Join(<-done, <-done, runtime.Close(), h.Images.Close())
	}
	select {
	case <-h.Engine.Ready():
	case err := <-done:
		h.t.Fatalf("engine: %v", err)
	case <-time.After(30 * time.Second):
		h.t.Fatal("engine not ready")
	}
}

// DataDir is where the engine keeps its state.
func (h *Host) DataDir() string { return h.instance.DataDir }

// Stop ends the engine. The containers go on.
func (h *Host) Stop() {
	h.t.Helper()
	if err := h.stop(); err != nil && !errors.Is(err, context.Canceled) {
		h.t.Errorf("engine: %v", err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (h *Host) purge() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var errs []error
	for _, sb := range h.Engine.Sandboxes(ctx) {
		errs = append(errs, h.Engine.RemoveSandbox(ctx, sb.ID))
	}
	for _, c := range h.Engine.Containers(ctx) {
		errs = append(errs, h.Engine.Remove(ctx, c.ID, engine.RemoveOptions{Force: true}))
	}
	if err := errors.Join(errs...); err != nil {
		h.t.Errorf("purge: %v", err)
	}
	h.Stop()
	runtime, err := container.New(container.Config{RunDir: h.instance.RunDir, Shim: os.Getenv(shimVariable), Cgroup: h.instance.Cgroup(), Logger: h.log})
	must(h.t, err)
	// The engine's one mount that is no container's: it holds the sandboxes' pins.
	err = unix.Unmount(filepath.Join(h.instance.RunDir, "sandboxes"), unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		err = nil // no sandbox was made
	}
	if err := errors.Join(err, h.removeBridges(), runtime.RemoveGroup(ctx, "/"), runtime.Close()); err != nil {
		h.t.Errorf("purge: %v", err)
	}
}

// removeBridges makes room: the address pools last for so many bridges only.
func (h *Host) removeBridges() error {
	for _, name := range []string{h.instance.Bridge(), h.instance.PodBridge()} {
		link, err := netlink.LinkByName(name)
		if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
			continue
		}
		if err != nil {
			return err
		}
		if err := netlink.LinkDel(link); err != nil {
			return err
		}
	}
	return nil
}

// addImage imports busybox with its applets as Image.
func (h *Host) addImage() {
	h.t.Helper()
	data, err := os.ReadFile(testenv.NeedCommand(h.t, "busybox"))
	must(h.t, err)
	list, err := exec.Command("busybox", "--list").Output()
	must(h.t, err)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(hdr tar.Header, content []byte) {
		hdr.Size = int64(len(content))
		must(h.t, w.WriteHeader(&hdr))
		_, err := w.Write(content)
		must(h.t, err)
	}
	for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev", "root"} {
		add(tar.Header{Name: d + "/", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	add(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, data)
	for name := range bytes.Lines(list) {
		if name := string(bytes.TrimSpace(name)); name != "busybox" {
			add(tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil)
		}
	}
	must(h.t, w.Close())
	_, err = h.Images.Import(context.Background(), &b, image.ImportOptions{Ref: Image})
	must(h.t, err)
}
