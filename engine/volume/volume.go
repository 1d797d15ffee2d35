// Package volume owns the named and anonymous local volumes of one host.
//
// It does not know which container uses a volume; package engine does, and asks
// before it removes one.
//
// # On disk
//
//	DIR/NAME/volume.json  what was asked for; durable before Create returns
//	DIR/NAME/_data        the content, or where the device of the options is mounted while it is used
//	DIR/NAME/_copy        content on its way from an image; swapped with _data when whole
//
// A directory without volume.json is a creation or a removal that a crash
// interrupted; Open removes it. The package runs no goroutines.
package volume

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	dvolume "github.com/moby/moby/api/types/volume"

	"gantry/internal/atomicfile"
	"gantry/internal/fault"
	"gantry/internal/problem"
)

const (
	recordFile = "volume.json"
	dataDir    = "_data"
	copyDir    = "_copy"
)

// Driver is the only driver.
const Driver = "local"

// AnonymousLabel marks a volume that a container made for itself.
const AnonymousLabel = "com.docker.volume.anonymous"

// validName is the reference's rule for names of local volumes.
var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// Config says where the volumes are.
type Config struct {
	Dir    string       // required; created if missing
	Logger *slog.Logger // nil discards
}

// Store holds the volumes. Its methods may be called concurrently.
type Store struct {
	dir string
	log *slog.Logger

	using sync.Mutex                 // held while volumes are mounted and unmounted; guards users
	users map[string]map[string]bool // of the volumes that are mounted: who uses them

	mu      sync.Mutex // after using
	volumes map[string]record
}

// record is the content of volume.json.
type record struct {
	Version int
	Name    string
	Created time.Time
	Labels  map[string]string
	Options map[string]string `json:",omitempty"` // of the driver
}

