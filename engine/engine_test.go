package engine_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"

	"gantry/engine"
	"gantry/engine/internal/enginetest"
	"gantry/internal/problem"
	"gantry/internal/testenv"
)

func TestMain(m *testing.M) {
	code := testenv.Isolate(m)
	enginetest.Clean()
	os.Exit(code)
}

// bench is an engine with the image busybox, and shorthands that fail the test.
type bench struct {
	*enginetest.Host
	t   testing.TB
	ctx context.Context
}

func newBench(t testing.TB) *bench {
	t.Helper()
	h := enginetest.New(t)
	h.Busybox(t)
	// For all of a test's containers: some run two dozen, on a machine that does more.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return &bench{h, t, ctx}
}

// create makes a container of busybox that runs a shell script.
func (b *bench) create(script string, change func(*engine.CreateRequest)) string {
	b.t.Helper()
	req := engine.CreateRequest{
		Config:     &dcontainer.Config{Image: "busybox", Cmd: []string{"sh", "-c", script}},
		HostConfig: &dcontainer.HostConfig{NetworkMode: "none"},
	}
	if change != nil {
		change(&req)
	}
	made, err := b.Engine.Create(b.ctx, req)
	if err != nil {
		b.t.Fatal(err)
	}
	return made.ID
}

func (b *bench) start(id string) {
	b.t.Helper()
	if err := b.Engine.Start(b.ctx, id); err != nil {
		b.t.Fatal(err)
	}
}

// startReady starts a container whose script says "ready", and waits for it.
func (b *bench) startReady(id string) {
	b.t.Helper()
	claim, err := b.Engine.Attach(b.ctx, id)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	reader, writer := io.Pipe()
	go func() { writer.CloseWithError(claim.Run(ctx, engine.Streams{Stdout: writer})) }()
	b.start(id)
	line, err := bufio.NewReader(reader).ReadString('\n')
	if line != "ready\n" {
		b.t.Fatalf("container %s said %q, %v", id, line, err)
	}
	reader.Close()
}

// wait returns the exit code of a container.
func (b *bench) wait(id string) int {
	b.t.Helper()
	await, err := b.Engine.Wait(b.ctx, id, dcontainer.WaitConditionNotRunning)
	if err != nil {
		b.t.Fatal(err)
	}
	answer, err := await(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	return int(answer.StatusCode)
}

// output returns what a container has printed to both streams.
func (b *bench) output(id string) string {
	b.t.Helper()
	var out bytes.Buffer
	opts := engine.LogsOptions{Stdout: true, Stderr: true, Tail: -1}
	err := b.Engine.Logs(b.ctx, id, opts, func(l engine.LogLine) error { out.Write(l.Text); return nil })
	if err != nil {
		b.t.Fatal(err)
	}
	return out.String()
}

// run runs a script to its end and returns its output and exit code.
func (b *bench) run(script string, change func(*engine.CreateRequest)) (string, int) {
	b.t.Helper()
	id := b.create(script, change)
	b.start(id)
	code := b.wait(id)
	return b.output(id), code
}

func (b *bench) state(id string) engine.Container {
	b.t.Helper()
	c, err := b.Engine.Container(b.ctx, id)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

// until waits for an event of a container.
func (b *bench) follow(ctx context.Context) <-chan engine.Event {
	events := make(chan engine.Event, 100) // more than a test's containers cause
	ready := make(chan struct{})
	go func() {
		defer close(events)
		_ = b.Engine.Events(ctx, engine.EventsOptions{}, func() { close(ready) }, func(ev engine.Event) error {
			events <- ev
			return nil
		})
	}()
	<-ready
	return events
}

func TestRunAndExitCode(t *testing.T) {
	b := newBench(t)
	out, code := b.run("echo to stdout; echo to stderr >&2; exit 7", nil)
	if code != 7 || !strings.Contains(out, "to stdout\n") || !strings.Contains(out, "to stderr\n") {
		t.Errorf("exit %d, output %q", code, out)
	}
}

func TestIdentityOfTheProcess(t *testing.T) {
	b := newBench(t)
	for name, c := range map[string]struct {
		script string
		change func(*engine.CreateRequest)
		want   string
	}{
		"root has its groups":      {"id", nil, "uid=0(root) gid=0(root) groups=0(root),10(wheel)\n"},
		"a user by name":           {"id; echo $HOME", func(r *engine.CreateRequest) { r.Config.User = "web" }, "uid=1000(web) gid=1000(web) groups=1000(web)\n/home/web\n"},
		"numbers without an entry": {"id -u; id -g; echo $HOME", func(r *engine.CreateRequest) { r.Config.User = "4711:42" }, "4711\n42\n/\n"},
		"further groups":           {"id -G", func(r *engine.CreateRequest) { r.HostConfig.GroupAdd = []string{"web", "99"} }, "0 10 99 1000\n"},
		"the host name":            {"hostname; cat /etc/hostname", func(r *engine.CreateRequest) { r.Config.Hostname = "box" }, "box\nbox\n"},
		"the working directory":    {"pwd", func(r *engine.CreateRequest) { r.Config.WorkingDir = "/made/for/it" }, "/made/for/it\n"},
		"variables":                {"echo $A $PATH", func(r *engine.CreateRequest) { r.Config.Env = []string{"A=b"} }, "b /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"},
		"shared memory":            {"df -k /dev/shm | awk 'NR==2{print $2}'", func(r *engine.CreateRequest) { r.HostConfig.ShmSize = 1 << 20 }, "1024\n"},
		"a read-only root":         {"touch /x 2>/dev/null || echo refused", func(r *engine.CreateRequest) { r.HostConfig.ReadonlyRootfs = true }, "refused\n"},
		"extra hosts":              {"grep example /etc/hosts", func(r *engine.CreateRequest) { r.HostConfig.ExtraHosts = []string{"example:192.0.2.7"} }, "192.0.2.7\texample\n"},
		"default capabilities":     {"grep CapEff /proc/self/status", nil, "CapEff:\t00000000a80425fb\n"},
		"no capabilities":          {"grep CapEff /proc/self/status", func(r *engine.CreateRequest) { r.HostConfig.CapDrop = []string{"ALL"} }, "CapEff:\t0000000000000000\n"},
		"one capability": {"grep CapEff /proc/self/status", func(r *engine.CreateRequest) {
			r.HostConfig.CapDrop = []string{"ALL"}
			r.HostConfig.CapAdd = []string{"CHOWN"}
		}, "CapEff:\t0000000000000001\n"},
		"no new privileges":    {"grep NoNewPrivs /proc/self/status", func(r *engine.CreateRequest) { r.HostConfig.SecurityOpt = []string{"no-new-privileges"} }, "NoNewPrivs:\t1\n"},
		"the default filter":   {"grep '^Seccomp:' /proc/self/status", nil, "Seccomp:\t2\n"},
		"no filter":            {"grep '^Seccomp:' /proc/self/status", func(r *engine.CreateRequest) { r.HostConfig.SecurityOpt = []string{"seccomp=unconfined"} }, "Seccomp:\t0\n"},
		"a network of its own": {"ls /sys/class/net", nil, "lo\n"},
		"name servers": {"cat /etc/resolv.conf", func(r *engine.CreateRequest) {
			r.HostConfig.DNSSearch = []string{"example.org"}
			r.HostConfig.DNS = addresses("192.0.2.53")
		}, "nameserver 192.0.2.53\nsearch example.org\n"},
		"ulimits": {"ulimit -n", func(r *engine.CreateRequest) {
			r.HostConfig.Ulimits = []*dcontainer.Ulimit{{Name: "nofile", Soft: 123, Hard: 456}}
		}, "123\n"},
		"sysctls": {"cat /proc/sys/net/ipv4/ip_default_ttl", func(r *engine.CreateRequest) {
			r.HostConfig.Sysctls = map[string]string{"net.ipv4.ip_default_ttl": "77"}
		}, "77\n"},
		"a tmpfs":                   {"mount | grep -c ' /scratch type tmpfs'", func(r *engine.CreateRequest) { r.HostConfig.Tmpfs = map[string]string{"/scratch": "size=1m"} }, "1\n"},
		"masked and read-only proc": {"wc -c < /proc/interrupts; echo 1 2>/dev/null > /proc/sys/vm/swappiness || echo refused", nil, "0\nrefused\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if out, code := b.run(c.script, c.change); out != c.want || code != 0 {
				t.Errorf("exit %d, output %q, want %q", code, out, c.want)
			}
		})
	}
}

