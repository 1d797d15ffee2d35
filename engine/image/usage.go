package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"gantry/internal/fault"
	"gantry/internal/problem"
)

// Usage is what the store has, and what keeps it there.
type Usage struct {
	Images []ImageUsage
	Copies []CopyUsage
	Layers map[digest.Digest]int64           // bytes, unpacked
	Blobs  map[digest.Digest]int64           // bytes
	Leases map[string]map[digest.Digest]bool // layers and blobs, by owner; containers count as one
}

// heldBy is the owner, in a Usage, of the layers of all containers.
const heldBy = "containers"

// ImageUsage is one image of a Usage.
type ImageUsage struct {
	ID     digest.Digest
	Names  []string // familiar, with tags or digests; sorted
	Tagged bool
	InUse  bool // by a container
	Base   bool // another image was built from it
	Used   time.Time
	Layers []digest.Digest
	Blobs  []digest.Digest // that came with it from a registry
}

// CopyUsage is a packed copy of a layer that Pack makes again, to the byte.
type CopyUsage struct {
	Blob   digest.Digest
	Leased bool
	Used   time.Time
}

// touch notes that an image or a blob was used just now. It is not stored: after
// a start, what was noted on disk counts.
func (s *Store) touch(d digest.Digest) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[d] = now
}

// unused forgets when something that is gone was used.
func (s *Store) unused(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.used, d)
}

// lastUse returns the later one of at and when d was touched.
func (s *Store) lastUse(d digest.Digest, at time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.used[d]; t.After(at) {
		return t
	}
	return at
}

// noteUse stores that an image was used just now: it has come, or has lost a
// name.
func noteUse(tx *bolt.Tx, id digest.Digest) error {
	b := tx.Bucket(imagesBucket).Get([]byte(id))
	if b == nil {
		return nil
	}
	var r imageRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("record of image %s: %w", id, err)
	}
	r.Used = time.Now().UTC()
	return putJSON(tx.Bucket(imagesBucket), string(id), r)
}

// Usage tells what the store has.
func (s *Store) Usage(ctx context.Context) (Usage, error) {
	if err := context.Cause(ctx); err != nil {
		return Usage{}, err
	}
	u := Usage{Layers: map[digest.Digest]int64{}, Blobs: map[digest.Digest]int64{}, Leases: map[string]map[digest.Digest]bool{}}
	s.mu.Lock()
	for owner, set := range s.leases {
		u.Leases[owner] = maps.Clone(set)
	}
	held := map[digest.Digest]bool{}
	for _, h := range s.holds {
		for _, l := range h.Layers {
			held[l] = true
		}
	}
	u.Leases[heldBy] = held
	s.mu.Unlock()
	err := s.db.View(func(tx *bolt.Tx) error {
		err := eachLayer(tx, func(d digest.Digest, r layerRecord) error {
			u.Layers[d] = r.Bytes
			return nil
		})
		if err != nil {
			return err
		}
		copies, err := s.copies(tx, &u)
		if err != nil {
			return err
		}
		return s.imageUsage(tx, &u, copies)
	})
	return u, err
}

// copies fills in the blobs, and returns those that can be made again.
func (s *Store) copies(tx *bolt.Tx, u *Usage) (map[digest.Digest]bool, error) {
	leased := map[digest.Digest]bool{}
	for _, set := range u.Leases {
		maps.Copy(leased, set)
	}
	copies := map[digest.Digest]bool{}
	err := eachBlob(tx, func(d digest.Digest, r blobRecord) error {
		u.Blobs[d] = r.Size
		if isCopy(tx, d, r) {
			copies[d] = true
			u.Copies = append(u.Copies, CopyUsage{Blob: d, Leased: leased[d], Used: s.lastUse(d, r.Made)})
		}
		return nil
	})
	return copies, err
}

// isCopy tells whether a blob is what Pack makes of a layer that is here.
func isCopy(tx *bolt.Tx, d digest.Digest, r blobRecord) bool {
	if r.DiffID == "" || string(tx.Bucket(packedBucket).Get([]byte(r.DiffID))) != string(d) {
		return false
	}
	_, err := getLayer(tx, r.DiffID)
	return err == nil
}

