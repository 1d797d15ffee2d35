package container

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"

	"gantry/engine/container/wire"
)

// Attach copies between s and the container until its output ends, ctx is
// done, or the detach keys arrive (ErrDetached). Any number of clients may be
// attached; one that reads slowly holds the container's output up. A client
// that Attach has connected before Start misses nothing; attached, if not nil,
// is called at that moment. A Read of s.Stdin may be left waiting when Attach
// returns; the caller closes what it reads from.
func (c *Container) Attach(ctx context.Context, s Streams, attached func()) error {
	return c.attach(ctx, "", s, attached)
}

func (c *Container) attach(ctx context.Context, process string, s Streams, attached func()) error {
	if c.foreign != nil {
		return c.foreign.err
	}
	conn, err := dial(c.r.socketPath(c.state.ID))
	if err != nil {
		return c.notRunning()
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	err = c.stream(conn, process, s, attached)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (c *Container) stream(conn net.Conn, process string, s Streams, attached func()) error {
	_, err := conn.Write(request(wire.KindAttach, 1, func(e *wire.Encoder) {
		e.U32(c.version)
		e.Str(process)
		e.Bool(s.Stdin != nil)
		e.Bool(s.Stdout != nil)
		e.Bool(s.Stderr != nil)
	}))
	if err != nil {
		return c.notRunning()
	}
	message, err := readFrame(conn)
	if err != nil {
		return c.notRunning() // it ended just now
	}
	d := &wire.Decoder{B: message}
	d.U8()
	d.U32()
	var r wire.Reply
	r.Decode(d)
	if err := c.failure(r, "attach"); err != nil {
		return err
	}
	if attached != nil {
		attached()
	}
	detached := make(chan struct{})
	if s.Stdin != nil {
		go func() {
			if sendInput(conn, s) {
				close(detached)
				conn.Close()
			}
		}()
	}
	err = receiveOutput(conn, s)
	select {
	case <-detached:
		return ErrDetached
	default:
		return err
	}
}

// sendInput sends stdin until it ends; true if it was by the detach keys.
func sendInput(conn net.Conn, s Streams) bool {
	keys := detacher{keys: s.DetachKeys}
	buf := make([]byte, wire.HeaderSize+wire.MaxChunk)
	for {
		n, err := s.Stdin.Read(buf[wire.HeaderSize : wire.HeaderSize+wire.MaxChunk/2])
		if n > 0 {
			send, detach := keys.filter(buf[wire.HeaderSize : wire.HeaderSize+n])
			frame := append(buf[:wire.HeaderSize:wire.HeaderSize], send...)
			wire.PutHeader(frame, wire.Stdin, len(send))
			if len(send) > 0 {
				if _, err := conn.Write(frame); err != nil {
					return false
				}
			}
			if detach {
				return true
			}
		}
		if err != nil {
			// What was held back were no detach keys after all.
			rest := keys.keys[:keys.have]
			frame := append(buf[:wire.HeaderSize:wire.HeaderSize], rest...)
			wire.PutHeader(frame, wire.Stdin, len(rest))
			if len(rest) == 0 {
				frame = frame[:0]
			}
			end := append(frame, make([]byte, wire.HeaderSize)...)
			wire.PutHeader(end[len(frame):], wire.StdinEnd, 0)
			_, _ = conn.Write(end) // the output's reader hears of a broken connection
			return false
		}
	}
}

// detacher finds the detach keys in a stream of input.
type detacher struct {
	keys []byte
	have int // of keys, already read and held back
}

// filter returns what of in is to be sent, and whether the keys were complete.
// Keys that turn out to be the beginning of something else are sent after all.
func (d *detacher) filter(in []byte) (send []byte, detach bool) {
	if len(d.keys) == 0 {
		return in, false
	}
	send = make([]byte, 0, len(in)+d.have)
	for _, b := range in {
		// What is held back, and b: send of it what cannot begin the keys.
		held := append(d.keys[:d.have:d.have], b)
		keep := len(held)
		for !bytes.Equal(held[len(held)-keep:], d.keys[:keep]) {
			keep--
		}
		send = append(send, held[:len(held)-keep]...)
		d.have = keep
		if d.have == len(d.keys) {
			return send, true
		}
	}
	return send, false
}

// receiveOutput copies what the shim sends until it says that this is all.
func receiveOutput(conn net.Conn, s Streams) error {
	buf := make([]byte, wire.HeaderSize+wire.MaxChunk)
	for {
		if _, err := io.ReadFull(conn, buf[:wire.HeaderSize]); err != nil {
			return lostStream(err)
		}
		stream, n := wire.Header(buf)
		if n > wire.MaxChunk {
			return errors.New("attach: a frame that is too long")
		}
		if _, err := io.ReadFull(conn, buf[:n]); err != nil {
			return lostStream(err)
		}
		var w io.Writer
		switch stream {
		case wire.End:
			return nil
		case wire.Stdout:
			w = s.Stdout
		case wire.Stderr:
			w = s.Stderr
		case wire.Stdin, wire.StdinEnd:
		}
		if w == nil {
			continue
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
	}
}

func lostStream(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errLost
	}
	return err
}
