package container

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/engine/container/logfile"
	"gantry/internal/problem"
)

// restart returns a new Runtime in the place of r, as after the engine's death:
// nothing is told to the shims.
func restart(t *testing.T, r *Runtime) *Runtime {
	t.Helper()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := New(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Close() })
	return again
}

func logText(t *testing.T, path string) string {
	t.Helper()
	var text strings.Builder
	for e, err := range logfile.Read(context.Background(), path, logfile.Options{Format: LogJSON}) {
		if err != nil {
			t.Fatal(err)
		}
		text.Write(e.Line)
	}
	return text.String()
}

func TestARunningContainerIsAdopted(t *testing.T) {
	r := testRuntime(t)
	ctx := testContext(t)
	s := shell(t, busybox(t), "echo before; read line; echo got $line; exit 6")
	s.OpenStdin = true
	old := create(t, r, s)
	if err := old.Start(ctx); err != nil {
		t.Fatal(err)
	}
	waitForLog(t, old, "before")
	pid := old.Pid()
	r2 := restart(t, r)
	c, err := r2.Open(ctx, s.ID, s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if c.Pid() != pid || !c.Started() {
		t.Errorf("adopted pid %d, started %v; want %d, true", c.Pid(), c.Started(), pid)
	}
	if err := r2.Sweep(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(ctx); !errors.Is(err, problem.Conflict) {
		t.Errorf("a second start: %v", err)
	}
	p := *s.OCI.Process
	p.Args = []string{"grep", "Seccomp:", "/proc/self/status"}
	e, err := c.Exec(ctx, ExecSpec{ID: "x", Process: p})
	if err != nil {
		t.Fatal(err)
	}
	var filtered buffer
	if err := e.Attach(ctx, Streams{Stdout: &filtered}, func() { err = e.Start(ctx) }); err != nil || filtered.String() != "Seccomp:\t2\n" {
		t.Errorf("an exec after the adoption printed %q, %v", filtered.String(), err)
	}
	var out buffer
	if err := c.Attach(ctx, Streams{Stdin: strings.NewReader("text\n"), Stdout: &out}, nil); err != nil {
		t.Fatal(err)
	}
	if exit, err := c.Wait(ctx); err != nil || exit.Code != 6 {
		t.Errorf("exit %+v, %v; want code 6", exit, err)
	}
	if got := logText(t, s.Log.Path); out.String() != "got text\n" || got != "before\ngot text\n" {
		t.Errorf("attached %q, logged %q", out.String(), got)
	}
	if err := c.Delete(ctx); err != nil {
		t.Error(err)
	}
}

func TestAnExitMeanwhileIsKnown(t *testing.T) {
	r := testRuntime(t)
	ctx := testContext(t)
	s := shell(t, busybox(t), "read line < /tmp/fifo; echo late; exit 8")
	dir := t.TempDir()
	s.OCI.Mounts = append(s.OCI.Mounts, specs.Mount{Destination: "/tmp", Type: "bind", Source: dir, Options: []string{"bind"}})
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := create(t, r, s)
	if err := old.Start(ctx); err != nil {
		t.Fatal(err)
	}
	r2 := restart(t, r)
	// While nobody is connected.
	fifo, err := os.OpenFile(filepath.Join(dir, "fifo"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer fifo.Close()
	if _, err := fifo.WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	for e, err := range logfile.Read(ctx, s.Log.Path, logfile.Options{Format: LogJSON, Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if string(e.Line) == "late\n" {
			break
		}
	}
	c, err := r2.Open(ctx, s.ID, s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := c.Wait(ctx); err != nil || exit.Code != 8 {
		t.Errorf("exit %+v, %v; want code 8", exit, err)
	}
	// A third life knows it still.
	r3 := restart(t, r2)
	if c, err = r3.Open(ctx, s.ID, s.Dir); err != nil {
		t.Fatal(err)
	}
	if exit, err := c.Wait(ctx); err != nil || exit.Code != 8 || c.Pid() != 0 {
		t.Errorf("in the third life: exit %+v, %v, pid %d", exit, err, c.Pid())
	}
	if err := c.Delete(ctx); err != nil {
		t.Error(err)
	}
	if _, err := r3.Open(ctx, s.ID, s.Dir); !errors.Is(err, problem.NotFound) {
		t.Errorf("open after delete: %v", err)
	}
}

func TestACreatedContainerIsAdoptedAndStarted(t *testing.T) {
	r := testRuntime(t)
	ctx := testContext(t)
	root := busybox(t)
	for program, want := range map[string]string{"true": "", "absent": `exec: "absent": executable file not found in $PATH`} {
		s := testSpec(t, root, program)
		create(t, r, s)
		r2 := restart(t, r)
		c, err := r2.Open(ctx, s.ID, s.Dir)
		if err != nil {
			t.Fatal(err)
		}
		if c.Started() {
			t.Error("it counts as started")
		}
		err = c.Start(ctx)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("start %s after the adoption: %v, want %q", program, err, want)
		}
		if err := c.Delete(ctx); err != nil {
			t.Error(err)
		}
		r = restart(t, r2)
	}
}

func TestALostShimEndsItsContainer(t *testing.T) {
	r := testRuntime(t)
	ctx := testContext(t)
	root := busybox(t)
	for name, adopt := range map[string]bool{"while connected": false, "while the engine is away": true} {
		s := shell(t, root, "trap '' TERM; echo ready; sleep 1000; sleep 1000")
		c := create(t, r, s)
		if err := c.Start(ctx); err != nil {
			t.Fatal(err)
		}
		waitForLog(t, c, "ready")
		pids, err := c.Pids(ctx)
		if err != nil || len(pids) == 0 {
			t.Fatal(pids, err)
		}
		shim := c.shim
		if adopt {
			r = restart(t, r)
		}
		if err := unix.Kill(shim, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if adopt {
			if err := unix.Kill(pids[0], 0); err != nil {
				t.Fatalf("the container died with its shim: %v", err)
			}
			if c, err = r.Open(ctx, s.ID, s.Dir); err != nil {
				t.Fatal(err)
			}
		}
		exit, err := c.Wait(ctx)
		if err != nil || exit.Code != 137 || exit.Error == "" {
			t.Errorf("%s: exit %+v, %v; want 137 with the reason", name, exit, err)
		}
		if left, err := c.Pids(ctx); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", name, left, err)
		}
		if err := c.Delete(ctx); err != nil {
			t.Error(err)
		}
	}
}

func TestSweepRemovesWhatNobodyOpened(t *testing.T) {
	r := testRuntime(t)
	ctx := testContext(t)
	root := busybox(t)
	kept, gone := shell(t, root, "sleep 1000"), shell(t, root, "sleep 1000")
	for _, s := range []Spec{kept, gone} {
		c, err := r.Create(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.CreateGroup(ctx, "pod", nil); err != nil {
		t.Fatal(err)
	}
	if err := r.CreateGroup(ctx, "leftover", nil); err != nil {
		t.Fatal(err)
	}
	r2 := restart(t, r)
	c, err := r2.Open(ctx, kept.ID, kept.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := r2.Sweep(ctx, []string{"pod"}); err != nil {
		t.Fatal(err)
	}
	names, err := r2.host.List(r2.cfg.Cgroup)
	if err != nil || len(names) != 2 {
		t.Errorf("cgroups %v, %v; want the open container's and the pod's", names, err)
	}
	if _, err := r2.Open(ctx, gone.ID, gone.Dir); !errors.Is(err, problem.NotFound) {
		t.Errorf("open of a swept container: %v", err)
	}
	if err := c.Delete(ctx); err != nil {
		t.Error(err)
	}
	if err := r2.RemoveGroup(ctx, "pod"); err != nil {
		t.Error(err)
	}
}

func TestExitRecordsThatCannotBeReadAreReported(t *testing.T) {
	for _, text := range []string{"", "{", `{"version":9}`, `[]`} {
		if exit, err := parseExit([]byte(text), "exit"); err == nil {
			t.Errorf("%q was read as %+v", text, exit)
		}
	}
}

func FuzzExitRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"code":137,"oomKilled":true,"at":"2026-01-02T03:04:05Z"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = parseExit(data, "exit") // must not panic
	})
}