func (s *Store) imageUsage(tx *bolt.Tx, u *Usage, copies map[digest.Digest]bool) error {
	names := allNames(tx)
	bases := map[digest.Digest]bool{}
	c := tx.Bucket(imagesBucket).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		var r imageRecord
		if err := json.Unmarshal(v, &r); err != nil {
			return fmt.Errorf("record of image %s: %w", k, err)
		}
		bases[r.Parent] = true
		img, err := getImage(tx, digest.Digest(bytes.Clone(k)))
		if err != nil {
			return err
		}
		setNames(&img, names[img.ID])
		one := ImageUsage{ID: img.ID, Names: slices.Concat(img.RepoTags, img.RepoDigests), Tagged: len(img.RepoTags) > 0,
			InUse: len(s.holders(img.ID)) > 0, Used: s.lastUse(img.ID, r.Used), Layers: img.Layers}
		for _, d := range r.Manifests {
			m, err := getManifest(tx, d)
			if err != nil {
				return err
			}
			for _, l := range m.blobs(tx) {
				if _, here := u.Blobs[l.Digest]; here && !copies[l.Digest] && !slices.Contains(one.Blobs, l.Digest) {
					one.Blobs = append(one.Blobs, l.Digest)
				}
			}
		}
		u.Images = append(u.Images, one)
	}
	for i := range u.Images {
		u.Images[i].Base = bases[u.Images[i].ID]
	}
	return nil
}

// Evict removes an image without a tag that nobody needs and nobody has used
// since, as Remove does. It reports whether it did.
func (s *Store) Evict(ctx context.Context, id digest.Digest, since time.Time) (bool, error) {
	if err := context.Cause(ctx); err != nil {
		return false, err
	}
	s.changes.Lock()
	gone, removed, err := s.evictLocked(id, since)
	s.changes.Unlock()
	return gone, errors.Join(err, removed.empty())
}

func (s *Store) evictLocked(id digest.Digest, since time.Time) (bool, trash, error) {
	var names []string
	kept := false
	err := s.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(imagesBucket).Get([]byte(id))
		if b == nil {
			return noSuchImage(id.String())
		}
		var r imageRecord
		if err := json.Unmarshal(b, &r); err != nil {
			return fmt.Errorf("record of image %s: %w", id, err)
		}
		names = namesOf(tx, id)
		tagged := slices.ContainsFunc(names, func(n string) bool { return !strings.Contains(n, "@") })
		kept = tagged || hasChildren(tx, id) || len(s.holders(id)) > 0 || s.lastUse(id, r.Used).After(since)
		return nil
	})
	if errors.Is(err, problem.NotFound) || err == nil && kept {
		return false, nil, nil
	}
	if err != nil {
		return false, nil, err
	}
	_, bin, err := s.execute(removal{id: id}, removalPlan{untag: names, image: true}, RemoveOptions{NoPrune: true})
	return err == nil, bin, err
}

// DropCopy removes a packed copy that nobody has leased nor used since: Pack
// makes it again. It returns how many bytes that freed.
func (s *Store) DropCopy(ctx context.Context, blob digest.Digest, since time.Time) (int64, error) {
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	s.changes.Lock()
	freed, bin, err := s.dropLocked(blob, since)
	s.changes.Unlock()
	return freed, errors.Join(err, bin.empty())
}

func (s *Store) dropLocked(blob digest.Digest, since time.Time) (int64, trash, error) {
	var freed int64
	leased := s.leased()[blob]
	err := s.db.Update(func(tx *bolt.Tx) error {
		r, err := getBlob(tx, blob)
		if errors.Is(err, problem.NotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if leased || !isCopy(tx, blob, r) || s.lastUse(blob, r.Made).After(since) {
			return nil
		}
		freed = r.Size
		return errors.Join(tx.Bucket(packedBucket).Delete([]byte(r.DiffID)), tx.Bucket(blobsBucket).Delete([]byte(blob)))
	})
	if err != nil || freed == 0 {
		return 0, nil, err
	}
	if err := fault.At("image/drop/before-files"); err != nil {
		return 0, nil, err
	}
	dir, err := s.discardBlobs([]digest.Digest{blob})
	return freed, trash{dir}, err
}
