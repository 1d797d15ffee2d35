package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"gantry/engine/image"
	"gantry/internal/fault"
	"gantry/internal/problem"
)

// Buckets of meta.db. Keys are parts joined by zero bytes; names, tags and
// digests hold none.
var (
	manifestsBucket = []byte("manifests") // repository, digest -> image.Manifest
	tagsBucket      = []byte("tags")      // repository, tag -> digest
	blobsBucket     = []byte("blobs")     // repository, digest -> when it came, in seconds
	referrersBucket = []byte("referrers") // repository, subject, digest -> descriptor
	allBuckets      = [][]byte{manifestsBucket, tagsBucket, blobsBucket, referrersBucket, throughBucket}
)

// lease is the owner of the blobs that repositories have.
const lease = "registry"

// store knows what repositories hold.
type store struct {
	db     *bolt.DB
	images *image.Store
}

func key(parts ...string) []byte { return []byte(strings.Join(parts, "\x00")) }

func openStore(cfg Config) (*store, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	file := filepath.Join(cfg.Dir, "meta.db")
	db, err := bolt.Open(file, 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType, Timeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", file, err)
	}
	s := &store{db: db, images: cfg.Images}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, b := range allBuckets {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return s.take(tx, cfg)
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

// take leases all blobs. One that is not there any more is forgotten: a client
// that pushes again brings it back.
func (s *store) take(tx *bolt.Tx, cfg Config) error {
	var lost [][]byte
	err := tx.Bucket(blobsBucket).ForEach(func(k, _ []byte) error {
		_, d, _ := strings.Cut(string(k), "\x00")
		err := s.images.LeaseBlobs(lease, digest.Digest(d))
		if errors.Is(err, problem.NotFound) {
			cfg.Logger.Error("a blob of the registry is lost", "digest", d)
			lost = append(lost, bytes.Clone(k))
			return nil
		}
		return err
	})
	for _, k := range lost {
		err = errors.Join(err, tx.Bucket(blobsBucket).Delete(k))
	}
	return err
}

// hasBlob tells whether a repository has a blob.
func (s *store) hasBlob(repo string, d digest.Digest) bool {
	found := false
	_ = s.db.View(func(tx *bolt.Tx) error { // it cannot fail
		found = tx.Bucket(blobsBucket).Get(key(repo, string(d))) != nil
		return nil
	})
	return found
}

// addBlobs notes that a repository has blobs, which the image store must have.
func (s *store) addBlobs(repo string, blobs ...digest.Digest) error {
	if err := s.images.LeaseBlobs(lease, blobs...); err != nil {
		return err
	}
	return s.db.Update(func(tx *bolt.Tx) error {
		now := []byte(strconv.FormatInt(time.Now().Unix(), 10))
		for _, d := range blobs {
			if err := tx.Bucket(blobsBucket).Put(key(repo, string(d)), now); err != nil {
				return err
			}
		}
		return fault.At("registry/blob/before-commit")
	})
}

// removeBlob forgets that a repository has a blob. One that a manifest of the
// repository names is a Conflict.
func (s *store) removeBlob(ctx context.Context, repo string, d digest.Digest) error {
	err := s.db.Update(func(tx *bolt.Tx) error {
		named := false
		each(tx.Bucket(manifestsBucket), repo, func(_ []string, v []byte) { named = named || blobsOf(v)[string(d)] })
		if named {
			return problem.New(problem.Conflict, "blob %s is in use", d)
		}
		return tx.Bucket(blobsBucket).Delete(key(repo, string(d)))
	})
	if err != nil {
		return err
	}
	return s.release(ctx, []digest.Digest{d})
}

// release ends the lease on those blobs that no repository has, and lets the
// image store drop them.
func (s *store) release(ctx context.Context, blobs []digest.Digest) error {
	used := map[string]bool{}
	err := s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(blobsBucket).ForEach(func(k, _ []byte) error {
			_, d, _ := strings.Cut(string(k), "\x00")
			used[d] = true
			return nil
		})
	})
	if err != nil {
		return err
	}
	free := slices.DeleteFunc(slices.Clone(blobs), func(d digest.Digest) bool { return used[string(d)] })
	if len(free) == 0 {
		return nil
	}
	s.images.EndLease(lease, free...)
	_, err = s.images.Collect(context.WithoutCancel(ctx))
	return err
}

// manifest finds a manifest of a repository.
func (s *store) manifest(repo string, ref reference) (m image.Manifest, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		d := ref.digest
		if ref.tag != "" {
			d = digest.Digest(tx.Bucket(tagsBucket).Get(key(repo, ref.tag)))
		}
		b := tx.Bucket(manifestsBucket).Get(key(repo, string(d)))
		if d == "" || b == nil {
			return problem.New(problem.NotFound, "manifest %s", d)
		}
		m.Digest = d
		return json.Unmarshal(b, &m)
	})
	return m, err
}

// referrer is what a manifest says about another.
type referrer struct {
	subject digest.Digest
	desc    ocispec.Descriptor
}

