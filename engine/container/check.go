package container

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"strings"
)

// Check explains what the runtime's directory and the cgroups have that belongs
// to no open container and to none of groups, and what open containers lack.
// What is in the middle of being made or removed may be among it.
func (r *Runtime) Check(_ context.Context, groups []string) []error {
	r.mu.Lock()
	open := map[string]*Container{}
	var keep []string
	for _, c := range r.containers {
		open[short(c.state.ID)] = c
		keep = append(keep, c.group.Name())
	}
	r.mu.Unlock()
	for _, g := range groups {
		keep = append(keep, path.Join("/", r.cfg.Cgroup, path.Clean("/"+g)))
	}
	var errs []error
	entries, err := os.ReadDir(r.path(""))
	if err != nil && !os.IsNotExist(err) {
		errs = append(errs, err)
	}
	for _, e := range entries {
		name, isState := strings.CutSuffix(e.Name(), ".json")
		socket, isSocket := strings.CutSuffix(e.Name(), ".sock")
		switch {
		case strings.HasSuffix(e.Name(), ".tmp"):
			errs = append(errs, fmt.Errorf("shim/%s is half written", e.Name()))
		case isState && open[name] == nil, isSocket && open[socket] == nil:
			errs = append(errs, fmt.Errorf("shim/%s belongs to no container", e.Name()))
		case isState:
			if _, err := r.readState(r.path(e.Name())); err != nil {
				errs = append(errs, err)
			}
		}
	}
	for name, c := range open {
		if _, err := os.Stat(r.path(name + ".json")); err != nil && c.link != nil {
			errs = append(errs, fmt.Errorf("container %s has no state to be adopted by: %w", c.state.ID, err))
		}
		if c.Pid() != 0 && !c.group.Exists() {
			errs = append(errs, fmt.Errorf("container %s runs without its cgroup %s", c.state.ID, c.group.Name()))
		}
	}
	names, err := r.host.List(r.cfg.Cgroup)
	if err != nil {
		errs = append(errs, err)
	}
	for _, name := range names {
		if !related(path.Join("/", name), keep) && r.stray(name) {
			errs = append(errs, fmt.Errorf("cgroup %s belongs to no container", name))
		}
	}
	return errs
}

// stray says whether a cgroup of ours without an owner is one of a container, and
// not a parent that containers share, which stays when the last of them is gone.
func (r *Runtime) stray(name string) bool {
	if pids, err := r.host.Group(name).Pids(); err == nil && len(pids) > 0 {
		return true
	}
	_, err := hex.DecodeString(path.Base(name))
	return err == nil && len(path.Base(name)) == 64
}
