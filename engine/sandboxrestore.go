package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"gantry/engine/network"
	"gantry/internal/atomicfile"
)

// loadSandboxes reads the sandboxes. A creation or removal that a crash
// interrupted is undone: its namespaces and cgroup go with the sweeps that follow.
func (e *Engine) loadSandboxes(ctx context.Context) error {
	entries, err := os.ReadDir(e.sandboxDir(""))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		dir := e.sandboxDir(entry.Name())
		cfg, err := readSandbox(dir)
		if errors.Is(err, fs.ErrNotExist) {
			e.log.Info("removing a half-made sandbox", "pod", entry.Name())
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("sandbox %s: %w", entry.Name(), err)
		}
		if err := atomicfile.Sweep(dir); err != nil {
			return err
		}
		e.mu.Lock()
		e.sandboxes[cfg.ID] = &sandboxRecord{cfg: cfg}
		e.mu.Unlock()
	}
	return nil
}

func (e *Engine) allSandboxes() []*sandboxRecord {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(maps.Values(e.sandboxes))
}

// intact tells whether a sandbox's namespaces are still there.
func (e *Engine) intact(cfg *sandboxConfig) bool {
	boot, err := bootID()
	if err != nil || cfg.Stopped || cfg.Boot != boot {
		return false
	}
	pins := []string{cfg.Namespace}
	if !cfg.Spec.HostIPC {
		pins = append(pins, filepath.Join(e.sandboxRun(cfg.ID), "ipc"), filepath.Join(e.sandboxRun(cfg.ID), "shm"))
	}
	if !cfg.Spec.HostNetwork {
		pins = append(pins, filepath.Join(e.sandboxRun(cfg.ID), "uts"))
	}
	for _, pin := range pins {
		if mounted, err := isMount(pin); pin != "" && (err != nil || !mounted) {
			return false
		}
	}
	return true
}

// liveSandboxes returns what the sandboxes still have of the network.
func (e *Engine) liveSandboxes() network.Live {
	var live network.Live
	for _, s := range e.allSandboxes() {
		if cfg := s.config(); e.intact(&cfg) {
			connection{cfg.Namespace, cfg.Endpoints, cfg.Publications}.addTo(&live, cfg.ID)
		}
	}
	return live
}

// restoreSandboxes marks those which the host lost as stopped, and lets go of
// pins that belong to none.
func (e *Engine) restoreSandboxes(ctx context.Context) error {
	keep := map[string]bool{}
	var gone []*sandboxRecord
	for _, s := range e.allSandboxes() {
		cfg := s.config()
		keep[cfg.ID] = e.intact(&cfg)
		if !keep[cfg.ID] && !cfg.Stopped {
			gone = append(gone, s)
		}
	}
	for _, s := range gone {
		e.log.Info("sandbox was lost with the host", "pod", s.config().ID)
		s.op.Lock()
		err := e.stopSandboxLocked(ctx, s)
		s.op.Unlock()
		if err != nil {
			return err
		}
	}
	for _, r := range e.all() {
		keep[r.id] = r.running() != nil && r.config().HostConfig.IpcMode.IsShareable()
	}
	entries, err := os.ReadDir(e.sandboxRun(""))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		if !keep[entry.Name()] {
			if err := e.unpin(entry.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// groups lists the cgroups of the sandboxes that are ready.
func (e *Engine) groups() []string {
	var paths []string
	for _, s := range e.allSandboxes() {
		if cfg := s.config(); !cfg.Stopped {
			paths = append(paths, cfg.cgroup())
		}
	}
	return paths
}

func (e *Engine) checkSandboxes() []error {
	var errs []error
	known := map[string]bool{}
	for _, s := range e.allSandboxes() {
		cfg := s.config()
		known[cfg.ID] = true
		if !cfg.Stopped && !e.intact(&cfg) {
			errs = append(errs, fmt.Errorf("sandbox %s: it is ready, but lacks a namespace", cfg.ID))
		}
	}
	entries, err := os.ReadDir(e.sandboxDir(""))
	if err != nil {
		return append(errs, err)
	}
	for _, entry := range entries {
		if !known[entry.Name()] {
			errs = append(errs, fmt.Errorf("sandboxes/%s belongs to no sandbox", entry.Name()))
		}
	}
	return errs
}
