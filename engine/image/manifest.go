package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/distribution/reference"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"gantry/internal/problem"
)

// Manifest is an image manifest or an index, exactly as it came or went.
type Manifest struct {
	Digest    digest.Digest `json:"-"`
	MediaType string        `json:"mediaType"`
	Raw       []byte        `json:"raw"`
}

// NewManifest describes bytes by their SHA-256 digest.
func NewManifest(mediaType string, raw []byte) Manifest {
	return Manifest{Digest: digest.FromBytes(raw), MediaType: mediaType, Raw: raw}
}

// parse reads a manifest or an index; what cannot be read is empty.
func (m Manifest) parse() (doc layoutDoc) {
	if json.Unmarshal(m.Raw, &doc) != nil {
		return layoutDoc{}
	}
	return doc
}

// blobs returns the blobs that a manifest names: its layers, and of what is no
// image the configuration too. Those of an index are none.
func (m Manifest) blobs(tx *bolt.Tx) []ocispec.Descriptor {
	doc := m.parse()
	if doc.Config != nil && tx.Bucket(documentsBucket).Get([]byte(doc.Config.Digest)) == nil {
		return append(doc.Layers, *doc.Config)
	}
	return doc.Layers
}

// isIndex tells an index from an image's manifest.
func (m Manifest) isIndex() bool {
	return m.MediaType == ocispec.MediaTypeImageIndex || m.MediaType == "application/vnd.docker.distribution.manifest.list.v2+json"
}

func getManifest(tx *bolt.Tx, d digest.Digest) (Manifest, error) {
	b := tx.Bucket(manifestsBucket).Get([]byte(d))
	if b == nil {
		return Manifest{}, problem.New(problem.NotFound, "manifest %s is not in the store", d)
	}
	m := Manifest{Digest: d}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("record of manifest %s: %w", d, err)
	}
	return m, nil
}

// Pulled is an image as a registry gave it.
type Pulled struct {
	Config    []byte     // the configuration document
	Manifests []Manifest // its manifest, and the indexes through which it was found
	Names     []reference.Named
}

// AddPulled registers an image whose layers are in the store. When it returns,
// the image, its layers and its manifests survive power loss.
func (s *Store) AddPulled(ctx context.Context, p Pulled) (Image, error) {
	id := digest.FromBytes(p.Config)
	_, err := s.install(ctx, nil, addition{durable: true, then: func(tx *bolt.Tx) error {
		if err := record(tx, id, p.Config, "", p.Names); err != nil {
			return err
		}
		return addManifests(tx, id, p.Manifests)
	}})
	if err != nil {
		return Image{}, err
	}
	return s.Get(ctx, id)
}

// addManifests notes manifests of an image; what it has already moves to the end.
func addManifests(tx *bolt.Tx, id digest.Digest, list []Manifest) error {
	var r imageRecord
	if err := json.Unmarshal(tx.Bucket(imagesBucket).Get([]byte(id)), &r); err != nil {
		return fmt.Errorf("record of image %s: %w", id, err)
	}
	for _, m := range list {
		if err := putJSON(tx.Bucket(manifestsBucket), string(m.Digest), m); err != nil {
			return err
		}
		r.Manifests = append(slices.DeleteFunc(r.Manifests, func(d digest.Digest) bool { return d == m.Digest }), m.Digest)
	}
	return putJSON(tx.Bucket(imagesBucket), string(id), r)
}

// Manifest returns a manifest or index that some image has, or NotFound.
func (s *Store) Manifest(_ context.Context, d digest.Digest) (m Manifest, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		m, err = getManifest(tx, d)
		return err
	})
	return m, err
}

// Manifests returns an image's manifest and the indexes that it was found in.
func (s *Store) Manifests(_ context.Context, id digest.Digest) (list []Manifest, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(imagesBucket).Get([]byte(id))
		if b == nil {
			return noSuchImage(id.String())
		}
		var r imageRecord
		if err := json.Unmarshal(b, &r); err != nil {
			return fmt.Errorf("record of image %s: %w", id, err)
		}
		for _, d := range r.Manifests {
			m, err := getManifest(tx, d)
			if err != nil {
				return err
			}
			list = append(list, m)
		}
		return nil
	})
	return list, err
}

