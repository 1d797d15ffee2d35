package logsink

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// receive returns what a journal is sent: a datagram, or what it refers to.
func receive(t *testing.T, l *net.UnixConn) string {
	t.Helper()
	buf, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4))
	l.SetReadDeadline(time.Now().Add(limit))
	n, noob, _, _, err := l.ReadMsgUnix(buf, oob)
	if err != nil {
		t.Fatal(err)
	}
	if noob == 0 {
		return string(buf[:n])
	}
	messages, err := unix.ParseSocketControlMessage(oob[:noob])
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "message")
	defer f.Close()
	const all = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL
	if seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0); seals != all || err != nil {
		t.Errorf("seals are %x, %v", seals, err)
	}
	data, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	j := NewJournal(path, map[string]string{"CONTAINER_NAME": "web", "LABEL": "a\nb"})
	defer j.Close()
	at := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	const fields = "CONTAINER_NAME=web\nLABEL\n\x03\x00\x00\x00\x00\x00\x00\x00a\nb\n"
	const stamp = "SYSLOG_TIMESTAMP=2026-01-02T03:04:05.0000006Z\n"
	large := strings.Repeat("x", 4<<20) // more than a socket's buffer
	for name, c := range map[string]struct {
		m    Message
		want string
	}{
		"a line":           {Message{Time: at, Line: []byte("a=b")}, fields + "PRIORITY=6\n" + stamp + "MESSAGE=a=b\n"},
		"an error":         {Message{Time: at, Stderr: true}, fields + "PRIORITY=3\n" + stamp + "MESSAGE=\n"},
		"in sealed memory": {Message{Time: at, Line: []byte(large)}, fields + "PRIORITY=6\n" + stamp + "MESSAGE=" + large + "\n"},
		"a piece": {Message{Time: at, Line: []byte("a"), Piece: Piece{"id", 2, false}}, fields + "PRIORITY=6\n" + stamp +
			"CONTAINER_PARTIAL_ID=id\nCONTAINER_PARTIAL_ORDINAL=2\nCONTAINER_PARTIAL_LAST=false\nCONTAINER_PARTIAL_MESSAGE=true\nMESSAGE=a\n"},
		"the last piece": {Message{Time: at, Line: []byte("a"), Piece: Piece{"id", 3, true}}, fields + "PRIORITY=6\n" + stamp +
			"CONTAINER_PARTIAL_ID=id\nCONTAINER_PARTIAL_ORDINAL=3\nCONTAINER_PARTIAL_LAST=true\nMESSAGE=a\n"},
	} {
		if err := j.Send(t.Context(), c.m); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := receive(t, l); got != c.want {
			t.Errorf("%s: %.300q, want %.300q", name, got, c.want)
		}
	}
	l.Close()
	if err := j.Send(t.Context(), Message{Time: at}); err == nil {
		t.Error("sent to nobody")
	}
}

func TestFieldName(t *testing.T) {
	for name, want := range map[string]string{"com.example/a-1": "COM_EXAMPLE_A_1", "__x": "X", "é": "", "1": "1"} {
		if got := FieldName(name); got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
}
