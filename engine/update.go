package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/blkiodev"
	dcontainer "github.com/moby/moby/api/types/container"
	devents "github.com/moby/moby/api/types/events"
	dvolume "github.com/moby/moby/api/types/volume"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/engine/volume"
	"gantry/internal/problem"
)

// Update changes limits and restart policy, of a running container at once.
// Fields that are zero stay as they are.
func (e *Engine) Update(ctx context.Context, ref string, u dcontainer.UpdateConfig) (warnings []string, err error) {
	r, err := e.find(ref)
	if err != nil {
		return nil, err
	}
	if err := r.lock(ctx); err != nil {
		return nil, err
	}
	defer r.unlock()
	old := r.config()
	host := *old.HostConfig
	limits, err := e.cfg.Runtime.Features()
	if err != nil {
		return nil, err
	}
	if warnings, err = fitToHost(&u.Resources, limits); err != nil {
		return nil, err
	}
	if err := mergeUpdate(&host, u); err != nil {
		return nil, err
	}
	if err := validateHost(&host); err != nil {
		return nil, err
	}
	change, err := resources(&host.Resources)
	if err != nil {
		return nil, err
	}
	if p := u.PidsLimit; p != nil && *p <= 0 {
		unlimited := int64(-1)
		change.Pids = &specs.LinuxPids{Limit: &unlimited}
	}
	cfg := *old
	cfg.HostConfig = &host
	if this := r.running(); this != nil {
		if err := this.proc.Update(ctx, change); err != nil {
			return nil, fmt.Errorf("cannot update container %s: %w", r.id, err)
		}
	}
	if err := r.reconfigure(&cfg); err != nil {
		return nil, err
	}
	e.emit(r, devents.ActionUpdate, nil)
	return warnings, nil
}

// mergeUpdate applies what u sets, and refuses what cannot be changed.
func mergeUpdate(h *dcontainer.HostConfig, u dcontainer.UpdateConfig) error {
	if len(u.Devices) > 0 || len(u.DeviceCgroupRules) > 0 || len(u.Ulimits) > 0 || u.CgroupParent != "" {
		return unsupported("updating Devices, DeviceCgroupRules, Ulimits or CgroupParent")
	}
	if err := checkCPUUpdate(&h.Resources, &u.Resources); err != nil {
		return err
	}
	new := u.Resources
	merged := h.Resources
	for _, f := range []struct{ to, from *int64 }{
		{&merged.CPUShares, &new.CPUShares}, {&merged.Memory, &new.Memory}, {&merged.NanoCPUs, &new.NanoCPUs},
		{&merged.CPUPeriod, &new.CPUPeriod}, {&merged.CPUQuota, &new.CPUQuota},
		{&merged.MemoryReservation, &new.MemoryReservation}, {&merged.MemorySwap, &new.MemorySwap},
		{&merged.CPURealtimePeriod, &new.CPURealtimePeriod}, {&merged.CPURealtimeRuntime, &new.CPURealtimeRuntime},
	} {
		if *f.from != 0 {
			*f.to = *f.from
		}
	}
	if new.Memory != 0 && new.MemorySwap == 0 && h.MemorySwap > 0 && new.Memory > h.MemorySwap {
		return invalid("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time")
	}
	if new.CpusetCpus != "" {
		merged.CpusetCpus = new.CpusetCpus
	}
	if new.CpusetMems != "" {
		merged.CpusetMems = new.CpusetMems
	}
	if new.PidsLimit != nil {
		merged.PidsLimit = new.PidsLimit
	}
	if new.MemorySwappiness != nil {
		merged.MemorySwappiness = new.MemorySwappiness
	}
	if new.OomKillDisable != nil {
		merged.OomKillDisable = new.OomKillDisable
	}
	if new.BlkioWeight != 0 {
		merged.BlkioWeight = new.BlkioWeight
	}
	if len(new.BlkioWeightDevice) > 0 {
		merged.BlkioWeightDevice = new.BlkioWeightDevice
	}
	for _, f := range []struct{ to, from *[]*blkiodev.ThrottleDevice }{
		{&merged.BlkioDeviceReadBps, &new.BlkioDeviceReadBps}, {&merged.BlkioDeviceWriteBps, &new.BlkioDeviceWriteBps},
		{&merged.BlkioDeviceReadIOps, &new.BlkioDeviceReadIOps}, {&merged.BlkioDeviceWriteIOps, &new.BlkioDeviceWriteIOps},
	} {
		if len(*f.from) > 0 {
			*f.to = *f.from
		}
	}
	h.Resources = merged
	if u.RestartPolicy.Name == "" {
		return nil
	}
	if h.AutoRemove && !u.RestartPolicy.IsNone() {
		return invalid("Restart policy cannot be updated because AutoRemove is enabled for the container")
	}
	h.RestartPolicy = u.RestartPolicy
	return nil
}

