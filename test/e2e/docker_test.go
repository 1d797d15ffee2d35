package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"gantry/internal/testenv"
	"gantry/test/harness"
)

// TestDocker drives the engine by the stock CLI. The cluster's part is off.
func TestDocker(t *testing.T) {
	testenv.NeedCommand(t, "docker")
	s := harness.Start(t, harness.Options{Args: []string{"--disable=cluster"}})
	s.ImportBusybox()

	t.Run("version and info name both ends", func(t *testing.T) {
		contains(t, s.Docker("version"), "Client:", "Server:", "API version:")
		contains(t, s.Docker("info"), "Server Version:", "Storage Driver: overlay2", "Images: 1")
	})
	t.Run("the disk budget shows what is stored", func(t *testing.T) {
		contains(t, s.Gantry("df"), "busybox:latest", "it has a tag", "build cache", "cache mounts")
	})
	t.Run("run passes output, arguments and the exit status on", func(t *testing.T) {
		r := s.Try("", "docker", "run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
		if r.Stdout != "out\n" || r.Stderr != "err\n" || r.Code != 7 {
			t.Errorf("got %+v", r)
		}
		if r := s.Try("fed\n", "docker", "run", "--rm", "-i", "busybox", "cat"); r.Stdout != "fed\n" {
			t.Errorf("stdin: got %+v", r)
		}
	})
	t.Run("run's settings reach the process", func(t *testing.T) {
		dir := t.TempDir()
		write(t, dir, "file", "from the host")
		out := s.Docker("run", "--rm", "-e", "COLOUR=blue", "-w", "/tmp", "-u", "app", "-v", dir+":/in:ro", "busybox",
			"sh", "-c", "echo $COLOUR $(pwd) $(id -u) $(cat /in/file); touch /in/x 2>&1 || true")
		contains(t, out, "blue /tmp 1000 from the host", "Read-only file system")
	})
	t.Run("limits are the cgroup's", func(t *testing.T) {
		name := "limited"
		s.Docker("run", "-d", "--name", name, "--memory", "64m", "--cpus", "0.5", "--pids-limit", "50", "busybox", "sleep", "600")
		defer s.Docker("rm", "-f", name)
		out := s.Docker("inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}", name)
		contains(t, out, "67108864 500000000 50")
		out = s.Docker("exec", name, "sh", "-c", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true")
		contains(t, out, "67108864")
	})
	t.Run("an out-of-memory kill is told", func(t *testing.T) {
		s.Try("", "docker", "run", "--name", "oom", "--memory", "16m", "busybox", "sh", "-c", "x=a; while :; do x=$x$x; done")
		defer s.Docker("rm", "oom")
		contains(t, s.Docker("inspect", "-f", "{{.State.OOMKilled}} {{.State.ExitCode}}", "oom"), "true 137")
	})
	t.Run("networks", func(t *testing.T) {
		contains(t, s.Docker("run", "--rm", "busybox", "ip", "-o", "addr"), "eth0")
		if out := s.Docker("run", "--rm", "--network", "none", "busybox", "ip", "-o", "addr"); strings.Contains(out, "eth0") {
			t.Errorf("--network none has %s", out)
		}
		contains(t, s.Docker("run", "--rm", "--network", "host", "busybox", "ip", "-o", "link"), s.Config.Bridge())
	})
	t.Run("a published port answers on loopback and on the container's address", func(t *testing.T) {
		s.Docker("run", "-d", "--name", "web", "-p", "127.0.0.1:8088:80", "busybox", "sh", "-c",
			"mkdir -p /www && echo served > /www/index.html && exec httpd -f -h /www")
		defer s.Docker("rm", "-f", "web")
		client := s.HTTP()
		harness.Eventually(t, "published port", func() error {
			body, err := harness.Get(client, "http://127.0.0.1:8088/")
			if err == nil && body != "served\n" {
				err = fmt.Errorf("got %q", body)
			}
			return err
		})
		r := s.Fails("docker", "run", "--rm", "-p", "127.0.0.1:8088:80", "busybox", "true")
		contains(t, r.Stderr, "8088", "port is already allocated")
		if r.Code != 125 {
			t.Errorf("exit status %d, want 125", r.Code)
		}
	})
	t.Run("a detached life", func(t *testing.T) { life(t, s) })
	t.Run("exit statuses of what cannot be started", func(t *testing.T) {
		if r := s.Fails("docker", "run", "--rm", "busybox", "/no/such"); r.Code != 127 {
			t.Errorf("missing program: %+v, want 127", r)
		}
		if r := s.Fails("docker", "run", "--rm", "busybox", "/etc/passwd"); r.Code != 126 {
			t.Errorf("not executable: %+v, want 126", r)
		}
		r := s.Fails("docker", "run", "--rm", "no-such-image")
		if r.Code != 125 {
			t.Errorf("missing image: %+v, want 125", r)
		}
	})
	t.Run("terminals", func(t *testing.T) { terminal(t, s) })
	t.Run("save and load", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "image.tar")
		id := s.Docker("inspect", "-f", "{{.Id}}", "busybox")
		s.Docker("save", "-o", file, "busybox")
		s.Docker("rmi", "-f", "busybox")
		contains(t, s.Docker("load", "-i", file), "Loaded image: busybox:latest")
		if again := s.Docker("inspect", "-f", "{{.Id}}", "busybox"); again != id {
			t.Errorf("loaded as %s, was saved as %s", again, id)
		}
	})
	t.Run("build", func(t *testing.T) { build(t, s) })
}

