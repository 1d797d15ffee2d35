// Package budget keeps what the engine stores within one share of the disk:
// images, their layers and packed copies, the build cache, and containers.
//
// It decides what goes: when all of it together takes more than its share of the
// file system, or when the file system has less free than it has to, then what
// can be made again, or is dead, goes; first packed copies of layers, then the
// rest, what was used longest ago first. What somebody needs never goes: tagged
// images, those of containers and those that others were built from, what a
// running pull, push, build or save has, what the registry serves, containers
// that run, that were stopped by their user or that something starts again; and
// nothing that was made or used within the last hour.
//
// The stores themselves see to it that nothing goes which somebody has begun to
// use since the decision. The package keeps no state, and has one goroutine, Run.
package budget

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	devents "github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"

	"gantry/engine"
	"gantry/engine/builder"
	"gantry/engine/image"
	"gantry/internal/problem"
)

// Config says what a Budget looks after, and how much that may take.
type Config struct {
	Dir     string // on the file system that is meant
	Percent int    // of the file system, that all together may take; 0: 80
	Floor   int64  // bytes that the file system keeps free; 0: a twentieth of it, at most 5 GiB
	Images  *image.Store
	Builder *builder.Builder
	Engine  *engine.Engine // nil: there are no containers
	Logger  *slog.Logger   // nil discards

	Grace time.Duration // how long what was used stays; 0: an hour, and ten minutes while less than Floor is free
}

const (
	defaultPercent = 80
	maxFloor       = 5 << 30
	grace          = time.Hour
	urgentGrace    = 10 * time.Minute
	deadGrace      = 24 * time.Hour // of containers: their output may be all that is left of them
)

// No event tells that a file system fills up.
const (
	interval     = time.Minute
	collectEvery = 60 // intervals
)

// Budget looks after the disk.
type Budget struct {
	cfg Config
	log *slog.Logger
}

// New makes a Budget which does nothing before Run.
func New(cfg Config) (*Budget, error) {
	if cfg.Dir == "" || cfg.Images == nil || cfg.Builder == nil {
		return nil, problem.New(problem.Invalid, "disk budget: directory, images and builder are required")
	}
	if cfg.Percent < 0 || cfg.Percent > 100 || cfg.Floor < 0 {
		return nil, problem.New(problem.Invalid, "disk budget: %d percent and %d bytes; want 1 to 100 percent", cfg.Percent, cfg.Floor)
	}
	if cfg.Percent == 0 {
		cfg.Percent = defaultPercent
	}
	b := &Budget{cfg: cfg, log: cfg.Logger}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	return b, nil
}

// Run keeps the budget until ctx ends.
func (b *Budget) Run(ctx context.Context) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	over := false
	for n := 1; ; n++ {
		left, err := b.Keep(ctx)
		if err == nil && n%collectEvery == 0 {
			_, err = b.cfg.Images.Collect(ctx)
		}
		if err != nil && ctx.Err() == nil {
			b.log.Warn("keeping the disk budget", "err", err)
		}
		if left > 0 && !over {
			b.log.Warn("the disk budget is exceeded by what is in use, tagged or new", "bytes", left)
		}
		over = left > 0
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// disk is the state of the file system, in bytes.
type disk struct {
	total, used, free int64
	limit             int64 // what the holdings may take
	floor             int64 // what has to be free
}

func (b *Budget) disk() (disk, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(b.cfg.Dir, &st); err != nil {
		return disk{}, fmt.Errorf("disk of %s: %w", b.cfg.Dir, err)
	}
	d := disk{total: int64(st.Blocks) * st.Bsize, used: int64(st.Blocks-st.Bfree) * st.Bsize, free: int64(st.Bavail) * st.Bsize}
	d.limit = d.total / 100 * int64(b.cfg.Percent)
	if d.floor = b.cfg.Floor; d.floor == 0 {
		d.floor = min(d.total/20, maxFloor)
	}
	return d, nil
}

// excess is how many bytes are to go when the holdings take so many.
func (d disk) excess(taken int64) int64 { return max(taken-d.limit, d.floor-d.free, 0) }

// Keep looks once, and lets go of what has to go. It returns how many bytes are
// too many still.
func (b *Budget) Keep(ctx context.Context) (left int64, err error) {
	d, err := b.disk()
	if err != nil || d.excess(d.used) == 0 {
		return 0, err // not even with what others have on it
	}
	holdings, err := b.holdings(ctx)
	if err != nil {
		return 0, err
	}
	need := d.excess(taken(holdings))
	if need == 0 {
		return 0, nil
	}
	// A little more than needed, or the next build would bring us back here.
	plan, planned := decide(holdings, need+d.limit/32, b.since(d))
	b.log.Info("over the disk budget", "bytes", need, "count", len(plan))
	if err := b.evict(ctx, plan); err != nil {
		return 0, err
	}
	return max(0, need-planned), nil
}

// since returns what was used before which time may go.
func (b *Budget) since(d disk) func(Kind) time.Time {
	now := time.Now()
	keep := b.cfg.Grace
	if keep == 0 {
		keep = grace
		if d.free < d.floor {
			keep = urgentGrace
		}
	}
	return func(k Kind) time.Time {
		if k == Container && b.cfg.Grace == 0 {
			return now.Add(-deadGrace)
		}
		return now.Add(-keep)
	}
}

// evict carries a plan out.
func (b *Budget) evict(ctx context.Context, plan []Holding) error {
	var errs []error
	var results []string
	var latest time.Time // of the results
	for _, h := range plan {
		if err := context.Cause(ctx); err != nil {
			return errors.Join(append(errs, err)...)
		}
		var err error
		switch h.Kind {
		case Copy:
			_, err = b.cfg.Images.DropCopy(ctx, h.digest(), h.Used)
		case Image:
			err = b.evictImage(ctx, h)
		case Result:
			results = append(results, h.ID)
			if h.Used.After(latest) {
				latest = h.Used
			}
		case Mount:
			_, err = b.cfg.Builder.EvictMount(h.ID, h.Used)
		case Container:
			_, err = b.cfg.Engine.RemoveDead(ctx, h.ID, h.Used)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("evict %s %s: %w", h.Kind, h.ID, err))
		}
	}
	if len(results) > 0 {
		if _, err := b.cfg.Builder.Evict(ctx, results, latest); err != nil {
			errs = append(errs, fmt.Errorf("evict results of builds: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (b *Budget) evictImage(ctx context.Context, h Holding) error {
	gone, err := b.cfg.Images.Evict(ctx, h.digest(), h.Used)
	if err == nil && gone && b.cfg.Engine != nil {
		b.cfg.Engine.Emit(devents.ImageEventType, devents.ActionDelete, h.ID, map[string]string{"name": h.ID})
	}
	return err
}
