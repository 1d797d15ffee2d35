package dockerapi_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gantry/engine/dockerapi"
	"gantry/engine/internal/enginetest"
	"gantry/internal/testenv"
)

func TestMain(m *testing.M) {
	if os.Getenv(victim) != "" {
		os.Exit(serveVictim())
	}
	code := testenv.Isolate(m)
	enginetest.Clean()
	os.Exit(code)
}

// daemon is an engine behind its API on a socket, and the stock client for it.
type daemon struct {
	*enginetest.Host
	t      testing.TB
	socket string
	docker string
	server *http.Server
	config string // the client's configuration directory
}

func newDaemon(t testing.TB) *daemon {
	t.Helper()
	docker := testenv.NeedCommand(t, "docker")
	h := enginetest.New(t)
	h.Busybox(t)
	d := &daemon{Host: h, t: t, docker: docker, socket: filepath.Join(h.Instance.RunDir, "docker.sock"), config: t.TempDir()}
	d.serve()
	t.Cleanup(func() { d.server.Close() })
	return d
}

func (d *daemon) serve() {
	d.t.Helper()
	if err := os.Remove(d.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.t.Fatal(err)
	}
	listener, err := net.Listen("unix", d.socket)
	if err != nil {
		d.t.Fatal(err)
	}
	d.server = &http.Server{Handler: dockerapi.New(dockerapi.Config{
		Engine: d.Engine, Images: d.Images, Builder: d.Builder, Registry: d.Registry, Networks: d.Networks, Volumes: d.Volumes,
		Version: "test", DataDir: d.Instance.DataDir,
	})}
	go d.server.Serve(listener) // ends with Close
}

// command prepares the client. It is killed with the test's time.
func (d *daemon) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	d.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, d.docker, args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+d.socket, "DOCKER_CONFIG="+d.config, "DOCKER_CLI_HINTS=false", "DOCKER_BUILDKIT=0")
	return cmd
}

// result is what a command did.
type result struct {
	out, err string
	code     int
}

func run(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("docker %v: %v\n%s", cmd.Args[1:], err, errOut.String())
	}
	return result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

// try runs the client and returns what it did.
func (d *daemon) try(args ...string) result {
	d.t.Helper()
	return run(d.t, d.command(args...))
}

// do runs the client, which must succeed, and returns its output.
func (d *daemon) do(args ...string) string {
	d.t.Helper()
	r := d.try(args...)
	if r.code != 0 {
		d.t.Fatalf("docker %s: exit %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return strings.TrimSpace(r.out)
}
