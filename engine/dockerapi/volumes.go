package dockerapi

import (
	"context"
	"net/http"
	"slices"
	"strings"

	devents "github.com/moby/moby/api/types/events"
	dvolume "github.com/moby/moby/api/types/volume"

	"gantry/engine"
)

func (c *call) listVolumes() error {
	filters, err := c.query.filters()
	if err != nil {
		return err
	}
	if err := filters.Check("dangling", "driver", "label", "name"); err != nil {
		return err
	}
	dangling, only, err := filters.Bool("dangling")
	if err != nil {
		return err
	}
	list := dvolume.ListResponse{Volumes: []dvolume.Volume{}, Warnings: []string{}}
	for _, v := range c.cfg.Volumes.List(c.r.Context()) {
		matches := func(name, value string) bool {
			wanted := filters[name]
			return len(wanted) == 0 || slices.ContainsFunc(wanted, func(w string) bool { return strings.Contains(value, w) })
		}
		if only && dangling != (c.cfg.Engine.VolumeUsers(v.Name) == 0) {
			continue
		}
		if matches("name", v.Name) && matches("driver", v.Driver) && filters.Labels("label", v.Labels) {
			list.Volumes = append(list.Volumes, v)
		}
	}
	return c.answer(http.StatusOK, list)
}

func (c *call) createVolume() error {
	var req dvolume.CreateRequest
	if err := c.decode(&req); err != nil {
		return err
	}
	v, err := c.cfg.Volumes.Create(c.r.Context(), req)
	if err != nil {
		return err
	}
	c.cfg.Engine.Emit(devents.VolumeEventType, devents.ActionCreate, v.Name, map[string]string{"driver": v.Driver})
	return c.answer(http.StatusCreated, v)
}

func (c *call) inspectVolume() error {
	v, err := c.cfg.Volumes.Inspect(c.r.Context(), c.vars[0])
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, v)
}

func (c *call) removeVolume() error {
	err := c.cfg.Engine.RemoveVolume(c.r.Context(), c.vars[0], engine.RemoveOptions{Force: c.query.bool("force")})
	if err != nil {
		return err
	}
	return c.noContent()
}

func (c *call) pruneVolumes() error {
	filters, err := c.query.filters()
	if err != nil {
		return err
	}
	if c.version.less(1, 42) {
		filters["all"] = []string{"true"} // the named ones had no exception then
	}
	report, err := c.cfg.Engine.PruneVolumes(c.r.Context(), filters)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, report)
}

// volumeUsage returns the volumes with their sizes.
func (c *call) volumeUsage(ctx context.Context) (*dvolume.DiskUsage, error) {
	usage := &dvolume.DiskUsage{Items: []dvolume.Volume{}}
	for _, v := range c.cfg.Volumes.List(ctx) {
		size, err := c.cfg.Volumes.Size(ctx, v.Name)
		if err != nil {
			return nil, err
		}
		users := c.cfg.Engine.VolumeUsers(v.Name)
		v.UsageData = &dvolume.UsageData{RefCount: int64(users), Size: size}
		usage.Items = append(usage.Items, v)
		size = max(size, 0) // not volume.UnknownSize
		usage.TotalSize += size
		if users > 0 {
			usage.ActiveCount++
		} else {
			usage.Reclaimable += size
		}
	}
	usage.TotalCount = int64(len(usage.Items))
	return usage, nil
}
