package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"gantry/engine/container/wire"
	"gantry/internal/problem"
)

// link is a connection to a shim that makes requests and hears of exits. A
// goroutine in serve reads it.
type link struct {
	conn   net.Conn
	onExit func(wire.Exit)
	lost   chan struct{} // closed when the connection has ended

	mu      sync.Mutex
	next    uint32
	waiting map[uint32]chan wire.Reply

	writeMu sync.Mutex // a frame goes out whole; never with mu
}

func newLink(conn net.Conn, onExit func(wire.Exit)) *link {
	return &link{conn: conn, onExit: onExit, lost: make(chan struct{}), waiting: map[uint32]chan wire.Reply{}}
}

// errLost is what a request fails with when the shim has gone.
var errLost = problem.New(problem.Unavailable, "the shim has ended")

// serve reads replies and exits until the connection ends.
func (l *link) serve() {
	defer close(l.lost)
	defer l.conn.Close()
	for {
		message, err := readFrame(l.conn)
		if err != nil {
			return
		}
		d := &wire.Decoder{B: message}
		kind, number := wire.Kind(d.U8()), d.U32()
		switch kind {
		case wire.KindReply:
			var r wire.Reply
			if r.Decode(d); d.Bad {
				r = wire.Reply{Failure: wire.FailRequest} // whoever waits hears of it; the container runs on
			}
			l.mu.Lock()
			waiting := l.waiting[number]
			delete(l.waiting, number)
			l.mu.Unlock()
			if waiting != nil {
				waiting <- r // has room for one
			}
		case wire.KindExit:
			var x wire.Exit
			x.Decode(d)
			if !d.Bad {
				l.onExit(x)
			}
		default:
			return // nothing else comes from a shim
		}
	}
}

func readFrame(r io.Reader) ([]byte, error) {
	var h [wire.HeaderSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	n := int(h[0]) | int(h[1])<<8 | int(h[2])<<16 | int(h[3])<<24
	if n < 5 || n > wire.MaxFrame {
		return nil, fmt.Errorf("a frame of %d bytes from the shim", n)
	}
	message := make([]byte, n)
	_, err := io.ReadFull(r, message)
	return message, err
}

// request builds the frame of a message.
func request(kind wire.Kind, number uint32, body func(*wire.Encoder)) []byte {
	e := &wire.Encoder{B: make([]byte, wire.HeaderSize, 64)}
	e.U8(uint8(kind))
	e.U32(number)
	if body != nil {
		body(e)
	}
	n := len(e.B) - wire.HeaderSize
	copy(e.B, []byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)})
	return e.B
}

// call makes a request and waits for its reply.
func (l *link) call(ctx context.Context, kind wire.Kind, body func(*wire.Encoder)) (wire.Reply, error) {
	reply := make(chan wire.Reply, 1)
	l.mu.Lock()
	l.next++
	number := l.next
	l.waiting[number] = reply
	l.mu.Unlock()
	l.writeMu.Lock()
	_, err := l.conn.Write(request(kind, number, body))
	l.writeMu.Unlock()
	if err != nil {
		return wire.Reply{}, errLost
	}
	select {
	case r := <-reply:
		return r, nil
	case <-l.lost:
		select {
		case r := <-reply:
			return r, nil
		default:
			return wire.Reply{}, errLost
		}
	case <-ctx.Done():
		return wire.Reply{}, context.Cause(ctx)
	}
}

// dial connects to a socket whose path may be too long for an address.
func dial(path string) (net.Conn, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return net.Dial("unix", procPath(dir, path))
}

func procPath(dir *os.File, path string) string {
	return "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + filepath.Base(path)
}

// listen makes the socket that the shim will accept on.
func listen(path string) (*os.File, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: procPath(dir, path)})
	if err == nil {
		err = unix.Listen(fd, 64)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), f.Close())
	}
	return f, nil
}

// socketpair returns our end and the shim's of the first connection.
func socketpair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "shim"), os.NewFile(uintptr(fds[1]), "shim")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn, theirs, nil
}
