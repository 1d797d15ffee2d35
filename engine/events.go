package engine

import (
	"context"
	"maps"
	"time"

	devents "github.com/moby/moby/api/types/events"
)

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
