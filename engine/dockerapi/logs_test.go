package dockerapi_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// within calls done until it says yes.
func within(t *testing.T, what string, done func() bool) {
	t.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	for !done() {
		select {
		case <-again.C:
		case <-limit.C:
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func TestRotatedLogsAreCompressedAndReadInFull(t *testing.T) {
	d := newDaemon(t)
	const lines = 3000
	for _, driver := range []string{"json-file", "local"} {
		d.do("run", "--name", driver, "--log-driver", driver, "--log-opt", "max-size=20k", "--log-opt", "max-file=100", "busybox", "seq", "0", fmt.Sprint(lines-1))
		dir := filepath.Join(d.Instance.DataDir, "containers", d.do("inspect", "-f", "{{.Id}}", driver))
		check := func(when string) {
			t.Helper()
			got := strings.Fields(d.do("logs", driver))
			for i, line := range got {
				if line != fmt.Sprint(i) {
					t.Fatalf("%s, %s: line %d is %q", driver, when, i, line)
				}
			}
			if len(got) != lines {
				t.Errorf("%s, %s: %d lines, want %d", driver, when, len(got), lines)
			}
			if last := strings.Fields(d.do("logs", "--tail", "1500", driver)); len(last) != 1500 || last[0] != fmt.Sprint(lines-1500) {
				t.Errorf("%s, %s: the tail has %d lines from %s", driver, when, len(last), last[0])
			}
		}
		check("at once")
		within(t, "all rotated files are compressed", func() bool {
			plain, err := filepath.Glob(filepath.Join(dir, "log.*[0-9]"))
			return err == nil && len(plain) == 0
		})
		check("compressed")
		packed, err := filepath.Glob(filepath.Join(dir, "log.*.gz"))
		// How often a log rotates depends on how much comes at once.
		if err != nil || len(packed) < 1 {
			t.Errorf("%s: compressed files are %v, %v", driver, packed, err)
		}
		if rest, err := filepath.Glob(filepath.Join(dir, ".packing*")); err != nil || len(rest) > 0 {
			t.Errorf("%s: left is %v, %v", driver, rest, err)
		}
	}
}

func TestLogDetails(t *testing.T) {
	d := newDaemon(t)
	d.do("run", "--name", "tagged", "--label", "team=red & blue", "-e", "A=1", "--log-opt", "labels=team", "--log-opt", "env=A",
		"--log-opt", "tag={{.Name}}", "busybox", "echo", "x")
	if got, want := d.do("logs", "--details", "tagged"), "A=1,tag=tagged,team=red+%26+blue x"; got != want {
		t.Errorf("details are %q, want %q", got, want)
	}
	if got := d.do("logs", "tagged"); got != "x" {
		t.Errorf("without details: %q", got)
	}
	r := d.try("run", "--log-driver", "gelf", "busybox", "true")
	if !strings.Contains(r.err, "logger: no log driver named 'gelf' is registered") {
		t.Errorf("an unknown driver: %s", r.err)
	}
	if got := d.do("info", "-f", "{{.LoggingDriver}} {{.Plugins.Log}}"); got != "json-file [journald json-file local none syslog]" {
		t.Errorf("info says %s", got)
	}
	if _, err := os.Stat(d.do("inspect", "-f", "{{.LogPath}}", "tagged")); err != nil {
		t.Error(err)
	}
}

func TestEventsAreKeptOverARestart(t *testing.T) {
	d := newDaemon(t)
	d.do("run", "--name", "before", "busybox", "true")

	ask := func() string {
		return d.do("events", "--since", "1", "--until", fmt.Sprint(time.Now().Unix()+1), "--filter", "type=container",
			"--format", "{{.Actor.Attributes.name}} {{.Action}} {{.Actor.Attributes.exitCode}}")
	}
	want := ask()
	if !strings.Contains(want, "before die 0") {
		t.Fatalf("events are\n%s", want)
	}
	d.server.Close()
	d.Restart(t)
	d.serve()
	if got := ask(); !strings.HasPrefix(got, want) {
		t.Errorf("after a restart events are\n%s\nbefore\n%s", got, want)
	}
}
