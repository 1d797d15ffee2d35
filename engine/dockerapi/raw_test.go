package dockerapi_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/moby/moby/api/pkg/stdcopy"
)

// hijack asks for a container's streams and returns the connection.
func (d *daemon) hijack(path string, body string) (*net.UnixConn, *bufio.Reader, *http.Response) {
	d.t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: d.socket, Net: "unix"})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	reader := bufio.NewReader(conn)
	answer, err := http.ReadResponse(reader, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	return conn, reader, answer
}

func TestHijackedStreams(t *testing.T) {
	d := newDaemon(t)
	id := d.do("create", "-i", "busybox", "sh", "-c", "cat; echo end; echo err >&2")
	conn, reader, answer := d.hijack("/v1.50/containers/"+id+"/attach?stream=1&stdin=1&stdout=1&stderr=1", "")
	if answer.StatusCode != 101 || answer.Header.Get("Content-Type") != "application/vnd.docker.multiplexed-stream" || answer.Header.Get("Upgrade") != "tcp" {
		t.Fatalf("answer %d %v", answer.StatusCode, answer.Header)
	}
	d.do("start", id)
	big := strings.Repeat("0123456789abcdef", 64<<10)
	go func() {
		io.WriteString(conn, big)
		conn.CloseWrite()
	}()
	var out, errOut bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errOut, reader); err != nil {
		t.Errorf("read the streams: %v", err)
	}
	if out.String() != big+"end\n" || errOut.String() != "err\n" {
		t.Errorf("%d bytes on stdout, %q on stderr", out.Len(), errOut.String())
	}
}
