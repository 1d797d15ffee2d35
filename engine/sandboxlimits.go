package engine

import (
	"context"
	"path/filepath"

	dcontainer "github.com/moby/moby/api/types/container"

	"gantry/internal/atomicfile"
	"gantry/internal/problem"
)

// limitSandbox makes a sandbox's cgroup, if it is not there, and sets its limits.
func (e *Engine) limitSandbox(ctx context.Context, cfg *sandboxConfig) error {
	have, err := e.Limits()
	if err != nil {
		return err
	}
	wanted := cfg.Spec.Resources
	warnings, err := fitToHost(&wanted, have)
	if err != nil {
		return err
	}
	for _, warning := range warnings {
		e.log.Warn("limits of a pod", "pod", cfg.ID, "warning", warning)
	}
	limits, err := resources(&wanted)
	if err != nil {
		return err
	}
	return e.cfg.Runtime.CreateGroup(ctx, cfg.cgroup(), limits)
}

// UpdateSandbox changes the limits of a pod as a whole. What is zero stays as
// it is.
//
// Errors: NotFound, Conflict if it is stopped, Invalid.
func (e *Engine) UpdateSandbox(ctx context.Context, id string, r dcontainer.Resources) error {
	s, err := e.findSandbox(id)
	if err != nil {
		return err
	}
	s.op.Lock()
	defer s.op.Unlock()
	cfg := s.config()
	if cfg.Stopped {
		return problem.New(problem.Conflict, "sandbox %s is stopped", cfg.ID)
	}
	host := dcontainer.HostConfig{Resources: cfg.Spec.Resources}
	if err := mergeUpdate(&host, dcontainer.UpdateConfig{Resources: r}); err != nil {
		return err
	}
	if err := validateLimits(&host); err != nil {
		return err
	}
	cfg.Spec.Resources = host.Resources
	if err := e.limitSandbox(ctx, &cfg); err != nil {
		return err
	}
	if err := atomicfile.WriteJSON(filepath.Join(e.sandboxDir(cfg.ID), configFile), cfg, 0o600); err != nil {
		return err
	}
	s.mu.Lock()
	s.cfg = cfg
	s.mu.Unlock()
	return nil
}
