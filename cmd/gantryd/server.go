package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"gantry/cluster/store"
	"gantry/internal/atomicfile"
	"gantry/internal/control"
	"gantry/internal/instance"
	"gantry/internal/preflight"
	"gantry/internal/problem"
)

// server is one run of "gantryd server".
//
// It has two lives inside each other: the host (images, networks, containers
// and their sockets) begins first and ends last, the cluster lives within it.
// A part that fails ends both; containers outlive both unless the server is
// asked to stop them.
type server struct {
	cfg      instance.Config
	log      *slog.Logger
	begun    time.Time
	progress control.Progress
	reporter *reporter
	stop     chan control.Fate // a request to stop

	mu      sync.Mutex
	phase   control.Phase
	failure error
	api     string // where the Kubernetes API listens
	http    string // where the ingress listens
	notes   []string
	host    *host        // nil until it is open
	store   *store.Store // the cluster's; nil until it is open
}

func newServer(cfg instance.Config) (*server, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		return nil, problem.New(problem.Invalid, "log level %q: want debug, info, warn or error", cfg.LogLevel)
	}
	s := &server{
		cfg:      cfg,
		log:      slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
		begun:    time.Now(),
		reporter: newReporter(),
		stop:     make(chan control.Fate, 1), // the first request counts
		phase:    control.Starting,
	}
	s.progress.Changed = func() { s.reporter.report(s.Status()) }
	return s, nil
}

// run serves until ctx ends, a stop is requested, or a part fails.
func (s *server) run(ctx context.Context) error {
	err := s.locked(ctx)
	if err != nil {
		s.mu.Lock()
		s.phase, s.failure = control.Failed, err
		s.mu.Unlock()
		s.reporter.report(s.Status())
	}
	return err
}

func (s *server) locked(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return &problem.UserError{Op: "start", Err: problem.New(problem.Denied, "the server needs to be root"), Try: "run it with sudo"}
	}
	lock, err := lock(s.cfg.DataDir)
	if err != nil {
		return err
	}
	defer lock.Close() // gives the lock up
	if err := errors.Join(os.MkdirAll(s.cfg.RunDir, 0o755), atomicfile.Sweep(s.cfg.DataDir), s.cfg.Record()); err != nil {
		return fmt.Errorf("prepare directories: %w", err)
	}
	return s.live(ctx)
}

// live begins both lives, waits for a reason to end, and ends them in reverse.
func (s *server) live(signalled context.Context) error {
	life, end := context.WithCancel(context.WithoutCancel(signalled))
	defer end()
	hostParts, hostCtx := errgroup.WithContext(life)
	clusterLife, endCluster := context.WithCancel(hostCtx)
	defer endCluster()
	clusterParts, clusterCtx := errgroup.WithContext(clusterLife)
	interrupted := context.AfterFunc(signalled, endCluster)
	defer interrupted()

	err := s.start(clusterCtx, hostCtx, hostParts, clusterParts)
	containers := control.Keep
	if err == nil {
		part(hostCtx, hostParts, "memory", slim)
		s.setPhase(control.Running)
		notify("READY=1")
		s.log.Info("server is ready", "dur", time.Since(s.begun).Round(time.Millisecond))
		containers = s.waitForEnd(signalled, clusterCtx)
	}
	s.setPhase(control.Stopping)
	notify("STOPPING=1")
	endCluster()
	err = join(clusterParts.Wait(), err)
	if containers != control.Keep {
		err = join(err, s.host.stopContainers(hostCtx, containers))
	}
	end()
	err = join(hostParts.Wait(), err)
	err = join(err, s.close())
	if err != nil && signalled.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil // interrupted while it started
	}
	s.log.Info("server has stopped", "dur", time.Since(s.begun).Round(time.Millisecond))
	return err
}

// join is errors.Join for errors of which one may be the cause of the other:
// it says nothing twice.
func join(first, second error) error {
	if second != nil && errors.Is(second, first) {
		return second
	}
	if first != nil && errors.Is(first, second) {
		return first
	}
	return errors.Join(first, second)
}

// start begins all parts in order; the cluster's store opens beside the host.
// ctx bounds the start itself; the parts of the host live in hostCtx, those of
// the cluster in ctx.
func (s *server) start(ctx, hostCtx context.Context, hostParts, clusterParts *errgroup.Group) error {
	if err := s.serveControl(hostCtx, hostParts); err != nil {
		return err
	}
	var first errgroup.Group
	first.Go(func() error {
		return s.progress.Step("preflight", func() error { return preflight.Required(s.cfg) })
	})
	first.Go(func() error { return s.startHost(ctx, hostCtx, hostParts) })
	if !s.cfg.Disabled("cluster") {
		first.Go(func() error { return s.openStore(ctx) })
	}
	if err := first.Wait(); err != nil || s.cfg.Disabled("cluster") {
		return err
	}
	return s.startCluster(ctx, clusterParts)
}

// waitForEnd returns what is to become of the containers.
func (s *server) waitForEnd(signalled, ctx context.Context) control.Fate {
	select {
	case <-ctx.Done(): // a signal, or a part that failed
		if signalled.Err() != nil {
			return fateAtSignal()
		}
		return control.Keep
	case containers := <-s.stop:
		return containers
	}
}

func (s *server) setPhase(p control.Phase) {
	s.mu.Lock()
	s.phase = p
	s.mu.Unlock()
	s.reporter.report(s.Status())
}

// close lets go of what start has opened, once no part uses it any more.
func (s *server) close() error {
	var errs []error
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if s.host != nil {
		errs = append(errs, s.host.close())
	}
	return errors.Join(errs...)
}

func (s *server) setAPI(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.api = address
}

func (s *server) setHTTP(address, note string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.http = address
	if note != "" {
		s.notes = append(s.notes, note)
	}
}

func (s *server) note(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes = append(s.notes, text)
}

// part runs one part in g, and names it in its error. A part that returns
// before ctx ends has failed, whatever it returned.
func part(ctx context.Context, g *errgroup.Group, name string, run func(context.Context) error) {
	g.Go(func() error {
		err := run(ctx)
		if ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())) {
			return nil
		}
		if err == nil {
			err = errors.New("ended without being asked to")
		}
		return fmt.Errorf("%s: %w", name, err)
	})
}
