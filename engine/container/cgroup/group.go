package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/cgroups"
	// Without it the library cannot set device rules.
	_ "github.com/opencontainers/cgroups/devices"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	"golang.org/x/sys/unix"

	"gantry/internal/problem"
)

// Group is one cgroup, in every hierarchy of the host. It need not exist.
type Group struct {
	host *Host
	name string // relative to the hierarchies' roots
}

// Group returns the cgroup name, relative to the hierarchies' roots.
func (h *Host) Group(name string) *Group { return &Group{host: h, name: path.Clean("/" + name)} }

// Name is the group's path below each hierarchy's root; it begins with a slash.
func (g *Group) Name() string { return g.name }

// unified is the directory in cgroup2, or "".
func (g *Group) unified() string {
	if g.host.Unified == "" {
		return ""
	}
	return path.Join(g.host.Unified, g.name)
}

// Dir is the directory of a v1 controller, or of cgroup2 on a pure v2 host;
// "" if there is none.
func (g *Group) Dir(controller string) string {
	if g.host.Pure() {
		return g.unified()
	}
	if m := g.host.V1[controller]; m != "" {
		return path.Join(m, g.name)
	}
	return ""
}

// CloneDir is the cgroup2 directory that a process can be cloned into, or "".
func (g *Group) CloneDir() string { return g.unified() }

// JoinFiles are the v1 files that a process joins by writing 0.
func (g *Group) JoinFiles() []string {
	var files []string
	for _, dir := range g.host.dirs(g.name) {
		if dir != g.unified() {
			files = append(files, path.Join(dir, "cgroup.procs"))
		}
	}
	return files
}

// OOMFile is the file with a line "oom_kill N", or "".
func (g *Group) OOMFile() string {
	dir := g.Dir("memory")
	if dir == "" {
		return ""
	}
	if g.host.Pure() {
		return path.Join(dir, "memory.events")
	}
	return path.Join(dir, "memory.oom_control")
}

// ProcsFile is a file that lists the group's processes.
func (g *Group) ProcsFile() string { return path.Join(g.host.dirs(g.name)[0], "cgroup.procs") }

// manager is the library's view of the group.
func (g *Group) manager(r *cgroups.Resources) (cgroups.Manager, error) {
	if r == nil {
		r = &cgroups.Resources{SkipDevices: true}
	}
	config := &cgroups.Cgroup{Path: g.name, Resources: r}
	if g.host.Pure() {
		return fs2.NewManager(config, g.unified())
	}
	paths := map[string]string{}
	for controller, m := range g.host.V1 {
		paths[controller] = path.Join(m, g.name)
	}
	if g.host.Unified != "" && cgroups.IsCgroup2HybridMode() {
		paths[""] = g.unified()
	}
	return fs.NewManager(config, paths)
}

// Create makes the group and sets its limits. Where it exists it is updated.
func (g *Group) Create(r *cgroups.Resources) error {
	m, err := g.manager(r)
	if err != nil {
		return err
	}
	if err := g.shareRealtime(r); err != nil {
		return err // the library sets it while it makes the group
	}
	if err := m.Apply(-1); err != nil {
		return limitError(g.name, err)
	}
	if u := g.unified(); u != "" && !g.host.Pure() {
		// The library leaves a second hierarchy to luck.
		if err := os.MkdirAll(u, 0o755); err != nil {
			return err
		}
	}
	if err := m.Set(r); err != nil {
		return limitError(g.name, err)
	}
	return nil
}

// Set changes the limits of the group.
func (g *Group) Set(r *cgroups.Resources) error {
	m, err := g.manager(r)
	if err != nil {
		return err
	}
	if err := g.shareRealtime(r); err != nil {
		return err
	}
	if err := m.Set(r); err != nil {
		return limitError(g.name, err)
	}
	return nil
}

// shareRealtime lets the groups above this one use all the realtime that the
// hierarchy has: a group begins with none, and can give away no more than it has.
func (g *Group) shareRealtime(r *cgroups.Resources) error {
	const file = "cpu.rt_runtime_us"
	if r.CpuRtRuntime == 0 || g.host.V1["cpu"] == "" {
		return nil
	}
	all := text(path.Join(g.host.V1["cpu"], file))
	for i, c := range g.name {
		if c != '/' || i == 0 {
			continue
		}
		dir := path.Join(g.host.V1["cpu"], g.name[:i])
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if text(path.Join(dir, file)) != "0" {
			continue // somebody has decided on a share
		}
		if err := os.WriteFile(path.Join(dir, file), []byte(all), 0); err != nil {
			return limitError(g.name[:i], err)
		}
	}
	return nil
}

