package engine

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"
	devents "github.com/moby/moby/api/types/events"
)

// The reference's defaults of a health check.
const (
	defaultInterval      = 30 * time.Second
	defaultProbeTimeout  = 30 * time.Second
	defaultStartInterval = 5 * time.Second
	defaultRetries       = 3
	healthLogEntries     = 5
	healthOutputBytes    = 4096
)

// startHealth begins to check a run, if the container has a health check. An
// adopted run goes on from what was found before.
func (e *Engine) startHealth(r *record, this *run) {
	check := r.config().Config.Healthcheck
	if !checked(check) {
		return
	}
	checking, cancel := context.WithCancel(context.Background())
	r.mu.Lock()
	r.health = cancel
	r.mu.Unlock()
	e.spawn(func(ctx context.Context) {
		defer context.AfterFunc(ctx, cancel)()
		e.checkHealth(checking, r, this, *check)
	})
}

// checked says whether a container with this check is checked: as with the
// reference, one of another kind is none.
func checked(check *dcontainer.HealthConfig) bool {
	return check != nil && len(check.Test) > 0 && (check.Test[0] == "CMD" || check.Test[0] == "CMD-SHELL")
}

// unchecked is the health after a run: as with the reference, what nobody looks
// at is not healthy.
func unchecked(h *dcontainer.Health) *dcontainer.Health {
	if h == nil {
		return nil
	}
	after := *h
	after.Status = dcontainer.Unhealthy
	return &after
}

// newHealth is the health at the start of a run: the log of earlier runs stays.
func newHealth(c *dcontainer.Config, before *dcontainer.Health) *dcontainer.Health {
	if !checked(c.Healthcheck) {
		return nil
	}
	now := &dcontainer.Health{Status: dcontainer.Starting}
	if before != nil {
		now.Log = before.Log
	}
	return now
}

// endHealth ends the check with its run. What was found stays to be seen.
func (e *Engine) endHealth(r *record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.health != nil {
		r.health()
	}
}

// checkHealth probes until ctx ends.
func (e *Engine) checkHealth(ctx context.Context, r *record, this *run, check dcontainer.HealthConfig) {
	_, st := r.view()
	inStartPeriod := func() bool { return time.Since(st.StartedAt) < check.StartPeriod }
	for {
		before := r.healthNow()
		timer := time.NewTimer(probeDelay(check, before.Status == dcontainer.Starting && inStartPeriod()))
		select {
		case <-timer.C:
		case <-this.done:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
		if _, st := r.view(); st.Status == dcontainer.StatePaused {
			continue
		}
		result := e.probe(ctx, r, check)
		if ctx.Err() != nil {
			return
		}
		after := afterProbe(before, *result, check, inStartPeriod())
		if err := r.change(soon, func(st *state) {
			if ctx.Err() == nil { // else the run has ended, and the next may have begun
				st.Health = &after
			}
		}); err != nil {
			e.log.Error("container state not written", "container", r.id, "err", err)
		}
		if before.Status != after.Status {
			e.emit(r, devents.Action("health_status: "+string(after.Status)), nil)
		}
	}
}

func (r *record) healthNow() dcontainer.Health {
	if _, st := r.view(); st.Health != nil {
		return *st.Health
	}
	return dcontainer.Health{Status: dcontainer.Starting}
}

func probeDelay(check dcontainer.HealthConfig, starting bool) time.Duration {
	switch {
	case starting && check.StartInterval > 0:
		return check.StartInterval
	case starting:
		return defaultStartInterval
	case check.Interval > 0:
		return check.Interval
	}
	return defaultInterval
}

// afterProbe decides the status after one more result.
func afterProbe(h dcontainer.Health, result dcontainer.HealthcheckResult, check dcontainer.HealthConfig, starting bool) dcontainer.Health {
	log := append(h.Log[:len(h.Log):len(h.Log)], &result)
	h.Log = log[max(len(log)-healthLogEntries, 0):]
	if result.ExitCode == 0 {
		h.Status, h.FailingStreak = dcontainer.Healthy, 0
		return h
	}
	// Failures of a container that is still starting do not count.
	if h.Status == dcontainer.Starting && starting {
		return h
	}
	retries := check.Retries
	if retries <= 0 {
		retries = defaultRetries
	}
	h.FailingStreak++
	if h.FailingStreak >= retries {
		h.Status = dcontainer.Unhealthy
	}
	return h
}

// probe runs the check once.
func (e *Engine) probe(ctx context.Context, r *record, check dcontainer.HealthConfig) *dcontainer.HealthcheckResult {
	timeout := check.Timeout
	if timeout <= 0 {
		timeout = defaultProbeTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	output := &head{limit: healthOutputBytes}
	result := &dcontainer.HealthcheckResult{Start: time.Now()}
	code, err := e.ExecRun(ctx, r.id, dcontainer.ExecCreateRequest{Cmd: probeCommand(r.config().Config, check)}, Streams{Stdout: output, Stderr: output})
	result.End, result.ExitCode, result.Output = time.Now(), code, output.String()
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		result.ExitCode, result.Output = -1, "Health check exceeded timeout ("+timeout.String()+")"
		if text := strings.TrimSpace(output.String()); text != "" {
			result.Output += ": " + text
		}
	case err != nil:
		result.ExitCode, result.Output = -1, err.Error()
	}
	return result
}

func probeCommand(c *dcontainer.Config, check dcontainer.HealthConfig) []string {
	if check.Test[0] == "CMD" {
		return check.Test[1:]
	}
	shell := c.Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(shell[:len(shell):len(shell)], check.Test[1:]...)
}

// head keeps the first bytes written to it, for two writers at once.
type head struct {
	limit int

	mu  sync.Mutex
	buf bytes.Buffer
	cut bool // more was written
}

var _ io.Writer = (*head)(nil)

// Write never fails; what is over the limit is dropped.
func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := min(len(p), h.limit-h.buf.Len())
	h.buf.Write(p[:n])
	h.cut = h.cut || n < len(p)
	return len(p), nil
}

func (h *head) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cut {
		return h.buf.String() + "..."
	}
	return h.buf.String()
}
