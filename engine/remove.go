package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	dcontainer "github.com/moby/moby/api/types/container"
	devents "github.com/moby/moby/api/types/events"
	dmount "github.com/moby/moby/api/types/mount"
	"golang.org/x/sys/unix"

	"gantry/internal/atomicfile"
	"gantry/internal/fault"
	"gantry/internal/problem"
)

// removingPrefix begins the name of a container's directory which is being
// removed; volumesMark in it tells that its anonymous volumes go too.
const (
	removingPrefix = ".removing-"
	volumesMark    = "remove-volumes"
)

// Remove removes a container and all that is its own.
//
// Errors: NotFound, Conflict if it runs and Force is not set.
func (e *Engine) Remove(ctx context.Context, ref string, opts RemoveOptions) error {
	r, err := e.find(ref)
	if err != nil {
		return err
	}
	r.mu.Lock()
	running, busy := r.run != nil, r.removing
	switch {
	case busy:
	case running && !opts.Force:
		what, advice := "running", "stop the container before removing or force remove"
		if r.st.Status == dcontainer.StatePaused {
			what, advice = "paused", "unpause the container before removing or force remove"
		}
		err = problem.New(problem.Conflict, "cannot remove container %q: container is %s: %s", r.cfg.Name, what, advice)
	default:
		r.removing = true // from here on nothing starts it
	}
	r.mu.Unlock()
	switch {
	case err != nil:
		return err
	case busy:
		return problem.New(problem.Conflict, "removal of container %s is already in progress", r.id)
	}
	if err := e.removeMarked(ctx, r, opts); err != nil {
		r.mu.Lock()
		r.removing = false
		r.mu.Unlock()
		return err
	}
	return nil
}

func (e *Engine) removeMarked(ctx context.Context, r *record, opts RemoveOptions) error {
	if _, err := e.markStopped(ctx, r); err != nil {
		return err
	}
	if this := r.running(); this != nil {
		if err := errors.Join(e.unfreeze(ctx, r, this), e.signal(ctx, r, this, unix.SIGKILL), this.wait(ctx)); err != nil {
			return err
		}
	}
	if err := r.lock(ctx); err != nil {
		return err
	}
	defer r.unlock()
	return e.removeLocked(ctx, r, opts)
}

func (r *record) isRemoving() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.removing
}

// removeLocked removes a container which does not run and whose op the caller
// holds. One that is gone already is no error: an exit may have removed it.
func (e *Engine) removeLocked(ctx context.Context, r *record, opts RemoveOptions) error {
	e.mu.Lock()
	_, present := e.records[r.id]
	e.mu.Unlock()
	if !present {
		return nil
	}
	r.mu.Lock()
	r.removing = true
	r.mu.Unlock()
	e.endForward(r)
	if opts.Volumes {
		if err := atomicfile.Replace(filepath.Join(r.dir, volumesMark), nil, 0o600); err != nil {
			return err
		}
	}
	gone := filepath.Join(filepath.Dir(r.dir), removingPrefix+r.id)
	if err := os.Rename(r.dir, gone); err != nil {
		return err
	}
	// From here on it is gone, whatever fails: a start-up finishes the rest.
	err := errors.Join(atomicfile.SyncDir(filepath.Dir(gone)), fault.At("engine/remove/after-rename"))
	e.forget(r)
	err = errors.Join(err, e.finishRemoval(ctx, gone, r.config()))
	e.emit(r, devents.ActionDestroy, nil)
	r.wake(removed, dcontainer.WaitResponse{StatusCode: int64(r.exitCode())})
	return err
}

// forget takes a container out of the index.
func (e *Engine) forget(r *record) {
	name := r.config().Name
	e.mu.Lock()
	delete(e.records, r.id)
	if e.names[name] == r.id {
		delete(e.names, name)
	}
	for id, owner := range e.execs {
		if owner == r {
			delete(e.execs, id)
		}
	}
	e.mu.Unlock()
	e.cfg.Images.Release(r.id)
	e.releaseMounts(r.config())
}

