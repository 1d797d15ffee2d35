package clients

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gantry/test/harness"
)

// project is a copy of testdata/compose with docker-compose to drive it.
type project struct {
	*harness.Server
	t   *testing.T
	dir string
}

// try runs docker-compose and returns what it did.
func (p *project) try(args ...string) harness.Result {
	p.t.Helper()
	return p.Try("", "docker-compose", append([]string{"-p", "shop", "--project-directory", p.dir, "-f", filepath.Join(p.dir, "docker-compose.yml")}, args...)...)
}

// do runs docker-compose, which must succeed, and returns its output.
func (p *project) do(args ...string) string {
	p.t.Helper()
	r := p.try(args...)
	if r.Code != 0 {
		p.t.Fatalf("docker-compose %s: exit status %d\n%s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return strings.TrimSpace(r.Stdout)
}

// id is the ID of a service's one container.
func (p *project) id(service string) string { p.t.Helper(); return p.do("ps", "-q", service) }

func TestDockerCompose(t *testing.T) {
	needVersion1(t)
	p := &project{start(t), t, filepath.Join(t.TempDir(), "shop")}
	if err := os.CopyFS(p.dir, os.DirFS("testdata/compose")); err != nil {
		t.Fatal(err)
	}
	t.Run("up builds, creates and starts", p.up)
	t.Run("what the file says reaches the processes", p.settings)
	t.Run("scale", p.scale)
	t.Run("a changed configuration recreates its containers alone", p.recreate)
	t.Run("run, stop, start, restart, pause, kill", p.life)
	t.Run("down leaves nothing", p.down)
}

func (p *project) up(t *testing.T) {
	p.t = t
	if r := p.try("up", "-d"); r.Code != 0 || !strings.Contains(r.Stdout+r.Stderr, "Successfully tagged shop_web:latest") {
		t.Fatalf("up: %+v", r)
	}
	client := p.HTTP()
	harness.Eventually(t, "the published port", func() error {
		body, err := harness.Get(client, "http://127.0.0.1:8091/")
		if err == nil && body != "hello world\n" {
			err = fmt.Errorf("it says %q", body)
		}
		return err
	})
	harness.Eventually(t, "health", func() error {
		if out := p.do("ps", "web"); !strings.Contains(out, "Up (healthy)") {
			return fmt.Errorf("ps says %s", out)
		}
		return nil
	})
	id := p.id("web")
	if r := p.try("up", "-d"); r.Code != 0 || !strings.Contains(r.Stderr, "shop_web_1 is up-to-date") {
		t.Errorf("a second up: %+v", r)
	}
	want(t, "the container after it", p.id("web"), id)
}

func (p *project) settings(t *testing.T) {
	p.t = t
	want(t, "environment", p.do("exec", "-T", "web", "sh", "-c", "echo $INLINE $FROMFILE; ls /src"), "given first\nDockerfile")
	want(t, "the exec's exit status", fmt.Sprint(p.try("exec", "-T", "web", "sh", "-c", "exit 7").Code), "7")
	for _, name := range []string{"web", "www", "shop_web_1"} {
		want(t, "service "+name, p.do("exec", "-T", "worker", "wget", "-q", "-O", "-", "http://"+name+"/"), "hello world")
	}
	want(t, "hostname", p.do("exec", "-T", "db", "hostname"), "database")
	want(t, "limits", p.do("exec", "-T", "worker", "sh", "-c", "ulimit -n; touch /scratch/x; touch /x 2>/dev/null || echo refused"), "1000\nrefused")
	want(t, "port", p.do("port", "web", "80"), "127.0.0.1:8091")
	if out := p.do("logs", "--no-color", "web"); !strings.Contains(out, "| serving") {
		t.Errorf("logs: %s", out)
	}
	p.databaseUp(1)
	if out := p.do("top", "worker"); !strings.Contains(out, "sleep 1000") {
		t.Errorf("top: %s", out)
	}
	if out := p.do("images"); !strings.Contains(out, "shop_web") {
		t.Errorf("images: %s", out)
	}
	p.do("exec", "-T", "web", "sh", "-c", "echo kept > /data/file")
}

// databaseUp waits until the database has said so a number of times: from then
// on it hears its signals.
func (p *project) databaseUp(times int) {
	p.t.Helper()
	harness.Eventually(p.t, "the database's log", func() error {
		if out := p.do("logs", "--no-color", "db"); strings.Count(out, "| db up") != times {
			return fmt.Errorf("it is %s", out)
		}
		return nil
	})
}

func (p *project) scale(t *testing.T) {
	p.t = t
	p.do("up", "-d", "--scale", "worker=3")
	if ids := strings.Fields(p.id("worker")); len(ids) != 3 {
		t.Errorf("%d workers, want 3", len(ids))
	}
	p.do("up", "-d", "--scale", "worker=1")
	if ids := strings.Fields(p.id("worker")); len(ids) != 1 {
		t.Errorf("%d workers, want 1", len(ids))
	}
}

func (p *project) recreate(t *testing.T) {
	p.t = t
	web, db := p.id("web"), p.id("db")
	if err := os.WriteFile(filepath.Join(p.dir, "web.env"), []byte("FROMFILE=second\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.do("up", "-d")
	if p.id("web") == web {
		t.Error("the changed service has its old container")
	}
	want(t, "the other service's container", p.id("db"), db)
	want(t, "the new one", p.do("exec", "-T", "web", "sh", "-c", "echo $FROMFILE; cat /data/file"), "second\nkept")
	p.do("up", "-d", "--build", "--force-recreate", "--remove-orphans")
	want(t, "after --force-recreate", p.do("exec", "-T", "web", "cat", "/data/file"), "kept")
}

func (p *project) life(t *testing.T) {
	p.t = t
	want(t, "run", p.do("run", "--rm", "-T", "-e", "X=y", "worker", "sh", "-c", "echo one-off $X"), "one-off y")
	want(t, "run's exit status", fmt.Sprint(p.try("run", "--rm", "-T", "worker", "sh", "-c", "exit 4").Code), "4")
	p.do("pause", "db")
	p.do("unpause", "db")
	p.databaseUp(1)
	p.do("restart", "db")
	p.databaseUp(2)
	p.do("stop", "db")
	if out := p.do("logs", "--no-color", "--tail", "1", "db"); !strings.Contains(out, "db down") {
		t.Errorf("after the stop: %s", out)
	}
	want(t, "the exit code", strings.TrimSpace(p.Docker("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", p.id("db"))), "exited 0")
	p.do("start", "db")
	p.do("kill", "worker")
	p.do("rm", "-f", "worker")
	want(t, "removed workers", p.id("worker"), "")
	if out := p.do("config", "--services"); len(strings.Fields(out)) != 3 {
		t.Errorf("config: %s", out)
	}
}

func (p *project) down(t *testing.T) {
	p.t = t
	p.do("down", "-v", "--rmi", "local")
	want(t, "containers", p.Docker("ps", "-aq"), "")
	want(t, "volumes", p.Docker("volume", "ls", "-q"), "")
	want(t, "networks", p.Docker("network", "ls", "--format", "{{.Name}}"), "bridge\nhost\nnone\n")
	want(t, "images", p.Docker("images", "-q", "shop_web"), "")
}
