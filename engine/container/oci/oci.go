// Package oci runs containers as runc does: each command is a process of its
// own, there is no daemon and no shim, and the container is the child of who
// calls. What a container is made of, the program of system calls, is the same
// that a shim executes for the engine (package plan).
//
// The process that creates a container forks it, without an exec in between,
// goes along with it until all is done but the exec, and ends. The container
// reads from a fifo then; start writes a byte to it.
//
// On disk, below Config.Root, which a reboot empties:
//
//	ID/state.json    what is known of the container (type record), replaced whole
//	ID/config.json   its runtime-spec, as it was at create
//	ID/exec.fifo     there from create to start
//	.shared/root, .shared/empty   mount points used inside each container's own mount namespace
//	.shared/filter-KEY            a compiled seccomp profile
//
// ID/ is made first and removed last, and locked while the container is
// created: whatever a crash leaves, delete finds.
//
// It runs no goroutines but those that copy to and from a terminal and forward
// signals, in the process that waits for a container in the foreground.
package oci

import (
	"fmt"
	"os"
	"path/filepath"

	"gantry/engine/container/cgroup"
	"gantry/engine/container/plan"
	"gantry/engine/container/seccomp"
	"gantry/internal/problem"
)

// Config is what the runtime is told. All is required.
type Config struct {
	Root string // directory of all containers; made if missing
	// Warn hears what could not be done as asked.
	Warn func(message string)
}

// Runtime works on the containers below one directory.
type Runtime struct {
	cfg  Config
	host *cgroup.Host
}

// New looks at what the host has. It changes nothing.
func New(cfg Config) (*Runtime, error) {
	root, err := filepath.Abs(cfg.Root)
	if err != nil {
		return nil, err
	}
	cfg.Root = root
	host, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	return &Runtime{cfg: cfg, host: host}, nil
}

func invalid(format string, args ...any) error { return problem.New(problem.Invalid, format, args...) }

// shared is a file or directory that containers have in common.
func (r *Runtime) shared(name string) string { return filepath.Join(r.cfg.Root, ".shared", name) }

// prepare makes the runtime's own directories. The root of a user namespace
// passes through them to mount; what is in them is root's alone.
func (r *Runtime) prepare() error {
	for _, dir := range []string{"root", "empty"} {
		if err := os.MkdirAll(r.shared(dir), 0o711); err != nil {
			return fmt.Errorf("make the state directory: %w", err)
		}
	}
	return nil
}

func (r *Runtime) compiler() *seccomp.Compiler { return &seccomp.Compiler{Dir: r.shared("")} }

func (r *Runtime) planner(group *cgroup.Group, filter *seccomp.Filter, direct *plan.Direct, users *users) (*plan.Planner, error) {
	limits, err := plan.ReadLimits()
	if err != nil {
		return nil, err
	}
	return plan.New(plan.Config{Limits: limits, Host: r.host, Group: group, MountAt: r.shared("root"), Empty: r.shared("empty"),
		Filter: filter, Direct: direct, UserNamespace: users.path}), nil
}

func (r *Runtime) warn(format string, args ...any) { r.cfg.Warn(fmt.Sprintf(format, args...)) }
