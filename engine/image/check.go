package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// Check walks the store and returns an error that explains each violation: a
// document that is not what its digest says, an image without its layers, a
// name without its image, a layer whose files differ from its archive, files
// that no record names. It reads all layers whole; what it reads stays until it
// has, and nobody waits for that.
func (s *Store) Check(ctx context.Context) error {
	owner := "check " + random()
	defer s.EndLease(owner)
	layers, blobs, bad, err := s.records(owner)
	if err != nil {
		return err
	}
	for id, r := range layers {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		bad = append(bad, s.writeArchive(ctx, io.Discard, id))
		if _, err := os.Stat(filepath.Join(s.link(r.Link), ".")); err != nil {
			bad = append(bad, fmt.Errorf("layer %s: its short link: %w", id, err))
		}
	}
	for d, r := range blobs {
		if err := context.Cause(ctx); err != nil {
			return errors.Join(append(bad, err)...)
		}
		bad = append(bad, s.checkBlob(d, r))
	}
	return errors.Join(bad...)
}

// records returns the records of layers and blobs, which get a lease of owner,
// and explains what is wrong with the records, and with the names of files.
func (s *Store) records(owner string) (layers map[digest.Digest]layerRecord, blobs map[digest.Digest]blobRecord, bad []error, err error) {
	s.changes.Lock() // nothing comes or goes meanwhile
	defer s.changes.Unlock()
	layers, blobs = map[digest.Digest]layerRecord{}, map[digest.Digest]blobRecord{}
	err = s.db.View(func(tx *bolt.Tx) error {
		bad = append(bad, checkImages(tx)...)
		bad = append(bad, checkNames(tx)...)
		bad = append(bad, checkManifests(tx)...)
		err := eachLayer(tx, func(id digest.Digest, r layerRecord) error {
			layers[id] = r
			return nil
		})
		if err != nil {
			return err
		}
		return eachBlob(tx, func(d digest.Digest, r blobRecord) error {
			blobs[d] = r
			return nil
		})
	})
	if err != nil {
		return nil, nil, nil, err
	}
	s.lease(owner, slices.Collect(maps.Keys(layers))...)
	s.lease(owner, slices.Collect(maps.Keys(blobs))...)
	return layers, blobs, append(bad, s.checkFiles(layers, blobs)...), nil
}

// checkFiles reports files that no record names.
func (s *Store) checkFiles(layers map[digest.Digest]layerRecord, blobs map[digest.Digest]blobRecord) (bad []error) {
	dirs, err := os.ReadDir(filepath.Join(s.dir, "layers"))
	bad = append(bad, err)
	for _, d := range dirs {
		id := digest.NewDigestFromEncoded(digest.SHA256, d.Name())
		if _, ok := layers[id]; !ok && d.Name() != emptyName {
			bad = append(bad, fmt.Errorf("directory layers/%s has no record", d.Name()))
		}
	}
	for _, kind := range blobKinds {
		files, err := os.ReadDir(filepath.Join(s.dir, "blobs", string(kind)))
		bad = append(bad, err)
		for _, f := range files {
			if _, ok := blobs[digest.NewDigestFromEncoded(kind, f.Name())]; !ok {
				bad = append(bad, fmt.Errorf("file blobs/%s/%s has no record", kind, f.Name()))
			}
		}
	}
	return bad
}

func checkImages(tx *bolt.Tx) (bad []error) {
	images, docs := tx.Bucket(imagesBucket), tx.Bucket(documentsBucket)
	err := images.ForEach(func(k, _ []byte) error {
		if docs.Get(k) == nil {
			bad = append(bad, fmt.Errorf("image %s has no configuration", k))
			return nil
		}
		if _, err := getImage(tx, digest.Digest(k)); err != nil {
			bad = append(bad, err)
		}
		return nil
	})
	err = errors.Join(err, docs.ForEach(func(k, v []byte) error {
		if got := digest.FromBytes(v); got != digest.Digest(k) {
			bad = append(bad, fmt.Errorf("document %s has digest %s", k, got))
		}
		if images.Get(k) == nil {
			bad = append(bad, fmt.Errorf("document %s belongs to no image", k))
		}
		if !json.Valid(v) {
			bad = append(bad, fmt.Errorf("document %s is not JSON", k))
		}
		return nil
	}))
	return append(bad, err)
}

func checkNames(tx *bolt.Tx) (bad []error) {
	err := tx.Bucket(namesBucket).ForEach(func(k, v []byte) error {
		if _, err := reference.ParseNormalizedNamed(string(k)); err != nil {
			bad = append(bad, fmt.Errorf("name %q: %w", k, err))
		}
		if tx.Bucket(imagesBucket).Get(v) == nil {
			bad = append(bad, fmt.Errorf("name %s means image %s, which is not there", k, v))
		}
		return nil
	})
	return append(bad, err)
}
