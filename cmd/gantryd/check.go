package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"gantry/engine"
	"gantry/engine/builder"
	"gantry/engine/image"
	"gantry/engine/network"
	registryserver "gantry/engine/registry/server"
	"gantry/engine/volume"
	"gantry/internal/control"
	"gantry/internal/instance"
	"gantry/internal/problem"
	"gantry/internal/settings"
)

// Check implements control.Server.
func (s *server) Check(ctx context.Context) ([]control.Violation, error) {
	s.mu.Lock()
	h, phase := s.host, s.phase
	s.mu.Unlock()
	if h == nil || phase != control.Running {
		return nil, problem.New(problem.Unavailable, "the server is %s", phase)
	}
	found := violations(nil, "containers", h.engine.Check(ctx))
	found = violations(found, "volumes", h.volumes.Check(ctx))
	found = violations(found, "build cache", h.builder.Check())
	found = violations(found, "registry", append(h.served.Check(ctx), h.registry.Check()...))
	return violations(found, "images", apart(h.images.Check(ctx))), nil
}

func violations(list []control.Violation, part string, errs []error) []control.Violation {
	for _, err := range errs {
		list = append(list, control.Violation{Part: part, Problem: err.Error()})
	}
	return list
}

// apart returns the errors that err joins.
func apart(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

func checkCommand() *cobra.Command {
	var flags *settings.Flags
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Walk the stores of a server that does not run, and print each violation as JSON",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.Read()
			if err != nil {
				return err
			}
			found, err := checkStopped(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return json.NewEncoder(os.Stdout).Encode(found)
		},
	}
	flags = settings.Register(cmd.Flags())
	return cmd
}

// checkStopped walks the stores on disk. As at each start, what an interrupted
// write left in the stores of images, volumes and builds is removed first; the
// containers are only looked at. What a crash left of them is no violation: the
// next start mends it.
func checkStopped(ctx context.Context, cfg instance.Config) (found []control.Violation, err error) {
	if _, err := os.Stat(cfg.DataDir); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	lock, err := lock(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	images, err := image.Open(image.Config{Dir: filepath.Join(cfg.DataDir, "image")})
	if err != nil {
		return violations(nil, "images", []error{err}), nil
	}
	defer func() { err = errors.Join(err, images.Close()) }()
	served, err := registryserver.Open(registryserver.Config{Dir: filepath.Join(cfg.DataDir, "registry"), Images: images})
	if err != nil {
		found = violations(found, "registry", []error{err})
	} else {
		found = violations(found, "registry", append(served.Check(ctx), apart(served.Close())...))
	}
	volumes, err := volume.Open(volume.Config{Dir: filepath.Join(cfg.DataDir, "volumes")})
	if err != nil {
		found = violations(found, "volumes", []error{err})
	} else {
		found = violations(found, "volumes", volumes.Check(ctx))
	}
	build, err := builder.New(builder.Config{Dir: filepath.Join(cfg.DataDir, "build"), Images: images})
	if err != nil {
		found = violations(found, "build cache", []error{err})
	} else {
		found = violations(found, "build cache", append(build.Check(), apart(build.Close())...))
	}
	found = violations(found, "containers", engine.CheckStopped(cfg.DataDir, images))
	found = violations(found, "networks", network.CheckStopped(cfg))
	return violations(found, "images", apart(images.Check(ctx))), nil
}

func diagnoseCommand() *cobra.Command {
	var flags *settings.Flags
	cmd := &cobra.Command{
		Use:   "diagnose",
		Short: "Look for what on this host keeps containers from their network, and print it as JSON",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.Read()
			if err != nil {
				return err
			}
			networks, err := network.New(network.Config{Instance: cfg, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				return err
			}
			found, err := networks.Diagnose(cmd.Context())
			if err != nil {
				return err
			}
			return json.NewEncoder(os.Stdout).Encode(found)
		},
	}
	flags = settings.Register(cmd.Flags())
	return cmd
}
