package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// podmanRuns adds what podman takes to the first three measures, if it is installed.
func podmanRuns(ctx context.Context, b *bench, image string, peers []string) error {
	podman, err := exec.LookPath("podman")
	if err != nil {
		return nil
	}
	base := []string{"--root", b.work + "/podman", "--runroot", b.work + "/podman-run", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "runc"}
	if _, err := timed(ctx, nil, podman, append(base, "import", image, "busybox:latest")...); err != nil {
		return fmt.Errorf("podman: %w", err)
	}
	for i, network := range []string{"podman", "none", "host"} {
		// The host's: podman's own may be above the hard limit.
		args := append(base[:len(base):len(base)], "run", "--rm", "--ulimit", "host", "--network", network, "busybox", "true")
		d, err := median(7, func() (time.Duration, error) { return timed(ctx, nil, podman, args...) })
		if err != nil {
			// Which networks podman offers depends on the host's cgroups and
			// iptables; the row then shows Docker alone.
			fmt.Fprintln(os.Stderr, "left out:", err)
			continue
		}
		peers[i] += ", podman " + ms(d)
	}
	return nil
}
