package dockerapi

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"

	"github.com/moby/moby/api/types"
	"golang.org/x/sys/unix"
)

// hijacked is a connection taken over from HTTP for a container's streams.
type hijacked struct {
	net.Conn
	in io.Reader // what the client sends
}

// errClientEnded is the cause that ends the context of a call whose client has
// ended the stream.
var errClientEnded = errors.New("the client has ended the stream")

// stdin returns the client's input. halfClose, if not nil, is called at its end.
// A client that is found to have gone altogether, now or later, ends the call by
// cancel.
func (h *hijacked) stdin(halfClose func(), cancel context.CancelCauseFunc) io.Reader {
	return &input{Reader: h.in, end: func() {
		if halfClose != nil {
			halfClose()
		}
		go h.watch(cancel)
	}}
}

// watch waits until the client has closed the connection in both directions, or
// the connection is closed here. Nobody may be reading from it.
func (h *hijacked) watch(cancel context.CancelCauseFunc) {
	conn := h.Conn
	if secure, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = secure.NetConn()
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return // a write will find out
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return // closed here
	}
	hungUp := func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(poll, 0)
		return err == nil && poll[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	}
	if raw.Read(hungUp) == nil {
		cancel(errClientEnded)
	}
}

// input is a reader whose end is told, once.
type input struct {
	io.Reader
	once sync.Once
	end  func()
}

func (in *input) Read(p []byte) (int, error) {
	n, err := in.Reader.Read(p)
	if err != nil {
		in.once.Do(in.end)
	}
	return n, err
}

// hijack takes the connection over, and tells the client so. The request's
// context is of no use any more: it ends with the client's input, while output
// may go on.
func (c *call) hijack(media string) (*hijacked, error) {
	conn, buffered, err := http.NewResponseController(c.w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("take the connection over: %w", err)
	}
	c.begun = true
	head := "HTTP/1.1 200 OK\r\nContent-Type: " + types.MediaTypeRawStream + "\r\n\r\n"
	if c.r.Header.Get("Upgrade") != "" {
		head = "HTTP/1.1 101 UPGRADED\r\nContent-Type: " + media + "\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
	}
	if _, err := io.WriteString(conn, head); err != nil {
		return nil, errors.Join(errClientGone, conn.Close())
	}
	if socket, ok := conn.(*net.UnixConn); ok && !strings.HasPrefix(c.r.UserAgent(), "Docker-Client/") {
		awaitRead(socket)
	}
	// Past what is buffered the server's reader must not be used: at the
	// client's half-close it would end the request's context.
	ahead := io.LimitReader(buffered.Reader, int64(buffered.Reader.Buffered()))
	return &hijacked{conn, io.MultiReader(ahead, conn)}, nil
}

// end tells the client that no more output comes, and closes.
func (h *hijacked) end() {
	if half, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // the client may have gone
	}
	_ = h.Close() // nothing was promised about it
}

// mediaType is what a container's output is called: raw from a terminal,
// otherwise two streams in one.
func (c *call) mediaType(tty bool) string {
	if !tty && !c.version.less(1, 42) {
		return types.MediaTypeMultiplexedStream
	}
	return types.MediaTypeRawStream
}

// The streams' numbers in a frame's first byte.
const (
	stdoutFrame = 1
	stderrFrame = 2
)

// frames writes two streams into one, each write as a frame: the stream's
// number, three zero bytes, the length as a big-endian number of four bytes, and
// the bytes.
type frames struct {
	mu  sync.Mutex
	out io.Writer
	buf []byte
}

// stream returns the writer of one of the streams.
func (f *frames) stream(number byte) io.Writer { return &frameWriter{f, number} }

type frameWriter struct {
	frames *frames
	number byte
}

func (w *frameWriter) Write(p []byte) (int, error) {
	f := w.frames
	f.mu.Lock()
	defer f.mu.Unlock()
	f.buf = append(f.buf[:0], w.number, 0, 0, 0, 0, 0, 0, 0)
	binary.BigEndian.PutUint32(f.buf[4:], uint32(len(p)))
	f.buf = append(f.buf, p...)
	if _, err := f.out.Write(f.buf); err != nil {
		return 0, err
	}
	return len(p), nil
}

// writersTo returns where a container's output goes: with a terminal all of it
// to out as it is, otherwise framed.
func writersTo(out io.Writer, tty bool) (stdout, stderr io.Writer) {
	if tty {
		return out, out
	}
	f := &frames{out: out}
	return f.stream(stdoutFrame), f.stream(stderrFrame)
}

// controlKeys are the names of the keys beyond the letters.
var controlKeys = map[string]byte{"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}

// defaultDetachKeys are ctrl-p, ctrl-q.
var defaultDetachKeys = []byte{16, 17}

// parseDetachKeys parses "ctrl-p,ctrl-q" or "a,b"; empty means the default.
func parseDetachKeys(text string) ([]byte, error) {
	if text == "" {
		return defaultDetachKeys, nil
	}
	var keys []byte
	for name := range strings.SplitSeq(text, ",") {
		if len(name) == 1 {
			keys = append(keys, name[0])
			continue
		}
		key, ok := strings.CutPrefix(strings.ToLower(name), "ctrl-")
		if !ok || len(key) != 1 {
			return nil, invalid("Invalid escape keys (%s) provided: unknown character: '%s'", text, name)
		}
		if key[0] >= 'a' && key[0] <= 'z' {
			keys = append(keys, key[0]-'a'+1)
			continue
		}
		code, ok := controlKeys[key]
		if !ok {
			return nil, invalid("Invalid escape keys (%s) provided: unknown character: '%s'", text, name)
		}
		keys = append(keys, code)
	}
	return keys, nil
}

// flusher writes through at once.
type flusher struct{ c *call }

func (f flusher) Write(p []byte) (int, error) {
	n, err := f.c.w.Write(p)
	if err != nil {
		return n, errClientGone
	}
	return n, f.c.flush()
}
