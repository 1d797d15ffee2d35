package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"
	dnetwork "github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"gantry/engine/container"
	"gantry/engine/network"
	"gantry/internal/atomicfile"
)

const (
	configFile = "config.json"
	stateFile  = "state.json"
	// recordVersion is written into both; an unknown one is refused.
	recordVersion = 1
)

// config is the content of config.json: what was asked for, resolved. A config
// in use is never changed, but replaced.
type config struct {
	Version     int
	ID          string
	Name        string
	Created     time.Time
	Path        string // the program; Args are its arguments
	Args        []string
	Image       digest.Digest
	Layers      []digest.Digest // of the image: it may be removed by force
	Config      *dcontainer.Config
	HostConfig  *dcontainer.HostConfig
	Networks    map[string]*dnetwork.EndpointSettings // what was wished for, by network name
	Links       []link                                `json:",omitempty"`
	Mounts      []mountPoint
	Sandbox     string `json:",omitempty"`
	LogPath     string
	LogFormat   string
	Annotations map[string]string `json:",omitempty"`
}

// state is the content of state.json: what happened last.
type state struct {
	Version      int
	Status       dcontainer.ContainerState
	StartedAt    time.Time
	FinishedAt   time.Time
	ExitCode     int
	OOMKilled    bool               `json:",omitempty"`
	Error        string             `json:",omitempty"`
	RestartCount int                `json:",omitempty"`
	Stopped      bool               `json:",omitempty"` // somebody asked for the end of the last run
	Health       *dcontainer.Health `json:",omitempty"` // never changed in place
	Namespace    string             `json:",omitempty"` // path of the network namespace, when it is the container's own
	Endpoints    []network.Endpoint
	Publications []network.Publication

	Before *rested `json:",omitempty"` // what the last start changed; nil: it was the first
}

// rested is what a state says of the run before a start.
type rested struct {
	Status                dcontainer.ContainerState
	StartedAt, FinishedAt time.Time
	ExitCode              int
	OOMKilled             bool   `json:",omitempty"`
	Error                 string `json:",omitempty"`
}

// start makes the state that of a container which is about to run.
func (st *state) start(now time.Time) {
	st.Before = nil
	if !st.FinishedAt.IsZero() {
		st.Before = &rested{dcontainer.StateExited, st.StartedAt, st.FinishedAt, st.ExitCode, st.OOMKilled, st.Error}
	}
	st.Status, st.StartedAt, st.FinishedAt = dcontainer.StateRunning, now, time.Time{}
	st.ExitCode, st.OOMKilled, st.Error = 0, false, ""
}

// unstart makes the state what it was before start.
func (st *state) unstart() {
	was := rested{Status: dcontainer.StateCreated}
	if st.Before != nil {
		was = *st.Before
	}
	st.Status, st.StartedAt, st.FinishedAt = was.Status, was.StartedAt, was.FinishedAt
	st.ExitCode, st.OOMKilled, st.Error = was.ExitCode, was.OOMKilled, was.Error
	st.Health = unchecked(st.Health)
	st.Namespace, st.Endpoints, st.Publications = "", nil, nil
}

// record is one container in memory.
type record struct {
	id  string
	dir string
	op  chan struct{} // holds a token while nobody changes the container's life

	disk sync.Mutex // orders the writes of state.json; before mu

	views users // of the container's file system, from outside

	mu       sync.Mutex
	cfg      *config
	st       state
	removing bool                     // or removed
	kept     bool                     // it is being restarted: its end does not remove it
	run      *run                     // nil unless there is a process
	waiting  []*waiter                // for an exit or the removal
	gone     *dcontainer.WaitResponse // what they were told at the removal; nil before
	claims   []*Attachment            // on the streams of the next run
	health   context.CancelFunc       // ends the health check of the run; nil without one
	execs    map[string]*exec
	backoff  time.Duration
	// forwarder sends the container's log to a service; nil: none has anything to send.
	forwarder *forwarder
	pending   context.CancelFunc // ends a restart that waits for its time
}