// Pack returns a manifest of an image whose blobs are all in the store, under a
// lease of owner: the one with which it was pulled, or else one that is made.
// The layers are packed once, always to the same bytes.
func (s *Store) Pack(ctx context.Context, owner string, id digest.Digest) (Manifest, error) {
	img, err := s.Get(ctx, id)
	if err != nil {
		return Manifest{}, err
	}
	if m, ok, err := s.complete(owner, id); ok || err != nil {
		return m, err
	}
	if err := s.Lease(owner, img.Layers...); err != nil {
		return Manifest{}, err
	}
	doc, err := s.Document(ctx, id)
	if err != nil {
		return Manifest{}, err
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: descriptor(ocispec.MediaTypeImageConfig, doc), Layers: make([]ocispec.Descriptor, len(img.Layers)),
	}
	g, packing := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, l := range img.Layers {
		g.Go(func() (err error) {
			if m.Layers[i], err = s.packLayer(packing, owner, l); err != nil {
				return fmt.Errorf("pack layer %s: %w", l, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return Manifest{}, err
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return Manifest{}, err
	}
	made := NewManifest(m.MediaType, raw)
	_, err = s.install(ctx, nil, addition{durable: true, then: func(tx *bolt.Tx) error {
		if tx.Bucket(imagesBucket).Get([]byte(id)) == nil {
			return noSuchImage(id.String())
		}
		return addManifests(tx, id, []Manifest{made})
	}})
	return made, err
}

// complete returns the newest of an image's manifests whose blobs are all here,
// under a lease.
func (s *Store) complete(owner string, id digest.Digest) (Manifest, bool, error) {
	return s.newest(owner, id, func(tx *bolt.Tx, d ocispec.Descriptor, _ digest.Digest) bool {
		_, err := getBlob(tx, d.Digest)
		return err == nil
	})
}

// newest returns the newest of an image's manifests whose layers are all here,
// as the function here says of each, with its diffID. The layers get a lease.
func (s *Store) newest(owner string, id digest.Digest, here func(*bolt.Tx, ocispec.Descriptor, digest.Digest) bool) (found Manifest, ok bool, err error) {
	s.changes.Lock()
	defer s.changes.Unlock()
	var blobs []digest.Digest
	err = s.db.View(func(tx *bolt.Tx) error {
		img, err := getImage(tx, id)
		if err != nil {
			return err
		}
		var r imageRecord
		if err := json.Unmarshal(tx.Bucket(imagesBucket).Get([]byte(id)), &r); err != nil {
			return fmt.Errorf("record of image %s: %w", id, err)
		}
		for _, d := range slices.Backward(r.Manifests) {
			m, err := getManifest(tx, d)
			if err != nil {
				return err
			}
			if blobs, ok = m.layersOf(tx, img, here); ok {
				found = m
				break
			}
		}
		for _, d := range blobs {
			if !slices.Contains(img.Layers, d) {
				s.touch(d)
			}
		}
		return nil
	})
	if ok {
		s.lease(owner, blobs...)
	}
	return found, ok, err
}

// layersOf returns the layers that a manifest names, if it is one of the image
// and they are all here.
func (m Manifest) layersOf(tx *bolt.Tx, img Image, here func(*bolt.Tx, ocispec.Descriptor, digest.Digest) bool) ([]digest.Digest, bool) {
	doc := m.parse()
	if m.isIndex() || doc.Config == nil || doc.Config.Digest != img.ID || len(doc.Layers) != len(img.Layers) {
		return nil, false
	}
	var blobs []digest.Digest
	for i, l := range doc.Layers {
		if !here(tx, l, img.Layers[i]) {
			return nil, false
		}
		blobs = append(blobs, l.Digest)
	}
	return blobs, true
}

// packLevel is pinned: another level would give other digests.
const packLevel = 3

// packLayer returns the blob that a layer is packed to, under a lease of owner.
func (s *Store) packLayer(ctx context.Context, owner string, diffID digest.Digest) (_ ocispec.Descriptor, err error) {
	if d, ok := s.packed(owner, diffID); ok {
		return d, nil
	}
	w, err := s.NewBlob(digest.SHA256)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	z, err := gzip.NewWriterLevel(w, packLevel)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if err := errors.Join(s.writeArchive(ctx, z, diffID), z.Close()); err != nil {
		return ocispec.Descriptor{}, err
	}
	d := layerDescriptor(w.Digest(), w.Size())
	if err := w.Commit(ctx, owner, d.Digest, diffID, Lazy); err != nil {
		return d, err
	}
	return d, s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(packedBucket).Put([]byte(diffID), []byte(d.Digest)) })
}

func layerDescriptor(d digest.Digest, size int64) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d, Size: size}
}

