package dockerapi_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
)

// raw sends a request's text as it is and returns the connection and the answer.
func (d *daemon) raw(request string) (*net.UnixConn, *bufio.Reader, *http.Response) {
	d.t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: d.socket, Net: "unix"})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		d.t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		d.t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	answer, err := http.ReadResponse(reader, nil)
	if err != nil {
		d.t.Fatalf("%q: %v", request, err)
	}
	return conn, reader, answer
}

// demux reads a multiplexed stream to its end.
func demux(t *testing.T, r io.Reader) (stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errOut, r); err != nil {
		t.Errorf("read the streams: %v", err)
	}
	return out.String(), errOut.String()
}

func TestHijackWithoutUpgradeAndByHTTP10(t *testing.T) {
	d := newDaemon(t)
	for _, proto := range []string{"HTTP/1.1", "HTTP/1.0"} {
		id := d.do("create", "busybox", "echo", "hello")
		_, reader, answer := d.raw("POST /v1.50/containers/" + id + "/attach?stream=1&stdout=1&stderr=1 " + proto + "\r\nHost: d\r\n\r\n")
		if answer.StatusCode != 200 || answer.Header.Get("Content-Type") != "application/vnd.docker.raw-stream" {
			t.Fatalf("%s: %d %v", proto, answer.StatusCode, answer.Header)
		}
		d.do("start", id)
		if out, _ := demux(t, reader); out != "hello\n" {
			t.Errorf("%s: %q", proto, out)
		}
		_, _, answer = d.raw("GET /v1.50/containers/" + id + "/logs?stdout=1&follow=1 " + proto + "\r\nHost: d\r\nConnection: close\r\n\r\n")
		if out, _ := demux(t, answer.Body); out != "hello\n" || !answer.Close {
			t.Errorf("%s: logs %q, close %v", proto, out, answer.Close)
		}
	}
}

// serving counts the requests of one handler that are under way.
func serving(method string) int {
	var stacks bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&stacks, 1); err != nil {
		return -1
	}
	n := 0
	for block := range strings.SplitSeq(stacks.String(), "\n\n") {
		if strings.Contains(block, "dockerapi.(*call)."+method) {
			n++
		}
	}
	return n
}

// gone waits until no request of one handler is under way.
func gone(t *testing.T, method string) {
	t.Helper()
	tick, limit := time.NewTicker(10*time.Millisecond), time.After(time.Minute)
	defer tick.Stop()
	for serving(method) > 0 {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s is still served", method)
		}
	}
}

func TestVanishedClientsLeaveNothing(t *testing.T) {
	d := newDaemon(t)
	d.do("run", "-di", "--name", "silent", "busybox", "cat")
	exec := d.execOf("silent", `{"Cmd":["sleep","100"],"AttachStdout":true}`)
	for name, c := range map[string]struct{ path, body, method string }{
		"output only":            {"/containers/silent/attach?stream=1&stdout=1", "", "attach"},
		"with input":             {"/containers/silent/attach?stream=1&stdout=1&stdin=1", "", "attach"},
		"exec, output only":      {"/exec/" + exec + "/start", "{}", "startExec"},
		"of what does not run":   {"/containers/" + d.do("create", "busybox", "true") + "/attach?stream=1&stdout=1", "", "attach"},
		"that half-closed first": {"/containers/silent/attach?stream=1&stdout=1&logs=1", "", "attach"},
	} {
		conn, _, answer := d.hijack(c.path, c.body)
		if answer.StatusCode != 101 || serving(c.method) == 0 {
			t.Fatalf("%s: %d", name, answer.StatusCode)
		}
		if name == "that half-closed first" {
			conn.CloseWrite()
		}
		conn.Close()
		gone(t, c.method)
	}
	// The exec goes on without its client.
	if _, _, body := d.request("GET", "/exec/"+exec+"/json", ""); !strings.Contains(body, `"Running":true`) {
		t.Errorf("the exec: %s", body)
	}
	conn, _, _ := d.raw("GET /containers/silent/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: d\r\n\r\n")
	conn.Close()
	gone(t, "logs")
}

// execOf prepares an exec and returns its ID.
func (d *daemon) execOf(container, body string) string {
	d.t.Helper()
	status, _, answer := d.request("POST", "/containers/"+container+"/exec", body)
	if status != 201 {
		d.t.Fatalf("exec create: %d %s", status, answer)
	}
	return strings.Split(answer, `"`)[3]
}

