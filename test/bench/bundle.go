package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"gantry/engine/container"
)

// bundles measures `run` of a prepared bundle, with Docker's mounts, masks and
// seccomp profile, by each OCI runtime.
func bundles(ctx context.Context, b *bench) ([]row, error) {
	dir := filepath.Join(b.work, "bundle")
	if err := makeBundle(b, dir); err != nil {
		return nil, err
	}
	n := 0
	run := func(program string) (time.Duration, error) {
		return median(21, func() (time.Duration, error) {
			n++
			return timed(ctx, nil, program, "--root", b.work+"/bundle-state", "run", "--bundle", dir, fmt.Sprintf("bench-%d", n))
		})
	}
	own, err := run(filepath.Join(b.bin, "gantry-oci"))
	if err != nil {
		return nil, err
	}
	var peers []string
	for _, name := range []string{"runc", "crun"} {
		program, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		d, err := run(program)
		if err != nil {
			fmt.Fprintln(os.Stderr, "left out:", err) // crun refuses hybrid cgroups
			continue
		}
		peers = append(peers, name+" "+ms(d))
	}
	return []row{{"oci run of a bundle, default seccomp profile", strings.Join(peers, ", "), ms(own), "10 ms"}}, nil
}

// makeBundle unpacks busybox and writes a config.json that runs true.
func makeBundle(b *bench, dir string) error {
	archive, err := b.busyboxTar()
	if err != nil {
		return err
	}
	root := filepath.Join(dir, "rootfs")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := unpack(archive, root); err != nil {
		return err
	}
	caps := container.DefaultCapabilities()
	filter, err := container.DefaultSeccomp(caps)
	if err != nil {
		return err
	}
	mount := func(at, kind string, options ...string) specs.Mount {
		return specs.Mount{Destination: at, Type: kind, Source: kind, Options: options}
	}
	spec := &specs.Spec{
		Version: "1.0.2", // what the oldest peer knows
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: []string{"/bin/true"}, Cwd: "/", Env: []string{"PATH=/bin"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}},
		Mounts: []specs.Mount{mount("/proc", "proc"), mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
			mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
			mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
			mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"), mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
			mount("/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro")},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.MountNamespace}},
			MaskedPaths: container.DefaultMaskedPaths(), ReadonlyPaths: container.DefaultReadonlyPaths(), Seccomp: filter,
		},
	}
	data, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644)
}

// unpack writes the directories, files and links of an archive that the bench made.
func unpack(archive, root string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		path := filepath.Join(root, h.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, path)
		default:
			var content []byte
			if content, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, content, 0o755)
			}
		}
		if err != nil {
			return err
		}
	}
}
