package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"
	devents "github.com/moby/moby/api/types/events"
	dmount "github.com/moby/moby/api/types/mount"
	dnetwork "github.com/moby/moby/api/types/network"

	"gantry/engine"
	"gantry/internal/problem"
)

func TestVolumesAndBinds(t *testing.T) {
	b := newBench(t)
	host := t.TempDir()
	out, code := b.run("cat /data/seed; stat -c '%u %g %a' /data/seed; echo x > /data/new; echo y > /host/file; ls /ro; touch /ro/x 2>/dev/null || echo refused",
		func(r *engine.CreateRequest) {
			r.HostConfig.Binds = []string{"seeded:/data", host + ":/host", filepath.Join(host, "made") + ":/ro:ro"}
		})
	if want := "seed\n7 8 640\nrefused\n"; out != want || code != 0 {
		t.Errorf("exit %d, output %q, want %q", code, out, want)
	}
	if data, err := os.ReadFile(filepath.Join(host, "file")); string(data) != "y\n" {
		t.Errorf("the bind has %q, %v", data, err)
	}
	out, _ = b.run("cat /again/new", func(r *engine.CreateRequest) {
		r.HostConfig.Mounts = []dmount.Mount{{Type: dmount.TypeVolume, Source: "seeded", Target: "/again"}}
	})
	if out != "x\n" {
		t.Errorf("a second container reads %q from the volume", out)
	}
	if err := b.Engine.RemoveVolume(b.ctx, "seeded", engine.RemoveOptions{}); !errors.Is(err, problem.Conflict) {
		t.Errorf("remove a volume in use: %v", err)
	}
	id := b.create("true", func(r *engine.CreateRequest) { r.Config.Volumes = map[string]struct{}{"/anonymous": {}} })
	name := b.state(id).Mounts[0].Name
	if err := b.Engine.Remove(b.ctx, id, engine.RemoveOptions{Volumes: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Volumes.Inspect(b.ctx, name); !errors.Is(err, problem.NotFound) {
		t.Errorf("the anonymous volume is still there: %v", err)
	}
}

func TestBridgeNetworkAndPorts(t *testing.T) {
	b := newBench(t)
	port := dnetwork.MustParsePort("80/tcp")
	serve := func(r *engine.CreateRequest) {
		r.HostConfig.NetworkMode = "bridge"
		r.HostConfig.PortBindings = dnetwork.PortMap{port: {{HostPort: "8080"}}}
	}
	id := b.create("echo ready; ip -4 -o addr show eth0 | wc -l; cat /etc/hosts; sleep 60", serve)
	b.startReady(id)
	answer, err := b.Engine.Inspect(b.ctx, id, engine.WithoutSizes)
	if err != nil {
		t.Fatal(err)
	}
	ep := answer.NetworkSettings.Networks["bridge"]
	if ep == nil || !ep.IPAddress.IsValid() || ep.Gateway == ep.IPAddress {
		t.Fatalf("endpoint %+v", ep)
	}
	if got := answer.NetworkSettings.Ports[port]; len(got) != 1 || got[0].HostPort != "8080" {
		t.Errorf("published %v", got)
	}
	second := b.create("true", serve)
	err = b.Engine.Start(b.ctx, second)
	if !errors.Is(err, problem.Conflict) || !strings.Contains(err.Error(), "port is already allocated") {
		t.Errorf("start with a port in use: %v", err)
	}
	if c := b.state(second); c.Status != dcontainer.StateCreated || c.Error == "" || c.ExitCode != 128 {
		t.Errorf("after the failed start: %s %d %q", c.Status, c.ExitCode, c.Error)
	}
	out, code := b.run("wget -qO- http://"+ep.IPAddress.String()+"/ 2>&1 | head -1; ping -c1 -W2 "+ep.IPAddress.String()+" | grep -c '1 packets received'",
		func(r *engine.CreateRequest) { r.HostConfig.NetworkMode = "bridge" })
	if code != 0 || !strings.HasSuffix(out, "1\n") {
		t.Errorf("from another container: exit %d, %q", code, out)
	}
	joined, _ := b.run("ip -4 -o addr show eth0 | grep -c "+ep.IPAddress.String(), func(r *engine.CreateRequest) { r.HostConfig.NetworkMode = dcontainer.NetworkMode("container:" + id) })
	if joined != "1\n" {
		t.Errorf("container:ID: %q", joined)
	}
	if err := b.Engine.Kill(b.ctx, id, ""); err != nil {
		t.Fatal(err)
	}
	b.start(second) // the port is free as soon as the kill has returned
}

func TestProgramThatCannotRun(t *testing.T) {
	b := newBench(t)
	for name, c := range map[string]struct {
		program string
		code    int
		text    string
	}{
		"there is none":         {"/no/such/program", 127, "no such file or directory"},
		"none on PATH":          {"nosuchprogram", 127, "executable file not found in $PATH"},
		"it is no program file": {"/etc/passwd", 126, "permission denied"},
	} {
		t.Run(name, func(t *testing.T) {
			id := b.create("", func(r *engine.CreateRequest) { r.Config.Cmd = []string{c.program} })
			err := b.Engine.Start(b.ctx, id)
			if !errors.Is(err, problem.Invalid) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %v, want %q", err, c.text)
			}
			if got := b.state(id); got.ExitCode != c.code || got.Status != dcontainer.StateCreated {
				t.Errorf("%s, exit code %d, want %d", got.Status, got.ExitCode, c.code)
			}
		})
	}
}

func TestExec(t *testing.T) {
	b := newBench(t)
	id := b.create("echo ready; sleep 60", func(r *engine.CreateRequest) { r.Config.Env = []string{"A=b"} })
	if _, err := b.Engine.ExecCreate(b.ctx, id, dcontainer.ExecCreateRequest{Cmd: []string{"true"}}); !errors.Is(err, problem.Conflict) {
		t.Errorf("exec in what does not run: %v", err)
	}
	b.startReady(id)
	var out, errOut strings.Builder
	code, err := b.Engine.ExecRun(b.ctx, id, dcontainer.ExecCreateRequest{Cmd: []string{"sh", "-c", "echo $A; cat; id -u; echo bad >&2; exit 3"}, User: "web", AttachStdin: true},
		engine.Streams{Stdin: strings.NewReader("in\n"), Stdout: &out, Stderr: &errOut})
	if err != nil || code != 3 || out.String() != "b\nin\n1000\n" || errOut.String() != "bad\n" {
		t.Errorf("code %d, %v, stdout %q, stderr %q", code, err, out.String(), errOut.String())
	}
	code, err = b.Engine.ExecRun(b.ctx, id, dcontainer.ExecCreateRequest{Cmd: []string{"nosuchprogram"}}, engine.Streams{Stdout: &out})
	if code != 127 || !errors.Is(err, problem.Invalid) {
		t.Errorf("no such program: code %d, %v", code, err)
	}
	ctx, cancel := context.WithTimeout(b.ctx, 200*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if _, err := b.Engine.ExecRun(ctx, id, dcontainer.ExecCreateRequest{Cmd: []string{"sleep", "50"}}, engine.Streams{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an exec over its time: %v", err)
	}
	if d := time.Since(begun); d > 5*time.Second {
		t.Errorf("its end took %v", d)
	}
	top, err := b.Engine.Top(b.ctx, id, nil)
	if err != nil || len(top.Processes) != 1 { // the sleep that the shell became
		t.Errorf("left running: %v, %v", top.Processes, err)
	}
}

func TestAutoRemoveAndEvents(t *testing.T) {
	b := newBench(t)
	events := b.follow(b.ctx)
	id := b.create("exit 3", func(r *engine.CreateRequest) { r.HostConfig.AutoRemove = true })
	await, err := b.Engine.Wait(b.ctx, id, dcontainer.WaitConditionRemoved)
	if err != nil {
		t.Fatal(err)
	}
	b.start(id)
	if answer, err := await(b.ctx); err != nil || answer.StatusCode != 3 {
		t.Errorf("wait until removed: %+v, %v", answer, err)
	}
	var got []devents.Action
	for ev := range events {
		if ev.Actor.ID == id {
			got = append(got, ev.Action)
		}
		if ev.Action == devents.ActionDie && ev.Actor.Attributes["exitCode"] != "3" {
			t.Errorf("die says %v", ev.Actor.Attributes)
		}
		if ev.Action == devents.ActionDestroy {
			break
		}
	}
	// Who asks afterwards is told.
	for _, condition := range []dcontainer.WaitCondition{"", dcontainer.WaitConditionRemoved} {
		await, err := b.Engine.Wait(b.ctx, id, condition)
		if err != nil {
			t.Fatal(err)
		}
		if answer, err := await(b.ctx); err != nil || answer.StatusCode != 3 {
			t.Errorf("wait after the removal: %+v, %v", answer, err)
		}
	}
	want := []devents.Action{"create", "start", "die", "destroy"}
	if len(got) != len(want) {
		t.Fatalf("events %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("events %v, want %v", got, want)
		}
	}
	if _, err := b.Engine.Container(b.ctx, id); !errors.Is(err, problem.NotFound) {
		t.Errorf("after --rm: %v", err)
	}
}

func TestRestartPolicy(t *testing.T) {
	b := newBench(t)
	events := b.follow(b.ctx)
	id := b.create("exit 1", func(r *engine.CreateRequest) {
		r.HostConfig.RestartPolicy = dcontainer.RestartPolicy{Name: dcontainer.RestartPolicyOnFailure, MaximumRetryCount: 2}
	})
	b.start(id)
	deaths := 0
	for ev := range events {
		if ev.Action == devents.ActionDie {
			if deaths++; deaths == 3 {
				break
			}
		}
	}
	if c := b.state(id); c.Status != dcontainer.StateExited || c.RestartCount != 2 {
		t.Errorf("%s after %d restarts, want exited after 2", c.Status, c.RestartCount)
	}
}

func TestRestartOfWhatRemovesItself(t *testing.T) {
	b := newBench(t)
	id := b.create("echo ready; sleep 60", func(r *engine.CreateRequest) { r.HostConfig.AutoRemove = true })
	b.startReady(id)
	if err := b.Engine.Restart(b.ctx, id, engine.StopOptions{Timeout: new(time.Duration)}); err != nil {
		t.Fatal(err)
	}
	if c := b.state(id); c.Status != dcontainer.StateRunning {
		t.Errorf("after the restart: %s", c.Status)
	}
	await, err := b.Engine.Wait(b.ctx, id, dcontainer.WaitConditionRemoved)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Engine.Kill(b.ctx, id, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := await(b.ctx); err != nil {
		t.Errorf("its end does not remove it any more: %v", err)
	}
}

func TestPause(t *testing.T) {
	b := newBench(t)
	id := b.create("sleep 60", nil)
	b.start(id)
	if err := b.Engine.Pause(b.ctx, id); err != nil {
		t.Fatal(err)
	}
	if c := b.state(id); c.Status != dcontainer.StatePaused {
		t.Errorf("state %s", c.Status)
	}
	if err := b.Engine.Unpause(b.ctx, id); err != nil {
		t.Fatal(err)
	}
	if err := b.Engine.Pause(b.ctx, id); err != nil {
		t.Fatal(err)
	}
	if err := b.Engine.Remove(b.ctx, id, engine.RemoveOptions{Force: true}); err != nil {
		t.Errorf("remove a paused container by force: %v", err)
	}
}

func TestHealthTimeout(t *testing.T) {
	b := newBench(t)
	events := b.follow(b.ctx)
	id := b.create("sleep 60", func(r *engine.CreateRequest) {
		r.Config.Healthcheck = &dcontainer.HealthConfig{Test: []string{"CMD", "sleep", "60"}, Interval: 10 * time.Millisecond, Timeout: 50 * time.Millisecond, Retries: 1}
	})
	b.start(id)
	for ev := range events {
		if ev.Action == devents.ActionHealthStatusUnhealthy {
			break
		}
	}
	answer, err := b.Engine.Inspect(b.ctx, id, engine.WithoutSizes)
	if err != nil {
		t.Fatal(err)
	}
	if log := answer.State.Health.Log; log[0].ExitCode != -1 || log[0].Output != "Health check exceeded timeout (50ms)" {
		t.Errorf("first probe: %+v", log[0])
	}
}

func TestHealth(t *testing.T) {
	b := newBench(t)
	events := b.follow(b.ctx)
	id := b.create("touch /ok; sleep 60", func(r *engine.CreateRequest) {
		r.Config.Healthcheck = &dcontainer.HealthConfig{Test: []string{"CMD-SHELL", "test -e /ok"}, Interval: 50 * time.Millisecond, Retries: 2}
	})
	b.start(id)
	expect := func(want devents.Action) {
		t.Helper()
		for ev := range events {
			if strings.HasPrefix(string(ev.Action), "health_status") {
				if ev.Action != want {
					t.Fatalf("%s, want %s", ev.Action, want)
				}
				return
			}
		}
	}
	expect(devents.ActionHealthStatusHealthy)
	if code, err := b.Engine.ExecRun(b.ctx, id, dcontainer.ExecCreateRequest{Cmd: []string{"rm", "/ok"}}, engine.Streams{}); code != 0 || err != nil {
		t.Fatal(code, err)
	}
	expect(devents.ActionHealthStatusUnhealthy)
	health := func() *dcontainer.Health {
		answer, err := b.Engine.Inspect(b.ctx, id, engine.WithoutSizes)
		if err != nil {
			t.Fatal(err)
		}
		return answer.State.Health
	}
	before := health()
	b.Restart(t)
	after := health()
	if after == nil || after.Status != dcontainer.Unhealthy || after.FailingStreak < before.FailingStreak || len(after.Log) < len(before.Log) {
		t.Errorf("after a restart of the daemon %+v, before %+v", after, before)
	}
	if err := b.Engine.Kill(b.ctx, id, ""); err != nil {
		t.Fatal(err)
	}
	if ended := health(); ended == nil || ended.Status != dcontainer.Unhealthy || len(ended.Log) == 0 {
		t.Errorf("after the end %+v", ended)
	}
}

func TestOOMKillsAreToldAtOnce(t *testing.T) {
	b := newBench(t)
	events := b.follow(b.ctx)
	// The kernel kills dd rather than the shell.
	hog := "(echo 1000 >/proc/self/oom_score_adj; exec dd if=/dev/zero of=/dev/null bs=60M count=1); sleep 600"
	id := b.create(hog, func(r *engine.CreateRequest) { r.HostConfig.Memory = 20 << 20 })
	b.start(id)
	for ev := range events {
		if ev.Action == devents.ActionOOM {
			break
		}
	}
	answer, err := b.Engine.Inspect(b.ctx, id, engine.WithoutSizes)
	if err != nil {
		t.Fatal(err)
	}
	if !answer.State.OOMKilled || !answer.State.Running {
		t.Errorf("state %+v", answer.State)
	}
}

// The stock client asks for the exit code when the streams have ended.
func TestExitOfAnExecIsKnownWhenItsOutputEnds(t *testing.T) {
	b := newBench(t)
	id := b.create("echo ready; sleep 600", nil)
	b.startReady(id)
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			for range 5 {
				made, err := b.Engine.ExecCreate(b.ctx, id, dcontainer.ExecCreateRequest{Cmd: []string{"sh", "-c", fmt.Sprint("exit ", n)}, AttachStdout: true})
				if err == nil {
					err = b.Engine.ExecStart(b.ctx, made, &engine.Streams{Stdout: io.Discard}, nil)
				}
				if err != nil {
					t.Error(err)
					return
				}
				x, err := b.Engine.ExecInspect(b.ctx, made)
				if err != nil || x.Running || x.ExitCode == nil || *x.ExitCode != n {
					t.Errorf("exec with exit code %d: %+v, %v", n, x, err)
				}
			}
		})
	}
	all.Wait()
}

func TestExecsAreAdopted(t *testing.T) {
	b := newBench(t)
	id := b.create("echo ready; sleep 600", nil)
	b.startReady(id)
	start := func(script string) string {
		t.Helper()
		made, err := b.Engine.ExecCreate(b.ctx, id, dcontainer.ExecCreateRequest{Cmd: []string{"sh", "-c", script}, User: "web"})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Engine.ExecStart(b.ctx, made, nil, nil); err != nil {
			t.Fatal(err)
		}
		return made
	}
	inspect := func(exec string) dcontainer.ExecInspectResponse {
		t.Helper()
		answer, err := b.Engine.ExecInspect(b.ctx, exec)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	long, meanwhile := start("sleep 600; exit 5"), start("sleep 600")
	longPid, meanwhilePid := inspect(long).Pid, inspect(meanwhile).Pid
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	killAndWait(t, meanwhilePid)
	if err := b.Host.Start(); err != nil {
		t.Fatal(err)
	}
	if x := inspect(long); !x.Running || x.Pid != longPid || x.ProcessConfig.User != "web" || x.ProcessConfig.Entrypoint != "sh" || x.ContainerID != id {
		t.Errorf("what runs on: %+v, pid was %d", x, longPid)
	}
	for {
		x := inspect(meanwhile)
		if !x.Running {
			if x.ExitCode == nil || *x.ExitCode != 137 {
				t.Errorf("what ended while nobody looked: %+v", x)
			}
			break
		}
		// Reaped a moment after its end, which killAndWait has waited for.
		if code, err := b.Engine.ExecWait(b.ctx, meanwhile); code != 137 || err != nil {
			t.Fatalf("exit code %d, %v", code, err)
		}
	}
	events := b.follow(b.ctx)
	killAndWait(t, longPid)
	if code, err := b.Engine.ExecWait(b.ctx, long); code != 137 || err != nil {
		t.Errorf("the end of an adopted exec: %d, %v", code, err)
	}
	for ev := range events {
		if ev.Action == devents.ActionExecDie && ev.Actor.Attributes["execID"] == long {
			break
		}
	}
	// Asked for once more by another engine.
	b.Restart(t)
	if x := inspect(long); x.Running || x.ExitCode == nil || *x.ExitCode != 137 {
		t.Errorf("after one more restart: %+v", x)
	}
}

func TestMemoryLimitKills(t *testing.T) {
	b := newBench(t)
	id := b.create("head -c 100m /dev/zero | tail", func(r *engine.CreateRequest) { r.HostConfig.Memory = 16 << 20 })
	b.start(id)
	b.wait(id)
	if c := b.state(id); !c.OOMKilled {
		t.Errorf("OOMKilled is false, exit code %d", c.ExitCode)
	}
}

func TestRestartOfTheDaemonTouchesNothing(t *testing.T) {
	b := newBench(t)
	long := b.create("echo ready; sleep 60", func(r *engine.CreateRequest) {
		r.HostConfig.NetworkMode = "bridge"
		r.HostConfig.PortBindings = dnetwork.PortMap{dnetwork.MustParsePort("80/tcp"): {{HostPort: "8080"}}}
	})
	b.startReady(long)
	before := b.state(long)
	short := b.create("read line; exit 9", func(r *engine.CreateRequest) { r.Config.OpenStdin = true })
	rm := b.create("sleep 60", func(r *engine.CreateRequest) { r.HostConfig.AutoRemove = true })
	again := b.create("echo ready; sleep 60", func(r *engine.CreateRequest) { r.HostConfig.RestartPolicy.Name = "always" })
	for _, id := range []string{short, rm, again} {
		b.start(id)
	}
	pids := map[string]int{short: b.state(short).Pid, rm: b.state(rm).Pid, again: b.state(again).Pid}
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		killAndWait(t, pid)
	}
	if err := b.Host.Start(); err != nil {
		t.Fatal(err)
	}
	if after := b.state(long); after.Pid != before.Pid || !after.StartedAt.Equal(before.StartedAt) || after.Status != dcontainer.StateRunning {
		t.Errorf("the running container changed: %+v, before %+v", after, before)
	}
	if c := b.state(short); c.Status != dcontainer.StateExited || c.ExitCode != 137 {
		t.Errorf("exit while nobody looked: %s %d", c.Status, c.ExitCode)
	}
	if _, err := b.Engine.Container(b.ctx, rm); !errors.Is(err, problem.NotFound) {
		t.Errorf("--rm which ended meanwhile: %v", err)
	}
	events := b.follow(b.ctx)
	if c := b.state(again); c.Status != dcontainer.StateRunning || c.Pid == 0 {
		for ev := range events {
			if ev.Actor.ID == again && ev.Action == devents.ActionStart {
				break
			}
		}
	}
	if c := b.state(again); c.Pid == pids[again] {
		t.Error("the restart policy was not applied")
	}
	b.Check(t)
	if out, _ := b.run("ip -4 -o addr show eth0 | wc -l", func(r *engine.CreateRequest) { r.HostConfig.NetworkMode = "bridge" }); out != "1\n" {
		t.Errorf("a new container after the restart: %q", out)
	}
	if err := b.Engine.Stop(b.ctx, long, engine.StopOptions{Timeout: new(time.Duration)}); err != nil {
		t.Error(err)
	}
}

func TestHalfMadeThingsAreRemoved(t *testing.T) {
	b := newBench(t)
	id := b.create("true", func(r *engine.CreateRequest) { r.Config.Volumes = map[string]struct{}{"/v": {}} })
	volume := b.state(id).Mounts[0].Name
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	containers := filepath.Join(b.Instance.DataDir, "containers")
	if err := os.MkdirAll(filepath.Join(containers, "half", "upper"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(containers, id, "remove-volumes"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(containers, id), filepath.Join(containers, ".removing-"+id)); err != nil {
		t.Fatal(err)
	}
	if err := b.Host.Start(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(containers); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := b.Volumes.Inspect(b.ctx, volume); !errors.Is(err, problem.NotFound) {
		t.Errorf("the volume of the half-removed container: %v", err)
	}
}

func TestSandbox(t *testing.T) {
	b := newBench(t)
	made, err := b.Engine.CreateSandbox(b.ctx, engine.SandboxSpec{
		Name: "web", Namespace: "default", UID: "1", Hostname: "web-0",
		DNS:     engine.DNS{Servers: []string{"192.0.2.53"}, Searches: []string{"default.svc.cluster.local"}, Options: []string{"ndots:5"}},
		Sysctls: map[string]string{"net.ipv4.ip_default_ttl": "66", "kernel.shm_rmid_forced": "1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(made.IPs) != 1 || made.State != engine.SandboxReady {
		t.Fatalf("sandbox %+v", made)
	}
	in := func(r *engine.CreateRequest) { r.Sandbox, r.HostConfig.NetworkMode = made.ID, "" }
	first := b.create("echo ready; hostname; echo shared > /dev/shm/x; sleep 60", in)
	b.startReady(first)
	out, code := b.run("hostname; cat /dev/shm/x; ip -4 -o addr show eth0 | grep -c "+made.IPs[0].String()+
		"; cat /etc/resolv.conf /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/shm_rmid_forced; readlink /proc/self/ns/ipc", in)
	want := "web-0\nshared\n1\nnameserver 192.0.2.53\nsearch default.svc.cluster.local\noptions ndots:5\n66\n1\n"
	if !strings.HasPrefix(out, want) || code != 0 {
		t.Errorf("exit %d, output %q, want %q", code, out, want)
	}
	b.Restart(t)
	if s, err := b.Engine.Sandbox(b.ctx, made.ID[:12]); err != nil || s.State != engine.SandboxReady || len(s.IPs) != 1 {
		t.Errorf("after a restart: %+v, %v", s, err)
	}
	if b.state(first).Pid == 0 {
		t.Error("its container does not run any more")
	}
	for range 2 {
		if err := b.Engine.StopSandbox(b.ctx, made.ID); err != nil {
			t.Fatal(err)
		}
	}
	if s, _ := b.Engine.Sandbox(b.ctx, made.ID); s.State != engine.SandboxNotReady {
		t.Errorf("after stop: %+v", s)
	}
	if err := b.Engine.Start(b.ctx, first); !errors.Is(err, problem.Conflict) {
		t.Errorf("start in a stopped sandbox: %v", err)
	}
	for range 2 {
		if err := b.Engine.RemoveSandbox(b.ctx, made.ID); err != nil {
			t.Fatal(err)
		}
	}
	if list := b.Engine.Containers(b.ctx); len(list) != 0 {
		t.Errorf("containers left: %v", list)
	}
}

func TestInit(t *testing.T) {
	b := newBench(t)
	yes := true
	init := func(r *engine.CreateRequest) { r.HostConfig.Init = &yes }
	for name, c := range map[string]struct {
		script, out string
		code        int
	}{
		"the program is its child": {"cat /proc/1/comm; [ $$ != 1 ] && exit 7", "docker-init\n", 7},
		"a signal's exit code":     {"kill -TERM $$", "", 128 + 15},
		// The orphan's own end is what the last line waits for.
		"it reaps orphans": {"(sleep 0.1 & echo $! > /pid); while [ -d /proc/$(cat /pid) ]; do :; done; echo gone", "gone\n", 0},
	} {
		t.Run(name, func(t *testing.T) {
			if out, code := b.run(c.script, init); out != c.out || code != c.code {
				t.Errorf("%q, exit %d, want %q, %d", out, code, c.out, c.code)
			}
		})
	}
	t.Run("a signal ends what would ignore it as process 1", func(t *testing.T) {
		id := b.create("echo ready; exec sleep 60", init)
		b.startReady(id)
		if err := b.Engine.Kill(b.ctx, id, "TERM"); err != nil {
			t.Fatal(err)
		}
		if code := b.wait(id); code != 128+15 {
			t.Errorf("exit %d", code)
		}
	})
	t.Run("no such program", func(t *testing.T) {
		id := b.create("", func(r *engine.CreateRequest) { init(r); r.Config.Cmd = []string{"nosuchprogram"} })
		b.start(id)
		if out, code := b.output(id), b.wait(id); code != 127 {
			t.Errorf("exit %d, %q", code, out)
		}
	})
}