func TestHalfClose(t *testing.T) {
	d := newDaemon(t)
	// A stdin that stays open ends the client's part; the container goes on.
	d.do("run", "-di", "--name", "stays", "busybox", "sh", "-c", "while read x; do echo got $x; done")
	for _, word := range []string{"one", "two"} {
		conn, reader, _ := d.hijack("/containers/stays/attach?stream=1&stdin=1&stdout=1", "")
		io.WriteString(conn, word+"\n")
		var header [8]byte
		line := make([]byte, len("got "+word+"\n"))
		if _, err := io.ReadFull(reader, header[:]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(reader, line); err != nil || string(line) != "got "+word+"\n" {
			t.Errorf("%q, %v", line, err)
		}
		conn.CloseWrite()
		if rest, err := io.ReadAll(reader); err != nil || len(rest) > 0 {
			t.Errorf("after the half-close: %q, %v", rest, err)
		}
	}
	// One that is the first client's ends with it.
	r := d.command("run", "-i", "--rm", "busybox", "sh", "-c", "cat; echo over")
	r.Stdin = strings.NewReader("in\n")
	if got := run(t, r); got.out != "in\nover\n" {
		t.Errorf("run -i: %+v", got)
	}
	exec := d.execOf("stays", `{"Cmd":["sh","-c","cat; echo over"],"AttachStdin":true,"AttachStdout":true}`)
	conn, reader, _ := d.hijack("/exec/"+exec+"/start", "{}")
	io.WriteString(conn, "in\n")
	conn.CloseWrite()
	if out, _ := demux(t, reader); out != "in\nover\n" {
		t.Errorf("exec: %q", out)
	}
}

func TestAttachIgnoresABody(t *testing.T) {
	d := newDaemon(t)
	id := d.do("create", "-i", "busybox", "cat")
	conn, reader, _ := d.hijack("/containers/"+id+"/attach?stream=1&stdin=1&stdout=1", `{"stream":true,"stdin":true}`)
	d.do("start", id)
	io.WriteString(conn, "typed")
	conn.CloseWrite()
	if out, _ := demux(t, reader); out != "typed" {
		t.Errorf("%q", out)
	}
	d.do("run", "-d", "--name", "plain", "busybox", "sleep", "1000")
	if status, _, body := d.request("POST", "/containers/plain/resize?h=10&w=10", ""); status != 200 {
		t.Errorf("resize of what has no terminal: %d %s", status, body)
	}
	exec := d.execOf("plain", `{"Cmd":["sleep","1000"]}`)
	if status, _, body := d.request("POST", "/exec/"+exec+"/start", `{"Detach":true}`); status != 200 {
		t.Errorf("start: %d %s", status, body)
	}
	if status, _, body := d.request("POST", "/exec/"+exec+"/resize?h=10&w=10", ""); status != 200 {
		t.Errorf("resize of an exec that has none: %d %s", status, body)
	}
}

func TestAttachWithLogs(t *testing.T) {
	d := newDaemon(t)
	d.do("run", "-di", "--name", "talks", "busybox", "sh", "-c", "echo before; read x; echo after")
	d.waitForLog("talks", "before\n")
	conn, reader, _ := d.hijack("/containers/talks/attach?logs=1&stream=1&stdin=1&stdout=1&stderr=1", "")
	io.WriteString(conn, "\n")
	if out, _ := demux(t, reader); out != "before\nafter\n" {
		t.Errorf("with logs: %q", out)
	}
	_, reader, _ = d.hijack("/containers/talks/attach?logs=1&stdout=1", "")
	if out, _ := demux(t, reader); out != "before\nafter\n" {
		t.Errorf("of what has ended: %q", out)
	}
}

// waitForLog waits until a container has printed text.
func (d *daemon) waitForLog(container, text string) {
	d.t.Helper()
	_, _, answer := d.raw("GET /containers/" + container + "/logs?stdout=1&stderr=1&follow=1 HTTP/1.0\r\n\r\n")
	defer answer.Body.Close()
	var seen strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(seen.String(), text) {
		n, err := answer.Body.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			d.t.Fatalf("%s printed %q, not %q: %v", container, seen.String(), text, err)
		}
	}
}

func TestSlowClientHoldsUpNothingForEver(t *testing.T) {
	d := newDaemon(t)
	d.do("run", "-d", "--name", "prints", "busybox", "sh", "-c", "while :; do echo 0123456789012345678901234567890123456789; done | head -n 200000; echo done")
	conn, _, _ := d.hijack("/containers/prints/attach?stream=1&stdout=1", "")
	follower, _, _ := d.raw("GET /containers/prints/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: d\r\n\r\n")
	// Neither reads. The attached one holds the output up, as a terminal does,
	// until it goes; that which follows the log does not.
	conn.Close()
	if out := d.do("wait", "prints"); out != "0" {
		t.Errorf("wait: %q", out)
	}
	if out := d.do("logs", "--tail", "1", "prints"); out != "done" {
		t.Errorf("the log ends in %q", out)
	}
	follower.Close()
	gone(t, "attach")
	gone(t, "logs")
}

