package dockerapi_test

import (
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/websocket"
)

// webSocket attaches to a container by a WebSocket.
func (d *daemon) webSocket(path string) *websocket.Conn {
	d.t.Helper()
	raw, err := net.Dial("unix", d.socket)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { raw.Close() })
	if err := raw.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		d.t.Fatal(err)
	}
	config, err := websocket.NewConfig("ws://docker"+path, "http://docker")
	if err != nil {
		d.t.Fatal(err)
	}
	conn, err := websocket.NewClient(config, raw)
	if err != nil {
		d.t.Fatal(err)
	}
	conn.PayloadType = websocket.BinaryFrame
	return conn
}

func TestAttachByWebSocket(t *testing.T) {
	d := newDaemon(t)
	id := d.do("create", "-i", "busybox", "sh", "-c", "read x; echo got $x; echo err >&2; exit 3")
	conn := d.webSocket("/v1.41/containers/" + id + "/attach/ws?stream=1") // before 1.42 all the streams
	d.do("start", id)
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(conn)
	if text := string(out); err != nil || text != "got hello\nerr\n" && text != "err\ngot hello\n" {
		t.Errorf("output %q, %v", out, err)
	}
	if code := d.do("wait", id); code != "3" {
		t.Errorf("exit code %s", code)
	}
	again := d.webSocket("/v1.50/containers/" + id + "/attach/ws?logs=1&stdout=1")
	if out, err := io.ReadAll(again); err != nil || string(out) != "got hello\n" {
		t.Errorf("the log: %q, %v", out, err)
	}
}

func TestWebSocketsOfTerminals(t *testing.T) {
	d := newDaemon(t)
	d.do("run", "-d", "-it", "--name", "term", "busybox", "sh", "-c", "echo ready; exec cat")
	d.awaitLog("term", "ready")
	conn := d.webSocket("/v1.50/containers/term/attach/ws?stream=1&stdin=1&stdout=1&detachKeys=ctrl-a")
	if _, err := conn.Write([]byte{'x', '\n', 1}); err != nil { // the last one detaches
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); err != nil {
		t.Errorf("after the detach keys: %v", err)
	}
	// A client that leaves takes nothing along.
	d.webSocket("/v1.50/containers/term/attach/ws?stream=1&stdout=1").Close()
	if out := d.do("inspect", "-f", "{{.State.Running}}", "term"); out != "true" {
		t.Errorf("running: %s", out)
	}
	if status, _, body := d.request("GET", "/containers/term/attach/ws?stream=1", ""); status != 400 {
		t.Errorf("without a handshake: %d %s", status, body)
	}
}