func TestAttachBeforeStartMissesNothing(t *testing.T) {
	b := newBench(t)
	id := b.create("read line; echo got $line", func(r *engine.CreateRequest) { r.Config.OpenStdin, r.Config.StdinOnce = true, true })
	claim, err := b.Engine.Attach(b.ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	var done sync.WaitGroup
	var attachErr error
	done.Go(func() {
		attachErr = claim.Run(b.ctx, engine.Streams{Stdin: strings.NewReader("hello\n"), Stdout: &out, Stderr: io.Discard})
	})
	b.start(id)
	done.Wait()
	if attachErr != nil || out.String() != "got hello\n" {
		t.Errorf("output %q, %v", out.String(), attachErr)
	}
	if code := b.wait(id); code != 0 {
		t.Errorf("exit %d", code)
	}
}

func TestStopKillAndRestart(t *testing.T) {
	b := newBench(t)
	id := b.create("trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done", nil)
	if err := b.Engine.Stop(b.ctx, id, engine.StopOptions{}); !errors.Is(err, engine.ErrNotModified) {
		t.Errorf("stop of what never ran: %v", err)
	}
	b.startReady(id)
	if err := b.Engine.Start(b.ctx, id); !errors.Is(err, engine.ErrNotModified) {
		t.Errorf("second start: %v", err)
	}
	if err := b.Engine.Stop(b.ctx, id, engine.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if c := b.state(id); c.Status != dcontainer.StateExited || c.ExitCode != 5 || c.Pid != 0 {
		t.Errorf("after stop: %+v", c)
	}
	b.start(id)
	if err := b.Engine.Kill(b.ctx, id, ""); err != nil {
		t.Fatal(err)
	}
	if c := b.state(id); c.Status != dcontainer.StateExited || c.ExitCode != 137 {
		t.Errorf("after kill: %s %d", c.Status, c.ExitCode)
	}
	if err := b.Engine.Kill(b.ctx, id, ""); !errors.Is(err, problem.Conflict) {
		t.Errorf("kill of what does not run: %v", err)
	}
	b.startReady(id)
	if err := b.Engine.Restart(b.ctx, id, engine.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := b.Engine.Remove(b.ctx, id, engine.RemoveOptions{}); !errors.Is(err, problem.Conflict) {
		t.Errorf("remove of what runs: %v", err)
	}
	if err := b.Engine.Remove(b.ctx, id, engine.RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Engine.Container(b.ctx, id); !errors.Is(err, problem.NotFound) {
		t.Errorf("after remove: %v", err)
	}
}
