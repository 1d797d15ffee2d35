// Package cgroup makes, limits, measures, freezes, empties and removes the
// cgroups of containers, on hosts with cgroup v1, v2 or both (hybrid). Which
// files take which limit is github.com/opencontainers/cgroups' knowledge; this
// package gives it the directories, so that it does not search for them anew
// for each container, and adds what a container's end needs.
//
// It runs no goroutines.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"gantry/internal/problem"
)

// Host is where the host's hierarchies are mounted.
type Host struct {
	// Unified is the mount point of cgroup2; empty where there is none.
	Unified string
	// V1 maps each v1 controller, or "name=NAME", to the mount point of its
	// hierarchy. It is empty on a pure v2 host.
	V1 map[string]string

	own string // cgroup.procs of this process's own cgroup in some v1 hierarchy
}

// Pure says whether all controllers are cgroup2's.
func (h *Host) Pure() bool { return len(h.V1) == 0 }

// Detect reads where the hierarchies are mounted.
func Detect() (*Host, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h, err := parseHost(f)
	if err != nil {
		return nil, err
	}
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(self)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) == 3 && h.V1[fields[1]] != "" {
			h.own = path.Join(h.V1[fields[1]], fields[2], "cgroup.procs")
		}
	}
	return h, nil
}

// Warm makes the next joins of a v1 cgroup fast for some milliseconds. The
// kernel takes a lock over all forks to move a process; the first to take it
// waits for an RCU grace period, and those that come soon after do not. Here
// it is taken to move this process to where it is. On cgroup2 processes are
// born in their cgroup and no lock is taken.
func (h *Host) Warm() {
	if h.own == "" {
		return
	}
	f, err := os.OpenFile(h.own, os.O_WRONLY, 0)
	if err != nil {
		return // only slower
	}
	defer f.Close()
	_, _ = f.WriteString("0")
}

// parseHost finds the first mount of each hierarchy in a mountinfo file.
func parseHost(r io.Reader) (*Host, error) {
	h := &Host{V1: map[string]string{}}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 {
			continue
		}
		mountPoint := fields[4]
		switch kind[0] {
		case "cgroup2":
			if h.Unified == "" {
				h.Unified = mountPoint
			}
		case "cgroup":
			for _, option := range strings.Split(kind[2], ",") {
				controller := slices.Contains(controllers, option) || strings.HasPrefix(option, "name=")
				if controller && h.V1[option] == "" {
					h.V1[option] = mountPoint
				}
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if h.Unified == "" && len(h.V1) == 0 {
		return nil, problem.New(problem.Unsupported, "no cgroup hierarchy is mounted: mount cgroup2 at /sys/fs/cgroup")
	}
	return h, nil
}

// controllers are those of v1 that the kernel knows; the other words among a
// mount's options are flags.
var controllers = []string{
	"cpuset", "devices", "memory", "cpu", "cpuacct", "pids", "blkio", "hugetlb", "net_cls", "net_prio",
	"perf_event", "freezer", "rdma", "misc", "debug",
}

// dirs lists the distinct directories of the cgroup name, sorted.
func (h *Host) dirs(name string) []string {
	var dirs []string
	for _, mountPoint := range h.V1 {
		dirs = append(dirs, path.Join(mountPoint, name))
	}
	if h.Unified != "" {
		dirs = append(dirs, path.Join(h.Unified, name))
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// List returns the names of all cgroups below the cgroup root, in any
// hierarchy, children before their parents.
func (h *Host) List(root string) ([]string, error) {
	found := map[string]bool{}
	var walk func(base, name string) error
	walk = func(base, name string) error {
		entries, err := os.ReadDir(path.Join(base, name))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list cgroups: %w", err)
		}
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			child := path.Join(name, e.Name())
			found[child] = true
			if err := walk(base, child); err != nil {
				return err
			}
		}
		return nil
	}
	for _, base := range h.dirs("") {
		if err := walk(base, root); err != nil {
			return nil, err
		}
	}
	names := make([]string, 0, len(found))
	for name := range found {
		names = append(names, name)
	}
	// A child's name is longer than its parent's and begins with it.
	slices.Sort(names)
	slices.Reverse(names)
	return names, nil
}
