package server

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"gantry/engine/image"
)

// Check explains what is wrong: a tag without its manifest, a manifest that is
// not what its digest says or lacks a blob, a blob that the image store lacks.
// What the blobs hold is the image store's to check.
func (s *Server) Check(ctx context.Context) (bad []error) {
	var lost []lostBlob
	err := s.store.db.View(func(tx *bolt.Tx) error {
		manifests, blobs := tx.Bucket(manifestsBucket), tx.Bucket(blobsBucket)
		_ = tx.Bucket(tagsBucket).ForEach(func(k, v []byte) error { // do fails never
			repo, tag, _ := strings.Cut(string(k), "\x00")
			if manifests.Get(key(repo, string(v))) == nil {
				bad = append(bad, fmt.Errorf("repository %s: tag %s means manifest %s, which is not there", repo, tag, v))
			}
			return nil
		})
		_ = manifests.ForEach(func(k, v []byte) error { // do fails never
			repo, text, _ := strings.Cut(string(k), "\x00")
			d := digest.Digest(text)
			var m image.Manifest
			if json.Unmarshal(v, &m) != nil || d.Validate() != nil || d.Algorithm().FromBytes(m.Raw) != d {
				bad = append(bad, fmt.Errorf("repository %s: manifest %s is not what its digest says", repo, d))
				return nil
			}
			if isThrough(tx, repo, text) {
				return nil // its blobs come when they are asked for
			}
			for b := range blobsOf(v) {
				if blobs.Get(key(repo, b)) == nil {
					bad = append(bad, fmt.Errorf("repository %s: manifest %s lacks blob %s", repo, d, b))
				}
			}
			return nil
		})
		return blobs.ForEach(func(k, _ []byte) error {
			repo, d, _ := strings.Cut(string(k), "\x00")
			if _, err := s.cfg.Images.Blob(ctx, digest.Digest(d)); err != nil {
				lost = append(lost, lostBlob{repo, digest.Digest(d), err})
			}
			return nil
		})
	})
	if err != nil {
		bad = append(bad, err)
	}
	for _, l := range lost {
		if s.store.hasBlob(l.repo, l.digest) { // it was not removed meanwhile
			bad = append(bad, fmt.Errorf("repository %s: %w", l.repo, l.err))
		}
	}
	return bad
}

// lostBlob is a blob that the image store lacks.
type lostBlob struct {
	repo   string
	digest digest.Digest
	err    error
}