// run is one run of a container's process.
type run struct {
	proc    *container.Container
	done    chan struct{} // closed when the exit has been recorded
	readers *users        // of its output, and of its execs'
	closed  chan struct{} // nobody watches the run any more: Engine.closed
	unwatch func()        // ends what is done about its log; nil: nothing
}

func (e *Engine) newRun(proc *container.Container) *run {
	return &run{proc: proc, done: make(chan struct{}), readers: &users{}, closed: e.closed}
}

func newRecord(dir string, cfg *config) *record {
	r := &record{
		id: cfg.ID, dir: dir, cfg: cfg, op: make(chan struct{}, 1),
		st:    state{Version: recordVersion, Status: dcontainer.StateCreated},
		execs: map[string]*exec{},
	}
	r.op <- struct{}{}
	return r
}

// lock waits for its turn to change the container's life.
func (r *record) lock(ctx context.Context) error {
	select {
	case <-r.op:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *record) unlock() { r.op <- struct{}{} }

// view returns the container's configuration and a copy of its state.
func (r *record) view() (*config, state) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cfg, r.st
}

func (r *record) config() *config {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cfg
}

// running returns the present run, or nil.
func (r *record) running() *run {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.run
}

// durability says what a write of state waits for.
type durability bool

const (
	soon    durability = false // the kernel has it: survives the daemon's death
	durable durability = true  // the disk has it: survives a loss of power
)

// change applies f to the state and writes it.
func (r *record) change(d durability, f func(*state)) error {
	r.disk.Lock()
	defer r.disk.Unlock()
	r.mu.Lock()
	f(&r.st)
	data, err := json.Marshal(r.st)
	r.mu.Unlock()
	if err != nil {
		return fmt.Errorf("encode the state of container %s: %w", r.id, err)
	}
	write := atomicfile.Replace
	if d == durable {
		write = atomicfile.Write
	}
	path := filepath.Join(r.dir, stateFile)
	err = write(path, data, 0o600)
	if isFull(err) && atomicfile.OverwriteJSON(path, data) == nil {
		return nil
	}
	return err
}

// isFull tells that an error is for want of room on a disk.
func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// reconfigure replaces the configuration, durably.
func (r *record) reconfigure(cfg *config) error {
	if err := atomicfile.WriteJSON(filepath.Join(r.dir, configFile), cfg, 0o600); err != nil {
		return err
	}
	r.mu.Lock()
	r.cfg = cfg
	r.mu.Unlock()
	return nil
}

// loadRecord reads a container's directory. The error is fs.ErrNotExist for a
// creation that was interrupted.
func loadRecord(dir string) (*record, error) { return loadRenamed(dir, filepath.Base(dir)) }

// loadRenamed is loadRecord for a directory that is not named after its container.
func loadRenamed(dir, id string) (*record, error) {
	var cfg config
	data, err := os.ReadFile(filepath.Join(dir, configFile))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &cfg); err != nil {
		return nil, fmt.Errorf("%s: %w", configFile, err)
	}
	if cfg.Version != recordVersion || cfg.ID != id || cfg.Config == nil || cfg.HostConfig == nil {
		return nil, fmt.Errorf("%s has version %d, id %q, or lacks its parts", configFile, cfg.Version, cfg.ID)
	}
	r := newRecord(dir, &cfg)
	data, err = os.ReadFile(filepath.Join(dir, stateFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return r, nil
	case err != nil:
		return nil, err
	case len(data) == 0:
		// A loss of power took what had not reached the disk. It is written at
		// the first start, so the container had been started.
		r.st.Status = dcontainer.StateRunning
		r.st.StartedAt = cfg.Created
		return r, nil
	}
	if err := json.Unmarshal(data, &r.st); err != nil {
		return nil, fmt.Errorf("%s: %w", stateFile, err)
	}
	if r.st.Version != recordVersion {
		return nil, fmt.Errorf("%s has version %d", stateFile, r.st.Version)
	}
	return r, nil
}
