package dockerapi_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"gantry/engine/dockerapi"
	"gantry/engine/internal/enginetest"
	"gantry/internal/testenv"
)

// victim marks the process of this test binary that serves and is killed; its
// value is the instance's name, data and run directory.
const victim = "GANTRY_TEST_VICTIM"

// serveVictim is the daemon that the crash test kills.
func serveVictim() int {
	parts := strings.SplitN(os.Getenv(victim), " ", 4)
	h, err := enginetest.Open(parts[0], parts[1], parts[2], parts[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	socket := parts[2] + "/docker.sock"
	os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if errs := h.Engine.Check(context.Background()); len(errs) > 0 {
		fmt.Println("check", errs)
		return 1
	}
	fmt.Println("ready")
	err = http.Serve(listener, dockerapi.New(dockerapi.Config{Engine: h.Engine, Images: h.Images, Builder: h.Builder, Networks: h.Networks, Volumes: h.Volumes}))
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// start runs the victim and waits until it serves.
func startVictim(t *testing.T, d *daemon) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), victim+"="+strings.Join([]string{d.Instance.Name, d.Instance.DataDir, d.Instance.RunDir, enginetest.Shim(t)}, " "))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan string, 1) // one line
	go func() {
		line := make([]byte, 4096)
		n, _ := out.Read(line)
		ready <- string(line[:n])
	}()
	select {
	case line := <-ready:
		if line != "ready\n" {
			cmd.Process.Kill()
			cmd.Wait()
			t.Fatalf("the daemon said %q", line)
		}
	case <-time.After(30 * time.Second):
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatal("the daemon does not start")
	}
	return cmd
}

// TestKillDuringLoad kills the daemon at random moments while clients run,
// execute in, and remove containers. A container that ran all the time must not
// have noticed.
func TestKillDuringLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	testenv.NeedRoot(t)
	d := newDaemon(t)
	d.server.Close()
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	cmd := startVictim(t, d)
	d.do("run", "-d", "--name", "steady", "-p", "8097:80", "busybox", "sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done")
	pid := d.do("inspect", "-f", "{{.State.Pid}}", "steady")
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_ = d.command("run", "--rm", "busybox", "sh", "-c", "echo x > /f").Run() // its failure is the point
				_ = d.command("exec", "steady", "true").Run()
				_ = d.command("run", "-d", "--network", "none", "-v", "/anonymous", "busybox", "true").Run()
			}
		})
	}
	rounds := 8
	for range rounds {
		timer := time.NewTimer(time.Duration(100+rand.IntN(700)) * time.Millisecond)
		<-timer.C
		cmd.Process.Kill()
		cmd.Wait()
		cmd = startVictim(t, d)
		if got := d.do("inspect", "-f", "{{.State.Pid}} {{.State.Status}}", "steady"); got != pid+" running" {
			t.Fatalf("after a kill: %s, want %s running", got, pid)
		}
	}
	close(stop)
	clients.Wait()
	// The log has every line, in order, once.
	for i, line := range strings.Split(d.do("logs", "steady"), "\n") {
		if line != fmt.Sprint(i) {
			t.Fatalf("line %d of the log is %q", i, line)
		}
	}
	cmd.Process.Kill()
	cmd.Wait()
	if err := d.Host.Start(); err != nil {
		t.Fatal(err)
	}
	d.serve()
	d.Check(t)
	runs := map[string]bool{}
	for _, c := range d.Engine.Containers(context.Background()) {
		runs[c.ID] = c.Pid != 0
		if c.Status != "running" && c.Status != "exited" && c.Status != "created" {
			t.Errorf("container %s is %s", c.Name, c.Status)
		}
		if c.HostConfig.AutoRemove && c.Status == "exited" {
			t.Errorf("container %s ended and was to be removed", c.Name)
		}
	}
	pinned, err := os.ReadDir(d.Instance.RunDir + "/netns")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range pinned {
		if !runs[entry.Name()] {
			t.Errorf("the network namespace of %s is left", entry.Name())
		}
	}
}
