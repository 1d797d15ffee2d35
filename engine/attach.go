package engine

import (
	"context"
	"errors"
	"slices"

	"gantry/engine/container"
)

// ErrDetached is what ends an attachment whose client sent the detach keys.
const ErrDetached = container.ErrDetached

// Attachment is a caller's claim on the streams of a container's present run,
// or, if it does not run, of its next. Exactly one of Run and Close must be
// called.
type Attachment struct {
	r       *record
	run     chan *run     // to attach to, entered as a reader; room for one
	settled chan struct{} // closed when the start need not wait any more
}

// Attach claims the streams of a container. A start that follows waits for the
// attachment to Run or Close, so that no output is missed.
func (e *Engine) Attach(ctx context.Context, ref string) (*Attachment, error) {
	r, err := e.find(ref)
	if err != nil {
		return nil, err
	}
	a := &Attachment{r: r, run: make(chan *run, 1), settled: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.run != nil {
		r.run.readers.enter()
		a.run <- r.run
	} else {
		r.claims = append(r.claims, a)
	}
	return a, nil
}

// Run copies until the process ends, the caller detaches (ErrDetached), or ctx
// ends.
func (a *Attachment) Run(ctx context.Context, s Streams) error {
	defer a.Close()
	select {
	case this := <-a.run:
		return relay(ctx, s, this.proc.Done(), func(s Streams) error {
			defer this.readers.leave()
			return this.proc.Attach(ctx, container.Streams(s), a.settle)
		})
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close gives the claim up.
func (a *Attachment) Close() {
	a.r.mu.Lock()
	a.r.claims = slices.DeleteFunc(a.r.claims, func(other *Attachment) bool { return other == a })
	a.r.mu.Unlock()
	select {
	case this := <-a.run:
		this.readers.leave()
	default:
	}
	a.settle()
}

func (a *Attachment) settle() {
	a.r.mu.Lock()
	defer a.r.mu.Unlock()
	select {
	case <-a.settled:
	default:
		close(a.settled)
	}
}

// connectClaims gives the process to those who wait for its streams, and waits
// until they are connected.
func (r *record) connectClaims(ctx context.Context, this *run) error {
	r.mu.Lock()
	claims := r.claims
	r.claims = nil
	r.mu.Unlock()
	for _, a := range claims {
		this.readers.enter()
		a.run <- this
	}
	for _, a := range claims {
		select {
		case <-a.settled:
		case <-this.proc.Done():
			return errors.New("the process ended before its start")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Resize sets the size of a container's terminal. Errors: Conflict.
func (e *Engine) Resize(ctx context.Context, ref string, rows, cols uint16) error {
	r, err := e.find(ref)
	if err != nil {
		return err
	}
	this := r.running()
	if this == nil {
		return notRunning(r.id)
	}
	if !r.config().Config.Tty {
		return nil // as in the reference
	}
	return this.proc.Resize(ctx, rows, cols)
}