// limitError tells values that the kernel refuses from other failures.
func limitError(name string, err error) error {
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ERANGE) || errors.Is(err, unix.EBUSY) {
		return problem.New(problem.Invalid, "set limits of cgroup %s: %w", name, err)
	}
	return fmt.Errorf("set limits of cgroup %s: %w", name, err)
}

// Exists says whether the group is there.
func (g *Group) Exists() bool {
	return slices.ContainsFunc(g.host.dirs(g.name), func(dir string) bool {
		_, err := os.Stat(dir)
		return err == nil
	})
}

// Pids lists the processes of the group and of those below it.
func (g *Group) Pids() ([]int, error) {
	var pids []int
	for _, dir := range g.host.dirs(g.name) {
		err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
			if err != nil || !e.IsDir() {
				return ignoreGone(err)
			}
			data, err := os.ReadFile(path.Join(p, "cgroup.procs"))
			for _, line := range bytes.Fields(data) {
				if pid, err := strconv.Atoi(string(line)); err == nil && pid > 0 {
					pids = append(pids, pid)
				}
			}
			return ignoreGone(err)
		})
		if err != nil {
			return nil, fmt.Errorf("list processes of cgroup %s: %w", g.name, err)
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

func ignoreGone(err error) error {
	// ENODEV is a directory that was removed while it was read; EOPNOTSUPP a
	// threaded one, whose processes its parent lists.
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// Freeze stops every process of the group, and returns when they have stopped.
func (g *Group) Freeze() error { return g.freeze(cgroups.Frozen) }

// Thaw lets them go on.
func (g *Group) Thaw() error { return g.freeze(cgroups.Thawed) }

func (g *Group) freeze(state cgroups.FreezerState) error {
	m, err := g.manager(nil)
	if err != nil {
		return err
	}
	return m.Freeze(state)
}

// Frozen asks the kernel whether the group is frozen.
func (g *Group) Frozen() bool {
	m, err := g.manager(nil)
	if err != nil {
		return false
	}
	state, err := m.GetFreezerState()
	return err == nil && state == cgroups.Frozen
}

// Kill kills all processes of the group and waits until they have ended. It
// refuses a group that this process is in, or that has all the host's.
func (g *Group) Kill(ctx context.Context) error {
	// More than once, because what forks meanwhile is not in the first list. A
	// frozen v1 group dies only when it is thawed, and a fork bomb is caught by
	// being frozen first.
	for round := 0; ; round++ {
		pids, err := g.Pids()
		if err != nil || len(pids) == 0 {
			return err
		}
		if err := g.checkKill(pids); err != nil {
			return err
		}
		if round > 0 {
			_ = g.Freeze() // without a freezer it takes more rounds
			if pids, err = g.Pids(); err != nil {
				return err
			}
		}
		fds := signalAll(pids)
		if round > 0 || g.Frozen() {
			_ = g.Thaw()
		}
		err = waitAll(ctx, fds)
		if err != nil {
			return fmt.Errorf("kill cgroup %s: %w", g.name, err)
		}
	}
}

// checkKill keeps a mistaken name from ending the host.
func (g *Group) checkKill(pids []int) error {
	if g.name == "/" || slices.Contains(pids, os.Getpid()) {
		return problem.New(problem.Invalid, "cgroup %s is not a container's: its processes are not killed", g.name)
	}
	return nil
}

// signalAll kills pids and returns a pidfd of each that was there.
func signalAll(pids []int) []int {
	var fds []int
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // ended
		}
		if unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) != nil {
			unix.Close(fd)
			continue
		}
		fds = append(fds, fd)
	}
	return fds
}

// waitAll waits for the end of the processes behind fds, and closes them.
func waitAll(ctx context.Context, fds []int) error {
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for _, fd := range fds {
		for {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			// A slice of time, so that ctx is looked at.
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
			if err != nil && err != unix.EINTR {
				return err
			}
			if n > 0 {
				break
			}
		}
	}
	return nil
}

// Remove removes the group and those below it, which have no processes.
func (g *Group) Remove(ctx context.Context) error {
	var errs []error
	for _, dir := range g.host.dirs(g.name) {
		errs = append(errs, removeTree(ctx, dir))
	}
	return errors.Join(errs...)
}

// rmdir waits this long, doubled each time, for processes that are dying: v1
// has no event for the moment at which a group is free of them.
const (
	removeWait  = time.Millisecond
	removeTries = 12
)

func removeTree(ctx context.Context, dir string) error {
	wait := removeWait
	for try := 0; ; try++ {
		err := unix.Rmdir(dir)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if try == 0 {
			entries, err := os.ReadDir(dir)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			for _, e := range entries {
				if e.IsDir() {
					if err := removeTree(ctx, path.Join(dir, e.Name())); err != nil {
						return err
					}
				}
			}
			if unix.Rmdir(dir) == nil {
				return nil
			}
		}
		if err != unix.EBUSY || try == removeTries {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			wait *= 2
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}