// finishRemoval removes what is left of a container whose directory has been
// renamed. It may be repeated.
func (e *Engine) finishRemoval(ctx context.Context, dir string, cfg *config) error {
	var errs []error
	if exists(filepath.Join(dir, volumesMark)) {
		for _, p := range cfg.Mounts {
			if p.Type != dmount.TypeVolume || !p.Anonymous || len(e.volumeUsers(p.Name)) > 0 {
				continue
			}
			if err := e.cfg.Volumes.Remove(ctx, p.Name); err != nil && !errors.Is(err, problem.NotFound) {
				errs = append(errs, err)
				continue
			}
			e.Emit(devents.VolumeEventType, devents.ActionDestroy, p.Name, map[string]string{"driver": p.Driver})
		}
	}
	if cfg.LogPath != "" && !strings.HasPrefix(cfg.LogPath, e.cfg.Dir) && cfg.Sandbox == "" {
		errs = append(errs, os.RemoveAll(cfg.LogPath))
	}
	errs = append(errs, fault.At("engine/remove/before-directory"), os.RemoveAll(dir))
	return errors.Join(errs...)
}

// volumeUsers returns the IDs of the containers which mount a volume.
func (e *Engine) volumeUsers(name string) []string {
	var ids []string
	for _, r := range e.all() {
		if slices.ContainsFunc(r.config().Mounts, func(p mountPoint) bool { return p.Type == dmount.TypeVolume && p.Name == name }) {
			ids = append(ids, r.id)
		}
	}
	return ids
}

// VolumeUsers counts the containers which mount a volume.
func (e *Engine) VolumeUsers(name string) int { return len(e.volumeUsers(name)) }

// RemoveVolume removes a volume that no container mounts. Force makes one which
// does not exist no error.
//
// Errors: NotFound, Conflict.
func (e *Engine) RemoveVolume(ctx context.Context, name string, opts RemoveOptions) error {
	if users := e.volumeUsers(name); len(users) > 0 {
		return problem.New(problem.Conflict, "remove %s: volume is in use - [%s]", name, strings.Join(users, ", "))
	}
	err := e.cfg.Volumes.Remove(ctx, name)
	if opts.Force && errors.Is(err, problem.NotFound) {
		return nil
	}
	if err == nil {
		e.Emit(devents.VolumeEventType, devents.ActionDestroy, name, map[string]string{"driver": "local"})
	}
	return err
}

// Rename changes a container's name. Errors: Invalid, Conflict.
func (e *Engine) Rename(ctx context.Context, ref, name string) error {
	r, err := e.find(ref)
	if err != nil {
		return err
	}
	name = strings.TrimPrefix(name, "/")
	if name == "" {
		return invalid("Neither old nor new names may be empty")
	}
	if err := checkName(name); err != nil {
		return err
	}
	if err := r.lock(ctx); err != nil {
		return err
	}
	defer r.unlock()
	old := r.config().Name
	if old == name {
		return invalid("Renaming a container with the same name as its current name")
	}
	e.mu.Lock()
	holder, taken := e.names[name]
	if !taken {
		e.names[name] = r.id
	}
	e.mu.Unlock()
	if taken {
		return nameTaken(name, holder)
	}
	cfg := *r.config()
	cfg.Name = name
	err = r.reconfigure(&cfg)
	e.mu.Lock()
	if err != nil {
		delete(e.names, name)
	} else {
		delete(e.names, old)
	}
	e.mu.Unlock()
	if err != nil {
		return fmt.Errorf("rename container %s: %w", r.id, err)
	}
	if err := e.renamed(r); err != nil {
		return fmt.Errorf("rename container %s: %w", r.id, err)
	}
	e.emit(r, devents.ActionRename, map[string]string{"oldName": "/" + old})
	return nil
}
