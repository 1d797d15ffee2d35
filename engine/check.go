package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"

	"gantry/engine/image"
)

// What is in the middle of being made or removed looks like a violation, and is
// none at a later look: only what all looks have seen is one.
const (
	checkPause = 250 * time.Millisecond
	checkLooks = 20
)

// Check explains each violation of what the engine keeps: its directories, and
// what the runtime, the network and the mount table have that belongs to no
// container, or lack. It takes seconds where something is wrong.
func (e *Engine) Check(ctx context.Context) []error {
	pause := time.NewTimer(checkPause)
	defer pause.Stop()
	errs := e.look(ctx)
	for range checkLooks - 1 {
		if len(errs) == 0 {
			return nil
		}
		select {
		case <-pause.C:
			pause.Reset(checkPause)
		case <-ctx.Done():
			return errs
		}
		again := map[string]bool{}
		for _, err := range e.look(ctx) {
			again[err.Error()] = true
		}
		errs = slices.DeleteFunc(errs, func(err error) bool { return !again[err.Error()] })
	}
	return errs
}

func (e *Engine) look(ctx context.Context) []error {
	errs := e.checkDirectories(ctx)
	errs = append(errs, e.checkSandboxes()...)
	errs = append(errs, e.checkSteps()...)
	errs = append(errs, e.checkMounts()...)
	live := e.liveSandboxes()
	for _, r := range e.all() {
		if _, st := r.view(); r.running() != nil {
			connection{st.Namespace, st.Endpoints, st.Publications}.addTo(&live, r.id)
		}
	}
	errs = append(errs, e.cfg.Networks.Check(ctx, live)...)
	errs = append(errs, e.cfg.Runtime.Check(ctx, e.groups())...)
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// checkDirectories compares the directories of containers with the index.
func (e *Engine) checkDirectories(ctx context.Context) (errs []error) {
	entries, err := os.ReadDir(e.containerDir(""))
	if err != nil {
		return []error{err}
	}
	seen := map[string]bool{}
	for _, entry := range entries {
		seen[entry.Name()] = true
		e.mu.Lock()
		r := e.records[entry.Name()]
		e.mu.Unlock()
		if r == nil {
			errs = append(errs, fmt.Errorf("containers/%s belongs to no container", entry.Name()))
			continue
		}
		if err := e.checkContainer(ctx, r); err != nil {
			errs = append(errs, fmt.Errorf("container %s: %w", r.id, err))
		}
	}
	for _, r := range e.all() {
		if !seen[r.id] && !r.isRemoving() {
			errs = append(errs, fmt.Errorf("container %s has no directory", r.id))
		}
	}
	return errs
}

// checkSteps reports directories of build steps: they go when the step ends.
func (e *Engine) checkSteps() (errs []error) {
	entries, err := os.ReadDir(e.stepDir(""))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return []error{err}
	}
	for _, entry := range entries {
		errs = append(errs, fmt.Errorf("%s belongs to no build", e.stepDir(entry.Name())))
	}
	return errs
}

// checkMounts reports what is mounted in the engine's directories for nothing
// that exists. Whose namespaces and volumes are mounted is checked with them.
func (e *Engine) checkMounts() (errs []error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []error{err}
	}
	own := []string{e.sandboxRun(""), filepath.Join(e.cfg.RunDir, "netns"), filepath.Join(e.cfg.Dir, "volumes")}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		const mountPoint = 4 // proc_pid_mountinfo(5)
		if len(fields) <= mountPoint {
			continue
		}
		point := fields[mountPoint]
		inside := func(dir string) bool { return strings.HasPrefix(point, dir+"/") }
		if !inside(e.cfg.RunDir) && !inside(filepath.Join(e.cfg.Dir, "containers")) || point == own[0] || slices.ContainsFunc(own, inside) {
			continue
		}
		errs = append(errs, fmt.Errorf("the mount at %s belongs to nothing", point))
	}
	return errs
}

func (e *Engine) checkContainer(ctx context.Context, r *record) error {
	if err := r.lock(ctx); err != nil {
		return err
	}
	defer r.unlock()
	if r.isRemoving() {
		return nil // it went while we looked
	}
	disk, err := loadRecord(r.dir)
	if err != nil {
		return err
	}
	_, st := r.view()
	if disk.st.Status != st.Status {
		return fmt.Errorf("%s says %s, the engine %s", stateFile, disk.st.Status, st.Status)
	}
	runs := st.Status == dcontainer.StateRunning || st.Status == dcontainer.StatePaused
	if this := r.running(); (this != nil) != runs {
		return fmt.Errorf("its state is %s, and it has a process: %t", st.Status, this != nil)
	}
	if _, err := e.cfg.Images.LayerDirs(r.config().Layers); err != nil {
		return fmt.Errorf("layers: %w", err)
	}
	for _, p := range r.config().Mounts {
		if p.Name == "" {
			continue
		}
		if _, err := e.cfg.Volumes.Path(p.Name); err != nil {
			return err
		}
	}
	return nil
}

// CheckStopped explains each violation in the records of the engine whose state
// is in dir, while none runs. What a crash left half done is no violation.
func CheckStopped(dir string, images *image.Store) (errs []error) {
	entries, err := os.ReadDir(filepath.Join(dir, "containers"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, entry := range entries {
		r, err := loadRecord(filepath.Join(dir, "containers", entry.Name()))
		if errors.Is(err, fs.ErrNotExist) || strings.HasPrefix(entry.Name(), removingPrefix) {
			continue // half made or half removed
		}
		if err == nil {
			_, err = images.LayerDirs(r.cfg.Layers)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("container %s: %w", entry.Name(), err))
		}
	}
	entries, err = os.ReadDir(filepath.Join(dir, "sandboxes"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, entry := range entries {
		_, err := readSandbox(filepath.Join(dir, "sandboxes", entry.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("sandbox %s: %w", entry.Name(), err))
		}
	}
	return errs
}
