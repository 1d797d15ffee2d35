package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

var networks = []string{"bridge", "none", "host"}

// runs measures `docker run --rm busybox true` by the stock CLI, on Gantry and
// on each peer that is installed.
func runs(ctx context.Context, b *bench) (_ []row, err error) {
	image, err := b.busyboxTar()
	if err != nil {
		return nil, err
	}
	peers := map[string]string{}
	if err := dockerRuns(ctx, b, image, peers); err != nil {
		return nil, err
	}
	if err := podmanRuns(ctx, b, image, peers); err != nil {
		return nil, err
	}
	s, err := b.startServer(ctx, "--disable=cluster")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop(b)) }()
	err = poll(ctx, s, func() error { _, err := s.docker(ctx, "version"); return err })
	if err != nil {
		return nil, err
	}
	if err := s.importBusybox(ctx, b); err != nil {
		return nil, err
	}
	var rows []row
	for _, network := range networks {
		d, err := median(15, func() (time.Duration, error) {
			return s.docker(ctx, "run", "--rm", "--network", network, "busybox", "true")
		})
		if err != nil {
			return rows, err
		}
		rows = append(rows, row{"docker run --rm busybox true, " + network, peers[network], ms(d), "70 ms"})
	}
	d, err := median(15, func() (time.Duration, error) { return s.docker(ctx, "version") })
	return append(rows, row{"docker version (the client and one round trip)", peers["version"], ms(d), ""}), err
}

// dockerRuns starts a dockerd of the bench's own, if there is one.
func dockerRuns(ctx context.Context, b *bench, image string, peers map[string]string) (err error) {
	daemon, err := exec.LookPath("dockerd")
	if err != nil {
		return nil
	}
	dir := filepath.Join(b.work, "docker")
	socket := "unix://" + filepath.Join(dir, "sock")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	log := &bytes.Buffer{}
	cmd := exec.CommandContext(ctx, daemon, "--data-root", dir+"/data", "--exec-root", dir+"/exec",
		"--pidfile", dir+"/pid", "-H", socket)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, cmd.Process.Signal(os.Interrupt))
		_ = cmd.Wait() // it was asked to end
	}()
	env := []string{"DOCKER_HOST=" + socket}
	err = poll(ctx, &server{log: log}, func() error {
		_, err := timed(ctx, env, "docker", "version")
		return err
	})
	if err != nil {
		return err
	}
	if _, err := timed(ctx, env, "docker", "import", image, "busybox:latest"); err != nil {
		return err
	}
	for _, network := range networks {
		d, err := median(7, func() (time.Duration, error) {
			return timed(ctx, env, "docker", "run", "--rm", "--network", network, "busybox", "true")
		})
		if err != nil {
			return err
		}
		peers[network] = "docker " + ms(d)
	}
	d, err := median(7, func() (time.Duration, error) { return timed(ctx, env, "docker", "version") })
	peers["version"] = "docker " + ms(d)
	return err
}

func podmanRuns(ctx context.Context, b *bench, image string, peers map[string]string) error {
	podman, err := exec.LookPath("podman")
	if err != nil {
		return nil
	}
	base := []string{"--root", b.work + "/podman", "--runroot", b.work + "/podman-run", "--cgroup-manager", "cgroupfs", "--events-backend", "file"}
	if _, err := timed(ctx, nil, podman, append(base, "import", image, "busybox:latest")...); err != nil {
		return fmt.Errorf("podman: %w", err)
	}
	for _, network := range networks {
		if network == "bridge" {
			network = "podman"
		}
		// Not the default: raising it above the hard limit may be forbidden.
		args := append(base[:len(base):len(base)], "run", "--rm", "--ulimit", "nofile=1024:1024", "--network", network, "busybox", "true")
		d, err := median(7, func() (time.Duration, error) { return timed(ctx, nil, podman, args...) })
		if err != nil {
			// Which networks podman offers depends on the host's cgroups and
			// iptables; the row then shows Docker alone.
			fmt.Fprintln(os.Stderr, "left out:", err)
			continue
		}
		if network == "podman" {
			network = "bridge"
		}
		peers[network] += ", podman " + ms(d)
	}
	return nil
}
