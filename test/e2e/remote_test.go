package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gantry/internal/testenv"
	"gantry/test/harness"
)

// TestRemoteClients reaches the engine over TLS, and through ssh's way.
func TestRemoteClients(t *testing.T) {
	testenv.NeedCommand(t, "docker")
	dir := testenv.Certificates(t, "server", "client")
	pem := func(name string) string { return filepath.Join(dir, name+".pem") }
	s := harness.Start(t, harness.Options{Args: []string{
		"--disable=cluster", "-H", "tcp://127.0.0.1:2376", "--tlsverify",
		"--tlscacert", pem("ca"), "--tlscert", pem("server-cert"), "--tlskey", pem("server-key"),
	}})
	s.ImportBusybox()
	config := t.TempDir()
	docker := func(args ...string) harness.Result {
		return s.Try("fed\n", "docker", append([]string{"--config", config}, args...)...)
	}
	secure := []string{"--tlsverify", "--tlscacert", pem("ca"), "--tlscert", pem("client-cert"), "--tlskey", pem("client-key"), "-H", "tcp://127.0.0.1:2376"}

	t.Run("a client with a certificate, half-closed streams", func(t *testing.T) {
		if r := docker(append(secure, "run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo end")...); r.Stdout != "fed\nend\n" || r.Code != 0 {
			t.Errorf("got %+v", r)
		}
	})
	t.Run("a client without one is refused", func(t *testing.T) {
		if r := docker("--tlsverify", "--tlscacert", pem("ca"), "-H", "tcp://127.0.0.1:2376", "version"); r.Code == 0 || !strings.Contains(r.Stderr, "certificate") {
			t.Errorf("got %+v", r)
		}
		if r := docker("-H", "tcp://127.0.0.1:2376", "version"); r.Code == 0 || !strings.Contains(r.Stderr, "HTTPS") {
			t.Errorf("without TLS: %+v", r)
		}
	})
	t.Run("dial-stdio carries a half-closed stream", func(t *testing.T) {
		request := "GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"
		if r := s.Try(request, "docker", "system", "dial-stdio"); !strings.HasSuffix(r.Stdout, "OK") || !strings.HasPrefix(r.Stdout, "HTTP/1.1 200") {
			t.Errorf("got %+v", r)
		}
	})
	// The client runs "ssh ... HOST docker system dial-stdio": this one leaves out
	// the way to the other host.
	bin := t.TempDir()
	script := "#!/bin/sh\nwhile [ $# -gt 0 ] && [ \"$1\" != docker ]; do shift; done\n" +
		"export DOCKER_HOST=unix://" + s.Config.DockerSocket() + "\nunset DOCKER_CONTEXT\nexec \"$@\"\n"
	if err := os.WriteFile(filepath.Join(bin, "ssh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for name, args := range map[string][]string{
		"local": {"--docker", "host=unix://" + s.Config.DockerSocket()},
		"far":   {"--docker", "host=ssh://somebody@far"},
		"tls":   {"--docker", "host=tcp://127.0.0.1:2376,ca=" + pem("ca") + ",cert=" + pem("client-cert") + ",key=" + pem("client-key")},
	} {
		t.Run("context "+name, func(t *testing.T) {
			if r := docker(append([]string{"context", "create", name}, args...)...); r.Code != 0 {
				t.Fatalf("create: %+v", r)
			}
			if r := docker("--context", name, "run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo end"); r.Stdout != "fed\nend\n" || r.Code != 0 {
				t.Errorf("run: %+v", r)
			}
			if r := docker("--context", name, "version", "--format", "{{.Server.Os}}"); r.Stdout != "linux\n" {
				t.Errorf("version: %+v", r)
			}
		})
	}
}
