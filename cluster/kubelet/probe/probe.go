// Package probe runs the startup, readiness and liveness probes of running
// containers.
//
// A Set has one goroutine for each probe of each container that it was told to
// watch; Forget, or the end of the context given to Watch, ends it, and Wait waits for all.
// Results are kept by container ID, so a restarted container begins anew.
//
// The timing fields are the reference's, with one addition: a readiness or
// startup probe over the network that fails before its first success is tried
// again after 100 ms, then 200 ms and so on up to its period. These early tries
// count when they succeed and are not held against the container when they
// fail, so a server that needs 300 ms to listen is ready after 300 ms and not
// after a whole period.
package probe

import (
	"context"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Kind is which question a probe answers.
type Kind string

// The kinds, as events name them.
const (
	Startup   Kind = "Startup"
	Readiness Kind = "Readiness"
	Liveness  Kind = "Liveness"
)

// Target is a running container.
type Target struct {
	Pod       *v1.Pod
	Container *v1.Container
	ID        string // the runtime's
	IP        string // the pod's
	StartedAt time.Time
	// Known is what an earlier process of the kubelet found out; it stands until
	// the probes say otherwise. Zero for a new container.
	Known Health
}

// Health is what the probes of a container say.
type Health struct {
	Started        bool
	Ready          bool
	StartupFailed  bool
	LivenessFailed bool
}

// Config is what a Set needs.
type Config struct {
	Exec   Exec
	Notify func(Target)                             // a Health changed; must not block
	Failed func(t Target, kind Kind, output string) // one probe failed; for the event
	Logger *slog.Logger                             // nil discards
}

// Set is the probes of a node.
type Set struct {
	cfg Config
	wg  sync.WaitGroup

	mu      sync.Mutex
	targets map[string]*watched
}

// watched is a container under probes; guarded by Set.mu.
type watched struct {
	health   Health
	stop     context.CancelFunc
	stopLive context.CancelFunc
	started  chan struct{} // closed when the startup probe succeeded
}

// New returns an empty Set.
func New(cfg Config) *Set {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Set{cfg: cfg, targets: map[string]*watched{}}
}

// Watch begins the probes of a container, unless they run already.
func (s *Set) Watch(ctx context.Context, t Target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.targets[t.ID] != nil {
		return
	}
	c := t.Container
	ctx, stop := context.WithCancel(ctx)
	live, stopLive := context.WithCancel(ctx)
	w := &watched{stop: stop, stopLive: stopLive, started: make(chan struct{})}
	w.health.Started = c.StartupProbe == nil || t.Known.Started
	w.health.Ready = c.ReadinessProbe == nil || t.Known.Ready
	if w.health.Started {
		close(w.started)
	}
	s.targets[t.ID] = w
	begin := func(ctx context.Context, kind Kind, p *v1.Probe) {
		if p == nil {
			return
		}
		s.wg.Go(func() { s.run(ctx, t, w, kind, p) })
	}
	if !w.health.Started {
		begin(live, Startup, c.StartupProbe)
	}
	begin(ctx, Readiness, c.ReadinessProbe)
	begin(live, Liveness, c.LivenessProbe)
}

// Health returns what is known of a container; all false if it is not watched.
func (s *Set) Health(id string) Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.targets[id]; w != nil {
		return w.health
	}
	return Health{}
}

// Terminating ends the probes that could only get a container killed, which
// its pod is about to be anyway.
func (s *Set) Terminating(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.targets[id]; w != nil {
		w.stopLive()
	}
}

// Forget ends the probes of a container.
func (s *Set) Forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.targets[id]; w != nil {
		w.stop()
		delete(s.targets, id)
	}
}

// Wait returns when all probes have ended.
func (s *Set) Wait() { s.wg.Wait() }

// settings are a probe's timing fields with the defaults filled in.
type settings struct {
	delay, period, timeout time.Duration
	success, failure       int
	quick                  bool // early tries are allowed
}

const quickest = 100 * time.Millisecond

func settingsOf(kind Kind, p *v1.Probe) settings {
	seconds := func(n, def int32) time.Duration {
		if n <= 0 {
			n = def
		}
		return time.Duration(n) * time.Second
	}
	return settings{
		delay: seconds(p.InitialDelaySeconds, 0), period: seconds(p.PeriodSeconds, 10), timeout: seconds(p.TimeoutSeconds, 1),
		success: max(int(p.SuccessThreshold), 1), failure: cmpOr(int(p.FailureThreshold), 3),
		quick: kind != Liveness && p.Exec == nil,
	}
}

func cmpOr(n, def int) int {
	if n <= 0 {
		return def
	}
	return n
}

// run is the life of one probe.
func (s *Set) run(ctx context.Context, t Target, w *watched, kind Kind, p *v1.Probe) {
	set := settingsOf(kind, p)
	if kind != Startup {
		select {
		case <-w.started:
		case <-ctx.Done():
			return
		}
	}
	c := counter{settings: set, quickWait: quickest}
	timer := time.NewTimer(time.Until(t.StartedAt.Add(set.delay)))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		begun := time.Now()
		ok, output := s.once(ctx, t, p, set.timeout)
		if ctx.Err() != nil {
			return
		}
		wait, verdict, counted := c.add(ok)
		if !ok && counted {
			s.cfg.Failed(t, kind, output)
			s.cfg.Logger.Debug("probe failed", "container", t.ID, "kind", kind, "err", output)
		}
		if s.record(t, w, kind, verdict) {
			return
		}
		timer.Reset(wait - min(time.Since(begun), wait))
	}
}

// verdict is what the results so far amount to.
type verdict int

const (
	undecided verdict = iota
	succeeded
	failed
)

// counter applies the thresholds.
type counter struct {
	settings
	quickWait time.Duration
	everOK    bool
	okRun     int // successes in a row
	badRun    int // failures in a row
}

// add takes one result: how long to wait for the next, what is decided, and
// whether the result counts.
func (c *counter) add(ok bool) (wait time.Duration, v verdict, counted bool) {
	if ok {
		c.everOK, c.badRun = true, 0
		c.okRun++
		if c.okRun >= c.success {
			return c.period, succeeded, true
		}
		return c.period, undecided, true
	}
	c.okRun = 0
	if c.quick && !c.everOK && c.quickWait < c.period {
		wait, c.quickWait = c.quickWait, 2*c.quickWait
		return wait, undecided, false
	}
	c.badRun++
	if c.badRun >= c.failure {
		return c.period, failed, true
	}
	return c.period, undecided, true
}

// record stores a verdict, tells of a change, and says whether the probe has
// nothing more to find out.
func (s *Set) record(t Target, w *watched, kind Kind, v verdict) (done bool) {
	if v == undecided {
		return false
	}
	s.mu.Lock()
	before := w.health
	switch kind {
	case Startup:
		if done = true; v == failed {
			w.health.StartupFailed = true
		} else {
			w.health.Started = true
			close(w.started)
		}
	case Readiness:
		w.health.Ready = v == succeeded
	case Liveness:
		if v == failed {
			w.health.LivenessFailed, done = true, true
		}
	}
	changed := w.health != before
	s.mu.Unlock()
	if changed {
		s.cfg.Notify(t)
	}
	return done
}