// checkCPUUpdate refuses one kind of CPU limit where the other is set.
func checkCPUUpdate(old, new *dcontainer.Resources) error {
	for _, c := range []struct {
		conflict     bool
		wanted, have string
	}{
		{new.NanoCPUs > 0 && old.CPUPeriod > 0, "Nano CPUs", "CPU Period"},
		{new.NanoCPUs > 0 && old.CPUQuota > 0, "Nano CPUs", "CPU Quota"},
		{new.CPUPeriod > 0 && old.NanoCPUs > 0, "CPU Period", "NanoCPUs"},
		{new.CPUQuota > 0 && old.NanoCPUs > 0, "CPU Quota", "NanoCPUs"},
	} {
		if c.conflict {
			return invalid("Conflicting options: %s cannot be updated as %s has already been set", c.wanted, c.have)
		}
	}
	return nil
}

// Prune removes the containers that do not run and pass the filters (label,
// label!, until), but not those of a pod.
func (e *Engine) Prune(ctx context.Context, f Filters) (dcontainer.PruneReport, error) {
	report := dcontainer.PruneReport{ContainersDeleted: []string{}}
	keep, err := PruneFilter(f)
	if err != nil {
		return report, err
	}
	if err := e.checkReady(); err != nil {
		return report, err
	}
	for _, r := range e.all() {
		cfg, st := r.view()
		if cfg.Sandbox != "" || !slices.Contains([]dcontainer.ContainerState{dcontainer.StateCreated, dcontainer.StateExited}, st.Status) {
			continue
		}
		if !keep(cfg.Created, cfg.Config.Labels) {
			continue
		}
		rw, _, err := e.sizes(ctx, cfg)
		if err != nil {
			return report, err
		}
		err = e.Remove(ctx, r.id, RemoveOptions{})
		if errors.Is(err, problem.Conflict) || errors.Is(err, problem.NotFound) {
			continue // it was started or removed meanwhile
		}
		if err != nil {
			return report, err
		}
		report.ContainersDeleted = append(report.ContainersDeleted, r.id)
		report.SpaceReclaimed += uint64(rw)
	}
	e.Emit(devents.ContainerEventType, devents.ActionPrune, "", map[string]string{"reclaimed": strconv.FormatUint(report.SpaceReclaimed, 10)})
	return report, nil
}

// PruneFilter returns what tells whether an object is to be pruned.
func PruneFilter(f Filters) (func(created time.Time, labels map[string]string) bool, error) {
	if err := f.Check("label", "label!", "until"); err != nil {
		return nil, err
	}
	var until time.Time
	for _, text := range f["until"] {
		at, err := ParseTime(text, time.Now())
		if err != nil {
			return nil, invalid("invalid filter 'until=%s'", text)
		}
		until = at
	}
	return func(created time.Time, labels map[string]string) bool {
		if !until.IsZero() && !created.Before(until) {
			return false
		}
		return f.Labels("label", labels) && (len(f["label!"]) == 0 || !f.Labels("label!", labels))
	}, nil
}

// PruneVolumes removes the volumes that no container uses: the anonymous ones,
// and with the filter all=true the named ones too.
func (e *Engine) PruneVolumes(ctx context.Context, f Filters) (dvolume.PruneReport, error) {
	report := dvolume.PruneReport{VolumesDeleted: []string{}}
	if err := f.Check("label", "label!", "all"); err != nil {
		return report, err
	}
	every, _, err := f.Bool("all")
	if err != nil {
		return report, err
	}
	for _, v := range e.cfg.Volumes.List(ctx) {
		_, anonymous := v.Labels[volume.AnonymousLabel]
		if !anonymous && !every || !f.Labels("label", v.Labels) || len(f["label!"]) > 0 && f.Labels("label!", v.Labels) {
			continue
		}
		size, err := e.cfg.Volumes.Size(ctx, v.Name)
		if errors.Is(err, problem.NotFound) {
			continue
		}
		if err != nil {
			return report, err
		}
		err = e.RemoveVolume(ctx, v.Name, RemoveOptions{})
		if errors.Is(err, problem.Conflict) || errors.Is(err, problem.NotFound) {
			continue
		}
		if err != nil {
			return report, err
		}
		report.VolumesDeleted = append(report.VolumesDeleted, v.Name)
		report.SpaceReclaimed += uint64(max(size, 0)) // not volume.UnknownSize
	}
	return report, nil
}

// Usage counts, for each image, the containers that were made from it.
func (e *Engine) Usage() map[string]int {
	users := map[string]int{}
	for _, r := range e.all() {
		users[r.config().Image.String()]++
	}
	return users
}
