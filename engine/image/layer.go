package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"gantry/internal/fault"
	"gantry/internal/problem"
	"gantry/internal/tree"
)

// Scratch is a place for one overlay's writable side, on the store's file
// system, so that CommitLayer can take Upper over. Start-up removes what is
// left of it.
type Scratch struct {
	Dir   string // holds both; its owner may put more into it
	Upper string
	Work  string
}

// Scratch makes one. The caller closes it.
func (s *Store) Scratch() (*Scratch, error) {
	dir, err := s.temp("scratch")
	if err != nil {
		return nil, err
	}
	c := &Scratch{Dir: dir, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work")}
	if err := errors.Join(mkdir755(c.Upper), mkdir755(c.Work)); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Close removes the place and what is in it.
func (c *Scratch) Close() error { return os.RemoveAll(c.Dir) }

// CommitLayer makes the overlay's upper directory a layer, by renaming it:
// nothing is copied, and nobody may use the directory as upper any more. It must
// be on the store's file system. When the layer is there already, upper is
// removed.
//
// The layer gets a lease of owner, so that it is there until an image has it.
func (s *Store) CommitLayer(ctx context.Context, owner, upper string) (Layer, error) {
	dir, err := s.temp("commit")
	if err != nil {
		return Layer{}, err
	}
	defer os.RemoveAll(dir)
	u := &unpacked{dir: dir}
	if err := u.digest(ctx, upper); err != nil {
		return Layer{}, err
	}
	if err := os.Rename(upper, filepath.Join(dir, "diff")); err != nil {
		return Layer{}, err
	}
	layers, err := s.install(ctx, []*unpacked{u}, addition{lease: owner})
	if err != nil {
		return Layer{}, err
	}
	return layers[0], nil
}

// CopyLayer makes a layer of a copy of an overlay's upper directory, which stays
// in use: the commit of a container. The layer gets a lease of owner.
func (s *Store) CopyLayer(ctx context.Context, owner, upper string) (_ Layer, err error) {
	root, err := tree.OpenRoot(upper)
	if err != nil {
		return Layer{}, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		_, err := tree.Pack(ctx, w, root)
		packed <- errors.Join(err, w.CloseWithError(err))
	}()
	u, err := s.unpack(ctx, r)
	err = errors.Join(err, r.CloseWithError(io.ErrClosedPipe))
	perr := <-packed
	if err != nil || perr != nil {
		return Layer{}, errors.Join(err, perr)
	}
	defer os.RemoveAll(u.dir)
	layers, err := s.install(ctx, []*unpacked{u}, addition{lease: owner})
	if err != nil {
		return Layer{}, err
	}
	return layers[0], nil
}

// digest computes what the archive of the tree in dir is.
func (u *unpacked) digest(ctx context.Context, dir string) (err error) {
	root, err := tree.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	m := &meter{hash: sha256.New()}
	if u.record.Bytes, err = tree.Pack(ctx, m, root); err != nil {
		return err
	}
	u.diffID = digest.NewDigest(digest.SHA256, m.hash)
	u.record.Tar = m.n
	return nil
}

// meter counts and hashes what is written to it.
type meter struct {
	hash hash.Hash
	n    int64
}

func (m *meter) Write(p []byte) (int, error) {
	m.n += int64(len(p))
	return m.hash.Write(p)
}

// addition says what comes with new layers.
type addition struct {
	durable bool                 // they must be on disk before they are recorded
	lease   string               // who gets a lease on them; may be empty
	then    func(*bolt.Tx) error // runs in the same transaction; may be nil
}

// install moves unpacked layers into the store and records them. Layers that
// are there already are left alone. It is all or nothing.
func (s *Store) install(ctx context.Context, layers []*unpacked, add addition) ([]Layer, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	var synced pending
	if add.durable {
		boot = ""
		// Before the lock: this takes as long as the disk does.
		if synced, err = s.syncLayers(); err != nil {
			return nil, err
		}
	}
	s.changes.Lock()
	defer s.changes.Unlock()
	var out []Layer
	var placed []string
	err = s.db.Update(func(tx *bolt.Tx) error {
		for _, u := range layers {
			layer, err := s.place(tx, u, boot, &placed)
			if err != nil {
				return fmt.Errorf("layer %s: %w", u.diffID, err)
			}
			out = append(out, layer)
		}
		if err := settle(tx, synced); err != nil {
			return err
		}
		if add.then != nil {
			if err := add.then(tx); err != nil {
				return err
			}
		}
		return fault.At("image/install/before-commit")
	})
	if err != nil {
		for _, path := range placed { // no record names it
			err = errors.Join(err, os.RemoveAll(path))
		}
		return nil, err
	}
	if add.lease != "" {
		for _, l := range out {
			s.lease(add.lease, l.DiffID)
		}
	}
	return out, nil
}

// place moves one layer to where it belongs, unless the store has it, and adds
// the paths that are new to placed.
func (s *Store) place(tx *bolt.Tx, u *unpacked, boot string, placed *[]string) (Layer, error) {
	r, err := getLayer(tx, u.diffID)
	if err == nil {
		return r.layer(u.diffID), nil
	}
	if !errors.Is(err, problem.NotFound) {
		return Layer{}, err
	}
	r = u.record
	r.Created, r.Boot = time.Now().UTC(), boot
	if r.Link, err = nextLink(tx); err != nil {
		return Layer{}, err
	}
	dir := s.layerDir(u.diffID)
	// A directory without a record is what a failed removal left.
	if err := os.RemoveAll(dir); err != nil {
		return Layer{}, err
	}
	if err := os.Rename(u.dir, dir); err != nil {
		return Layer{}, err
	}
	*placed = append(*placed, dir, s.link(r.Link))
	if err := os.Chmod(dir, 0o711); err != nil {
		return Layer{}, err
	}
	if err := ensureLink(filepath.Join("..", "layers", u.diffID.Encoded(), "diff"), s.link(r.Link)); err != nil {
		return Layer{}, err
	}
	return r.layer(u.diffID), putLayer(tx, u.diffID, r)
}

func (r layerRecord) layer(diffID digest.Digest) Layer {
	return Layer{DiffID: diffID, Bytes: r.Bytes, Tar: r.Tar, Created: r.Created}
}

// syncLayers makes all layers durable, and returns those that were not known to
// be.
func (s *Store) syncLayers() (pending, error) {
	var p pending
	err := s.db.View(func(tx *bolt.Tx) error {
		err := eachLayer(tx, func(diffID digest.Digest, r layerRecord) error {
			if r.Boot != "" {
				p.layers = append(p.layers, diffID)
			}
			return nil
		})
		if err != nil {
			return err
		}
		return eachBlob(tx, func(d digest.Digest, r blobRecord) error {
			if r.Boot != "" {
				p.blobs = append(p.blobs, d)
			}
			return nil
		})
	})
	if err != nil {
		return p, err
	}
	return p, s.sync()
}

// pending are layers and blobs that were not known to be on disk.
type pending struct{ layers, blobs []digest.Digest }

// settle notes that layers and blobs are on disk now; some may be gone again.
func settle(tx *bolt.Tx, p pending) error {
	for _, d := range p.blobs {
		r, err := getBlob(tx, d)
		if errors.Is(err, problem.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		r.Boot = ""
		if err := putBlob(tx, d, r); err != nil {
			return err
		}
	}
	for _, l := range p.layers {
		r, err := getLayer(tx, l)
		if errors.Is(err, problem.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		r.Boot = ""
		if err := putLayer(tx, l, r); err != nil {
			return err
		}
	}
	return nil
}

// Layer returns a layer of the store, or NotFound.
func (s *Store) Layer(_ context.Context, diffID digest.Digest) (l Layer, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		r, err := getLayer(tx, diffID)
		l = r.layer(diffID)
		return err
	})
	return l, err
}

// LowerDirs returns the directories of img's layers, topmost first, as overlayfs
// takes them. They are short, and there is always at least one.
func (s *Store) LowerDirs(img Image) ([]string, error) { return s.LayerDirs(img.Layers) }

// LayerDirs is LowerDirs of layers, bottom first. A layer that occurs twice is
// given once, at its upper place: overlayfs refuses it twice, and the lower one
// adds nothing.
func (s *Store) LayerDirs(layers []digest.Digest) ([]string, error) {
	links, err := s.links(layers)
	for i, l := range links {
		links[i] = s.link(l)
	}
	return links, err
}

// links returns the names in l/ of layers, topmost first.
func (s *Store) links(layers []digest.Digest) ([]string, error) {
	var links []string
	seen := map[digest.Digest]bool{}
	err := s.db.View(func(tx *bolt.Tx) error {
		for i := len(layers) - 1; i >= 0; i-- {
			if seen[layers[i]] {
				continue
			}
			seen[layers[i]] = true
			r, err := getLayer(tx, layers[i])
			if err != nil {
				return err
			}
			links = append(links, r.Link)
		}
		return nil
	})
	if err == nil && len(links) == 0 {
		links = []string{"0"}
	}
	return links, err
}

// writeArchive writes the archive of a layer and verifies that it is the one
// that the layer came from.
func (s *Store) writeArchive(ctx context.Context, w io.Writer, diffID digest.Digest) error {
	var r layerRecord
	err := s.db.View(func(tx *bolt.Tx) (err error) {
		r, err = getLayer(tx, diffID)
		return err
	})
	if err != nil {
		return err
	}
	m := &meter{hash: sha256.New()}
	if err := s.assemble(ctx, io.MultiWriter(w, m), diffID, r); err != nil {
		return fmt.Errorf("archive of layer %s: %w", diffID, err)
	}
	if got := digest.NewDigest(digest.SHA256, m.hash); got != diffID || m.n != r.Tar {
		return fmt.Errorf("layer %s is damaged: its archive has digest %s", diffID, got)
	}
	return nil
}

func (s *Store) assemble(ctx context.Context, w io.Writer, diffID digest.Digest, r layerRecord) (err error) {
	dir := s.layerDir(diffID)
	diff, err := tree.OpenRoot(filepath.Join(dir, "diff"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, diff.Close()) }()
	if !r.Split {
		_, err := tree.Pack(ctx, w, diff)
		return err
	}
	a := &assembler{ctx: ctx, diff: diff, moved: r.Stash, buf: make([]byte, 256<<10)}
	if len(r.Stash) > 0 {
		if a.stash, err = tree.OpenRoot(filepath.Join(dir, "stash")); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, a.stash.Close()) }()
	}
	split, err := os.Open(filepath.Join(dir, "split"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, split.Close()) }()
	return a.join(w, split)
}
