package container

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"gantry/engine/container/cgroup"
	"gantry/engine/container/wire"
	"gantry/internal/problem"
)

// Open adopts the container id, created by an earlier Runtime with the same
// RunDir, whether it is created, running, or has exited since.
//
// Errors: NotFound if there is neither shim nor exit record, as after a reboot.
func (r *Runtime) Open(ctx context.Context, id, dir string) (*Container, error) {
	if err := r.prepare(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	open := r.containers[id]
	r.mu.Unlock()
	if open != nil {
		return open, nil
	}
	st, err := r.readState(r.statePath(id))
	if errors.Is(err, problem.NotFound) {
		return r.openExited(id, dir)
	}
	if err != nil {
		return nil, err
	}
	if st.ID != id || st.Dir != dir {
		return nil, problem.New(problem.NotFound, "container %s: its name is taken by container %s in %s", id, st.ID, st.Dir)
	}
	c := r.newContainer(st, r.host.Group(st.Cgroup))
	conn, err := dial(r.socketPath(id))
	if err == nil {
		err = c.connect(ctx, conn)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		// The shim has ended, or is just ending: the record tells, or it was killed.
		c.link = nil
		if err := c.shimLost(ctx); err != nil {
			return nil, err
		}
	}
	return c, r.adopt(c)
}

func (c *Container) connect(ctx context.Context, conn net.Conn) error {
	c.link = newLink(conn, c.exited)
	c.r.watchers.Go(c.link.serve)
	err := c.hello(ctx)
	if errors.Is(err, problem.Unsupported) {
		err = c.adoptForeign(err)
	}
	if err != nil {
		conn.Close()
	}
	return err
}

// openExited makes a container that has nothing but an exit record.
func (r *Runtime) openExited(id, dir string) (*Container, error) {
	exit, err := readExit(dir)
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", id, err)
	}
	st := state{Version: stateVersion, ID: id, Dir: dir, Cgroup: path.Join("/", r.cfg.Cgroup, id)}
	c := r.newContainer(st, r.host.Group(st.Cgroup))
	c.finish(exit)
	return c, r.adopt(c)
}

// watch waits for the end of the container's shim, which is to tell of the
// container's exit first.
func (c *Container) watch() {
	<-c.link.lost
	c.r.mu.Lock()
	closed := c.r.closed
	c.r.mu.Unlock()
	select {
	case <-c.done:
		return
	default:
	}
	if closed {
		close(c.released)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), deleteTimeout)
	defer cancel()
	if err := c.shimLost(ctx); err != nil {
		c.r.log.Error("container cannot be cleaned up", "container", c.state.ID, "err", err)
		c.finish(c.lostExit())
	}
}

// shimLost ends a container whose shim is not there. Unless it left a record,
// it was killed: what it was the parent of has lost its output and is killed.
func (c *Container) shimLost(ctx context.Context) error {
	exit, err := readExit(c.state.Dir)
	if errors.Is(err, problem.NotFound) {
		if !c.group.Exists() {
			return problem.New(problem.NotFound, "container %s: its cgroup and its exit record are gone", c.state.ID)
		}
		if err := c.group.Kill(ctx); err != nil {
			return err
		}
		exit = c.lostExit()
		c.r.log.Error("shim was killed; its container is ended", "container", c.state.ID)
		err = writeExit(c.state.Dir, exit)
	}
	if err != nil {
		return err
	}
	c.finish(exit)
	return nil
}

// Features is what a host's cgroups can limit.
type Features = cgroup.Features

// Features is what this host's cgroups can limit. It is asked once.
func (r *Runtime) Features() (Features, error) { return r.features() }

func (r *Runtime) lookAtFeatures() (cgroup.Features, error) {
	group := r.host.Group(r.groupPath(""))
	if r.host.Pure() { // whose root has no limits, nor their files
		if err := group.Create(&cgroup.Limits{SkipDevices: true}); err != nil {
			return cgroup.Features{}, err
		}
	}
	return group.Features(), nil
}

// Sweep kills and removes what an earlier life left: all shims, cgroups and
// sockets but those of the containers that are open and of the groups named.
// To be called when every container that is to live on has been opened.
func (r *Runtime) Sweep(ctx context.Context, groups []string) error {
	if err := r.prepare(); err != nil {
		return err
	}
	r.mu.Lock()
	open := map[string]bool{}
	var keep []string
	for _, c := range r.containers {
		open[short(c.state.ID)] = true
		keep = append(keep, c.group.Name())
	}
	r.mu.Unlock()
	for _, g := range groups {
		keep = append(keep, r.groupPath(g))
	}
	errs := []error{r.sweepStates(ctx, open)}
	names, err := r.host.List(r.cfg.Cgroup)
	errs = append(errs, err)
	for _, name := range names {
		if group := r.host.Group(name); !related(group.Name(), keep) {
			errs = append(errs, group.Kill(ctx), group.Remove(ctx))
		}
	}
	return errors.Join(errs...)
}

// related says whether the cgroup name is one of keep, above or below one.
func related(name string, keep []string) bool {
	for _, k := range keep {
		if k == name || strings.HasPrefix(k, name+"/") || strings.HasPrefix(name, k+"/") {
			return true
		}
	}
	return false
}

// sweepStates removes the containers that have a state and are not open.
func (r *Runtime) sweepStates(ctx context.Context, open map[string]bool) error {
	entries, err := os.ReadDir(r.path(""))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		name, isState := strings.CutSuffix(e.Name(), ".json")
		socket, isSocket := strings.CutSuffix(e.Name(), ".sock")
		if isSocket && !open[socket] || strings.HasSuffix(e.Name(), ".tmp") {
			errs = append(errs, removeFile(r.path(e.Name())))
		}
		if !isState || open[name] {
			continue
		}
		st, err := r.readState(r.path(e.Name()))
		if err != nil {
			// Its cgroup is found by name; of the state nothing is to be had.
			errs = append(errs, err, removeFile(r.path(e.Name())))
			continue
		}
		r.log.Info("removing a container of an earlier life", "container", st.ID)
		// Opened, so that its shim has ended and writes no more.
		c, err := r.Open(ctx, st.ID, st.Dir)
		if err != nil {
			errs = append(errs, r.newContainer(st, r.host.Group(st.Cgroup)).remove(ctx))
			continue
		}
		errs = append(errs, c.Delete(ctx))
	}
	return errors.Join(errs...)
}

// CreateGroup makes, or updates, a cgroup (of a pod) at path, relative to
// Config.Cgroup, with the limits of res, which may be nil. Containers go below
// it by OCI.Linux.CgroupsPath = path/ID.
func (r *Runtime) CreateGroup(_ context.Context, path string, res *specs.LinuxResources) error {
	limits, err := r.host.Limits(res)
	if err != nil {
		return err
	}
	return r.host.Group(r.groupPath(path)).Create(limits)
}

// RemoveGroup kills what is in the cgroup at path and removes it. Idempotent.
func (r *Runtime) RemoveGroup(ctx context.Context, path string) error {
	g := r.host.Group(r.groupPath(path))
	return errors.Join(g.Kill(ctx), g.Remove(ctx))
}

func (r *Runtime) groupPath(name string) string {
	return path.Join("/", r.cfg.Cgroup, path.Clean("/"+name))
}

// failure is the error that a shim's reply stands for.
func (c *Container) failure(r wire.Reply, verb string) error {
	return failure(r, verb, c.state.Messages)
}
