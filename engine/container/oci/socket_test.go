package oci_test

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// receiver listens for one descriptor and the message that comes with it.
type receiver struct {
	path string
	l    *net.UnixListener
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	dir, err := os.MkdirTemp("", "oci") // t.TempDir's path may be too long for a socket's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &receiver{path: filepath.Join(dir, "socket")}
	if r.l, err = net.ListenUnix("unix", &net.UnixAddr{Name: r.path}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.l.Close() })
	if err := r.l.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *receiver) receive(t *testing.T) (message []byte, f *os.File) {
	t.Helper()
	conn, err := r.l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	message, control := make([]byte, 64<<10), make([]byte, 64)
	n, m, _, _, err := conn.ReadMsgUnix(message, control)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:m])
	if err != nil || len(messages) != 1 {
		t.Fatal(messages, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatal(fds, err)
	}
	return message[:n], os.NewFile(uintptr(fds[0]), "received")
}

func TestConsoleSocket(t *testing.T) {
	h := newHost(t, "tty; stty size; read line; echo got $line", func(o *specs.Spec) {
		o.Process.Terminal, o.Process.ConsoleSize = true, &specs.Box{Height: 33, Width: 77}
	})
	if _, _, code := h.run("create", h.id); code == 0 {
		t.Error("a terminal without a socket for it was made")
	}
	r := newReceiver(t)
	h.must("create", "--console-socket", r.path, h.id)
	_, terminal := r.receive(t)
	defer terminal.Close()
	h.must("start", h.id)
	if _, err := terminal.WriteString("this\n"); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(terminal)
	// The end of a terminal is EIO.
	// What was typed is echoed at any place before the answer.
	if text := strings.Replace(string(out), "this\r\n", "", 1); text != "/dev/pts/0\r\n33 77\r\ngot this\r\n" {
		t.Errorf("the terminal printed %q, %v", out, err)
	}
}

// notification is struct seccomp_notif, and answer struct seccomp_notif_resp.
type notification struct {
	id         uint64
	pid, flags uint32
	nr, arch   int32
	rest       [7]uint64
}

type answer struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

func TestSeccompNotify(t *testing.T) {
	const receive, send = 0xc0502100, 0xc0182101 // SECCOMP_IOCTL_NOTIF_*
	for _, noNewPrivileges := range []bool{false, true} {
		r := newReceiver(t)
		h := newHost(t, "mkdir /tmp/x 2>&1", func(o *specs.Spec) {
			o.Process.NoNewPrivileges = noNewPrivileges
			o.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: r.path, ListenerMetadata: "about it",
				Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActNotify}}}
		})
		out := make(chan string, 1)
		go func() {
			cmd := h.command("run", h.id)
			text, _ := cmd.CombinedOutput() // mkdir fails
			out <- string(text)
		}()
		message, listener := r.receive(t)
		defer listener.Close()
		var s specs.ContainerProcessState
		if err := json.Unmarshal(message, &s); err != nil {
			t.Fatal(err)
		}
		if s.Metadata != "about it" || len(s.Fds) != 1 || s.Fds[0] != specs.SeccompFdName || s.State.ID != h.id || s.Pid == 0 || s.Pid != s.State.Pid || s.State.Status != specs.StateCreating {
			t.Errorf("process state %+v", s)
		}
		var n notification
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, listener.Fd(), receive, uintptr(unsafe.Pointer(&n))); e != 0 {
			t.Fatal(e)
		}
		a := answer{id: n.id, errno: -int32(unix.EXDEV)}
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, listener.Fd(), send, uintptr(unsafe.Pointer(&a))); e != 0 {
			t.Fatal(e)
		}
		if got := <-out; got != "mkdir: can't create directory '/tmp/x': Invalid cross-device link\n" {
			t.Errorf("the container printed %q", got)
		}
	}
}
