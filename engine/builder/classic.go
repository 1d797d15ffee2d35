package builder

import (
	"bytes"
	"fmt"
	"io"
)

// Classic writes a build's events as the text that docker build shows without
// BuildKit. Stages that run at the same time are shown one after the other, in
// the order of the Dockerfile: a step's lines wait until the steps before it are
// done.
//
// Each piece of text is one Write, which may be a message of its own to a
// client. Not for concurrent use; the builder calls progress one at a time.
type Classic struct {
	w       io.Writer
	step    int // whose lines are written now
	waiting map[int][]Event
	err     error
}

// NewClassic returns a Classic that writes to w. Give its Event method to Build,
// then call Close.
func NewClassic(w io.Writer) *Classic {
	return &Classic{w: w, step: 1, waiting: map[int][]Event{}}
}

// Event takes one event.
func (c *Classic) Event(e Event) {
	if e.Step == 0 {
		c.render(e)
		return
	}
	if e.Step != c.step {
		e.Data = bytes.Clone(e.Data)
		c.waiting[e.Step] = append(c.waiting[e.Step], e)
		return
	}
	c.render(e)
	for done := e.Kind == StepDone; done; {
		c.step++
		done = false
		for _, w := range c.waiting[c.step] {
			c.render(w)
			done = done || w.Kind == StepDone
		}
		delete(c.waiting, c.step)
	}
}

// Close writes what a failed step had said, if the steps before it never ended,
// and returns the first error of writing.
func (c *Classic) Close() error {
	for _, events := range c.waiting {
		if events[len(events)-1].Kind != StepFailed {
			continue
		}
		for _, e := range events {
			c.render(e)
		}
	}
	clear(c.waiting)
	return c.err
}

func (c *Classic) render(e Event) {
	switch e.Kind {
	case StepStarted:
		c.printf("Step %d/%d : %s\n", e.Step, e.Steps, e.Text)
	case Cached:
		c.printf(" ---> Using cache\n")
	case Running:
		c.printf(" ---> Running in %s\n", shortID(e.Container))
	case Output:
		c.write(e.Data)
	case Removed:
		c.printf(" ---> Removed intermediate container %s\n", shortID(e.Container))
	case Note:
		c.printf("%s\n", e.Text)
	case Warning:
		c.printf("%s\n", e.Text)
	case StepDone:
		if e.Stage != "" { // an ARG before the first FROM makes nothing
			c.printf(" ---> %s\n", shortID(e.Image))
		}
	case Built:
		c.printf("Successfully built %s\n", shortID(e.Image))
	case Tagged:
		c.printf("Successfully tagged %s\n", e.Text)
	case StepFailed, Context:
	}
}

func (c *Classic) printf(format string, args ...any) { c.write(fmt.Appendf(nil, format, args...)) }

func (c *Classic) write(p []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(p)
	}
}

// shortID shortens an image or container ID as Docker does.
func shortID(id string) string {
	const algorithm = "sha256:"
	if len(id) > len(algorithm) && id[:len(algorithm)] == algorithm {
		id = id[len(algorithm):]
	}
	return id[:min(12, len(id))]
}
