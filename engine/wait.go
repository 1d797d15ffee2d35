package engine

import (
	"context"
	"slices"
	"sync"

	dcontainer "github.com/moby/moby/api/types/container"
)

// moment is what waiters wait for.
type moment int

const (
	exited moment = iota
	removed
)

// waiter waits for one moment of a container.
type waiter struct {
	what moment
	came chan dcontainer.WaitResponse // room for one, so that waking never blocks
}

// Wait returns a function which waits until condition is met. The condition is
// watched from the moment at which Wait returns, so that a start which follows
// is not missed. The function is called once.
func (e *Engine) Wait(ctx context.Context, ref string, condition dcontainer.WaitCondition) (func(context.Context) (dcontainer.WaitResponse, error), error) {
	r, err := e.find(ref)
	if err != nil {
		if answer, ok := e.departed.answer(ref); ok {
			return func(context.Context) (dcontainer.WaitResponse, error) { return answer, nil }, nil
		}
		return nil, err
	}
	w := &waiter{came: make(chan dcontainer.WaitResponse, 1)}
	switch condition {
	case dcontainer.WaitConditionNextExit:
	case dcontainer.WaitConditionRemoved:
		w.what = removed
	case dcontainer.WaitConditionNotRunning, "":
	default:
		return nil, invalid("invalid condition: %q", condition)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone != nil { // since it was found
		w.came <- *r.gone
	} else if r.run == nil && w.what == exited && condition != dcontainer.WaitConditionNextExit {
		w.came <- dcontainer.WaitResponse{StatusCode: int64(r.st.ExitCode)}
	} else {
		r.waiting = append(r.waiting, w)
	}
	return func(ctx context.Context) (dcontainer.WaitResponse, error) {
		select {
		case answer := <-w.came:
			return answer, nil
		case <-ctx.Done():
			r.mu.Lock()
			defer r.mu.Unlock()
			r.waiting = slices.DeleteFunc(r.waiting, func(other *waiter) bool { return other == w })
			return dcontainer.WaitResponse{}, ctx.Err()
		}
	}, nil
}

// wake answers those who wait for what. After a removal nothing else can come:
// it answers everybody.
func (r *record) wake(what moment, answer dcontainer.WaitResponse) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if what == removed {
		r.gone = &answer
	}
	r.waiting = slices.DeleteFunc(r.waiting, func(w *waiter) bool {
		if w.what != what && what != removed {
			return false
		}
		w.came <- answer
		return true
	})
}

// departedLimit is how many containers are remembered that removed themselves: a
// client asks at the end of the output, if at all, so few are enough.
const departedLimit = 256

// departed remembers how the containers ended that were last removed at their
// exit. A client that reads the output to its end and then waits comes too late
// for them; the reference takes so long over a removal that it does not.
type departed struct {
	mu    sync.Mutex
	ids   []string // the oldest first
	ended map[string]dcontainer.WaitResponse
}

func (d *departed) add(id string, answer dcontainer.WaitResponse) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended == nil {
		d.ended = map[string]dcontainer.WaitResponse{}
	}
	if len(d.ids) == departedLimit {
		delete(d.ended, d.ids[0])
		d.ids = d.ids[1:]
	}
	d.ids = append(d.ids, id)
	d.ended[id] = answer
}

func (d *departed) answer(id string) (dcontainer.WaitResponse, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	answer, ok := d.ended[id]
	return answer, ok
}
