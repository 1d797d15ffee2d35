package main

import (
	"context"
	"log/slog"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"gantry/engine/budget"
	"gantry/internal/control"
	"gantry/internal/problem"
)

// openBudget returns what looks after the disk.
func (s *server) openBudget(h *host, log *slog.Logger) (*budget.Budget, error) {
	percent, floor, err := diskBudget(s.cfg.DiskBudget, s.cfg.DiskFloor)
	if err != nil {
		return nil, err
	}
	return budget.New(budget.Config{
		Dir: s.cfg.DataDir, Percent: percent, Floor: floor,
		Images: h.images, Builder: h.builder, Engine: h.engine, Logger: log,
	})
}

// diskBudget reads the settings; what is empty is 0, the default.
func diskBudget(share, least string) (percent int, floor int64, err error) {
	if share != "" {
		percent, err = strconv.Atoi(strings.TrimSuffix(share, "%"))
		if err != nil || percent < 1 || percent > 100 {
			return 0, 0, &problem.UserError{Op: "read settings", Err: problem.New(problem.Invalid, "disk budget %q", share), Try: "give --disk-budget as 1% to 100%"}
		}
	}
	if least != "" {
		floor, err = units.RAMInBytes(least)
		if err != nil || floor < 1 {
			return 0, 0, &problem.UserError{Op: "read settings", Err: problem.New(problem.Invalid, "disk floor %q", least), Try: "give --disk-floor as a size, such as 5GB"}
		}
	}
	return percent, floor, nil
}

// Disk implements control.Server.
func (s *server) Disk(ctx context.Context) (control.Disk, error) {
	s.mu.Lock()
	h, phase := s.host, s.phase
	s.mu.Unlock()
	if h == nil || phase != control.Running {
		return control.Disk{}, problem.New(problem.Unavailable, "the server is %s", phase)
	}
	return h.budget.Report(ctx)
}
