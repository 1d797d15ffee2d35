package dockerapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/moby/moby/api/types/common"
	dcontainer "github.com/moby/moby/api/types/container"

	"gantry/engine"
)

// execCreateRequest is the body of an exec's creation, with what older clients
// send and what its start repeats.
type execCreateRequest struct {
	dcontainer.ExecCreateRequest
	Detach    bool
	Container string
}

func (c *call) createExec() error {
	var req execCreateRequest
	if err := c.decode(&req); err != nil {
		return err
	}
	if _, err := parseDetachKeys(req.DetachKeys); err != nil {
		return err
	}
	id, err := c.cfg.Engine.ExecCreate(c.r.Context(), c.vars[0], req.ExecCreateRequest)
	if err != nil {
		return err
	}
	return c.answer(http.StatusCreated, common.IDResponse{ID: id})
}

func (c *call) startExec() error {
	ctx := c.r.Context()
	var req dcontainer.ExecStartRequest
	if err := c.decode(&req); err != nil {
		return err
	}
	asked, err := c.cfg.Engine.ExecConfig(ctx, c.vars[0])
	if err != nil {
		return err
	}
	if c.version.less(1, 42) || !req.Tty {
		req.ConsoleSize = nil // as in the reference
	}
	if req.Detach {
		if err := c.cfg.Engine.ExecStart(ctx, c.vars[0], nil, req.ConsoleSize); err != nil {
			return err
		}
		c.begun = true
		c.w.WriteHeader(http.StatusOK)
		return nil
	}
	keys, err := parseDetachKeys(asked.DetachKeys)
	if err != nil {
		return err
	}
	// Whether the streams are framed is the start's to say, as in the reference.
	conn, err := c.hijack(c.mediaType(req.Tty))
	if err != nil {
		return err
	}
	defer conn.end()
	out, errOut := writersTo(conn, req.Tty)
	live, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	s := engine.Streams{}
	if asked.Tty {
		s.DetachKeys = keys // elsewhere the bytes may be data
	}
	if asked.AttachStdin {
		s.Stdin = conn.stdin(nil, cancel)
		if asked.Tty {
			// A terminal has no half-close: the client's part ends here.
			s.Stdin = conn.stdin(func() { cancel(errClientEnded) }, cancel)
		}
	} else {
		go conn.watch(cancel)
	}
	if asked.AttachStdout {
		s.Stdout = out
	}
	if asked.AttachStderr {
		s.Stderr = errOut
	}
	err = c.cfg.Engine.ExecStart(live, c.vars[0], &s, req.ConsoleSize)
	if err != nil && live.Err() == nil && !errors.Is(err, engine.ErrDetached) {
		// The status is written: as in the reference, the error is output.
		fmt.Fprintf(out, "%v\r\n", err)
	}
	return nil
}

func (c *call) resizeExec() error {
	rows, cols, err := c.size()
	if err != nil {
		return err
	}
	if err := c.cfg.Engine.ExecResize(c.r.Context(), c.vars[0], rows, cols); err != nil {
		return err
	}
	c.begun = true
	c.w.WriteHeader(http.StatusOK)
	return nil
}

func (c *call) inspectExec() error {
	found, err := c.cfg.Engine.ExecInspect(c.r.Context(), c.vars[0])
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, found)
}
