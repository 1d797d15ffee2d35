package engine_test

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"

	"gantry/engine"
	"gantry/internal/problem"
)

// logServer is a syslog service at a socket in a directory, which may be away.
type logServer struct {
	t    *testing.T
	path string
	conn *net.UnixConn
}

func newLogServer(t *testing.T) *logServer {
	s := &logServer{t: t, path: filepath.Join(t.TempDir(), "log")}
	s.come()
	t.Cleanup(s.goAway)
	return s
}

func (s *logServer) come() {
	s.t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.path, Net: "unixgram"})
	if err != nil {
		s.t.Fatal(err)
	}
	s.conn = conn
}

// goAway leaves a socket behind at which nobody listens.
func (s *logServer) goAway() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
		if err := os.Remove(s.path); err != nil {
			s.t.Error(err)
		}
	}
}

// read returns the texts of the next n messages.
func (s *logServer) read(n int) (lines []string) {
	s.t.Helper()
	for range n {
		message := s.message()
		if message == "" {
			break
		}
		_, line, _ := strings.Cut(strings.TrimSpace(message), "]: ")
		lines = append(lines, line)
	}
	return lines
}

// message returns the next message; empty, and an error of the test, if none comes.
func (s *logServer) message() string {
	s.t.Helper()
	buf := make([]byte, 64<<10)
	s.conn.SetReadDeadline(time.Now().Add(time.Minute))
	n, err := s.conn.Read(buf)
	if err != nil {
		s.t.Errorf("receive: %v", err)
	}
	return string(buf[:n])
}

// expect says that the next messages are these lines.
func (s *logServer) expect(want ...string) {
	s.t.Helper()
	if got := s.read(len(want)); !slices.Equal(got, want) {
		s.t.Errorf("received %q, want %q", got, want)
	}
}

// silent says that nothing more has come.
func (s *logServer) silent() {
	s.t.Helper()
	buf := make([]byte, 64<<10)
	s.conn.SetReadDeadline(time.Unix(1, 0))
	if n, err := s.conn.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		s.t.Errorf("received also %q, %v", buf[:n], err)
	}
}

func (s *logServer) driver(options map[string]string) func(*engine.CreateRequest) {
	return func(r *engine.CreateRequest) {
		config := map[string]string{"syslog-address": "unixgram://" + s.path}
		maps.Copy(config, options)
		r.Config.OpenStdin = true
		r.HostConfig.LogConfig = dcontainer.LogConfig{Type: "syslog", Config: config}
	}
}

func numbers(from, to int) (lines []string) {
	for i := from; i <= to; i++ {
		lines = append(lines, fmt.Sprint(i))
	}
	return lines
}

func TestSyslog(t *testing.T) {
	b, s := newBench(t), newLogServer(t)
	out, code := b.run("echo one; echo two", s.driver(nil))
	if out != "one\ntwo\n" || code != 0 {
		t.Errorf("the container's own log has %q", out)
	}
	s.expect("one", "two")
	id := b.create("echo >&2 error", s.driver(map[string]string{"syslog-facility": "local1", "syslog-format": "rfc5424", "tag": "x{{.Name}}"}))
	b.start(id)
	got := s.message()
	if want := fmt.Sprintf(" %s x%s %d x%[2]s - error\n", hostname(t), b.state(id).Name, os.Getpid()); !strings.HasPrefix(got, "<139>1 ") || !strings.HasSuffix(got, want) {
		t.Errorf("received %q, want an end of %q", got, want)
	}
	b.wait(id)
}

func hostname(t *testing.T) string {
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// A service that is away holds nothing up, and gets what it has missed; the
// engine may be replaced meanwhile, and the container start again.
func TestLogWaitsForItsService(t *testing.T) {
	b, s := newBench(t), newLogServer(t)
	id := b.create("echo ready; seq 3; read x", s.driver(nil))
	s.goAway()
	b.startReady(id)
	b.Restart(t)
	s.come()
	s.expect("ready", "1", "2", "3")
	s.goAway()
	if err := b.Engine.Kill(b.ctx, id, ""); err != nil {
		t.Fatal(err)
	}
	b.wait(id)
	s.come()
	b.start(id)
	s.expect("ready", "1", "2", "3")
	s.silent()
	if got := b.output(id); got != strings.Repeat("ready\n1\n2\n3\n", 2) {
		t.Errorf("the container's own log has %q", got)
	}
}

// An engine that dies has sent each line once: the next one goes on behind it,
// also where the container has ended or its log was rotated in between.
func TestLogIsSentOnce(t *testing.T) {
	b, s := newBench(t), newLogServer(t)
	const many = 2000
	running := b.create("echo ready; read x; sleep 60", s.driver(nil))
	ended := b.create(fmt.Sprint("seq ", many), s.driver(map[string]string{"cache-max-size": "20k", "cache-max-file": "1000"}))
	b.startReady(running)
	s.expect("ready")
	b.start(ended)
	s.expect(numbers(1, 10)...) // the sender waits for its reader, and is somewhere
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	got := make(chan []string, 1)
	go func() { got <- s.read(many - 10) }()
	if err := b.Host.Start(); err != nil {
		t.Fatal(err)
	}
	if lines := <-got; !slices.Equal(lines, numbers(11, many)) {
		t.Errorf("received %q", lines)
	}
	b.Restart(t)
	b.Restart(t)
	s.silent()
}

func TestRemovalSendsTheRestOfALog(t *testing.T) {
	b, s := newBench(t), newLogServer(t)
	auto := func(r *engine.CreateRequest) {
		s.driver(nil)(r)
		r.HostConfig.AutoRemove = true
	}
	b.start(b.create("seq 5", auto)) // no more than the socket holds
	s.expect(numbers(1, 5)...)
	// To a service that is away nothing can be sent: the container goes all the same.
	id := b.create("seq 5", auto)
	s.goAway()
	await, err := b.Engine.Wait(b.ctx, id, dcontainer.WaitConditionRemoved)
	if err != nil {
		t.Fatal(err)
	}
	b.start(id)
	if _, err := await(b.ctx); err != nil {
		t.Error(err)
	}
	if _, err := b.Engine.Container(b.ctx, id); !errors.Is(err, problem.NotFound) {
		t.Errorf("the container is there: %v", err)
	}
}

func TestServicesThatAHostDoesNotHave(t *testing.T) {
	b := newBench(t)
	if _, err := os.Stat("/run/systemd/journal/socket"); err != nil {
		id := b.create("true", func(r *engine.CreateRequest) { r.HostConfig.LogConfig.Type = "journald" })
		err := b.Engine.Start(b.ctx, id)
		if err == nil || !strings.HasSuffix(err.Error(), "failed to initialize logging driver: journald is not enabled on this host") {
			t.Errorf("without a journal: %v", err)
		}
	}
	for address, want := range map[string]string{
		"unix:///no/such/socket": "stat /no/such/socket: no such file or directory",
		"host:514":               "syslog-address should be in form proto://address, got host:514",
	} {
		_, err := b.Engine.Create(b.ctx, engine.CreateRequest{
			Config:     &dcontainer.Config{Image: "busybox"},
			HostConfig: &dcontainer.HostConfig{LogConfig: dcontainer.LogConfig{Type: "syslog", Config: map[string]string{"syslog-address": address}}},
		})
		if err == nil || err.Error() != want || !errors.Is(err, problem.Invalid) {
			t.Errorf("at %s: %v, want %s", address, err, want)
		}
	}
}