// putManifest stores a manifest, its tag, and what it says about another, at once.
func (s *store) putManifest(repo, tag string, m image.Manifest, r *referrer) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return s.db.Update(func(tx *bolt.Tx) error {
		if err := tx.Bucket(manifestsBucket).Put(key(repo, string(m.Digest)), data); err != nil {
			return err
		}
		if tag != "" {
			if err := tx.Bucket(tagsBucket).Put(key(repo, tag), []byte(m.Digest)); err != nil {
				return err
			}
		}
		if r != nil {
			desc, err := json.Marshal(r.desc)
			if err != nil {
				return err
			}
			if err := tx.Bucket(referrersBucket).Put(key(repo, string(r.subject), string(m.Digest)), desc); err != nil {
				return err
			}
		}
		return fault.At("registry/manifest/before-commit")
	})
}

// removeTag removes a tag, which must be there.
func (s *store) removeTag(repo, tag string) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(tagsBucket)
		if b.Get(key(repo, tag)) == nil {
			return problem.New(problem.NotFound, "tag %s", tag)
		}
		return b.Delete(key(repo, tag))
	})
}

// removeManifest removes a manifest, which must be there, with its tags, and the
// blobs that no other manifest of the repository names.
func (s *store) removeManifest(ctx context.Context, repo string, d digest.Digest) error {
	var free []digest.Digest
	err := s.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(manifestsBucket)
		raw := b.Get(key(repo, string(d)))
		if raw == nil {
			return problem.New(problem.NotFound, "manifest %s", d)
		}
		was := blobsOf(raw)
		if err := b.Delete(key(repo, string(d))); err != nil {
			return err
		}
		err := deleteWhere(tx.Bucket(tagsBucket), repo, func(_ []string, v []byte) bool { return string(v) == string(d) })
		if err != nil {
			return err
		}
		err = deleteWhere(tx.Bucket(referrersBucket), repo, func(rest []string, _ []byte) bool { return rest[1] == string(d) })
		if err != nil {
			return err
		}
		free, err = s.sweep(tx, repo, was)
		return err
	})
	if err != nil {
		return err
	}
	return s.release(ctx, free)
}

// blobsOf returns the blobs that a manifest's record names.
func blobsOf(record []byte) map[string]bool {
	named := map[string]bool{}
	var m image.Manifest
	if json.Unmarshal(record, &m) != nil {
		return named
	}
	doc, err := parseDocument(m.Raw)
	if err != nil {
		return named
	}
	for _, d := range doc.blobs() {
		named[string(d.Digest)] = true
	}
	return named
}

// deleteWhere deletes the entries of a repository for which gone is true; it is
// given the parts of the key after the repository.
func deleteWhere(b *bolt.Bucket, repo string, gone func(rest []string, v []byte) bool) error {
	var keys [][]byte
	each(b, repo, func(rest []string, v []byte) {
		if gone(rest, v) {
			keys = append(keys, key(append([]string{repo}, rest...)...))
		}
	})
	for _, k := range keys {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// each calls do for the entries whose key begins with parts, in order.
func each(b *bolt.Bucket, repo string, do func(rest []string, v []byte)) {
	prefix := []byte(repo + "\x00")
	c := b.Cursor()
	for k, v := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
		do(strings.Split(string(k[len(prefix):]), "\x00"), v)
	}
}

// sweep drops a repository's blobs that no manifest of it names, but for those
// that came just now, their manifest may be on its way. was are those that the
// manifest named that is being removed.
func (s *store) sweep(tx *bolt.Tx, repo string, was map[string]bool) ([]digest.Digest, error) {
	named := map[string]bool{}
	each(tx.Bucket(manifestsBucket), repo, func(_ []string, v []byte) {
		maps.Copy(named, blobsOf(v))
	})
	var free []digest.Digest
	recent := time.Now().Add(-uploadLife).Unix()
	err := deleteWhere(tx.Bucket(blobsBucket), repo, func(rest []string, v []byte) bool {
		came, err := strconv.ParseInt(string(v), 10, 64)
		if named[rest[0]] || !was[rest[0]] && err == nil && came > recent {
			return false
		}
		free = append(free, digest.Digest(rest[0]))
		return true
	})
	return free, err
}

// tags lists a repository's tags, sorted; known is false when there is no such
// repository.
func (s *store) tags(repo string) (tags []string, known bool) {
	_ = s.db.View(func(tx *bolt.Tx) error { // it cannot fail
		each(tx.Bucket(tagsBucket), repo, func(rest []string, _ []byte) { tags = append(tags, rest[0]) })
		for _, b := range [][]byte{manifestsBucket, blobsBucket} {
			each(tx.Bucket(b), repo, func([]string, []byte) { known = true })
		}
		return nil
	})
	return tags, known
}

// repositories lists those that have a manifest.
func (s *store) repositories() []string {
	var names []string
	_ = s.db.View(func(tx *bolt.Tx) error { // it cannot fail
		return tx.Bucket(manifestsBucket).ForEach(func(k, _ []byte) error {
			name, _, _ := strings.Cut(string(k), "\x00")
			if len(names) == 0 || names[len(names)-1] != name {
				names = append(names, name)
			}
			return nil
		})
	})
	return names
}

// referrers lists what says that subject is its subject.
func (s *store) referrers(repo string, subject digest.Digest) []ocispec.Descriptor {
	list := []ocispec.Descriptor{}
	_ = s.db.View(func(tx *bolt.Tx) error { // it cannot fail
		each(tx.Bucket(referrersBucket), repo, func(rest []string, v []byte) {
			var d ocispec.Descriptor
			if rest[0] == string(subject) && json.Unmarshal(v, &d) == nil {
				list = append(list, d)
			}
		})
		return nil
	})
	return list
}
