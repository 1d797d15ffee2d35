package engine

import (
	"context"
	"maps"
	"sync"
	"time"

	devents "github.com/moby/moby/api/types/events"
)

// eventsKept is how many past events "since" can see. The reference keeps 256;
// a subscriber which falls behind by more than this loses the oldest.
const eventsKept = 1024

// eventLog keeps the latest events and wakes those who follow them.
type eventLog struct {
	mu      sync.Mutex
	events  []Event       // the latest eventsKept, oldest first
	next    int64         // sequence number of the event to come
	changed chan struct{} // closed, and replaced, by each event
}

func newEventLog() *eventLog { return &eventLog{changed: make(chan struct{})} }

func (l *eventLog) add(ev Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.events) == eventsKept {
		l.events = append(l.events[:0:0], l.events[eventsKept/4:]...)
	}
	l.events = append(l.events, ev)
	l.next++
	close(l.changed)
	l.changed = make(chan struct{})
}

// from returns the events whose sequence number is seq or more, the number
// after them, and what is closed when there are others.
func (l *eventLog) from(seq int64) ([]Event, int64, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.next - int64(len(l.events))
	return l.events[max(seq-first, 0):len(l.events):len(l.events)], l.next, l.changed
}

func (l *eventLog) position() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next
}

// Events calls emit for each event that opts selects until opts.Until or the
// end of ctx. It calls registered once from when on no event is missed.
func (e *Engine) Events(ctx context.Context, opts EventsOptions, registered func(), emit func(Event) error) error {
	seq := e.events.position()
	if !opts.Since.IsZero() {
		seq = 0
	}
	registered()
	var end <-chan time.Time
	if !opts.Until.IsZero() {
		timer := time.NewTimer(time.Until(opts.Until))
		defer timer.Stop()
		end = timer.C
	}
	for {
		list, next, changed := e.events.from(seq)
		seq = next
		for _, ev := range list {
			if !selected(opts, ev) {
				continue
			}
			if err := emit(ev); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-end:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func selected(opts EventsOptions, ev Event) bool {
	at := time.Unix(0, ev.TimeNano)
	if !opts.Since.IsZero() && at.Before(opts.Since) {
		return false
	}
	if !opts.Until.IsZero() && at.After(opts.Until) {
		return false
	}
	return eventMatches(opts.Filters, ev)
}

// Emit records an event about an object that the engine does not own, such as
// an image or a network.
func (e *Engine) Emit(kind devents.Type, action devents.Action, id string, attributes map[string]string) {
	now := time.Now()
	e.events.add(Event{
		Type: kind, Action: action, Scope: "local",
		Actor: devents.Actor{ID: id, Attributes: attributes},
		Time:  now.Unix(), TimeNano: now.UnixNano(),
	})
}

// emit records an event about a container. Its labels, image and name are
// attributes, as the reference has it; extra is added to them.
func (e *Engine) emit(r *record, action devents.Action, extra map[string]string) {
	attributes := map[string]string{}
	cfg := r.config()
	maps.Copy(attributes, cfg.Config.Labels)
	attributes["image"] = cfg.Config.Image
	attributes["name"] = cfg.Name
	maps.Copy(attributes, extra)
	e.Emit(devents.ContainerEventType, action, r.id, attributes)
}
