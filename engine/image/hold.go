package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// Hold notes that a container uses an image, so that the image is not removed.
// A second hold of the same owner replaces the first. Holds are not stored: who
// holds says so again after each start, before it lets anybody remove anything.
func (s *Store) Hold(h Hold) {
	s.touch(h.Image)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds[h.Owner] = h
}

// Release ends the hold of an owner; it may have none.
func (s *Store) Release(owner string) {
	s.mu.Lock()
	h, held := s.holds[owner]
	delete(s.holds, owner)
	s.mu.Unlock()
	if held {
		s.touch(h.Image) // not to go at once
	}
}

// holders returns who holds an image, in order.
func (s *Store) holders(id digest.Digest) []Hold {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []Hold
	for _, h := range s.holds {
		if h.Image == id {
			found = append(found, h)
		}
	}
	slices.SortFunc(found, func(a, b Hold) int {
		return strings.Compare(a.Owner, b.Owner)
	})
	return found
}

// Lease keeps layers from being collected while no image has them: those of a
// running build, and those in the build cache. It adds to what the owner has.
// NotFound says that one of the layers is not in the store; then nothing is
// added. Leases are not stored.
func (s *Store) Lease(owner string, layers ...digest.Digest) error {
	s.changes.Lock()
	defer s.changes.Unlock()
	err := s.db.View(func(tx *bolt.Tx) error {
		for _, l := range layers {
			if _, err := getLayer(tx, l); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.lease(owner, layers...)
	return nil
}

func (s *Store) lease(owner string, layers ...digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := s.leases[owner]
	if set == nil {
		set = map[digest.Digest]bool{}
		s.leases[owner] = set
	}
	for _, l := range layers {
		set[l] = true
	}
}

// EndLease ends the lease of an owner on layers, or on all when none are named.
func (s *Store) EndLease(owner string, layers ...digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(layers) == 0 {
		delete(s.leases, owner)
	}
	for _, l := range layers {
		delete(s.leases[owner], l)
	}
}

// leased returns all layers that a lease or a container has.
func (s *Store) leased() map[digest.Digest]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[digest.Digest]bool{}
	for _, layers := range s.leases {
		maps.Copy(all, layers)
	}
	for _, h := range s.holds {
		for _, l := range h.Layers {
			all[l] = true
		}
	}
	return all
}

// Collect removes the layers that no image, lease or container has, and
// returns how many bytes that freed.
func (s *Store) Collect(ctx context.Context) (int64, error) {
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	s.changes.Lock()
	layers, bin, err := s.collect()
	s.changes.Unlock()
	err = errors.Join(err, bin.empty())
	var freed int64
	for _, l := range layers {
		freed += l.Bytes
	}
	return freed, err
}

// eachLayer calls do for each layer. The records may be changed by it.
func eachLayer(tx *bolt.Tx, do func(digest.Digest, layerRecord) error) error {
	type item struct {
		id digest.Digest
		r  layerRecord
	}
	var items []item
	err := tx.Bucket(layersBucket).ForEach(func(k, v []byte) error {
		id := digest.NewDigestFromEncoded(digest.SHA256, string(k))
		var r layerRecord
		if err := json.Unmarshal(v, &r); err != nil {
			return fmt.Errorf("record of layer %s: %w", id, err)
		}
		items = append(items, item{id, r})
		return nil
	})
	if err != nil {
		return err
	}
	for _, i := range items {
		if err := do(i.id, i.r); err != nil {
			return err
		}
	}
	return nil
}
