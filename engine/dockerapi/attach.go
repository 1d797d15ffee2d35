package dockerapi

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"gantry/engine"
	"gantry/internal/problem"
)

// attachable finds the container to attach to, and the keys to detach with.
func (c *call) attachable() (engine.Container, []byte, error) {
	found, err := c.cfg.Engine.Container(c.r.Context(), c.vars[0])
	if err != nil {
		return found, nil, err
	}
	keys, err := parseDetachKeys(c.query.Get("detachKeys"))
	switch {
	case err != nil:
	case found.Status == "paused":
		err = problem.New(problem.Conflict, "container %s is paused, unpause the container before attach", found.ID)
	case found.Status == "restarting":
		err = problem.New(problem.Conflict, "container %s is restarting, wait until the container is running", found.ID)
	}
	return found, keys, err
}

// attach connects the client with a container's streams. The claim comes before
// the answer: the client starts the container when it has that.
func (c *call) attach() error {
	ctx := c.r.Context()
	found, keys, err := c.attachable()
	if err != nil {
		return err
	}
	// dockerode repeats the query as a body. It is not input.
	if c.r.ContentLength > 0 {
		if _, err := io.Copy(io.Discard, c.r.Body); err != nil {
			return errClientGone
		}
	}
	claim, err := c.cfg.Engine.Attach(ctx, found.ID)
	if err != nil {
		return err
	}
	conn, err := c.hijack(c.mediaType(found.Config.Tty))
	if err != nil {
		claim.Close()
		return err
	}
	defer conn.end()
	out, errOut := writersTo(conn, found.Config.Tty)
	if c.query.bool("logs") {
		if err := c.replay(found, out, errOut); err != nil {
			claim.Close()
			return err
		}
	}
	if !c.query.bool("stream") {
		claim.Close()
		return nil
	}
	live, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	s := engine.Streams{}
	if found.Config.Tty {
		s.DetachKeys = keys // elsewhere the bytes may be data
	}
	if c.query.bool("stdin") && found.Config.OpenStdin {
		s.Stdin = conn.stdin(nil, cancel)
		if found.Config.Tty || !found.Config.StdinOnce {
			// The container's stdin stays open for others; as in the
			// reference the client's part ends here.
			s.Stdin = conn.stdin(func() { cancel(errClientEnded) }, cancel)
		}
	} else {
		go conn.watch(cancel)
	}
	if c.query.bool("stdout") {
		s.Stdout = out
	}
	if c.query.bool("stderr") {
		s.Stderr = errOut
	}
	return c.runAttachment(live, claim, s, found)
}

// runAttachment copies until the container ends, the client detaches, or live
// ends.
func (c *call) runAttachment(live context.Context, claim *engine.Attachment, s engine.Streams, found engine.Container) error {
	c.cfg.Engine.Emit("container", "attach", found.ID, eventAttributes(found))
	err := claim.Run(live, s)
	if errors.Is(err, engine.ErrDetached) {
		c.cfg.Engine.Emit("container", "detach", found.ID, eventAttributes(found))
		return nil
	}
	if live.Err() != nil {
		return nil
	}
	return err
}

func eventAttributes(found engine.Container) map[string]string {
	attributes := map[string]string{}
	for k, v := range found.Config.Labels {
		attributes[k] = v
	}
	attributes["image"], attributes["name"] = found.Config.Image, found.Name
	return attributes
}

// replay writes what the container has printed so far.
func (c *call) replay(found engine.Container, out, errOut io.Writer) error {
	opts := engine.LogsOptions{Stdout: c.query.bool("stdout"), Stderr: c.query.bool("stderr"), Tail: -1}
	return c.cfg.Engine.Logs(c.r.Context(), found.ID, opts, func(line engine.LogLine) error {
		to := out
		if line.Stderr {
			to = errOut
		}
		_, err := to.Write(line.Text)
		return err
	})
}

// timestamp is the reference's fixed-width form.
const timestamp = "2006-01-02T15:04:05.000000000Z07:00"

func (c *call) logs() error {
	ctx := c.r.Context()
	opts, err := c.logsOptions()
	if err != nil {
		return err
	}
	found, err := c.cfg.Engine.Container(ctx, c.vars[0])
	if err != nil {
		return err
	}
	if err := c.cfg.Engine.LogReadable(ctx, found.ID); err != nil {
		return err
	}
	stamps, details := c.query.bool("timestamps"), c.query.bool("details")
	c.w.Header().Set("Content-Type", c.mediaType(found.Config.Tty))
	c.begun = true
	c.w.WriteHeader(http.StatusOK)
	if err := c.flush(); err != nil {
		return err
	}
	var sink io.Writer = flusher{c}
	if !opts.Follow {
		buffered := bufio.NewWriterSize(c.w, 64<<10)
		defer buffered.Flush()
		sink = buffered
	}
	out, errOut := writersTo(sink, found.Config.Tty)
	var line []byte
	return c.cfg.Engine.Logs(ctx, found.ID, opts, func(l engine.LogLine) error {
		line = line[:0]
		if stamps {
			line = l.Time.UTC().AppendFormat(line, timestamp)
			line = append(line, ' ')
		}
		if details {
			line = append(line, attributes(l.Attrs)...)
			line = append(line, ' ')
		}
		line = append(line, l.Text...)
		to := out
		if l.Stderr {
			to = errOut
		}
		_, err := to.Write(line)
		return err
	})
}

// attributes writes what a log's entry is tagged with as the reference does.
func attributes(attrs map[string]string) string {
	var words []string
	for name, value := range attrs {
		words = append(words, url.QueryEscape(name)+"="+url.QueryEscape(value))
	}
	slices.Sort(words)
	return strings.Join(words, ",")
}

func (c *call) logsOptions() (opts engine.LogsOptions, err error) {
	opts = engine.LogsOptions{
		Stdout: c.query.bool("stdout"), Stderr: c.query.bool("stderr"), Follow: c.query.bool("follow"), Tail: -1,
	}
	if !opts.Stdout && !opts.Stderr {
		return opts, invalid("Bad parameters: you must choose at least one stream")
	}
	if tail := c.query.Get("tail"); tail != "" && tail != "all" {
		// As in the reference, what is no number means all.
		if n, err := strconv.Atoi(tail); err == nil {
			opts.Tail = n
		}
	}
	if opts.Since, err = c.query.time("since"); err != nil {
		return opts, err
	}
	if c.query.Get("until") == "0" {
		return opts, nil // as in the reference, which knows it for logs alone
	}
	opts.Until, err = c.query.time("until")
	if !opts.Until.IsZero() && opts.Until.Before(time.Now()) {
		opts.Follow = false
	}
	return opts, err
}

func (c *call) size() (rows, cols uint16, err error) {
	h, err := c.query.int("h")
	if err != nil {
		return 0, 0, err
	}
	w, err := c.query.int("w")
	if err != nil {
		return 0, 0, err
	}
	if h < 0 || w < 0 || h > 0xffff || w > 0xffff {
		return 0, 0, invalid("invalid terminal size %d×%d", h, w)
	}
	return uint16(h), uint16(w), nil
}

func (c *call) resize() error {
	rows, cols, err := c.size()
	if err != nil {
		return err
	}
	if err := c.cfg.Engine.Resize(c.r.Context(), c.vars[0], rows, cols); err != nil {
		return err
	}
	c.begun = true
	c.w.WriteHeader(http.StatusOK)
	return nil
}
