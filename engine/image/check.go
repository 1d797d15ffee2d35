package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// Check walks the store and returns an error that explains each violation: a
// document that is not what its digest says, an image without its layers, a
// name without its image, a layer whose files differ from its archive, files
// that no record names. It reads all layers whole.
func (s *Store) Check(ctx context.Context) error {
	s.changes.Lock() // no removal meanwhile
	defer s.changes.Unlock()
	layers := map[digest.Digest]layerRecord{}
	var bad []error
	err := s.db.View(func(tx *bolt.Tx) error {
		bad = append(bad, checkImages(tx)...)
		bad = append(bad, checkNames(tx)...)
		bad = append(bad, checkManifests(tx)...)
		return eachLayer(tx, func(id digest.Digest, r layerRecord) error {
			layers[id] = r
			return nil
		})
	})
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
	dirs, err := os.ReadDir(filepath.Join(s.dir, "layers"))
	if err != nil {
		return err
	}
	for _, d := range dirs {
		id := digest.NewDigestFromEncoded(digest.SHA256, d.Name())
		if _, ok := layers[id]; !ok && d.Name() != emptyName {
			bad = append(bad, fmt.Errorf("directory layers/%s has no record", d.Name()))
		}
	}
	bad = append(bad, s.checkBlobs(ctx)...)
	return errors.Join(bad...)
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
