package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gantry/internal/testenv"
	"gantry/test/harness"
)

// address returns where an app is reached, as `gantry status` has it.
func address(s *harness.Server, app string) string {
	return strings.TrimSpace(s.Gantry("status", "--address", app))
}

// replicas asks an address until want different replicas have answered.
func replicas(t *testing.T, s *harness.Server, url string, want int) {
	t.Helper()
	client, seen := s.HTTP(), map[string]bool{}
	harness.Eventually(t, "answers of the replicas", func() error {
		body, err := harness.Get(client, url)
		seen[body] = err == nil
		if len(seen) < want {
			return fmt.Errorf("%v so far, %w", seen, err)
		}
		return nil
	})
}

func TestPush(t *testing.T) {
	testenv.NeedCommand(t, "kubectl")
	s := harness.Start(t, harness.Options{})
	hello := copyTree(t, "examples/hello")

	t.Run("dry run prints standard objects and makes none", func(t *testing.T) {
		contains(t, s.Gantry("push", hello, "--dry-run"), "kind: Deployment", "port is not known before the app runs")
		out := s.Gantry("push", hello, "--dry-run", "-o", "yaml", "--port", "8080")
		contains(t, out, "kind: Deployment", "kind: Service", "kind: Ingress", "host: hello.localhost")
		contains(t, s.Kubectl("get", "deployments", "-o", "name")+"none", "none")
	})
	t.Run("a Go module without a Dockerfile serves from two replicas", func(t *testing.T) {
		out := s.Gantry("push", hello, "--replicas", "2")
		contains(t, out, address(s, "hello"))
		replicas(t, s, address(s, "hello"), 2)
		contains(t, s.Kubectl("get", "deployment,service,ingress"), "deployment.apps/hello", "service/hello", "ingress.networking.k8s.io/hello")
	})
	t.Run("unchanged source changes nothing and says so", func(t *testing.T) {
		before := s.Kubectl("get", "deployment,service,ingress", "-o", `jsonpath={.items[*].metadata.resourceVersion}`)
		contains(t, s.Gantry("push", hello), "unchanged")
		after := s.Kubectl("get", "deployment,service,ingress", "-o", `jsonpath={.items[*].metadata.resourceVersion}`)
		if before != after {
			t.Errorf("resource versions were %s, are %s", before, after)
		}
	})
	t.Run("a changed line serves", func(t *testing.T) {
		text, err := os.ReadFile(filepath.Join(hello, "main.go"))
		if err != nil {
			t.Fatal(err)
		}
		write(t, hello, "main.go", strings.Replace(string(text), "Hello from", "Goodbye from", 1))
		s.Gantry("push", hello)
		body, err := harness.Get(s.HTTP(), address(s, "hello"))
		if err != nil || !strings.HasPrefix(body, "Goodbye from") {
			t.Errorf("serves %q, %v", body, err)
		}
	})
	t.Run("a failing roll-out says why, and the previous version serves", func(t *testing.T) {
		broken := copyTree(t, "examples/hello")
		write(t, broken, "main.go", "package main\n\nimport (\"fmt\"; \"os\")\n\nfunc main() { fmt.Println(\"cannot find the treasure\"); os.Exit(42) }\n")
		r := s.Fails("gantry", "push", broken)
		if r.Code != 1 {
			t.Errorf("exit status %d, want 1", r.Code)
		}
		contains(t, r.Stdout+r.Stderr, "42", "cannot find the treasure")
		body, err := harness.Get(s.HTTP(), address(s, "hello"))
		if err != nil || !strings.HasPrefix(body, "Goodbye from") {
			t.Errorf("serves %q, %v", body, err)
		}
		s.Gantry("push", hello)
	})
	t.Run("scale, logs and status", func(t *testing.T) {
		s.Gantry("scale", "hello=4")
		replicas(t, s, address(s, "hello"), 4)
		logs := s.Gantry("logs", "hello")
		contains(t, logs, "listening on :8080")
		contains(t, s.Gantry("status"), "hello", "4/4", "hello.localhost")
	})
	t.Run("what cannot be pushed", func(t *testing.T) {
		contains(t, s.Fails("gantry", "push", filepath.Join(hello, "nowhere")).Stderr, "nowhere")
		contains(t, s.Fails("gantry", "push", t.TempDir()).Stderr, "Dockerfile", "go.mod")
		bad := t.TempDir()
		write(t, bad, "Dockerfile", "FROM scratch\nCOPPY . /\n")
		contains(t, s.Fails("gantry", "push", bad, "--name", "bad").Stderr, "line 2", "COPPY")
	})
}

func TestGuestbook(t *testing.T) {
	testenv.NeedCommand(t, "kubectl")
	s := harness.Start(t, harness.Options{})
	dir := copyTree(t, "examples/guestbook")
	s.Run("make", "-C", dir)
	for _, app := range []string{"web", "api", "store"} {
		s.Docker("build", "-t", "guestbook-"+app, filepath.Join(dir, app))
	}
	manifest, err := os.ReadFile(filepath.Join(dir, "guestbook.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	volume := t.TempDir()
	write(t, dir, "guestbook.yaml", strings.ReplaceAll(string(manifest), "/var/lib/guestbook", volume))
	s.Kubectl("apply", "-f", filepath.Join(dir, "guestbook.yaml"))
	for _, app := range []string{"web", "api", "store"} {
		s.Kubectl("rollout", "status", "deployment/guestbook-"+app, "--timeout=60s")
	}
	url := "http://guestbook.localhost/"
	harness.Eventually(t, "an entry is taken", func() error {
		resp, err := s.HTTP().PostForm(url+"sign", map[string][]string{"text": {"first!"}})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 {
			return fmt.Errorf("status %s", resp.Status)
		}
		return nil
	})
	body, err := harness.Get(s.HTTP(), url)
	if err != nil {
		t.Fatal(err)
	}
	contains(t, body, "first!", "served by guestbook-web-")

	t.Run("the store's volume outlives its pod", func(t *testing.T) {
		s.Kubectl("delete", "pod", "-l", "tier=store", "--wait=true")
		s.Kubectl("rollout", "status", "deployment/guestbook-store", "--timeout=60s")
		harness.Eventually(t, "the entry is still there", func() error {
			body, err := harness.Get(s.HTTP(), url)
			if err == nil && !strings.Contains(body, "first!") {
				err = fmt.Errorf("page is %s", body)
			}
			return err
		})
	})
}
