package image

import (
	"context"
	"encoding/json"
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
)

// blobRecord is what the store knows of a blob beside its bytes.
type blobRecord struct {
	Size   int64         `json:"size"`
	DiffID digest.Digest `json:"diffID,omitempty"` // the layer that it unpacks to, where that is known
	Boot   string        `json:"boot,omitempty"`   // set until the bytes are known to be durable
	Made   time.Time     `json:"made,omitzero"`    // or came
}

// Blob is one file of the store that is kept as it came.
type Blob struct {
	Digest digest.Digest
	Size   int64
	DiffID digest.Digest // the layer that it unpacks to; empty when that is not known
}

// blobPath is where a blob's bytes are.
func (s *Store) blobPath(d digest.Digest) string {
	return filepath.Join(s.dir, "blobs", string(d.Algorithm()), d.Encoded())
}

func getBlob(tx *bolt.Tx, d digest.Digest) (blobRecord, error) {
	b := tx.Bucket(blobsBucket).Get([]byte(d))
	if b == nil {
		return blobRecord{}, problem.New(problem.NotFound, "blob %s is not in the store", d)
	}
	var r blobRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("record of blob %s: %w", d, err)
	}
	return r, nil
}

func putBlob(tx *bolt.Tx, d digest.Digest, r blobRecord) error {
	return putJSON(tx.Bucket(blobsBucket), string(d), r)
}

// BlobWriter takes one blob in. It is for one goroutine.
type BlobWriter struct {
	store *Store
	file  *os.File
	hash  hash.Hash
	kind  digest.Algorithm
	n     int64
}

// NewBlob begins a blob whose digest is of the given kind. The caller closes the
// writer; what was not committed is gone then.
func (s *Store) NewBlob(kind digest.Algorithm) (*BlobWriter, error) {
	if !kind.Available() {
		return nil, problem.New(problem.Unsupported, "digest algorithm %q", kind)
	}
	f, err := os.CreateTemp(filepath.Join(s.dir, "tmp"), "blob-")
	if err != nil {
		return nil, err
	}
	return &BlobWriter{store: s, file: f, hash: kind.Hash(), kind: kind}, nil
}

// Write appends.
func (w *BlobWriter) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.hash.Write(p[:n]) // never fails
	w.n += int64(n)
	return n, err
}

// Size is how much has been written.
func (w *BlobWriter) Size() int64 { return w.n }

// Digest is that of what has been written.
func (w *BlobWriter) Digest() digest.Digest { return digest.NewDigest(w.kind, w.hash) }

// Close drops what was not committed. A second call does nothing.
func (w *BlobWriter) Close() error {
	if w.file == nil {
		return nil
	}
	err := errors.Join(w.file.Close(), os.Remove(w.file.Name()))
	w.file = nil
	return err
}

// Rehash makes the digest one of another kind; with the same kind it does
// nothing.
func (w *BlobWriter) Rehash(kind digest.Algorithm) error {
	if kind == w.kind {
		return nil
	}
	if !kind.Available() {
		return problem.New(problem.Unsupported, "digest algorithm %q", kind)
	}
	h := kind.Hash()
	if _, err := io.Copy(h, io.NewSectionReader(w.file, 0, w.n)); err != nil {
		return err
	}
	w.hash, w.kind = h, kind
	return nil
}

// Durability says whether a call returns before its bytes survive power loss.
type Durability bool

// The two kinds of calls.
const (
	Lazy    Durability = false // durable with the next image; until then a power failure loses it whole
	Durable Durability = true
)

// Commit makes the blob visible, under a lease of owner. want must be its
// digest, and diffID may name the layer that it unpacks to. Committing what the
// store has succeeds. Only Close may be called afterwards.
//
// Errors: Invalid when the digest is another one; then nothing is kept.
func (w *BlobWriter) Commit(ctx context.Context, owner string, want, diffID digest.Digest, how Durability) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if got := w.Digest(); got != want {
		return problem.New(problem.Invalid, "content has digest %s, not %s", got, want)
	}
	boot := ""
	var err error
	if how == Durable {
		err = w.file.Sync()
	} else {
		boot, err = bootID()
	}
	if err != nil {
		return err
	}
	if err := fault.At("image/blob/before-rename"); err != nil {
		return err
	}
	r := blobRecord{Size: w.n, DiffID: diffID, Boot: boot, Made: time.Now().UTC()}
	if err := w.store.placeBlob(w.file.Name(), owner, want, r); err != nil {
		return err
	}
	return w.finish()
}

// finish closes the file, whose name may be gone.
func (w *BlobWriter) finish() error {
	err := w.file.Close()
	if rerr := os.Remove(w.file.Name()); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	w.file = nil
	return err
}

