package compat

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/testenv"
)

// newReference starts a dockerd which disturbs nobody: its directories are
// temporary, its network and its mounts are in namespaces of its own, and its
// containerd is its child.
func newReference(t *testing.T) *side {
	testenv.NeedRoot(t)
	for _, command := range []string{"dockerd", "containerd", "runc", "ip"} {
		testenv.NeedCommand(t, command)
	}
	// A short path: the names of sockets have bounded lengths.
	dir, err := os.MkdirTemp("/run", "gc-")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "d.sock")
	config := filepath.Join(dir, "daemon.json")
	if err := os.WriteFile(config, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command("sh", "-c", `ip link set lo up && exec "$@"`, "sh", "dockerd",
		"--config-file", config, "--data-root", t.TempDir(), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "-H", "unix://"+socket, "--cgroup-parent", "/"+filepath.Base(dir),
		"--iptables=false", "--ip6tables=false", "--storage-driver", "overlay2", "--log-level", "warn")
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: unix.SIGTERM}
	started, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		// The signal comes when the thread that started the process ends, which
		// any thread may that a goroutine has locked: this one waits.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if started <- err; err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	s := newSide(t, "reference", socket)
	t.Cleanup(func() {
		s.removeAll(t)
		_ = cmd.Process.Signal(unix.SIGTERM) // it may have ended
		select {
		case err := <-ended:
			if err != nil {
				t.Logf("dockerd: %v\n%s", err, log.String())
			}
		case <-time.After(time.Minute):
			_ = cmd.Process.Kill()
			<-ended
			t.Errorf("dockerd does not end\n%s", log.String())
		}
		removeGroups(filepath.Base(dir))
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	awaitSocket(t, socket, ended, &log)
	return s
}

// awaitSocket waits until the daemon answers. It says nothing when it is ready,
// so it is asked.
func awaitSocket(t *testing.T, socket string, ended <-chan error, log *bytes.Buffer) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
			if err == nil {
				conn.Close()
				return
			}
		case err := <-ended:
			t.Fatalf("dockerd ended: %v\n%s", err, log.String())
		case <-ctx.Done():
			t.Fatal("dockerd does not answer")
		}
	}
}

// removeGroups removes the reference's cgroups, which are empty by now.
func removeGroups(name string) {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/" + name) // the pattern is good
	for _, root := range append(roots, "/sys/fs/cgroup/"+name) {
		_ = os.Remove(root) // most do not exist
	}
}
