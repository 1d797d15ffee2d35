package engine

import (
	"context"
	"errors"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"

	"gantry/internal/problem"
)

// Footprint is what a container takes of the disk beside its image.
type Footprint struct {
	ID, Name string
	Bytes    int64
	// Dead tells that it ended by itself and that nothing starts it again: it has
	// no restart policy, belongs to no pod, and nobody asked for its end, as who
	// means to start it later does.
	Dead  bool
	Ended time.Time
}

// Footprints lists what the containers take.
func (e *Engine) Footprints(ctx context.Context) ([]Footprint, error) {
	if err := e.checkReady(); err != nil {
		return nil, err
	}
	var out []Footprint
	for _, r := range e.all() {
		cfg, st := r.view()
		n, _, err := e.sizes(ctx, cfg)
		if err != nil {
			return nil, err
		}
		out = append(out, Footprint{ID: r.id, Name: cfg.Name, Bytes: n, Dead: isDead(cfg, st), Ended: st.FinishedAt})
	}
	return out, nil
}

func isDead(cfg *config, st state) bool {
	return st.Status == dcontainer.StateExited && !st.Stopped && !st.FinishedAt.IsZero() &&
		cfg.Sandbox == "" && cfg.HostConfig.RestartPolicy.IsNone()
}

// RemoveDead removes a container that is dead since ended; its volumes stay. It
// reports whether it did.
func (e *Engine) RemoveDead(ctx context.Context, id string, ended time.Time) (bool, error) {
	r, err := e.find(id)
	if errors.Is(err, problem.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if cfg, st := r.view(); !isDead(cfg, st) || !st.FinishedAt.Equal(ended) {
		return false, nil
	}
	err = e.Remove(ctx, id, RemoveOptions{})
	if errors.Is(err, problem.Conflict) || errors.Is(err, problem.NotFound) {
		return false, nil // it was started or removed meanwhile
	}
	return err == nil, err
}
