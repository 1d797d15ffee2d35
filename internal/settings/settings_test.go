package settings

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"gantry/internal/instance"
	"gantry/internal/problem"
)

func read(t *testing.T, args ...string) (instance.Config, error) {
	t.Helper()
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	f := Register(set)
	if err := set.Parse(args); err != nil {
		t.Fatal(err)
	}
	return f.Read()
}

// compare compares settings that were read, and reads them again from what
// Arguments makes of them.
func compare(t *testing.T, got, want instance.Config) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	again, err := read(t, Arguments(got)...)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, again); diff != "" {
		t.Errorf("Arguments does not give the settings back (-want +got):\n%s", diff)
	}
}

func TestAFlagWinsOverTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte("instance: two\nhttp-listen: \":8080\"\ndata-dir: /from/file\ndisable: [ingress]\nicc: true\nbypass-input-policy: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := read(t, "--config", file, "--data-dir", "/from/flag", "--icc=false")
	if err != nil {
		t.Fatal(err)
	}
	no := false
	want, err := instance.Config{Name: "two", DataDir: "/from/flag", HTTPListen: ":8080", ICC: &no, BypassInput: true, Disable: []string{"ingress"}}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	compare(t, got, want)
}

func TestAnUnknownNameInTheFileIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte("http_listen: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := read(t, "--config", file)
	if !errors.Is(err, problem.Invalid) || problem.Try(err) == "" {
		t.Errorf("got %v", err)
	}
}

func TestDockersHostsAndCertificates(t *testing.T) {
	t.Setenv("DOCKER_CERT_PATH", "/certs")
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte("hosts: [\"tcp://127.0.0.1:2376\"]\ntlsverify: true\ntlskey: /own/key.pem\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := read(t, "--config", file, "-H", "unix:///run/a.sock", "-H", "tcp://0.0.0.0:2376")
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	want, err := instance.Config{
		Hosts: []string{"unix:///run/a.sock", "tcp://0.0.0.0:2376"}, TLSVerify: &yes,
		TLSCACert: "/certs/ca.pem", TLSCert: "/certs/cert.pem", TLSKey: "/own/key.pem",
	}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	compare(t, got, want)
}

func TestLogOptionsSurviveTheCommandLine(t *testing.T) {
	want, err := read(t, "--instance=x", "--log-driver=local", "--log-opt=max-size=1m", "--log-opt", "labels=a,b")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"max-size=1m", "labels=a,b"}, want.LogOptions); diff != "" || want.LogDriver != "local" {
		t.Errorf("driver %q, options (-want +got):\n%s", want.LogDriver, diff)
	}
	got, err := read(t, Arguments(want)...)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestDiskBudget(t *testing.T) {
	got, err := read(t, "--disk-budget=70%", "--disk-floor=1GB")
	if err != nil || got.DiskBudget != "70%" || got.DiskFloor != "1GB" {
		t.Errorf("got %+v, %v", got, err)
	}
	again, err := read(t, Arguments(got)...)
	if diff := cmp.Diff(got, again); diff != "" || err != nil {
		t.Errorf("Arguments does not give the settings back: %v (-want +got):\n%s", err, diff)
	}
}
