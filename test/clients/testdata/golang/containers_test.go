package golang

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/exec"
	"github.com/testcontainers/testcontainers-go/network"
	"github.com/testcontainers/testcontainers-go/wait"
)

// patience is for what a loaded machine does in its own time.
const patience = 3 * time.Minute

// run starts a container by testcontainers.
func run(t *testing.T, image string, options ...testcontainers.ContainerCustomizer) *testcontainers.DockerContainer {
	t.Helper()
	c, err := testcontainers.Run(t.Context(), image, options...)
	if err != nil {
		t.Fatalf("run %s: %v", image, err)
	}
	return c
}

// site serves a page on port 80, and ends when it is told to.
var site = testcontainers.WithCmd("sh", "-c",
	"trap 'exit 0' TERM; mkdir -p /www; echo hello > /www/index.html; httpd -h /www; echo serving; while :; do sleep 0.1; done")

// TestLeftBehind removes nothing. That is the reaper's work when this program has
// ended, and whoever runs it looks whether it was done. It comes first: its
// connections with the reaper last over the other tests.
func TestLeftBehind(t *testing.T) {
	ctx := t.Context()
	net, err := network.New(ctx)
	if err != nil {
		t.Fatal(err)
	}
	run(t, "busybox", site, network.WithNetwork([]string{"web"}, net), testcontainers.WithWaitStrategyAndDeadline(patience, wait.ForLog("serving")))
	guest := run(t, "busybox", testcontainers.WithCmd("sleep", "1000"), network.WithNetwork(nil, net),
		testcontainers.WithHostConfigModifier(func(h *container.HostConfig) {
			h.Mounts = []mount.Mount{{Type: mount.TypeVolume, Source: "left", Target: "/data",
				VolumeOptions: &mount.VolumeOptions{Labels: testcontainers.GenericLabels()}}}
		}))
	_, out, err := guest.Exec(ctx, []string{"sh", "-c", "until wget -q -O - http://web/; do sleep 0.1; done"}, exec.Multiplexed())
	if err != nil {
		t.Fatal(err)
	}
	if got := text(t, out); !strings.HasSuffix(got, "hello\n") {
		t.Errorf("web says %q", got)
	}
	dir := dockerfile(t, "FROM busybox\nCMD sleep 1000\n")
	run(t, "", testcontainers.WithDockerfile(testcontainers.FromDockerfile{Context: dir, Repo: "left", Tag: "1"}))
	api := daemon(t)
	volumes, err := api.VolumeList(ctx, client.VolumeListOptions{Filters: make(client.Filters).Add("label", "org.testcontainers=true")})
	if err != nil || len(volumes.Items) != 1 {
		t.Errorf("%+v %v", volumes, err)
	}
}

func TestContainersThatServe(t *testing.T) {
	ctx := t.Context()
	c := run(t, "busybox", site, testcontainers.WithExposedPorts("80/tcp"), testcontainers.WithEnv(map[string]string{"A": "b"}),
		testcontainers.WithFiles(testcontainers.ContainerFile{Reader: strings.NewReader("given"), ContainerFilePath: "/tmp/given", FileMode: 0o640}),
		testcontainers.WithWaitStrategyAndDeadline(patience,
			wait.ForLog("serving"), wait.ForListeningPort("80/tcp"), wait.ForHTTP("/").WithPort("80/tcp"),
			wait.ForExec([]string{"sh", "-c", "test $A = b"}), wait.ForFile("/tmp/given")))
	endpoint, err := c.PortEndpoint(ctx, "80/tcp", "http")
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	equal(t, "the page", text(t, resp.Body), "hello\n")
	code, out, err := c.Exec(ctx, []string{"sh", "-c", "stat -c %a /tmp/given; echo aside >&2; exit 3"}, exec.Multiplexed())
	equal(t, "exec", fmt.Sprint(code, err), "3 <nil>")
	equal(t, "its output", text(t, out), "640\naside\n")
	if err := c.CopyToContainer(ctx, []byte("content"), "/tmp/a file", 0o600); err != nil {
		t.Error(err)
	}
	back, err := c.CopyFileFromContainer(ctx, "/tmp/a file")
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	equal(t, "the copy", text(t, back), "content")
	grace := 30 * time.Second
	if err := c.Stop(ctx, &grace); err != nil {
		t.Error(err)
	}
	if err := c.Start(ctx); err != nil {
		t.Error(err)
	}
	if err := c.Terminate(ctx); err != nil {
		t.Error(err)
	}
}

// lines hands on a container's log.
type lines chan string

func (l lines) Accept(entry testcontainers.Log) { l <- entry.LogType + " " + string(entry.Content) }

func TestLogsAreConsumed(t *testing.T) {
	seen := make(lines, 100) // more than are written
	c := run(t, "busybox", testcontainers.WithCmd("sh", "-c", "echo one; echo two >&2; exec sleep 1000"),
		testcontainers.WithLogConsumers(seen), testcontainers.WithWaitStrategyAndDeadline(patience, wait.ForLog("two")))
	got := map[string]bool{<-seen: true, <-seen: true}
	if !got["STDOUT one\n"] || !got["STDERR two\n"] {
		t.Errorf("%v", got)
	}
	if err := c.Terminate(t.Context(), testcontainers.StopTimeout(0)); err != nil {
		t.Error(err)
	}
}

func TestHealthAndExit(t *testing.T) {
	run(t, "busybox", testcontainers.WithCmd("sleep", "1000"),
		testcontainers.WithConfigModifier(func(c *container.Config) {
			c.Healthcheck = &container.HealthConfig{Test: []string{"CMD", "true"}, Interval: time.Second, Timeout: time.Minute}
		}),
		testcontainers.WithWaitStrategyAndDeadline(patience, wait.ForHealthCheck()))
	c := run(t, "busybox", testcontainers.WithCmd("sh", "-c", "exit 6"),
		testcontainers.WithWaitStrategyAndDeadline(patience, wait.ForExit()))
	state, err := c.State(t.Context())
	if err != nil || state.ExitCode != 6 || state.Running {
		t.Errorf("%+v %v", state, err)
	}
}

func TestImageFromADockerfile(t *testing.T) {
	dir := dockerfile(t, "FROM busybox\nARG WORD\nRUN echo $WORD > /word\nCMD cat /word\n")
	word := "built"
	c := run(t, "", testcontainers.WithDockerfile(testcontainers.FromDockerfile{Context: dir, BuildArgs: map[string]*string{"WORD": &word}}),
		testcontainers.WithWaitStrategyAndDeadline(patience, wait.ForLog("built")))
	if err := c.Terminate(t.Context()); err != nil {
		t.Error(err)
	}
}

// dockerfile makes a build's context.
func dockerfile(t *testing.T, text string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// text reads to the end.
func text(t *testing.T, r io.Reader) string {
	t.Helper()
	all, err := io.ReadAll(r)
	if err != nil {
		t.Error(err)
	}
	return string(all)
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// daemon is a client for the calls below testcontainers'.
func daemon(t *testing.T) *client.Client {
	t.Helper()
	api, err := client.New(client.FromEnv)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { api.Close() })
	return api
}

// bounded is a test's context with an end.
func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}
