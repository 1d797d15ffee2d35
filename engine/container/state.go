package container

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"gantry/internal/atomicfile"
	"gantry/internal/problem"
)

const stateVersion = 1

// state is what is needed to adopt a container or to clean up after it. It is
// kept below RunDir, which a reboot empties, as it ends all containers.
type state struct {
	Version    int                 `json:"version"`
	ID         string              `json:"id"`
	Dir        string              `json:"dir"`
	Cgroup     string              `json:"cgroup"`
	Namespaces uint64              `json:"namespaces"` // CLONE_NEW* flags of those that are not the host's
	Terminal   bool                `json:"terminal,omitempty"`
	Filter     string              `json:"filter,omitempty"` // key of the seccomp filter
	Messages   []string            `json:"messages"`         // texts of the first process's program
	OOMScore   *int                `json:"oomScoreAdj,omitempty"`
	Rlimits    []specs.POSIXRlimit `json:"rlimits,omitempty"`
}

// short is id, or a hash of a long one: socket paths have 108 bytes.
func short(id string) string {
	if len(id) <= 20 {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:10])
}

// path is a file of the runtime's own.
func (r *Runtime) path(name string) string { return filepath.Join(r.cfg.RunDir, "shim", name) }

func (r *Runtime) statePath(id string) string  { return r.path(short(id) + ".json") }
func (r *Runtime) socketPath(id string) string { return r.path(short(id) + ".sock") }

func (r *Runtime) readState(path string) (state, error) {
	var s state
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return s, problem.New(problem.NotFound, "no state of the container: %w", err)
	}
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("state %s is torn: %w", path, err)
	}
	if s.Version != stateVersion {
		return s, fmt.Errorf("state %s has version %d; this is version %d", path, s.Version, stateVersion)
	}
	return s, nil
}

// writeState makes s visible whole. It need not survive power loss, which ends
// the container too, so nothing is synced: where RunDir is not on a tmpfs, that
// would take longer than all the rest of Create.
func (r *Runtime) writeState(s state) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	path := r.statePath(s.ID)
	if err := os.WriteFile(path+".tmp", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

func exitPath(dir string) string { return filepath.Join(dir, "exit") }

// exitRecord is the shim's file, package shim's writeExit.
type exitRecord struct {
	Version   int       `json:"version"`
	Code      int       `json:"code"`
	OOMKilled bool      `json:"oomKilled"`
	At        time.Time `json:"at"`
	Error     string    `json:"error,omitempty"`
}

func readExit(dir string) (Exit, error) {
	path := exitPath(dir)
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return Exit{}, problem.New(problem.NotFound, "no exit record: %w", err)
	}
	if err != nil {
		return Exit{}, err
	}
	return parseExit(data, path)
}

func parseExit(data []byte, path string) (Exit, error) {
	var e exitRecord
	if err := json.Unmarshal(data, &e); err != nil {
		return Exit{}, fmt.Errorf("exit record %s is torn: %w", path, err)
	}
	if e.Version != 1 {
		return Exit{}, fmt.Errorf("exit record %s has version %d; this is version 1", path, e.Version)
	}
	return Exit{Code: e.Code, OOMKilled: e.OOMKilled, At: e.At, Error: e.Error}, nil
}

func writeExit(dir string, e Exit) error {
	return atomicfile.WriteJSON(exitPath(dir), exitRecord{Version: 1, Code: e.Code, OOMKilled: e.OOMKilled, At: e.At, Error: e.Error}, 0o600)
}
