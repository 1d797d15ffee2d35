package engine

import (
	"context"

	"gantry/engine/container"
	"gantry/engine/container/logfile"
	"gantry/internal/problem"
)

// Logs calls emit for each line that opts selects, in order, and with Follow
// until the container ends or ctx does.
//
// Errors: Unsupported if the container's output is not logged.
func (e *Engine) Logs(ctx context.Context, ref string, opts LogsOptions, emit func(LogLine) error) error {
	r, err := e.find(ref)
	if err != nil {
		return err
	}
	cfg := r.config()
	if cfg.LogFormat == container.LogNone {
		return problem.New(problem.Unsupported, "configured logging driver does not support reading")
	}
	if opts.Tail == 0 && !opts.Follow {
		return nil
	}
	read := logfile.Options{
		Format: cfg.LogFormat, Since: opts.Since, Until: opts.Until,
		Stdout: opts.Stdout, Stderr: opts.Stderr, Tail: opts.Tail,
	}
	switch {
	case opts.Tail == 0:
		read.Tail = -1 // the reader's "none"
	case opts.Tail < 0:
		read.Tail = 0 // and its "all"
	}
	if this := r.running(); opts.Follow && this != nil {
		read.Follow, read.Done = true, this.proc.Done()
	}
	for entry, err := range logfile.Read(ctx, cfg.LogPath, read) {
		if err != nil {
			return err
		}
		if err := emit(LogLine{Time: entry.Time, Stderr: entry.Stream == "stderr", Text: entry.Line, Attrs: entry.Attrs}); err != nil {
			return err
		}
	}
	return nil
}

// LogReadable tells whether Logs can read a container's output.
func (e *Engine) LogReadable(ctx context.Context, ref string) error {
	r, err := e.find(ref)
	if err != nil {
		return err
	}
	if r.config().LogFormat == container.LogNone {
		return problem.New(problem.Unsupported, "configured logging driver does not support reading")
	}
	return nil
}

// ReopenLog makes the container open its log file again by name, after somebody
// has renamed it. Errors: Conflict if it does not run.
func (e *Engine) ReopenLog(ctx context.Context, ref string) error {
	r, err := e.find(ref)
	if err != nil {
		return err
	}
	this := r.running()
	if this == nil {
		return notRunning(r.id)
	}
	return this.proc.ReopenLog(ctx)
}
