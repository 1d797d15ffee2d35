package oci_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"gantry/engine/container/oci"
)

func TestLife(t *testing.T) {
	h := newHost(t, "exec sleep 1000")
	pidFile := filepath.Join(h.bundle, "pid")
	h.must("create", "--bundle", h.bundle, "--pid-file", pidFile, h.id)
	var s oci.State
	if err := json.Unmarshal([]byte(h.must("state", h.id)), &s); err != nil {
		t.Fatal(err)
	}
	if s.Status != specs.StateCreated || s.ID != h.id || s.Bundle != h.bundle || s.Annotations["of"] != "the test" || s.OCIVersion != specs.Version {
		t.Errorf("state %+v", s)
	}
	if pid, err := os.ReadFile(pidFile); err != nil || string(pid) != strconv.Itoa(s.Pid) {
		t.Errorf("pid file %q, %v; want %d", pid, err, s.Pid)
	}
	if _, errs, code := h.run("create", h.id); code == 0 || !strings.Contains(errs, "already exists") {
		t.Errorf("created twice: %d, %s", code, errs)
	}
	h.must("start", h.id)
	if got := h.status(); got != specs.StateRunning {
		t.Errorf("started: %s", got)
	}
	if _, errs, code := h.run("start", h.id); code == 0 || !strings.Contains(errs, "already running") {
		t.Errorf("started twice: %d, %s", code, errs)
	}
	if _, errs, code := h.run("delete", h.id); code == 0 || !strings.Contains(errs, "not stopped: running") {
		t.Errorf("deleted while it ran: %d, %s", code, errs)
	}
	if out := h.must("exec", "--env", "A=b", "--cwd", "/tmp", "--user", "7:8", h.id, "sh", "-c", "echo $A $PWD $(id -u) $(id -g)"); out != "b /tmp 7 8" {
		t.Errorf("exec printed %q", out)
	}
	if _, _, code := h.run("exec", h.id, "sh", "-c", "kill -9 $$"); code != 137 {
		t.Errorf("a killed exec: status %d", code)
	}
	if _, errs, code := h.run("exec", h.id, "no-such"); code != 255 || !strings.Contains(errs, "executable file not found in $PATH") {
		t.Errorf("exec of nothing: %d, %s", code, errs)
	}
	h.must("pause", h.id)
	if got := h.status(); got != oci.StatusPaused {
		t.Errorf("paused: %s", got)
	}
	h.must("resume", h.id)
	h.must("update", "--pids-limit", "33", h.id)
	if out := h.must("events", "--stats", h.id); !strings.Contains(out, `"limit":33`) {
		t.Errorf("statistics after the update: %s", out)
	}
	if out := h.must("ps", "--format", "json", h.id); out != "["+strconv.Itoa(s.Pid)+"]" {
		t.Errorf("processes %s", out)
	}
	if out := h.must("list", "--quiet"); out != h.id {
		t.Errorf("list: %s", out)
	}
	h.must("kill", h.id, "KILL")
	h.stopped()
	for _, verb := range []string{"start", "kill", "pause"} {
		if _, errs, code := h.run(verb, h.id); code == 0 || errs == "" {
			t.Errorf("%s of a stopped container: %d, %s", verb, code, errs)
		}
	}
	h.must("delete", h.id)
	if _, errs, code := h.run("state", h.id); code == 0 || !strings.Contains(errs, "does not exist") {
		t.Errorf("state after delete: %d, %s", code, errs)
	}
}

func TestRun(t *testing.T) {
	h := newHost(t, "echo out; echo err >&2; exit 3")
	if out, errs, code := h.run("run", h.id); out != "out" || !strings.Contains(errs, "err") || code != 3 {
		t.Errorf("%q, %q, %d", out, errs, code)
	}
	h = newHost(t, "kill -9 $$", func(o *specs.Spec) { o.Linux.Namespaces = slices.Delete(o.Linux.Namespaces, 0, 1) })
	if _, _, code := h.run("run", h.id); code != 137 {
		t.Errorf("a killed container: status %d", code)
	}
	h = newHost(t, "", func(o *specs.Spec) { o.Process.Args = []string{"no-such"} })
	log := filepath.Join(h.bundle, "log")
	if _, _, code := h.run("--log", log, "--log-format", "json", "create", h.id); code != 1 {
		t.Errorf("a program that is not there: status %d", code)
	}
	var line struct{ Level, Msg, Time string }
	if text, err := os.ReadFile(log); err != nil || json.Unmarshal(text, &line) != nil || line.Level != "error" || !strings.Contains(line.Msg, "executable file not found in $PATH") {
		t.Errorf("log %+v, %v", line, err)
	}
}

func TestACrashAtAnyPointIsCleanedUp(t *testing.T) {
	for _, point := range []string{"oci/create/after-directory", "oci/create/after-record", "oci/create/before-ready", "oci/create/after-ready"} {
		h := newHost(t, "sleep 1000")
		h.env = []string{"GANTRY_FAULT=" + point}
		if _, _, code := h.run("create", h.id); code == 0 {
			t.Fatalf("%s: no crash", point)
		}
		h.env = nil
		// The process that was forked ends by itself.
		h.stopped()
		h.must("delete", h.id)
	}
	h := newHost(t, "sleep 1000")
	h.must("create", h.id)
	h.env = []string{"GANTRY_FAULT=oci/start/before-unlink"}
	h.run("start", h.id)
	h.env = []string{"GANTRY_FAULT=oci/delete/after-cgroup"}
	h.run("delete", "--force", h.id)
	h.env = nil
	h.must("delete", h.id)
}

func TestFailuresLeaveNothing(t *testing.T) {
	cases := map[string]struct {
		edit func(*specs.Spec)
		want string
	}{
		"a mount that is not there": {func(o *specs.Spec) {
			o.Mounts = append(o.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/no/such", Options: []string{"bind"}})
		}, "/no/such"},
		"a directory to start in":     {func(o *specs.Spec) { o.Process.Cwd = "/bin/sh" }, "cwd"},
		"a namespace of nobody":       {func(o *specs.Spec) { o.Linux.Namespaces[4].Path = "/no/such" }, "/no/such"},
		"a version to come":           {func(o *specs.Spec) { o.Version = "2.0.0" }, "ociVersion"},
		"resctrl":                     {func(o *specs.Spec) { o.Linux.IntelRdt = &specs.LinuxIntelRdt{} }, "intelRdt"},
		"an AppArmor profile":         {func(o *specs.Spec) { o.Process.ApparmorProfile = "x" }, "apparmor"},
		"offsets without a namespace": {func(o *specs.Spec) { o.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {}} }, "time namespace"},
	}
	for name, c := range cases {
		h := newHost(t, "true", c.edit)
		if _, errs, code := h.run("run", h.id); code != 1 || !strings.Contains(strings.ToLower(errs), strings.ToLower(c.want)) {
			t.Errorf("%s: status %d, %s", name, code, errs)
		}
	}
}
