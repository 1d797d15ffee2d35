package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/engine/container/cgroup"
	"gantry/internal/problem"
)

const recordVersion = 1

// record is what is kept of a container.
type record struct {
	Version     int               `json:"version"`
	OCIVersion  string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Owner       string            `json:"owner"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Cgroup      string            `json:"cgroup"`
	Namespaces  uint64            `json:"namespaces"` // CLONE_NEW* flags of those that are not the host's
	Hooks       bool              `json:"hooks,omitempty"`
	Filter      string            `json:"filter,omitempty"` // key of the seccomp filter
	Pid         int               `json:"pid"`              // 0 until all was made
	StartTime   uint64            `json:"startTime"`        // of Pid, in the kernel's ticks since boot
}

// StatusPaused is a container's status beside those of the runtime-spec.
const StatusPaused specs.ContainerState = "paused"

// Container is one container below the runtime's root.
type Container struct {
	r     *Runtime
	dir   string
	rec   record
	group *cgroup.Group
}

var validID = regexp.MustCompile(`^[\w+.-]+$`)

func checkID(id string) error {
	if !validID.MatchString(id) || strings.HasPrefix(id, ".") {
		return invalid("invalid container ID format: %q", id)
	}
	return nil
}

// Open finds a container.
//
// Errors: NotFound.
func (r *Runtime) Open(id string) (*Container, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	dir := filepath.Join(r.cfg.Root, id)
	data, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(dir); err == nil {
			// A crash came before the first record: there is nothing but the directory.
			return &Container{r: r, dir: dir, rec: record{ID: id}}, nil
		}
		return nil, problem.New(problem.NotFound, "container does not exist")
	}
	if err != nil {
		return nil, err
	}
	c := &Container{r: r, dir: dir}
	if err := json.Unmarshal(data, &c.rec); err != nil {
		return nil, fmt.Errorf("state of container %s is torn: %w", id, err)
	}
	if c.rec.Version != recordVersion {
		return nil, fmt.Errorf("state of container %s has version %d; this is version %d", id, c.rec.Version, recordVersion)
	}
	c.group = r.host.Group(c.rec.Cgroup)
	return c, nil
}

// List returns all containers by name.
func (r *Runtime) List() ([]*Container, error) {
	entries, err := os.ReadDir(r.cfg.Root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []*Container
	for _, e := range entries {
		if !e.IsDir() || checkID(e.Name()) != nil {
			continue
		}
		c, err := r.Open(e.Name())
		if errors.Is(err, problem.NotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			r.warn("%v", err)
			continue
		}
		list = append(list, c)
	}
	return list, nil
}

// save makes the record visible whole. It need not survive power loss, which
// ends the container too.
func (c *Container) save() error {
	data, err := json.Marshal(&c.rec)
	if err != nil {
		return err
	}
	path := filepath.Join(c.dir, "state.json")
	if err := os.WriteFile(path+".tmp", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

func (c *Container) fifo() string { return filepath.Join(c.dir, "exec.fifo") }

// config is the runtime-spec that the container was created with.
func (c *Container) config() (*specs.Spec, error) {
	return readSpec(filepath.Join(c.dir, "config.json"))
}

func readSpec(path string) (*specs.Spec, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, problem.New(problem.NotFound, "JSON specification file %s not found", path)
	}
	if err != nil {
		return nil, err
	}
	return parseSpec(path, data)
}

func parseSpec(path string, data []byte) (*specs.Spec, error) {
	var o specs.Spec
	if err := json.Unmarshal(data, &o); err != nil {
		return nil, invalid("%s: %w", path, err)
	}
	return &o, nil
}

// Status asks the kernel how the container is.
func (c *Container) Status() specs.ContainerState {
	switch {
	case c.rec.Pid == 0 && c.locked():
		return specs.StateCreating
	case !c.alive():
		return specs.StateStopped
	}
	if _, err := os.Lstat(c.fifo()); err == nil {
		return specs.StateCreated
	}
	if c.group.Frozen() {
		return StatusPaused
	}
	return specs.StateRunning
}

// locked says whether someone is creating the container now.
func (c *Container) locked() bool {
	dir, err := os.Open(c.dir)
	if err != nil {
		return false
	}
	defer dir.Close()
	return unix.Flock(int(dir.Fd()), unix.LOCK_SH|unix.LOCK_NB) == unix.EWOULDBLOCK
}

// alive says whether the first process has not ended.
func (c *Container) alive() bool {
	if c.rec.Pid == 0 {
		return false
	}
	state, start, err := processState(c.rec.Pid)
	return err == nil && start == c.rec.StartTime && state != 'Z' && state != 'X'
}

// processState reads a process's state and when it was started.
func processState(pid int) (state byte, start uint64, err error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	return parseStat(data)
}

// parseStat reads fields 3 and 22 of a /proc/PID/stat. Field 2, the name, may
// have spaces and parentheses in it.
func parseStat(data []byte) (state byte, start uint64, err error) {
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("a stat of %d fields", len(fields))
	}
	start, err = strconv.ParseUint(string(fields[19]), 10, 64)
	return fields[0][0], start, err
}

// State is what the state command prints: the runtime-spec's, and runc's own
// fields.
type State struct {
	OCIVersion  string               `json:"ociVersion"`
	ID          string               `json:"id"`
	Pid         int                  `json:"pid"`
	Status      specs.ContainerState `json:"status"`
	Bundle      string               `json:"bundle"`
	Rootfs      string               `json:"rootfs"`
	Created     time.Time            `json:"created"`
	Annotations map[string]string    `json:"annotations,omitempty"`
	Owner       string               `json:"owner"`
}

// State returns the container's state.
func (c *Container) State() State {
	s := State{OCIVersion: c.rec.OCIVersion, ID: c.rec.ID, Pid: c.rec.Pid, Status: c.Status(), Bundle: c.rec.Bundle, Rootfs: c.rec.Rootfs,
		Created: c.rec.Created, Annotations: c.rec.Annotations, Owner: c.rec.Owner}
	if s.Status == specs.StateStopped {
		s.Pid = 0
	}
	return s
}

// hookState is what a hook reads.
func (c *Container) hookState(status specs.ContainerState, pid int) []byte {
	s := specs.State{Version: c.rec.OCIVersion, ID: c.rec.ID, Status: status, Pid: pid, Bundle: c.rec.Bundle, Annotations: c.rec.Annotations}
	data, err := json.Marshal(&s)
	if err != nil {
		panic("a state without JSON: " + err.Error())
	}
	return data
}