// life takes one container from run to rm.
func life(t *testing.T, s *harness.Server) {
	id := strings.TrimSpace(s.Docker("run", "-d", "--name", "life", "busybox", "sh", "-c",
		"trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.1; done"))
	contains(t, s.Docker("ps"), id[:12], "life", "Up")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	follow := s.Command(ctx, "docker", "logs", "-f", "life")
	var logs strings.Builder
	follow.Stdout = &logs
	if err := s.Begin(follow); err != nil {
		t.Fatal(err)
	}
	contains(t, s.Docker("exec", "-e", "A=b", "life", "sh", "-c", "echo $A in $(hostname)"), "b in "+id[:12])
	if r := s.Fails("docker", "exec", "life", "sh", "-c", "exit 9"); r.Code != 9 {
		t.Errorf("exec: %+v, want exit status 9", r)
	}
	harness.Eventually(t, "first line", func() error {
		if out := s.Docker("logs", "life"); out != "ready\n" {
			return fmt.Errorf("logs are %q", out)
		}
		return nil
	})
	s.Docker("stop", "life")
	if out := s.Docker("wait", "life"); out != "3\n" {
		t.Errorf("wait says %q, want 3", out)
	}
	if err := follow.Wait(); err != nil || logs.String() != "ready\nbye\n" {
		t.Errorf("logs -f gave %q, %v", logs.String(), err)
	}
	contains(t, s.Docker("ps", "-a"), "Exited (3)")
	s.Docker("start", "life")
	s.Docker("kill", "life")
	if out := s.Docker("wait", "life"); out != "137\n" {
		t.Errorf("after kill wait says %q, want 137", out)
	}
	s.Docker("rm", "life")
	contains(t, s.Fails("docker", "inspect", "life").Stderr, "o such object: life")
}

// terminal checks that run -it and exec -it are interactive.
func terminal(t *testing.T, s *harness.Server) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := s.Command(ctx, "docker", "run", "--rm", "-it", "busybox", "sh")
	var tty *os.File
	err := s.Inside(func() error {
		var err error
		tty, err = pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 100})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	if _, err := tty.WriteString("tty; stty size; echo sum=$((40+2)); exit 5\n"); err != nil {
		t.Fatal(err)
	}
	var screen strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := tty.Read(buf)
		screen.Write(buf[:n])
		if err != nil {
			break // EIO: the other end is closed
		}
	}
	err = cmd.Wait()
	if cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("exit: %v, want status 5", err)
	}
	contains(t, screen.String(), "/dev/", "40 100", "sum=42")
}

// build tries the builder by the stock CLI's classic protocol.
func build(t *testing.T, s *harness.Server) {
	dir := t.TempDir()
	write(t, dir, "Dockerfile", `FROM busybox AS base
ARG WHO=nobody
ENV GREETING=hello
RUN echo "$GREETING $WHO" > /greeting
FROM base AS extra
RUN echo unneeded > /extra
FROM base
WORKDIR /srv
COPY --chown=1000:1000 data.txt ./
COPY --from=base /greeting /copied
USER app
LABEL kept=yes
CMD ["sh", "-c", "cat /greeting /copied /srv/data.txt; id -u"]
`)
	write(t, dir, "data.txt", "data\n")
	write(t, dir, "secret", "not for the image")
	write(t, dir, ".dockerignore", "secret\n")
	out := s.Docker("build", "-t", "built:1", "--build-arg", "WHO=world", dir)
	contains(t, out, "Step 1/", "Successfully built", "Successfully tagged built:1")
	if strings.Contains(out, "unneeded") {
		t.Error("a stage that nothing needs was built")
	}
	contains(t, s.Docker("run", "--rm", "built:1"), "hello world\nhello world\ndata\n1000\n")
	id := s.Docker("images", "-q", "--no-trunc", "built:1")
	again := s.Docker("build", "-t", "built:1", "--build-arg", "WHO=world", dir)
	contains(t, again, "Using cache")
	if got := s.Docker("images", "-q", "--no-trunc", "built:1"); got != id {
		t.Errorf("built again without a change: %s, was %s", got, id)
	}
	contains(t, s.Docker("build", "--target", "extra", dir), "Successfully built")
}
