package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"gantry/engine"
	"gantry/engine/budget"
	"gantry/engine/builder"
	"gantry/engine/container"
	"gantry/engine/cri"
	"gantry/engine/dockerapi"
	"gantry/engine/image"
	"gantry/engine/network"
	"gantry/engine/registry"
	registryserver "gantry/engine/registry/server"
	"gantry/engine/volume"
	"gantry/internal/atomicfile"
	"gantry/internal/control"
	"gantry/internal/problem"
	"gantry/internal/version"
)

// host is the engine's wing: images, networks, volumes, containers, builds.
type host struct {
	images   *image.Store
	networks *network.Host
	volumes  *volume.Store
	builder  *builder.Builder
	budget   *budget.Budget
	runtime  *container.Runtime
	registry *registry.Client
	served   *registryserver.Server
	engine   *engine.Engine
	api      *dockerapi.Handler
	resume   string // file that names the containers to start again; see stopContainers
}

// startHost opens the engine, serves Docker's API, and starts again what ran
// when the server was told to stop. The parts live in ctx of g; starting bounds
// the start.
func (s *server) startHost(starting, ctx context.Context, g *errgroup.Group) error {
	var h *host
	err := s.progress.Step("engine", func() (err error) {
		if h, err = s.openHost(); err != nil {
			return err
		}
		s.mu.Lock()
		s.host = h
		s.mu.Unlock()
		part(ctx, g, "engine", h.engine.Run)
		select {
		case <-h.engine.Ready():
		case <-starting.Done():
			return context.Cause(starting)
		}
		part(ctx, g, "network", h.networks.Run)
		part(ctx, g, "disk budget", h.budget.Run)
		return nil
	})
	if err != nil {
		return err
	}
	err = s.progress.Step("docker api", func() error {
		l, err := listenUnix(s.cfg.DockerSocket())
		if err != nil {
			return err
		}
		serveHTTP(ctx, g, "docker api", l, h.api)
		listeners, err := listenHosts(s.cfg, s.note)
		if err != nil {
			return err
		}
		for _, l := range listeners {
			serveHTTP(ctx, g, "docker api", l, h.api)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.serveRegistry(ctx, g, h.served); err != nil {
		return err
	}
	return h.startAgain(ctx, s)
}

func (s *server) openHost() (h *host, err error) {
	h = &host{resume: filepath.Join(s.cfg.DataDir, "resume.json")}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	shim, err := shimPath()
	if err != nil {
		return h, err
	}
	logger := func(name string) *slog.Logger { return s.log.With("part", name) }
	if h.images, err = image.Open(image.Config{Dir: filepath.Join(s.cfg.DataDir, "image"), Logger: logger("image")}); err != nil {
		return h, err
	}
	if h.networks, err = network.New(network.Config{Instance: s.cfg, Logger: logger("network")}); err != nil {
		return h, err
	}
	if h.volumes, err = volume.Open(volume.Config{Dir: filepath.Join(s.cfg.DataDir, "volumes"), Logger: logger("volume")}); err != nil {
		return h, err
	}
	h.runtime, err = container.New(container.Config{RunDir: s.cfg.RunDir, Shim: shim, Cgroup: s.cfg.Cgroup(), Logger: logger("container")})
	if err != nil {
		return h, err
	}
	if h.registry, err = s.openRegistryClient(h.images, logger("registry")); err != nil {
		return h, err
	}
	logOptions, err := s.logOptions()
	if err != nil {
		return h, err
	}
	h.engine, err = engine.New(engine.Config{
		Dir: s.cfg.DataDir, RunDir: s.cfg.RunDir, Images: h.images, Runtime: h.runtime,
		Networks: h.networks, Volumes: h.volumes, Logger: logger("engine"), Init: s.cfg.Init,
		LogDriver: s.cfg.LogDriver, LogOptions: logOptions, Allowed: h.registry.Allowed,
	})
	if err != nil {
		return h, err
	}
	h.builder, err = builder.New(builder.Config{
		Dir: filepath.Join(s.cfg.DataDir, "build"), Images: h.images, Runner: engine.StepRunner{Engine: h.engine}, Allowed: h.registry.Allowed, Logger: logger("builder"),
	})
	if err != nil {
		return h, err
	}
	if h.budget, err = s.openBudget(h, logger("budget")); err != nil {
		return h, err
	}
	if h.served, err = s.openRegistry(h.images, h.registry, logger("registry")); err != nil {
		return h, err
	}
	h.api = dockerapi.New(dockerapi.Config{
		Engine: h.engine, Images: h.images, Builder: h.builder, Registry: h.registry, Networks: h.networks, Volumes: h.volumes,
		Version: version.Version, DataDir: s.cfg.DataDir, Logger: logger("dockerapi"),
	})
	return h, nil
}

// logOptions reads the options of the default log driver.
func (s *server) logOptions() (map[string]string, error) {
	options := map[string]string{}
	for _, option := range s.cfg.LogOptions {
		name, value, ok := strings.Cut(option, "=")
		if !ok {
			return nil, &problem.UserError{Op: "read settings", Err: problem.New(problem.Invalid, "invalid log opt %q", option), Try: "write it as NAME=VALUE"}
		}
		options[name] = value
	}
	return options, nil
}

// openCRI returns the engine as the kubelet wants it, and serves it on a socket
// as well.
func (s *server) openCRI(ctx context.Context, g *errgroup.Group) (*cri.Service, error) {
	service, err := cri.New(cri.Config{Engine: s.host.engine, Images: s.host.images, Registry: s.host.registry, Dir: filepath.Join(s.cfg.DataDir, "image")})
	if err != nil || s.cfg.Disabled("cri") {
		return service, err
	}
	l, err := listenUnix(s.cfg.CRISocket())
	if err != nil {
		return nil, err
	}
	part(ctx, g, "cri", func(ctx context.Context) error { return service.Serve(ctx, l) })
	return service, nil
}

// close lets go of everything; containers go on running. It may be called
// after a start that failed half way.
func (h *host) close() error {
	var errs []error
	if h.runtime != nil {
		errs = append(errs, h.runtime.Close())
	}
	if h.registry != nil {
		h.registry.Close()
	}
	if h.served != nil {
		errs = append(errs, h.served.Close())
	}
	if h.images != nil {
		errs = append(errs, h.images.Close())
	}
	return errors.Join(errs...)
}

// shimPath finds gantry-shim beside this program, or on PATH.
func shimPath() (string, error) {
	const name = "gantry-shim"
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", &problem.UserError{Op: "start", Err: problem.New(problem.NotFound, "there is no %s beside gantryd nor on PATH", name), Try: "copy " + name + " beside gantryd"}
	}
	return filepath.Abs(path)
}

// pid returns a process in the container's network namespace.
func (h *host) pid(ctx context.Context, ref string) (int, error) {
	c, err := h.engine.Container(ctx, ref)
	if err != nil {
		return 0, err
	}
	if c.Pid == 0 {
		return 0, problem.New(problem.NotFound, "container %s is not running", ref)
	}
	return c.Pid, nil
}

// stopConcurrency bounds how many containers are stopped or started at once.
const stopConcurrency = 16

// stopContainers stops everything that runs. Which containers ran
// is written down first: pods come back by what the cluster wants, the others
// by startAgain.
func (h *host) stopContainers(ctx context.Context, fate control.Fate) error {
	var running []string
	var stop []string
	for _, c := range h.engine.Containers(ctx) {
		if c.Pid == 0 {
			continue
		}
		stop = append(stop, c.ID)
		if c.Sandbox == "" && (fate != control.Reboot || startsWithHost(c)) {
			running = append(running, c.ID)
		}
	}
	if err := atomicfile.WriteJSON(h.resume, running, 0o600); err != nil {
		return fmt.Errorf("write down what runs: %w", err)
	}
	var how engine.StopOptions
	if fate == control.Kill {
		how.Timeout = new(time.Duration)
	}
	err := each(stop, func(id string) error {
		err := h.engine.Stop(ctx, id, how)
		if errors.Is(err, engine.ErrNotModified) || errors.Is(err, problem.NotFound) {
			return nil // it has ended by itself
		}
		return err
	})
	var pods []string
	for _, s := range h.engine.Sandboxes(ctx) {
		pods = append(pods, s.ID)
	}
	return errors.Join(err, each(pods, func(id string) error { return h.engine.StopSandbox(ctx, id) }))
}

// startAgain starts what stopContainers has written down. A container that
// cannot be started is noted: it does not keep the server from starting.
func (h *host) startAgain(ctx context.Context, s *server) error {
	data, err := os.ReadFile(h.resume)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var ids []string
	if err == nil {
		err = json.Unmarshal(data, &ids)
	}
	if err != nil {
		return fmt.Errorf("read what ran: %w", err)
	}
	return s.progress.Step("containers", func() error {
		err := each(ids, func(id string) error {
			err := h.engine.Start(ctx, id)
			if err == nil || errors.Is(err, engine.ErrNotModified) || errors.Is(err, problem.NotFound) {
				return nil // it runs, or is gone
			}
			s.log.Warn("container does not start again", "container", id, "err", err)
			s.note(fmt.Sprintf("container %.12s does not start again: %v", id, err))
			return nil
		})
		return errors.Join(err, os.Remove(h.resume))
	})
}

// each calls f for all ids, some at a time, and returns all errors.
func each(ids []string, f func(string) error) error {
	var g errgroup.Group
	g.SetLimit(stopConcurrency)
	var mu sync.Mutex
	var errs []error
	for _, id := range ids {
		g.Go(func() error {
			if err := f(id); err != nil {
				mu.Lock()
				errs = append(errs, fmt.Errorf("container %.12s: %w", id, err))
				mu.Unlock()
			}
			return nil
		})
	}
	_ = g.Wait() // the errors are in errs
	return errors.Join(errs...)
}