func TestExecStreams(t *testing.T) {
	d := newDaemon(t)
	d.do("run", "-d", "--name", "host", "-e", "A=container", "busybox", "sleep", "100")
	for name, c := range map[string]struct{ create, start, want string }{
		"console size of the start":    {`{"Cmd":["stty","size"],"Tty":true,"AttachStdout":true,"AttachStdin":true}`, `{"Tty":true,"ConsoleSize":[21,43]}`, "21 43\r\n"},
		"console size of the creation": {`{"Cmd":["stty","size"],"Tty":true,"AttachStdout":true,"AttachStdin":true,"ConsoleSize":[22,44]}`, `{"Tty":true}`, "22 44\r\n"},
		"environment, directory, user": {`{"Cmd":["sh","-c","echo $A $B; pwd; id -u"],"AttachStdout":true,"Env":["B=exec"],"WorkingDir":"/tmp","User":"1000"}`, `{}`, "container exec\n/tmp\n1000\n"},
		"privileged":                   {`{"Cmd":["sh","-c","test $(grep CapEff /proc/self/status | cut -f2) = $(grep CapBnd /proc/self/status | cut -f2) && grep -c CapEff.*1 /proc/self/status"],"AttachStdout":true,"AttachStderr":true,"Privileged":true}`, `{}`, "1\n"},
		"no such program":              {`{"Cmd":["nothing"],"AttachStdout":true,"AttachStderr":true}`, `{}`, ""},
	} {
		exec := d.execOf("host", c.create)
		_, reader, answer := d.hijack("/v1.50/exec/"+exec+"/start", c.start)
		media := "application/vnd.docker.multiplexed-stream"
		var out string
		if strings.Contains(c.start, "Tty") {
			media = "application/vnd.docker.raw-stream"
			data, err := io.ReadAll(reader)
			if err != nil {
				t.Error(err)
			}
			out = string(data)
		} else {
			out, _ = demux(t, reader)
		}
		if c.want == "" {
			if !strings.Contains(out, `exec: "nothing": executable file not found in $PATH`) {
				t.Errorf("%s: %q", name, out)
			}
			if _, _, body := d.request("GET", "/exec/"+exec+"/json", ""); !strings.Contains(body, `"ExitCode":127`) {
				t.Errorf("%s: %s", name, body)
			}
		} else if out != c.want {
			t.Errorf("%s: %q, want %q", name, out, c.want)
		}
		if got := answer.Header.Get("Content-Type"); got != media {
			t.Errorf("%s: %s, want %s", name, got, media)
		}
	}
}

func TestExecErrors(t *testing.T) {
	d := newDaemon(t)
	d.do("run", "-d", "--name", "host", "busybox", "sleep", "100")
	detached := d.execOf("host", `{"Cmd":["nothing"]}`)
	if status, _, body := d.request("POST", "/exec/"+detached+"/start", `{"Detach":true}`); status != 400 || !strings.Contains(body, "executable file not found") {
		t.Errorf("a detached one of nothing: %d %s", status, body)
	}
	if status, _, body := d.request("POST", "/exec/"+detached+"/resize?h=1&w=1", ""); status != 400 {
		t.Errorf("resize of what could not be started: %d %s", status, body)
	}
	if status, _, body := d.request("POST", "/exec/"+detached+"/start", `{"Detach":true}`); status != 409 {
		t.Errorf("a second start: %d %s", status, body)
	}
	if got := d.try("exec", "-u", "nobody-here", "host", "true"); got.code != 126 || !strings.HasPrefix(got.out, "unable to find user nobody-here: no matching entries in passwd file") {
		t.Errorf("an unknown user: %+v", got)
	}
	late := d.execOf("host", `{"Cmd":["sh","-c","read x; stty size; sleep 0.2; stty size"],"Tty":true,"AttachStdin":true,"AttachStdout":true}`)
	resized := make(chan string, 1) // the one answer
	go func() {
		status, _, body := d.request("POST", "/exec/"+late+"/resize?h=31&w=41", "")
		resized <- fmt.Sprint(status, " ", body)
	}()
	conn, reader, _ := d.hijack("/exec/"+late+"/start", `{"Tty":true}`)
	if got := <-resized; got != "200 " {
		t.Errorf("resize before the start: %s", got)
	}
	io.WriteString(conn, "\n")
	if data, err := io.ReadAll(reader); err != nil || !strings.Contains(string(data), "31 41") {
		t.Errorf("after the resize: %q, %v", data, err)
	}
	waits := d.execOf("host", `{"Cmd":["true"]}`)
	d.do("pause", "host")
	if status, _, body := d.request("POST", "/exec/"+waits+"/start", `{"Detach":true}`); status != 409 || !strings.Contains(body, "is paused") {
		t.Errorf("start in a paused container: %d %s", status, body)
	}
	d.do("unpause", "host")
}
