// Package image is the engine's image store: documents, unpacked layers, names.
//
// It owns the directory in Config.Dir, and nobody else writes there:
//
//	lock            held by the process that has the store open
//	meta.db         bbolt: documents (image configurations), images, names, layers,
//	                manifests
//	blobs/ALG/HEX   packed layers exactly as they came or went, what manifests name
//	                that are no images, and what a registry keeps; in use while a manifest of an image names them, or leased
//	layers/HEX/     one unpacked layer, named for its diffID
//	    diff/       its files, in the form that overlayfs reads
//	    split       what, with diff/, gives its exact archive (see split.go);
//	                absent when the layer was made here: then Pack gives it
//	    stash/      files that the archive holds and that are not part of the tree
//	l/N             link to layers/HEX/diff, short: mount options have one page
//	l/0             link to an empty directory, the lower layer of an empty image
//	tmp/            work in progress; emptied at start
//
// A layer is known by its diffID, not by its chain of parents: overlayfs keeps
// layers apart, so what a layer unpacks to does not depend on those below it.
// The same layer under two images is stored once. Directories that an archive
// only implies get root:root 0755, as in Docker's overlay2.
//
// Durability. The files of a layer are not synced one by one. Create, Load and
// Import sync the file system once, before the transaction that makes an image
// of layers. A layer that no image has yet carries the boot ID in its record;
// when the host was rebooted since, start-up drops it, for it may be torn.
// Removal goes the other way: record first, then files.
//
// In use. Holds live in memory: the engine and the builder say at start, before
// anything can be removed, what they use. Nothing is ever collected at start.
//
// The package runs no goroutines of its own beyond those of a running call.
package image

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"gantry/internal/lockfile"
	"gantry/internal/problem"
)

// Config says where a store is.
type Config struct {
	Dir    string       // required; created if missing
	Logger *slog.Logger // nil discards
}

// Store is the open store. Its methods may be called concurrently.
type Store struct {
	dir  string
	log  *slog.Logger
	db   *bolt.DB
	lock *os.File

	// changes is held while layer directories and their records change
	// together, I/O included: otherwise a removal and a load of the same layer
	// could each undo what the other did. Taken before mu.
	changes sync.Mutex

	mu     sync.Mutex
	holds  map[string]Hold                   // by owner
	leases map[string]map[digest.Digest]bool // layers, by owner
	runs   map[string]bool                   // image ID and command: CheckRuns said yes
	used   map[digest.Digest]time.Time       // images and blobs, since the start
}

// Open opens the store in cfg.Dir, making it if there is none, and repairs what
// an interrupted process left. A store is open in one process at a time.
func Open(cfg Config) (_ *Store, err error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil || cfg.Dir == "" {
		return nil, problem.New(problem.Invalid, "image store: directory %q", cfg.Dir)
	}
	s := &Store{dir: dir, log: cfg.Logger, holds: map[string]Hold{}, leases: map[string]map[digest.Digest]bool{},
		runs: map[string]bool{}, used: map[digest.Digest]time.Time{}}
	// 0711: containers of other users are rooted in here.
	for _, sub := range []string{"", "layers", "l", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o711); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.lock, err = lockFile(filepath.Join(dir, "lock")); err != nil {
		return nil, err
	}
	s.db, err = bolt.Open(filepath.Join(dir, "meta.db"), 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", filepath.Join(dir, "meta.db"), err)
	}
	if err := s.db.Update(makeBuckets); err != nil {
		return nil, err
	}
	if err := s.repair(); err != nil {
		return nil, fmt.Errorf("repair the image store: %w", err)
	}
	return s, nil
}

// Close releases the store. Images in use stay usable by those who use them. A
// second call does nothing.
func (s *Store) Close() error {
	var errs []error
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
		s.lock = nil
	}
	return errors.Join(errs...)
}

func lockFile(path string) (*os.File, error) {
	f, err := lockfile.Take(path, 0o600)
	if errors.Is(err, lockfile.ErrHeld) {
		return nil, problem.New(problem.Unavailable, "image store %s is open in another process: %w", filepath.Dir(path), err)
	}
	return f, err
}

// layerDir is the directory of a layer.
func (s *Store) layerDir(diffID digest.Digest) string {
	return filepath.Join(s.dir, "layers", diffID.Encoded())
}

func (s *Store) link(name string) string { return filepath.Join(s.dir, "l", name) }

// temp makes a directory that start-up removes.
func (s *Store) temp(pattern string) (string, error) {
	return os.MkdirTemp(filepath.Join(s.dir, "tmp"), pattern+"-")
}

// sync makes all written so far durable: one call for any number of files.
func (s *Store) sync() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	err = unix.Syncfs(int(d.Fd()))
	return errors.Join(err, d.Close())
}

// repair removes what a crash left: temporaries, layers without a record, and
// records of layers that a power failure may have torn; it restores links.
func (s *Store) repair() error {
	tmp := filepath.Join(s.dir, "tmp")
	if err := removeContents(tmp); err != nil {
		return err
	}
	if err := errors.Join(s.emptyLayer(), s.repairBlobs()); err != nil {
		return err
	}
	records, err := s.dropTorn()
	if err != nil {
		return err
	}
	dirs, err := os.ReadDir(filepath.Join(s.dir, "layers"))
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if _, ok := records[d.Name()]; ok || d.Name() == emptyName {
			continue
		}
		s.log.Info("removing a layer without a record", "digest", d.Name())
		if err := os.RemoveAll(filepath.Join(s.dir, "layers", d.Name())); err != nil {
			return err
		}
	}
	return s.repairLinks(records)
}

func removeContents(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// emptyName is the directory, and 0 the link, of the layer of empty images.
const emptyName = "empty"

func (s *Store) emptyLayer() error {
	if err := os.MkdirAll(filepath.Join(s.dir, "layers", emptyName, "diff"), 0o755); err != nil {
		return err
	}
	return ensureLink(filepath.Join("..", "layers", emptyName, "diff"), s.link("0"))
}

// ensureLink makes path a link to target.
func ensureLink(target, path string) error {
	have, err := os.Readlink(path)
	if err == nil && have == target {
		return nil
	}
	if err == nil {
		if err := os.Remove(path); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(target, path)
}

func (s *Store) repairLinks(records map[string]layerRecord) error {
	want := map[string]string{"0": ""}
	for hex, r := range records {
		want[r.Link] = hex
		if err := ensureLink(filepath.Join("..", "layers", hex, "diff"), s.link(r.Link)); err != nil {
			return err
		}
	}
	links, err := os.ReadDir(filepath.Join(s.dir, "l"))
	if err != nil {
		return err
	}
	for _, l := range links {
		if _, ok := want[l.Name()]; !ok {
			if err := os.Remove(s.link(l.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// bootID tells this boot of the host from others.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}
