package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gantry/internal/testenv"
	"gantry/test/harness"
)

// containers lists what `docker ps` shows of an app, one "ID started" a line.
func containers(s *harness.Server, app string) string {
	ids := strings.Fields(s.Docker("ps", "-q", "--no-trunc", "--filter", "label=io.kubernetes.container.name="+app))
	if len(ids) == 0 {
		return ""
	}
	return s.Docker(append([]string{"inspect", "-f", "{{.Id}} {{.State.Pid}} {{.State.StartedAt}}"}, ids...)...)
}

func TestSupervision(t *testing.T) {
	testenv.NeedCommand(t, "kubectl")
	s := harness.Start(t, harness.Options{})
	s.Gantry("push", copyTree(t, "examples/hello"), "--replicas", "2")
	url := address(s, "hello")

	t.Run("a killed replica is back", func(t *testing.T) {
		var pid int
		first := strings.Fields(containers(s, "hello"))
		if _, err := fmt.Sscan(first[1], &pid); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, "two new containers", func() error {
			now := containers(s, "hello")
			if strings.Contains(now, first[0]) || strings.Count(now, "\n") != 2 {
				return fmt.Errorf("containers are\n%s", now)
			}
			return nil
		})
		s.Kubectl("wait", "--for=condition=Ready", "pod", "-l", "app.kubernetes.io/name=hello", "--timeout=60s")
		replicas(t, s, url, 2)
	})
	t.Run("kill -9 of the server during traffic loses no request and restarts nothing", func(t *testing.T) {
		ip := strings.TrimSpace(s.Kubectl("get", "service", "hello", "-o", "jsonpath={.spec.clusterIP}:{.spec.ports[0].port}"))
		before := containers(s, "hello")
		failed := traffic(t, s, "http://"+ip+"/", func() {
			s.Kill()
			s.Up()
		})
		if failed != nil {
			t.Errorf("requests failed: %v", failed)
		}
		if after := containers(s, "hello"); after != before {
			t.Errorf("containers were\n%sand are\n%s", before, after)
		}
		replicas(t, s, url, 2)
	})
	t.Run("after down and up the app is back", func(t *testing.T) {
		s.Gantry("down")
		if out := s.Try("", "docker", "ps"); out.Code == 0 {
			t.Errorf("the engine answers after down: %s", out.Stdout)
		}
		s.Up()
		replicas(t, s, url, 2)
	})
}

// traffic sends requests one after the other while during runs, and returns
// the first that failed.
func traffic(t *testing.T, s *harness.Server, url string, during func()) error {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	client := s.HTTP()
	var sent atomic.Int64
	result := make(chan error, 1) // one value, sent by the one goroutine below
	go func() {
		for ctx.Err() == nil {
			if _, err := harness.Get(client, url); err != nil {
				result <- fmt.Errorf("request %d: %w", sent.Load(), err)
				return
			}
			sent.Add(1)
		}
		result <- nil
	}()
	during()
	stop()
	err := <-result
	t.Logf("%d requests", sent.Load())
	if sent.Load() == 0 {
		t.Error("no request was answered")
	}
	return err
}

// TestReboot ends everything without a word, as a power cut does, and starts
// the server again.
func TestReboot(t *testing.T) {
	s := harness.Start(t, harness.Options{})
	s.ImportBusybox()
	s.Gantry("push", copyTree(t, "examples/hello"), "--replicas", "2")
	s.Docker("run", "-d", "--name", "always", "--restart", "always", "busybox", "sleep", "600")
	s.Docker("run", "-d", "--name", "never", "busybox", "sleep", "600")
	s.Reboot()
	s.Up()
	replicas(t, s, address(s, "hello"), 2)
	harness.Eventually(t, "the container with restart=always runs", func() error {
		if out := s.Docker("inspect", "-f", "{{.State.Running}}", "always"); out != "true\n" {
			return fmt.Errorf("running: %s", out)
		}
		return nil
	})
	contains(t, s.Docker("inspect", "-f", "{{.State.Running}} {{.State.ExitCode}}", "never"), "false")
}

// TestTwoInstances runs two servers in one network namespace.
func TestTwoInstances(t *testing.T) {
	a := harness.Start(t, harness.Options{})
	b := harness.Start(t, harness.Options{Namespace: a, Args: []string{"--api-listen", "127.0.0.1:7443", "--http-listen", ":8081"}})
	for _, s := range []*harness.Server{a, b} {
		s.Gantry("push", copyTree(t, "examples/hello"), "--replicas", "2")
	}
	b.Kubectl("delete", "service", "hello")
	b.Gantry("down", "--purge")
	replicas(t, a, address(a, "hello"), 2)
	client := &http.Client{Transport: a.HTTP().Transport, Timeout: 2 * time.Second}
	if body, err := harness.Get(client, "http://127.0.0.1:8081/"); err == nil {
		t.Errorf("the purged instance answers %q", body)
	}
}
