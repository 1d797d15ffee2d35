package dockerapi

import (
	"context"
	"io"
	"net/http"
	"sync"

	"golang.org/x/net/websocket"

	"gantry/engine"
	"gantry/internal/problem"
)

// attachByWebSocket connects the client with a container's streams by a
// WebSocket, which carries both output streams as one.
func (c *call) attachByWebSocket() error {
	found, keys, err := c.attachable()
	if err != nil {
		return err
	}
	if _, ok := c.w.(http.Hijacker); !ok {
		return problem.New(problem.Unsupported, "a WebSocket needs HTTP/1.1")
	}
	claim, err := c.cfg.Engine.Attach(c.r.Context(), found.ID)
	if err != nil {
		return err
	}
	claimed := true // until Run, which does it itself
	defer func() {
		if claimed {
			claim.Close()
		}
	}()
	c.begun = true
	serve := func(conn *websocket.Conn) {
		if !c.version.less(1, 28) {
			conn.PayloadType = websocket.BinaryFrame
		}
		if c.query.bool("logs") && c.replay(found, conn, conn) != nil {
			return
		}
		if !c.query.bool("stream") {
			return
		}
		claimed = false
		err = c.relayWebSocket(conn, claim, found, keys)
	}
	websocket.Server{Handler: serve}.ServeHTTP(c.w, c.r) // as in the reference, from any origin
	return err
}

// relayWebSocket copies until the container ends, or the client leaves.
func (c *call) relayWebSocket(conn *websocket.Conn, claim *engine.Attachment, found engine.Container, keys []byte) error {
	live, cancel := context.WithCancelCause(context.WithoutCancel(c.r.Context()))
	var reading sync.WaitGroup
	defer func() {
		cancel(nil)
		conn.Close()
		reading.Wait()
	}()
	all := c.version.less(1, 42) // before, what was asked for did not count
	var s engine.Streams
	if found.Config.Tty {
		s.DetachKeys = keys
	}
	in := &input{Reader: conn, end: func() { cancel(errClientEnded) }}
	if (all || c.query.bool("stdin")) && found.Config.OpenStdin {
		s.Stdin = in
	} else {
		reading.Go(func() { _, _ = io.Copy(io.Discard, in) }) // finds out that the client leaves
	}
	if all || c.query.bool("stdout") {
		s.Stdout = conn
	}
	if all || c.query.bool("stderr") {
		s.Stderr = conn
	}
	return c.runAttachment(live, claim, s, found)
}
