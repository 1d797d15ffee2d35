//lint:file-ignore SA1019 deprecated hooks are run, and so tried, all the same

package oci_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// hook appends a line to a file of the host, and its stdin to another.
func hook(log, kind string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Env: []string{"KIND=" + kind},
		Args: []string{"sh", "-c", `echo "$KIND $(readlink /proc/self/ns/mnt)" >> ` + log + `; cat > ` + log + `.$KIND`}}
}

func TestHooks(t *testing.T) {
	h := newHost(t, "echo program >> /mnt/log; exec sleep 1000")
	shared := filepath.Join(h.bundle, "shared")
	if err := os.Mkdir(shared, 0o777); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(shared, "log")
	o := testSpec(t, h.id, "echo program >> /mnt/log; exec sleep 1000")
	// What runs in the container is the container's, and finds the log elsewhere.
	o.Mounts = append(o.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: shared, Options: []string{"bind"}})
	o.Hooks = &specs.Hooks{
		Prestart: []specs.Hook{hook(log, "prestart")}, CreateRuntime: []specs.Hook{hook(log, "createRuntime")},
		CreateContainer: []specs.Hook{hook(log, "createContainer")}, Poststart: []specs.Hook{hook(log, "poststart")},
		Poststop: []specs.Hook{{Path: "/bin/false"}, hook(log, "poststop")},
	}
	inside := hook("/mnt/log", "startContainer")
	inside.Env = append(inside.Env, "PATH=/bin")
	o.Hooks.StartContainer = []specs.Hook{inside}
	h.write(o)
	h.must("create", h.id)
	var s struct{ Pid int }
	if err := json.Unmarshal([]byte(h.must("state", h.id)), &s); err != nil {
		t.Fatal(err)
	}
	h.must("start", h.id)
	h.must("exec", h.id, "sh", "-c", "until grep -q program /mnt/log; do :; done")
	h.must("kill", h.id, "KILL")
	h.stopped()
	if _, errs, code := h.run("delete", h.id); code != 0 || !strings.Contains(errs, "poststop hook") {
		t.Errorf("delete with a failing poststop hook: %d, %s; want a warning alone", code, errs)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	namespaces := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		kind, namespace, _ := strings.Cut(strings.TrimSpace(line), " ")
		order = append(order, kind)
		namespaces[kind] = namespace == own
	}
	// The program and poststart run at the same time.
	if len(order) == 7 && order[4] == "poststart" {
		order[4], order[5] = order[5], order[4]
	}
	want := []string{"prestart", "createRuntime", "createContainer", "startContainer", "program", "poststart", "poststop"}
	if diff := cmp.Diff(want, order); diff != "" {
		t.Errorf("order (-want +got)\n%s", diff)
	}
	for kind, status := range map[string]specs.ContainerState{"prestart": specs.StateCreating, "createRuntime": specs.StateCreating, "createContainer": specs.StateCreating,
		"startContainer": specs.StateCreated, "poststart": specs.StateRunning, "poststop": specs.StateStopped} {
		pid := s.Pid
		if kind == "poststop" {
			pid = 0
		}
		want := specs.State{Version: specs.Version, ID: h.id, Status: status, Pid: pid, Bundle: h.bundle, Annotations: map[string]string{"of": "the test"}}
		var got specs.State
		data, err := os.ReadFile(log + "." + kind)
		if err != nil || json.Unmarshal(data, &got) != nil {
			t.Errorf("%s read %q, %v", kind, data, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("state of %s (-want +got)\n%s", kind, diff)
		}
		if inRuntime := kind != "createContainer" && kind != "startContainer"; namespaces[kind] != inRuntime {
			t.Errorf("%s ran in the runtime's mount namespace: %v, want %v", kind, namespaces[kind], inRuntime)
		}
	}
}

func TestFailingHooksStopTheContainer(t *testing.T) {
	second := 1
	cases := map[string]struct {
		hooks specs.Hooks
		want  string
	}{
		"prestart":        {specs.Hooks{Prestart: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo this >&2; exit 5"}}}}, "prestart hook #0: exit status 5, output:"},
		"createRuntime":   {specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/no/such"}}}, "createRuntime hook #0"},
		"createContainer": {specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/true"}, {Path: "/bin/false"}}}, "createContainer hook #1: exit status 1"},
		"startContainer":  {specs.Hooks{StartContainer: []specs.Hook{{Path: "/no/such"}}}, "startContainer hook #0"},
		"poststart":       {specs.Hooks{Poststart: []specs.Hook{{Path: "/bin/false"}}}, "poststart hook #0"},
		"a timeout":       {specs.Hooks{Prestart: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Timeout: &second}}}, "timeout of 1.0s"},
	}
	for name, c := range cases {
		stopped := filepath.Join(t.TempDir(), "stopped")
		c.hooks.Poststop = []specs.Hook{hook(stopped, "poststop")}
		h := newHost(t, "exec sleep 1000", func(o *specs.Spec) { o.Hooks = &c.hooks })
		_, errs, code := h.run("create", h.id)
		if code == 0 {
			_, errs, code = h.run("start", h.id)
		}
		if code != 1 || !strings.Contains(errs, c.want) {
			t.Errorf("%s: status %d, %s; want %s", name, code, errs, c.want)
		}
		if _, _, code := h.run("state", h.id); code == 0 {
			t.Errorf("%s: the container is still there", name)
		}
		if _, err := os.Stat(stopped); err != nil {
			t.Errorf("%s: no poststop hook: %v", name, err)
		}
	}
}
