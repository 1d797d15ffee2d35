// Package crash kills the built daemon at any moment, under load, and looks at
// what is left: nothing that runs may have noticed, nothing that was promised may
// be missing, and nothing half made may stay.
package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gantry/internal/settings"
	"gantry/test/harness"
)

// server is gantryd as a child of the test, with the engine alone.
type server struct {
	*harness.Server
	t      testing.TB
	dir    string
	lives  int
	cmd    *exec.Cmd
	ended  chan struct{} // closed when cmd has ended
	notify *net.UnixConn // of cmd, by systemd's protocol: tells when it is ready
	log    *os.File
	api    *http.Client

	program string   // of lives to come
	env     []string // further variables of lives to come
}

const startLimit = time.Minute

func newServer(t testing.TB) *server {
	t.Helper()
	s := &server{Server: harness.Start(t, harness.Options{Stopped: true, Args: []string{"--disable=cluster"}}), t: t, program: "gantryd"}
	s.Config.Disable = []string{"cluster"}
	s.dir = t.TempDir()
	var err error
	if s.log, err = os.Create(filepath.Join(s.dir, "log")); err != nil {
		t.Fatal(err)
	}
	s.api = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.Config.DockerSocket())
	}}}
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			text, _ := os.ReadFile(s.log.Name()) // shown for what it is worth
			t.Logf("the server's log ends:\n%s", text[max(0, len(text)-16<<10):])
		}
		s.log.Close()
	})
	return s
}

// begin starts the server and does not wait for it.
func (s *server) begin() {
	s.t.Helper()
	s.lives++
	address := &net.UnixAddr{Name: filepath.Join(s.dir, fmt.Sprint("notify", s.lives)), Net: "unixgram"}
	notify, err := net.ListenUnixgram("unixgram", address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.notify = notify
	s.cmd = s.Command(context.Background(), s.program, append([]string{"server"}, settings.Arguments(s.Config)...)...)
	s.cmd.Env = append(append(s.cmd.Env, "NOTIFY_SOCKET="+address.Name), s.env...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.Begin(s.cmd); err != nil {
		s.t.Fatal(err)
	}
	cmd, ended := s.cmd, make(chan struct{})
	s.ended = ended
	go func() {
		_ = cmd.Wait() // how it ended is its log's to tell
		close(ended)
		notify.Close() // ends the wait for it to be ready
	}()
}

// ready waits until the server that was begun last serves. False: it has ended.
func (s *server) ready() bool {
	s.t.Helper()
	_ = s.notify.SetReadDeadline(time.Now().Add(startLimit)) // closed: the server has ended
	for buf := make([]byte, 4096); ; {
		n, err := s.notify.Read(buf)
		select {
		case <-s.ended:
			return false
		default:
		}
		if err != nil {
			s.t.Fatalf("the server is not ready: %v", err)
		}
		if strings.Contains(string(buf[:n]), "READY=1") {
			return true
		}
	}
}

// kill ends the server with SIGKILL.
func (s *server) kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill() // it may have ended by itself
	<-s.ended
	s.cmd = nil
}

// answer is an HTTP answer, read whole.
type answer struct {
	code int
	body []byte
}

func (a answer) decode(t testing.TB, into any) {
	t.Helper()
	if err := json.Unmarshal(a.body, into); err != nil {
		t.Fatalf("status %d: %v in %s", a.code, err, a.body)
	}
}

// call makes a request of the Docker API. The error is of a connection that did
// not last: whether the request was done is not known.
func (s *server) call(method, path string, body any) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var in io.Reader = http.NoBody
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			s.t.Fatal(err)
		}
		in = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, in)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.api.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if ctx.Err() != nil {
		err = errors.Join(err, fmt.Errorf("%s %s hangs", method, path))
		s.t.Error(err)
	}
	return answer{resp.StatusCode, data}, err
}

// must is call of a server that is not to be killed meanwhile.
func (s *server) must(method, path string, body any) answer {
	s.t.Helper()
	a, err := s.call(method, path, body)
	if err != nil || a.code >= 300 {
		s.t.Fatalf("%s %s: status %d, %v: %s", method, path, a.code, err, a.body)
	}
	return a
}

// lines takes the text out of a multiplexed stream, and cuts it into lines; what
// follows the last newline is left out.
func lines(stream []byte) []string {
	var text []byte
	for len(stream) >= 8 {
		n := int(stream[4])<<24 | int(stream[5])<<16 | int(stream[6])<<8 | int(stream[7])
		if len(stream) < 8+n {
			break
		}
		text = append(text, stream[8:8+n]...)
		stream = stream[8+n:]
	}
	all := strings.Split(string(text), "\n")
	return all[:len(all)-1]
}
