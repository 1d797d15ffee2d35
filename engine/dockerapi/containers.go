package dockerapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"

	"gantry/engine"
)

func (c *call) listContainers() error {
	filters, err := c.query.filters()
	if err != nil {
		return err
	}
	limit, err := c.query.int("limit")
	if err != nil {
		return err
	}
	for _, old := range []string{"since", "before"} { // before they were filters
		if value := c.query.Get(old); value != "" {
			filters[old] = []string{value}
		}
	}
	list, err := c.cfg.Engine.List(c.r.Context(), engine.ListOptions{
		All: c.query.bool("all"), Limit: int(max(limit, 0)), Size: c.query.bool("size"), Filters: filters,
	})
	if err != nil {
		return err
	}
	if c.version.less(1, 52) {
		return c.answer(http.StatusOK, legacyList(c.version, list))
	}
	return c.answer(http.StatusOK, list)
}

func (c *call) inspectContainer() error {
	size := engine.WithoutSizes
	if c.query.bool("size") {
		size = engine.WithSizes
	}
	found, err := c.cfg.Engine.Inspect(c.r.Context(), c.vars[0], size)
	if err != nil {
		return err
	}
	if !c.version.less(1, 52) {
		return c.answer(http.StatusOK, found)
	}
	return c.answer(http.StatusOK, legacyContainer(c.version, found))
}

func (c *call) start() error {
	if err := c.query.refuse("checkpoint", "checkpoint-dir"); err != nil {
		return err
	}
	if err := c.cfg.Engine.Start(c.r.Context(), c.vars[0]); err != nil {
		return err
	}
	return c.noContent()
}

func (c *call) stopOptions() (engine.StopOptions, error) {
	opts := engine.StopOptions{Signal: c.query.Get("signal")}
	if c.query.Get("t") == "" {
		return opts, nil
	}
	seconds, err := c.query.int("t")
	timeout := time.Duration(seconds) * time.Second
	opts.Timeout = &timeout
	return opts, err
}

func (c *call) stop() error {
	opts, err := c.stopOptions()
	if err != nil {
		return err
	}
	// A client that goes away does not take the stop back, as in the reference.
	if err := c.cfg.Engine.Stop(context.WithoutCancel(c.r.Context()), c.vars[0], opts); err != nil {
		return err
	}
	return c.noContent()
}

func (c *call) restart() error {
	opts, err := c.stopOptions()
	if err != nil {
		return err
	}
	if err := c.cfg.Engine.Restart(context.WithoutCancel(c.r.Context()), c.vars[0], opts); err != nil {
		return err
	}
	return c.noContent()
}

func (c *call) kill() error {
	if err := c.cfg.Engine.Kill(c.r.Context(), c.vars[0], c.query.Get("signal")); err != nil {
		return err
	}
	return c.noContent()
}

func (c *call) pause() error {
	if err := c.cfg.Engine.Pause(c.r.Context(), c.vars[0]); err != nil {
		return err
	}
	return c.noContent()
}

func (c *call) unpause() error {
	if err := c.cfg.Engine.Unpause(c.r.Context(), c.vars[0]); err != nil {
		return err
	}
	return c.noContent()
}

func (c *call) rename() error {
	if err := c.cfg.Engine.Rename(c.r.Context(), c.vars[0], c.query.Get("name")); err != nil {
		return err
	}
	return c.noContent()
}

func (c *call) update() error {
	var u dcontainer.UpdateConfig
	if err := c.decode(&u); err != nil {
		return err
	}
	warnings, err := c.cfg.Engine.Update(c.r.Context(), c.vars[0], u)
	if err != nil {
		return err
	}
	if warnings == nil {
		warnings = []string{}
	}
	return c.answer(http.StatusOK, dcontainer.UpdateResponse{Warnings: warnings})
}

func (c *call) removeContainer() error {
	if err := c.query.refuse("link"); err != nil {
		return err
	}
	err := c.cfg.Engine.Remove(c.r.Context(), c.vars[0], engine.RemoveOptions{Force: c.query.bool("force"), Volumes: c.query.bool("v")})
	if err != nil {
		return err
	}
	return c.noContent()
}

func (c *call) pruneContainers() error {
	filters, err := c.query.filters()
	if err != nil {
		return err
	}
	report, err := c.cfg.Engine.Prune(c.r.Context(), filters)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, report)
}

// wait answers in two parts: the header as soon as the container is watched, so
// that the client knows it may start it, and the body when it has ended.
func (c *call) wait() error {
	await, err := c.cfg.Engine.Wait(c.r.Context(), c.vars[0], dcontainer.WaitCondition(c.query.Get("condition")))
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json")
	c.begun = true
	c.w.WriteHeader(http.StatusOK)
	if err := c.flush(); err != nil {
		return err
	}
	answer, err := await(c.r.Context())
	if err != nil {
		return err
	}
	return json.NewEncoder(c.w).Encode(answer)
}

func (c *call) flush() error {
	if err := http.NewResponseController(c.w).Flush(); err != nil {
		return errClientGone
	}
	return nil
}

func (c *call) top() error {
	table, err := c.cfg.Engine.Top(c.r.Context(), c.vars[0], strings.Fields(c.query.Get("ps_args")))
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, table)
}

// statsInterval is the reference's.
const statsInterval = time.Second

// stats answers with one sample, or one each second. A single sample has the
// one before it inside, unless one-shot asks for haste.
func (c *call) stats() error {
	ctx := c.r.Context()
	stream := c.query.Get("stream") == "" || c.query.bool("stream")
	if stream && c.query.bool("one-shot") {
		return invalid("cannot have stream=true and one-shot=true")
	}
	sample, err := c.cfg.Engine.Stats(ctx, c.vars[0])
	if err != nil {
		return err
	}
	if !stream && (c.query.bool("one-shot") || sample.Read.IsZero()) {
		return c.answer(http.StatusOK, sample)
	}
	c.w.Header().Set("Content-Type", "application/json")
	c.begun = true
	c.w.WriteHeader(http.StatusOK)
	tick := time.NewTicker(statsInterval)
	defer tick.Stop()
	encoder := json.NewEncoder(c.w)
	for first := true; ; first = false {
		if stream || !first {
			if err := errors.Join(encoder.Encode(sample), c.flush()); err != nil {
				return errClientGone
			}
			if !stream {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		next, err := c.cfg.Engine.Stats(ctx, c.vars[0])
		if err != nil {
			return err
		}
		next.PreCPUStats, next.PreRead = sample.CPUStats, sample.Read
		sample = next
	}
}

func (c *call) changes() error {
	list, err := c.cfg.Engine.Changes(c.r.Context(), c.vars[0])
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, list)
}