// packed returns what packLayer made before, if it is still there.
func (s *Store) packed(owner string, diffID digest.Digest) (ocispec.Descriptor, bool) {
	s.changes.Lock()
	defer s.changes.Unlock()
	var out ocispec.Descriptor
	found := false
	_ = s.db.View(func(tx *bolt.Tx) error {
		d := digest.Digest(tx.Bucket(packedBucket).Get([]byte(diffID)))
		if d == "" {
			return nil
		}
		r, err := getBlob(tx, d)
		if err == nil {
			out, found = layerDescriptor(d, r.Size), true
		}
		return nil
	})
	if found {
		s.lease(owner, out.Digest)
		s.touch(out.Digest)
	}
	return out, found
}

// collectBlobs drops the records of manifests that no image has, and of blobs
// that no manifest and no lease has; it returns the blobs.
func collectBlobs(tx *bolt.Tx, leased map[digest.Digest]bool) ([]digest.Digest, error) {
	manifests := map[digest.Digest]bool{}
	err := tx.Bucket(imagesBucket).ForEach(func(k, v []byte) error {
		var r imageRecord
		if err := json.Unmarshal(v, &r); err != nil {
			return fmt.Errorf("record of image %s: %w", k, err)
		}
		for _, d := range r.Manifests {
			manifests[d] = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	used := map[digest.Digest]bool{}
	var unused [][]byte
	err = tx.Bucket(manifestsBucket).ForEach(func(k, v []byte) error {
		if !manifests[digest.Digest(k)] {
			unused = append(unused, bytes.Clone(k))
			return nil
		}
		var m Manifest
		if err := json.Unmarshal(v, &m); err != nil {
			return fmt.Errorf("record of manifest %s: %w", k, err)
		}
		for _, l := range m.blobs(tx) {
			used[l.Digest] = true
		}
		return nil
	})
	for _, k := range unused {
		err = errors.Join(err, tx.Bucket(manifestsBucket).Delete(k))
	}
	if err != nil {
		return nil, err
	}
	var gone []digest.Digest
	err = eachBlob(tx, func(d digest.Digest, r blobRecord) error {
		if used[d] || leased[d] {
			return nil
		}
		gone = append(gone, d)
		if r.DiffID != "" && string(tx.Bucket(packedBucket).Get([]byte(r.DiffID))) == string(d) {
			if err := tx.Bucket(packedBucket).Delete([]byte(r.DiffID)); err != nil {
				return err
			}
		}
		return tx.Bucket(blobsBucket).Delete([]byte(d))
	})
	return gone, err
}

// discardBlobs moves blobs without a record to a temporary directory.
func (s *Store) discardBlobs(blobs []digest.Digest) (string, error) {
	tmp, err := s.temp("gone")
	if err != nil {
		return "", err
	}
	for i, d := range blobs {
		s.unused(d)
		if rerr := os.Rename(s.blobPath(d), filepath.Join(tmp, fmt.Sprint(i))); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("remove blob %s: %w", d, rerr))
		}
	}
	return tmp, err
}

func checkManifests(tx *bolt.Tx) (bad []error) {
	err := tx.Bucket(manifestsBucket).ForEach(func(k, v []byte) error {
		var m Manifest
		if err := json.Unmarshal(v, &m); err != nil {
			bad = append(bad, fmt.Errorf("record of manifest %s: %w", k, err))
			return nil
		}
		if d := digest.Digest(k); d.Validate() != nil || d.Algorithm().FromBytes(m.Raw) != d {
			bad = append(bad, fmt.Errorf("manifest %s is not what its digest says", k))
		}
		return nil
	})
	err = errors.Join(err, tx.Bucket(imagesBucket).ForEach(func(k, v []byte) error {
		var r imageRecord
		if json.Unmarshal(v, &r) != nil {
			return nil // checkImages says so
		}
		for _, d := range r.Manifests {
			if tx.Bucket(manifestsBucket).Get([]byte(d)) == nil {
				bad = append(bad, fmt.Errorf("image %s: its manifest %s is missing", k, d))
			}
		}
		return nil
	}))
	return append(bad, err)
}