// Open reads the volumes and removes what interrupted creations and removals left.
func Open(cfg Config) (*Store, error) {
	s := &Store{dir: cfg.Dir, log: cfg.Logger, volumes: map[string]record{}, users: map[string]map[string]bool{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(cfg.Dir, 0o711); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if err := s.load(entry.Name()); err != nil {
			return nil, fmt.Errorf("volume %s: %w", entry.Name(), err)
		}
	}
	return s, nil
}

func (s *Store) load(name string) error {
	dir := filepath.Join(s.dir, name)
	data, err := os.ReadFile(filepath.Join(dir, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		s.log.Info("removing a half-made volume", "volume", name)
		return removeAll(dir)
	}
	if err != nil {
		return err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return err
	}
	if r.Version != 1 || r.Name != name {
		return fmt.Errorf("%s has version %d and name %q", recordFile, r.Version, r.Name)
	}
	if err := os.RemoveAll(filepath.Join(dir, copyDir)); err != nil {
		return err
	}
	s.volumes[name] = r
	return nil
}

// Anonymous returns a request for a volume with a random name.
func Anonymous() dvolume.CreateRequest {
	var id [32]byte
	rand.Read(id[:]) // never fails
	return dvolume.CreateRequest{Name: hex.EncodeToString(id[:]), Labels: map[string]string{AnonymousLabel: ""}}
}

// Create makes a volume; an existing one of that name is returned as it is. An
// empty name stands for a random one.
//
// Errors: Invalid (the name), Unsupported (a driver or an option).
func (s *Store) Create(ctx context.Context, req dvolume.CreateRequest) (dvolume.Volume, error) {
	if req.Name == "" {
		req = dvolume.CreateRequest{Name: Anonymous().Name, Driver: req.Driver, DriverOpts: req.DriverOpts, Labels: req.Labels}
	}
	if err := validate(req); err != nil {
		return dvolume.Volume{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock() // across the write: two creations of one name must not meet
	if r, ok := s.volumes[req.Name]; ok {
		return s.volume(r), nil
	}
	r := record{Version: 1, Name: req.Name, Created: time.Now().UTC(), Labels: req.Labels, Options: req.DriverOpts}
	dir := filepath.Join(s.dir, r.Name)
	if err := s.write(dir, r); err != nil {
		return dvolume.Volume{}, errors.Join(fmt.Errorf("create volume %s: %w", r.Name, err), os.RemoveAll(dir))
	}
	s.volumes[r.Name] = r
	return s.volume(r), nil
}

func (s *Store) write(dir string, r record) error {
	if err := os.MkdirAll(filepath.Join(dir, dataDir), 0o755); err != nil {
		return err
	}
	if err := fault.At("volume/create/before-record"); err != nil {
		return err
	}
	if err := atomicfile.WriteJSON(filepath.Join(dir, recordFile), r, 0o600); err != nil {
		return err
	}
	return atomicfile.SyncDir(s.dir)
}

func validate(req dvolume.CreateRequest) error {
	if len(req.Name) == 1 {
		return problem.New(problem.Invalid, "create %s: volume name is too short, names should be at least two alphanumeric characters", req.Name)
	}
	if !validName.MatchString(req.Name) {
		return problem.New(problem.Invalid, "create %s: %q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path", req.Name, req.Name)
	}
	if len(req.Name) > 255 {
		return problem.New(problem.Invalid, "create %s: a volume name has at most 255 characters", req.Name)
	}
	if req.Driver != "" && req.Driver != Driver && req.Driver != "default" {
		return problem.New(problem.NotFound, "create %s: error looking up volume plugin %s: plugin \"%s\" not found", req.Name, req.Driver, req.Driver)
	}
	if err := validateOptions(req.DriverOpts); err != nil {
		return fmt.Errorf("create %s: %w", req.Name, err)
	}
	if req.ClusterVolumeSpec != nil {
		return problem.New(problem.Unsupported, "create %s: cluster volumes are not supported by Gantry", req.Name)
	}
	return nil
}

// Inspect returns a volume. Errors: NotFound.
func (s *Store) Inspect(ctx context.Context, name string) (dvolume.Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.volumes[name]
	if !ok {
		return dvolume.Volume{}, notFound(name)
	}
	return s.volume(r), nil
}

// List returns every volume, by name.
func (s *Store) List(ctx context.Context) []dvolume.Volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]dvolume.Volume, 0, len(s.volumes))
	for _, r := range s.volumes {
		list = append(list, s.volume(r))
	}
	slices.SortFunc(list, func(a, b dvolume.Volume) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// Remove removes a volume and its content. The caller has made sure that no
// container uses it. Errors: NotFound.
func (s *Store) Remove(ctx context.Context, name string) error {
	if err := s.forget(name); err != nil {
		return err
	}
	dir := filepath.Join(s.dir, name)
	// The record first: what is left of the content after a crash is swept by Open.
	err := os.Remove(filepath.Join(dir, recordFile))
	if err == nil {
		err = errors.Join(fault.At("volume/remove/after-record"), removeAll(dir))
	}
	if err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	return nil
}

// forget takes a volume out of the index, and unmounts it first: what is mounted
// is not the volume's to remove.
func (s *Store) forget(name string) error {
	s.mu.Lock()
	r, ok := s.volumes[name]
	if ok && !r.mounts() {
		delete(s.volumes, name)
	}
	s.mu.Unlock()
	if !ok {
		return notFound(name)
	}
	if !r.mounts() {
		return nil
	}
	s.using.Lock()
	defer s.using.Unlock()
	if err := unmount(s.data(name)); err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.volumes, name)
	return nil
}

// Path returns the directory that holds a volume's content. Errors: NotFound.
func (s *Store) Path(name string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.volumes[name]; !ok {
		return "", notFound(name)
	}
	return filepath.Join(s.dir, name, dataDir), nil
}

// UnknownSize is the size of a volume that something is mounted for.
const UnknownSize = -1

// Size returns how many bytes a volume's content takes on disk, or UnknownSize.
func (s *Store) Size(ctx context.Context, name string) (int64, error) {
	path, err := s.Path(name)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	mounts := s.volumes[name].mounts()
	s.mu.Unlock()
	if mounts {
		return UnknownSize, nil
	}
	return diskUsage(ctx, path)
}

// Check explains each violation of the layout on disk. What is in the middle of
// being made or removed may be among it.
func (s *Store) Check(ctx context.Context) []error {
	var errs []error
	known := map[string]bool{}
	for _, v := range s.List(ctx) {
		known[v.Name] = true
		if info, err := os.Stat(v.Mountpoint); err != nil || !info.IsDir() {
			errs = append(errs, fmt.Errorf("volume %s: its content is no directory: %w", v.Name, err))
		}
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return append(errs, err)
	}
	for _, e := range entries {
		if !known[e.Name()] {
			errs = append(errs, fmt.Errorf("volumes/%s belongs to no volume", e.Name()))
		}
	}
	return errs
}

func (s *Store) volume(r record) dvolume.Volume {
	return dvolume.Volume{
		Name: r.Name, Driver: Driver, Scope: "local", Labels: r.Labels, Options: r.Options,
		CreatedAt:  r.Created.Format(time.RFC3339),
		Mountpoint: filepath.Join(s.dir, r.Name, dataDir),
	}
}

func notFound(name string) error {
	return problem.New(problem.NotFound, "get %s: no such volume", name)
}
