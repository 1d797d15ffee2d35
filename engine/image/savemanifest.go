package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"gantry/internal/problem"
)

// savedBlob is a file of an archive that is written after the documents.
type savedBlob struct {
	digest digest.Digest
	diffID digest.Digest // the layer that it is made of when both are the same
}

// manifest notes the documents and blobs of an image and returns its manifest,
// and what the archive's index names: the manifest, or the index that it is in.
func (s *saver) manifest(ctx context.Context, sel *selection) (m, top Manifest, err error) {
	m, kept, err := s.store.newest(s.lease, sel.image.ID, savable)
	if err != nil {
		return m, m, err
	}
	if !kept {
		if m, err = s.plain(ctx, sel.image, sel.doc); err != nil {
			return m, m, err
		}
	}
	if err := s.add(sel.image, sel.doc, m); err != nil || !kept {
		return m, m, err
	}
	all, err := s.store.Manifests(ctx, sel.image.ID)
	if err != nil {
		return m, m, err
	}
	top = topOf(all, m)
	return m, top, s.parts(ctx, top, 0)
}

// savable tells whether a layer can be written as a manifest names it.
func savable(tx *bolt.Tx, d ocispec.Descriptor, diffID digest.Digest) bool {
	if d.Digest == diffID {
		r, err := getLayer(tx, diffID)
		return err == nil && r.Tar == d.Size
	}
	r, err := getBlob(tx, d.Digest)
	return err == nil && r.Size == d.Size
}

// plain makes a manifest of an image whose layers are not packed.
func (s *saver) plain(ctx context.Context, img Image, doc []byte) (Manifest, error) {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    descriptor(ocispec.MediaTypeImageConfig, doc),
		Layers:    []ocispec.Descriptor{},
	}
	if err := s.store.Lease(s.lease, img.Layers...); err != nil {
		return Manifest{}, err
	}
	for _, l := range img.Layers {
		layer, err := s.store.Layer(ctx, l)
		if err != nil {
			return Manifest{}, err
		}
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: l, Size: layer.Tar})
	}
	raw, err := json.Marshal(m)
	return NewManifest(m.MediaType, raw), err
}

// add notes the documents and layers of an image, which have the lease.
func (s *saver) add(img Image, doc []byte, m Manifest) error {
	layers := m.parse().Layers
	if len(layers) != len(img.Layers) {
		return fmt.Errorf("manifest %s is not one of image %s", m.Digest, img.ID)
	}
	s.docs = append(s.docs, document{blobName(img.ID), doc}, document{blobName(m.Digest), m.Raw})
	for i, l := range layers {
		s.blobs = append(s.blobs, savedBlob{l.Digest, img.Layers[i]})
	}
	return nil
}

// topOf returns the outermost index that leads to a manifest, of an image's
// newest ones, or the manifest itself if it is in none.
func topOf(all []Manifest, m Manifest) Manifest {
	for range maxNesting + 1 {
		grown := false
		for _, i := range slices.Backward(all) {
			if i.isIndex() && slices.ContainsFunc(i.parse().Manifests, func(d ocispec.Descriptor) bool { return d.Digest == m.Digest }) {
				m, grown = i, true
				break
			}
		}
		if !grown {
			break
		}
	}
	return m
}

// parts notes an index and those of its parts that are here whole.
func (s *saver) parts(ctx context.Context, m Manifest, depth int) error {
	name := blobName(m.Digest)
	if depth > maxNesting || slices.ContainsFunc(s.docs, func(d document) bool { return d.name == name }) {
		return nil
	}
	doc := m.parse()
	if m.isIndex() {
		s.docs = append(s.docs, document{name, m.Raw})
		for _, d := range doc.Manifests {
			part, err := s.store.Manifest(ctx, d.Digest)
			if errors.Is(err, problem.NotFound) {
				continue
			}
			if err == nil {
				err = s.parts(ctx, part, depth+1)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	if doc.Config == nil {
		return nil
	}
	img, err := s.store.Get(ctx, doc.Config.Digest)
	if errors.Is(err, problem.NotFound) {
		return s.artifact(m, doc)
	}
	if err != nil {
		return err
	}
	return s.image(ctx, img, m)
}

// image notes an image that is a part of an index, if it is here whole.
func (s *saver) image(ctx context.Context, img Image, m Manifest) error {
	if err := s.store.Lease(s.lease, img.Layers...); errors.Is(err, problem.NotFound) {
		return nil
	} else if err != nil {
		return err
	}
	var packed []digest.Digest
	whole := false
	err := s.store.db.View(func(tx *bolt.Tx) error {
		layers, ok := m.layersOf(tx, img, savable)
		whole = ok
		packed = slices.DeleteFunc(layers, func(d digest.Digest) bool { return slices.Contains(img.Layers, d) })
		return nil
	})
	if err != nil || !whole || s.store.LeaseBlobs(s.lease, packed...) != nil {
		return err
	}
	doc, err := s.store.Document(ctx, img.ID)
	if err != nil {
		return err
	}
	return s.add(img, doc, m)
}

// artifact notes what an index has beside its images, if it is here whole.
func (s *saver) artifact(m Manifest, doc layoutDoc) error {
	var blobs []savedBlob
	for _, d := range append([]ocispec.Descriptor{*doc.Config}, doc.Layers...) {
		if s.store.LeaseBlobs(s.lease, d.Digest) != nil {
			return nil
		}
		blobs = append(blobs, savedBlob{digest: d.Digest})
	}
	s.docs = append(s.docs, document{blobName(m.Digest), m.Raw})
	s.blobs = append(s.blobs, blobs...)
	return nil
}

// blob writes a blob, or the archive of a layer, once.
func (s *saver) blob(ctx context.Context, b savedBlob) error {
	name := blobName(b.digest)
	if s.written[name] {
		return nil
	}
	s.written[name] = true
	if b.digest != b.diffID {
		return s.copy(ctx, name, b.digest)
	}
	layer, err := s.store.Layer(ctx, b.diffID)
	if err != nil {
		return err
	}
	if err := s.entry(name, layer.Tar); err != nil {
		return err
	}
	if err := s.store.writeArchive(ctx, s.tar, b.diffID); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	return nil
}

// copy writes a blob as it is kept, and verifies it.
func (s *saver) copy(ctx context.Context, name string, d digest.Digest) (err error) {
	b, err := s.store.Blob(ctx, d)
	if err != nil {
		return err
	}
	f, err := s.store.OpenBlob(ctx, d)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := s.entry(name, b.Size); err != nil {
		return err
	}
	hash := d.Algorithm().Hash()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(s.tar, hash)}, ctxReader{ctx, f}, make([]byte, saveCopy))
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	if got := digest.NewDigest(d.Algorithm(), hash); got != d || n != b.Size {
		return fmt.Errorf("save: blob %s has digest %s and %d bytes, not %d", d, got, n, b.Size)
	}
	return nil
}

// saveCopy is how much of a blob is read at once.
const saveCopy = 256 << 10
