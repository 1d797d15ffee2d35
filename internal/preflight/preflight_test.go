package preflight

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"

	"gantry/internal/instance"
	"gantry/internal/problem"
	"gantry/internal/testenv"
)

func config(t *testing.T) instance.Config {
	t.Helper()
	cfg, err := instance.Config{Name: "t-preflight", DataDir: t.TempDir(), RunDir: t.TempDir(), APIListen: "127.0.0.1:0", HTTPListen: "127.0.0.1:0"}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestThisHostCanRunAServer(t *testing.T) {
	testenv.NeedRoot(t)
	for _, r := range All(config(t)) {
		if r.Err != nil && r.Required {
			t.Errorf("%s: %v (fix: %s)", r.Name, r.Err, r.Fix)
		}
		if r.Err != nil && r.Fix == "" {
			t.Errorf("%s: %v comes without a fix", r.Name, r.Err)
		}
	}
}

func TestATakenPortNamesItsHolder(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := config(t)
	cfg.APIListen = l.Addr().String()
	_, fix, err := apiPort(cfg)
	if !errors.Is(err, problem.Conflict) {
		t.Fatalf("got %v, want Conflict", err)
	}
	_, port, _ := net.SplitHostPort(cfg.APIListen)
	if got := PortOwner(port); got.PID != os.Getpid() {
		t.Errorf("owner is %v, want pid %d", got, os.Getpid())
	}
	if !strings.Contains(err.Error(), PortOwner(port).Name) || !strings.Contains(fix, "--api-listen") {
		t.Errorf("%v; fix %q", err, fix)
	}
}

func TestTooSmallASettingIsNamed(t *testing.T) {
	_, fix, err := sysctlAtLeast("fs.inotify.max_user_instances", 1<<40, 512)(instance.Config{})
	if err == nil || fix != "sysctl -w fs.inotify.max_user_instances=512" {
		t.Errorf("%v; fix %q", err, fix)
	}
}

func TestAMissingLinkKindIsTheKernelsAnswer(t *testing.T) {
	testenv.NeedRoot(t)
	if _, fix, err := link("nosuchkind")(instance.Config{}); err == nil || fix != "modprobe nosuchkind" {
		t.Errorf("%v; fix %q", err, fix)
	}
}

func TestKernelReleasesCompare(t *testing.T) {
	for release, want := range map[string]bool{"4.19.0-26-amd64": true, "5.9.1": true, "5.10.0": false, "6.1.0-9": false, "6.18.44": false, "custom": false} {
		if got := older(release, minKernel); got != want {
			t.Errorf("older(%s, %s) = %v, want %v", release, minKernel, got, want)
		}
	}
}
