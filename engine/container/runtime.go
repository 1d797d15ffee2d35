// Package container is the OCI runtime: it turns a runtime-spec into processes
// in namespaces and a cgroup, and is the host side of the shim that is their
// parent. It knows nothing of images, networks or names.
//
// A container is created by one gantry-shim process, which outlives this
// process: it holds stdio, the log, the terminal and the exit status. The shim
// executes what package plan compiles from the runtime-spec: a flat list of
// system calls. This process keeps one connection to each shim, over which
// exits arrive as events. After a restart Open takes it up again.
//
// On disk:
//
//	RunDir/shim/NAME.sock   the shim's control socket (NAME is the id, or a hash of a long one)
//	RunDir/shim/NAME.json   what is needed to adopt or clean up the container; gone after a reboot
//	RunDir/shim/root, empty mount points used inside each container's own mount namespace
//	RunDir/shim/filter-KEY  a compiled seccomp profile
//	RunDir/shim/log         what a shim says when it fails; normally empty
//	Spec.Dir/exit           the exit record, written by the shim
//
// Goroutines: one that reads each live container's connection, one that waits
// for its end, and, for a container created by this process, one that reaps its
// shim. The first two end with the container or with Runtime.Close, which waits
// for them; the last ends with the shim. One more waits for OOM kills.
package container

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"gantry/engine/container/cgroup"
	"gantry/engine/container/plan"
	"gantry/engine/container/reaper"
	"gantry/engine/container/seccomp"
	"gantry/engine/container/wire"
)

// Config is what a Runtime needs to know. All but Logger are required.
type Config struct {
	RunDir string       // on a tmpfs; shim/ below it is the runtime's own
	Shim   string       // path of the gantry-shim binary
	Cgroup string       // cgroup above all containers, relative to each hierarchy's root: "gantry"
	Logger *slog.Logger // nil discards
}

// Runtime creates and adopts containers. Its methods may be called concurrently.
type Runtime struct {
	cfg      Config
	log      *slog.Logger
	host     *cgroup.Host
	limits   plan.Limits
	compiler seccomp.Compiler
	features func() (cgroup.Features, error)
	versions wire.Versions
	stderr   *os.File // what shims are given; opened on first use, with mu
	null     *os.File

	mu         sync.Mutex
	containers map[string]*Container // those that are open
	closed     bool
	oom        *cgroup.OOMWatcher // made on first use
	watchers   sync.WaitGroup
}

// New validates cfg and looks at what the host has.
//
// Errors: Invalid, or Unsupported on a host without cgroups.
func New(cfg Config) (*Runtime, error) {
	if !filepath.IsAbs(cfg.RunDir) || !filepath.IsAbs(cfg.Shim) {
		return nil, invalid("the container runtime needs absolute paths: run directory %q, shim %q", cfg.RunDir, cfg.Shim)
	}
	if cfg.Cgroup == "" || filepath.Clean("/"+cfg.Cgroup) == "/" {
		return nil, invalid("the container runtime needs a cgroup of its own")
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	host, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	limits, err := plan.ReadLimits()
	if err != nil {
		return nil, err
	}
	r := &Runtime{cfg: cfg, log: log, host: host, limits: limits, versions: wire.Spoken(), containers: map[string]*Container{}}
	r.compiler.Dir = r.path("")
	r.features = sync.OnceValues(r.lookAtFeatures)
	return r, nil
}

// planner compiles a process of the container whose cgroup is group.
func (r *Runtime) planner(group *cgroup.Group, filter *seccomp.Filter) *plan.Planner {
	return plan.New(plan.Config{Limits: r.limits, Host: r.host, Group: group, MountAt: r.path("root"), Empty: r.path("empty"), Filter: filter})
}

// InitPath is where a container finds Runtime.Init's program.
const InitPath = reaper.Path

// Init is the program that is process 1 of a container which asks for an init:
// to be mounted at InitPath, and to be run by that name with "--" and the
// container's program and arguments.
func (r *Runtime) Init() string { return r.cfg.Shim }

// prepare makes the runtime's own directory, and opens what shims are given.
func (r *Runtime) prepare() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stderr != nil {
		return nil
	}
	for _, dir := range []string{"", "root", "empty"} {
		// The root of a user namespace passes through to mount; what is in it
		// is root's alone.
		if err := os.MkdirAll(r.path(dir), 0o711); err != nil {
			return err
		}
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		return err
	}
	stderr, err := os.OpenFile(r.path("log"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return errors.Join(err, null.Close())
	}
	r.null, r.stderr = null, stderr
	return nil
}

// Close lets go of every container without touching it: the shims go on, and a
// later Runtime opens them.
func (r *Runtime) Close() error {
	r.mu.Lock()
	r.closed = true
	var links []*link
	for _, c := range r.containers {
		links = append(links, c.link)
	}
	stderr, null, oom := r.stderr, r.null, r.oom
	r.stderr, r.null = nil, nil
	r.mu.Unlock()
	if oom != nil {
		_ = oom.Close() // it holds nothing that could fail
	}
	for _, l := range links {
		if l != nil {
			l.conn.Close()
		}
	}
	r.watchers.Wait()
	if stderr == nil {
		return nil
	}
	return errors.Join(stderr.Close(), null.Close())
}
