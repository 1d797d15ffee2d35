package dockerapi

import (
	"encoding/json"
	"net/http"
	"slices"

	dbuild "github.com/moby/moby/api/types/build"
	dcontainer "github.com/moby/moby/api/types/container"
	devents "github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/plugin"
	dsystem "github.com/moby/moby/api/types/system"

	"gantry/engine"
)

// options says nothing, as the reference.
func (c *call) options() error {
	c.begun = true
	c.w.WriteHeader(http.StatusOK)
	return nil
}

func (c *call) ping() error {
	header := c.w.Header()
	header.Set("Builder-Version", string(dbuild.BuilderV1))
	header.Set("Swarm", "inactive")
	header.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	header.Set("Pragma", "no-cache")
	header.Set("Content-Type", "text/plain; charset=utf-8")
	c.begun = true
	c.w.WriteHeader(http.StatusOK)
	if c.r.Method == http.MethodHead {
		return nil
	}
	if _, err := c.w.Write([]byte("OK")); err != nil {
		return errClientGone
	}
	return nil
}

// legacyEvent adds the fields that events of containers and images had before 1.52.
type legacyEvent struct {
	Status string `json:"status,omitempty"`
	ID     string `json:"id,omitempty"`
	From   string `json:"from,omitempty"`
	engine.Event
}

func (c *call) events() error {
	var opts engine.EventsOptions
	var err error
	if opts.Filters, err = c.query.filters(); err != nil {
		return err
	}
	if err := engine.CheckEventFilters(opts.Filters); err != nil {
		return err
	}
	if opts.Since, err = c.query.time("since"); err != nil {
		return err
	}
	if opts.Until, err = c.query.time("until"); err != nil {
		return err
	}
	if !opts.Since.IsZero() && !opts.Until.IsZero() && opts.Until.Before(opts.Since) {
		return invalid("`since` time (%s) cannot be after `until` time (%s)", c.query.Get("since"), c.query.Get("until"))
	}
	encoder := json.NewEncoder(c.w)
	begin := func() {
		c.w.Header().Set("Content-Type", "application/json")
		c.begun = true
		c.w.WriteHeader(http.StatusOK)
		_ = c.flush() // the first event finds out that the client has gone
	}
	return c.cfg.Engine.Events(c.r.Context(), opts, begin, func(ev engine.Event) error {
		var out any = ev
		if c.version.less(1, 52) && (ev.Type == devents.ContainerEventType || ev.Type == devents.ImageEventType) {
			out = legacyEvent{string(ev.Action), ev.Actor.ID, ev.Actor.Attributes["image"], ev}
		}
		if err := encoder.Encode(out); err != nil {
			return errClientGone
		}
		return c.flush()
	})
}

func (c *call) diskUsage() error {
	kinds := c.query.Values["type"]
	for _, kind := range kinds {
		switch dsystem.DiskUsageObject(kind) {
		case dsystem.ContainerObject, dsystem.ImageObject, dsystem.VolumeObject, dsystem.BuildCacheObject:
		default:
			return invalid("unknown object type: %s", kind)
		}
	}
	wanted := func(kind dsystem.DiskUsageObject) bool {
		return len(kinds) == 0 || slices.Contains(kinds, string(kind))
	}
	var usage dsystem.DiskUsage
	var err error
	if wanted(dsystem.ImageObject) {
		if usage.ImageUsage, err = c.imageUsage(); err != nil {
			return err
		}
	}
	if wanted(dsystem.ContainerObject) {
		if usage.ContainerUsage, err = c.containerUsage(); err != nil {
			return err
		}
	}
	if wanted(dsystem.VolumeObject) {
		if usage.VolumeUsage, err = c.volumeUsage(c.r.Context()); err != nil {
			return err
		}
	}
	if wanted(dsystem.BuildCacheObject) {
		if usage.BuildCacheUsage, err = c.buildUsage(); err != nil {
			return err
		}
	}
	if c.version.less(1, 52) {
		return c.answer(http.StatusOK, oldUsage(c.version, usage))
	}
	if !c.query.bool("verbose") {
		withoutItems(&usage)
	}
	return c.answer(http.StatusOK, usage)
}

func withoutItems(usage *dsystem.DiskUsage) {
	if usage.ImageUsage != nil {
		usage.ImageUsage.Items = nil
	}
	if usage.ContainerUsage != nil {
		usage.ContainerUsage.Items = nil
	}
	if usage.VolumeUsage != nil {
		usage.VolumeUsage.Items = nil
	}
	if usage.BuildCacheUsage != nil {
		usage.BuildCacheUsage.Items = nil
	}
}

func (c *call) containerUsage() (*dcontainer.DiskUsage, error) {
	list, err := c.cfg.Engine.List(c.r.Context(), engine.ListOptions{All: true, Size: true})
	if err != nil {
		return nil, err
	}
	usage := &dcontainer.DiskUsage{Items: list, TotalCount: int64(len(list))}
	for _, item := range list {
		usage.TotalSize += item.SizeRw
		switch item.State {
		case dcontainer.StateRunning, dcontainer.StatePaused, dcontainer.StateRestarting:
			usage.ActiveCount++
		default:
			usage.Reclaimable += item.SizeRw
		}
	}
	return usage, nil
}

func (c *call) listPlugins() error {
	filters, err := c.query.filters()
	if err == nil {
		err = filters.Check("capability", "enabled")
	}
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, plugin.ListResponse{})
}
