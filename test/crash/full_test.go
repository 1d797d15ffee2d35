package crash

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gantry/internal/testenv"
)

// A full disk ends nothing that runs, what needs room says so, and what makes
// room works: also for a server that starts on it.
func TestFullDisk(t *testing.T) {
	testenv.NeedCommand(t, "docker")
	s := newServer(t)
	if err := os.MkdirAll(s.Config.DataDir, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", s.Config.DataDir, "tmpfs", 0, "size=64m"); err != nil { // the purge unmounts it
		t.Fatal(err)
	}
	s.start()
	s.ImportBusybox()
	trap := []string{"busybox", "sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"}
	run := func(args ...string) { s.Docker(append(append([]string{"run", "-d"}, args...), trap...)...) }
	run("--name", "stopped")
	run("--name", "removed", "-v", "/anonymous")
	run("--name", "policy", "--restart", "unless-stopped")
	run("--name", "auto", "--rm")
	s.Docker("create", "--name", "made", "busybox", "true")
	s.Docker("run", "-d", "--name", "steady", "busybox", "sh", "-c", "while :; do echo 0123456789; sleep 0.001; done")
	steady := s.life("steady")
	fill := filepath.Join(s.Config.DataDir, "fill")
	fillDisk(t, fill)

	for _, refused := range [][]string{{"create", "busybox", "true"}, {"start", "made"}, {"network", "create", "scene"}, {"volume", "create", "scene"}} {
		fillDisk(t, fill)
		if r := s.Fails("docker", refused...); !strings.Contains(r.Stderr, "no space left on device") {
			t.Errorf("docker %v says %q", refused, r.Stderr)
		}
	}
	s.Docker("exec", "stopped", "true")
	fillDisk(t, fill)
	s.Docker("stop", "stopped")
	s.Docker("stop", "policy")
	s.Docker("rm", "-f", "-v", "removed")
	s.Docker("rm", "made")
	s.Docker("kill", "auto")
	fillDisk(t, fill)
	s.kill()
	s.start()
	for _, name := range []string{"stopped", "policy"} {
		if c := s.inspect(name); c.State.Status != "exited" || c.State.ExitCode != 7 {
			t.Errorf("after a start on the full disk %s is %s with code %d", name, c.State.Status, c.State.ExitCode)
		}
	}
	if now := s.life("steady"); now != steady {
		t.Errorf("steady was %s and is %s", steady, now)
	}

	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	s.Docker("rm", "stopped", "policy")
	if out := s.Docker("run", "--rm", "busybox", "echo", "room"); out != "room\n" {
		t.Errorf("with room again a container printed %q", out)
	}
	s.Docker("rm", "-f", "steady")
	s.clear()
	s.check()
}

// fillDisk appends to the file at path until nothing more fits.
func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 64<<10)
	for len(block) > 0 {
		n, err := f.Write(block)
		if err != nil && n == 0 {
			block = block[:len(block)/2]
		}
	}
}
