package container

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gantry/engine/container/wire"
	"gantry/internal/problem"
)

// shimOf builds the shim of a Gantry that speaks other versions of the protocol.
func shimOf(t *testing.T, v wire.Versions) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gantry-shim")
	const name = "gantry/engine/container/wire"
	if err := buildShim(path, fmt.Sprintf("-X %s.oldest=%d -X %s.newest=%d", name, v.Oldest, name, v.Newest)); err != nil {
		t.Fatal(err)
	}
	return path
}

// reborn is restart, as a Gantry that speaks other versions of the protocol.
func reborn(t *testing.T, r *Runtime, v wire.Versions) *Runtime {
	t.Helper()
	again := restart(t, r)
	again.versions = v
	return again
}

// manageable says that the engine can do all that it does with a container, and
// ends it.
func manageable(t *testing.T, c *Container, s Spec) {
	t.Helper()
	ctx := testContext(t)
	p := *s.OCI.Process
	p.Args = []string{"echo", "executed"}
	e, err := c.Exec(ctx, ExecSpec{ID: "x", Process: p})
	if err != nil {
		t.Fatal(err)
	}
	var out buffer
	if err := e.Attach(ctx, Streams{Stdout: &out}, func() { err = e.Start(ctx) }); err != nil || out.String() != "executed\n" {
		t.Errorf("an exec printed %q, %v", out.String(), err)
	}
	out = buffer{}
	if err := c.Attach(ctx, Streams{Stdin: strings.NewReader("text\n"), Stdout: &out}, nil); err != nil || out.String() != "got text\n" {
		t.Errorf("attached: %q, %v", out.String(), err)
	}
	if exit, err := c.Wait(ctx); err != nil || exit.Code != 6 {
		t.Errorf("exit %+v, %v; want code 6", exit, err)
	}
	if got := logText(t, s.Log.Path); got != "before\ngot text\n" {
		t.Errorf("logged %q", got)
	}
	if err := c.Delete(ctx); err != nil {
		t.Error(err)
	}
}

func TestShimsOfOtherVersionsAreAdopted(t *testing.T) {
	first, both, second := wire.Versions{Oldest: 1, Newest: 1}, wire.Versions{Oldest: 1, Newest: 2}, wire.Versions{Oldest: 2, Newest: 2}
	r := testRuntime(t)
	root := busybox(t)
	for _, test := range []struct {
		name                string
		shim, before, after wire.Versions
		want                uint32
	}{
		{"an upgrade: the engine speaks the shim's version still", first, first, both, 1},
		{"a downgrade: the shim speaks the engine's version still", both, both, first, 1},
		{"the newest that both speak", both, both, both, 2},
		{"an upgrade that leaves the first version behind", both, first, second, 2},
	} {
		ctx := testContext(t)
		r.cfg.Shim = shimOf(t, test.shim)
		r = reborn(t, r, test.before)
		s := shell(t, root, "echo before; read line; echo got $line; exit 6")
		s.OpenStdin = true
		old := create(t, r, s)
		if err := old.Start(ctx); err != nil {
			t.Fatal(err)
		}
		waitForLog(t, old, "before")
		r = reborn(t, r, test.after)
		c, err := r.Open(ctx, s.ID, s.Dir)
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if c.Pid() != old.Pid() || c.version != test.want {
			t.Errorf("%s: pid %d, version %d; want %d, %d", test.name, c.Pid(), c.version, old.Pid(), test.want)
		}
		manageable(t, c, s)
	}
}

// A shim with which there is nothing to talk keeps its container.
func TestAForeignShimKeepsItsContainer(t *testing.T) {
	first, second := wire.Versions{Oldest: 1, Newest: 1}, wire.Versions{Oldest: 2, Newest: 2}
	r := testRuntime(t)
	ctx := testContext(t)
	r.cfg.Shim = shimOf(t, second)
	r = reborn(t, r, second)
	root := busybox(t)
	spec := func(script string) Spec {
		s := shell(t, root, script)
		s.OpenStdin = true
		return s
	}
	specs := map[string]Spec{
		"managed again": spec("echo before; read line; echo got $line; exit 6"),
		"signalled":     spec("trap 'echo bye; exit 9' TERM; echo before; while :; do sleep 0.1; done"),
		"deleted":       spec("trap '' TERM; echo before; while :; do sleep 0.1; done"),
	}
	pids := map[string]int{}
	for name, s := range specs {
		c := create(t, r, s)
		if err := c.Start(ctx); err != nil {
			t.Fatal(err)
		}
		waitForLog(t, c, "before")
		pids[name] = c.Pid()
	}
	r = reborn(t, r, first)
	open := map[string]*Container{}
	for name, s := range specs {
		c, err := r.Open(ctx, s.ID, s.Dir)
		if err != nil {
			t.Fatal(err)
		}
		if open[name] = c; c.Pid() != pids[name] || !c.Started() {
			t.Errorf("pid %d, started %v; want %d, true", c.Pid(), c.Started(), pids[name])
		}
		_, err = c.Exec(ctx, ExecSpec{ID: "x", Process: *s.OCI.Process})
		want := "was started by a newer Gantry, whose shim speaks version 2 of its protocol and not 1 to 1"
		for what, err := range map[string]error{"exec": err, "attach": c.Attach(ctx, Streams{}, nil), "resize": c.Resize(ctx, 1, 1)} {
			if !errors.Is(err, problem.Unsupported) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", what, err, want)
			}
		}
	}
	if err := r.Sweep(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if errs := r.Check(ctx, nil); len(errs) > 0 {
		t.Errorf("check: %v", errs)
	}
	if err := open["signalled"].Signal(ctx, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if exit, err := open["signalled"].Wait(ctx); err != nil || exit.Code != 9 {
		t.Errorf("exit %+v, %v; want code 9", exit, err)
	}
	if got := logText(t, specs["signalled"].Log.Path); got != "before\nbye\n" {
		t.Errorf("logged %q", got)
	}
	for _, name := range []string{"signalled", "deleted"} {
		if err := open[name].Delete(ctx); err != nil {
			t.Error(err)
		}
		if err := open[name].Signal(ctx, unix.SIGTERM); !errors.Is(err, problem.Conflict) {
			t.Errorf("a signal to the dead: %v", err)
		}
	}
	// What speaks its version finds it as it was.
	r = reborn(t, r, wire.Versions{Oldest: 1, Newest: 2})
	s := specs["managed again"]
	c, err := r.Open(ctx, s.ID, s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if c.Pid() != pids["managed again"] {
		t.Errorf("pid %d, want %d", c.Pid(), pids["managed again"])
	}
	manageable(t, c, s)
}
