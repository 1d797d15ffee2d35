package e2e

import (
	"os/exec"
	"path/filepath"
	"testing"

	"gantry/internal/testenv"
	"gantry/test/harness"
)

// TestDebian builds on something real: a Debian root file system, with a
// package that RUN installs over the network.
func TestDebian(t *testing.T) {
	testenv.NeedCommand(t, "mmdebstrap")
	s := harness.Start(t, harness.Options{HostNetwork: true, Args: []string{"--disable=cluster"}})
	rootfs := filepath.Join(t.TempDir(), "debian.tar")
	if out, err := exec.CommandContext(t.Context(), "mmdebstrap", "--variant=apt", "bookworm", rootfs).CombinedOutput(); err != nil {
		t.Fatalf("mmdebstrap: %v\n%s", err, out)
	}
	s.Docker("import", rootfs, "debian:bookworm")
	contains(t, s.Docker("run", "--rm", "debian:bookworm", "cat", "/etc/os-release"), "bookworm")

	dir := t.TempDir()
	write(t, dir, "Dockerfile", `FROM debian:bookworm
RUN apt-get update && apt-get install -y --no-install-recommends bc && rm -rf /var/lib/apt/lists/*
ENTRYPOINT ["bc"]
`)
	s.Docker("build", "-t", "bc", dir)
	if r := s.Try("6*7\n", "docker", "run", "--rm", "-i", "bc"); r.Stdout != "42\n" {
		t.Errorf("bc says %+v", r)
	}
}