// placeBlob moves a file to where it belongs, unless the store has it, and
// records it.
func (s *Store) placeBlob(from, owner string, d digest.Digest, r blobRecord) error {
	s.changes.Lock()
	defer s.changes.Unlock()
	placed := "" // and not recorded yet
	err := s.db.Update(func(tx *bolt.Tx) error {
		have, err := getBlob(tx, d)
		if err == nil {
			if have.DiffID == "" {
				have.DiffID = r.DiffID
			}
			if r.Boot != "" || have.Boot == "" {
				return putBlob(tx, d, have)
			}
		} else if !errors.Is(err, problem.NotFound) {
			return err
		}
		path := s.blobPath(d)
		if err := os.Rename(from, path); err != nil {
			return err
		}
		placed = path
		if r.Boot == "" {
			if err := syncDir(filepath.Dir(path)); err != nil {
				return err
			}
		}
		if err := fault.At("image/blob/before-record"); err != nil {
			return err
		}
		return putBlob(tx, d, r)
	})
	if err != nil && placed != "" {
		err = errors.Join(err, os.Remove(placed))
	}
	if err == nil && owner != "" {
		s.lease(owner, d)
	}
	return err
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Blob describes a blob, or fails as NotFound.
func (s *Store) Blob(_ context.Context, d digest.Digest) (b Blob, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		r, err := getBlob(tx, d)
		b = Blob{Digest: d, Size: r.Size, DiffID: r.DiffID}
		return err
	})
	return b, err
}

// OpenBlob opens a blob's bytes. They stay readable when the blob is removed.
func (s *Store) OpenBlob(ctx context.Context, d digest.Digest) (*os.File, error) {
	if _, err := s.Blob(ctx, d); err != nil {
		return nil, err
	}
	s.touch(d)
	f, err := os.Open(s.blobPath(d))
	if errors.Is(err, os.ErrNotExist) {
		return nil, problem.New(problem.NotFound, "blob %s is not in the store", d)
	}
	return f, err
}

// LeaseBlobs keeps blobs from being collected. It adds to what the owner has;
// EndLease ends it. NotFound says that one of them is not in the store; then
// nothing is added.
func (s *Store) LeaseBlobs(owner string, blobs ...digest.Digest) error {
	s.changes.Lock()
	defer s.changes.Unlock()
	err := s.db.View(func(tx *bolt.Tx) error {
		for _, d := range blobs {
			if _, err := getBlob(tx, d); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		s.lease(owner, blobs...)
	}
	return err
}

// UnpackBlob makes a layer of an archive, compressed or not, that it reads to
// its end. The layer gets a lease of owner.
func (s *Store) UnpackBlob(ctx context.Context, owner string, r io.Reader) (Layer, error) {
	u, err := s.unpack(ctx, r)
	if err != nil {
		return Layer{}, err
	}
	defer os.RemoveAll(u.dir)
	layers, err := s.install(ctx, []*unpacked{u}, addition{lease: owner})
	if err != nil {
		return Layer{}, err
	}
	return layers[0], nil
}

// repairBlobs removes records that a power failure may have made lies, and
// files without a record.
func (s *Store) repairBlobs() error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	kept := map[digest.Digest]bool{}
	var torn []digest.Digest
	err = s.db.View(func(tx *bolt.Tx) error {
		return eachBlob(tx, func(d digest.Digest, r blobRecord) error {
			if r.Boot != "" && r.Boot != boot {
				torn = append(torn, d)
				return nil
			}
			kept[d] = true
			return nil
		})
	})
	if err == nil && len(torn) > 0 {
		err = s.db.Update(func(tx *bolt.Tx) (err error) {
			for _, d := range torn {
				err = errors.Join(err, tx.Bucket(blobsBucket).Delete([]byte(d)))
			}
			return err
		})
	}
	if err != nil {
		return err
	}
	for _, kind := range blobKinds {
		dir := filepath.Join(s.dir, "blobs", string(kind))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		files, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, f := range files {
			if kept[digest.NewDigestFromEncoded(kind, f.Name())] {
				continue
			}
			s.log.Info("removing a blob without a record", "digest", f.Name())
			if err := os.Remove(filepath.Join(dir, f.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// blobKinds are the digests that blobs have.
var blobKinds = []digest.Algorithm{digest.SHA256, digest.SHA512}

// eachBlob calls do for each blob. The records may be changed by it.
func eachBlob(tx *bolt.Tx, do func(digest.Digest, blobRecord) error) error {
	var all []digest.Digest
	c := tx.Bucket(blobsBucket).Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		all = append(all, digest.Digest(k))
	}
	for _, d := range all {
		r, err := getBlob(tx, d)
		if err != nil {
			return err
		}
		if err := do(d, r); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) checkBlob(d digest.Digest, r blobRecord) error {
	f, err := os.Open(s.blobPath(d))
	if err != nil {
		return fmt.Errorf("blob %s: %w", d, err)
	}
	defer f.Close()
	h := d.Algorithm().Hash()
	n, err := io.Copy(h, f)
	if err != nil {
		return fmt.Errorf("blob %s: %w", d, err)
	}
	if got := digest.NewDigest(d.Algorithm(), h); got != d || n != r.Size {
		return fmt.Errorf("blob %s has digest %s and %d bytes, not %d", d, got, n, r.Size)
	}
	return nil
}
