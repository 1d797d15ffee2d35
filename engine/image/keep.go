package image

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/problem"
)

// maxManifest is how large a manifest is that is kept: registries take no larger
// ones.
const maxManifest = 4 << 20

// blobDigest returns the digest for which a file of an OCI layout is named.
func blobDigest(name string) (digest.Digest, bool) {
	dir, hex := path.Split(name)
	d := digest.NewDigestFromEncoded(digest.Algorithm(path.Base(dir)), hex)
	return d, d.Validate() == nil && blobName(d) == name
}

// isTar tells an archive that is not compressed by its first header.
func isTar(head []byte) bool {
	return len(head) >= 262 && string(head[257:262]) == "ustar"
}

// packed makes a layer of a blob, if it is one, and keeps the blob as it came
// until the load has ended: then it goes, unless a manifest names it. An error
// is not the blob's.
func (l *loader) packed(ctx context.Context, r io.Reader, want digest.Digest) (layer blobLayer, err error) {
	w, err := l.store.NewBlob(want.Algorithm())
	if err != nil {
		return layer, err
	}
	defer func() {
		if cerr := w.Close(); err == nil {
			err = cerr
		}
	}()
	both := io.TeeReader(r, w)
	if layer, err = l.unpack(ctx, both); err != nil {
		return layer, err
	}
	if _, err := io.Copy(io.Discard, both); err != nil { // what follows the archive
		return layer, err
	}
	if got := w.Digest(); got != want {
		return blobLayer{err: problem.New(problem.Invalid, "it has digest %s", got)}, nil
	}
	if layer.diffID == want { // not packed: the layer has it all
		return layer, nil
	}
	return layer, l.commit(ctx, w, want, layer.diffID)
}

// commit gives the store a blob, under the load's lease.
func (l *loader) commit(ctx context.Context, w *BlobWriter, d, diffID digest.Digest) error {
	if _, came := l.blobs[d]; !came {
		l.blobs[d] = false
	}
	return w.Commit(ctx, l.lease, d, diffID, Lazy)
}

// layoutDoc is what is read of a manifest or an index of a layout.
type layoutDoc struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	Manifests     []ocispec.Descriptor `json:"manifests"`
	Config        *ocispec.Descriptor  `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers"`
}

// keeper finds out which manifests of a layout are kept.
type keeper struct {
	*loader
	diffIDs map[digest.Digest][]digest.Digest // of the images that are loaded
	seen    map[digest.Digest]reached
	of      map[digest.Digest][]Manifest // by image; outer indexes first
}

// reached is what a manifest or an index leads to.
type reached struct {
	images    map[digest.Digest]bool
	artifacts []Manifest // what is no image and is here whole: attestations
}

// manifests returns by image the manifests that an archive has of it, with the
// indexes that they are in and the artifacts that these have beside it. A
// manifest is kept if its layers can be given back as they came.
func (l *loader) manifests(ctx context.Context, images []found) (map[digest.Digest][]Manifest, error) {
	var index ocispec.Index
	if raw, ok := l.documents[ocispec.ImageIndexFile]; !ok || json.Unmarshal(raw, &index) != nil {
		return nil, nil // an archive that is Docker's alone
	}
	k := &keeper{loader: l, diffIDs: map[digest.Digest][]digest.Digest{}, seen: map[digest.Digest]reached{}, of: map[digest.Digest][]Manifest{}}
	for _, f := range images {
		var config Spec
		if err := json.Unmarshal(f.config, &config); err != nil {
			return nil, err
		}
		k.diffIDs[digest.FromBytes(f.config)] = config.RootFS.DiffIDs
	}
	for _, d := range index.Manifests {
		if _, err := k.walk(ctx, d, 0); err != nil {
			return nil, err
		}
	}
	return k.of, nil
}

// walk looks at a manifest or an index and what it names, each once.
func (k *keeper) walk(ctx context.Context, d ocispec.Descriptor, depth int) (reached, error) {
	if known, ok := k.seen[d.Digest]; ok || depth > maxNesting {
		return known, nil
	}
	m, doc, ok := k.read(d)
	if !ok {
		return reached{}, nil
	}
	r := reached{images: map[digest.Digest]bool{}}
	k.seen[d.Digest] = r // whoever names itself
	var err error
	switch {
	case m.isIndex():
		for _, part := range doc.Manifests {
			in, err := k.walk(ctx, part, depth+1)
			if err != nil {
				return r, err
			}
			maps.Copy(r.images, in.images)
			r.artifacts = append(r.artifacts, in.artifacts...)
		}
		for id := range r.images {
			k.of[id] = slices.Concat([]Manifest{m}, r.artifacts, k.of[id])
		}
		r.artifacts = nil // the outer index has them through this one
	case doc.Config == nil:
	case isImageConfig(doc.Config.MediaType) && d.Annotations[referenceType] == "":
		id := doc.Config.Digest
		config := k.documents[k.resolve(blobName(id))]
		if diffIDs, ok := k.diffIDs[id]; ok && int64(len(config)) == doc.Config.Size && k.whole(ctx, doc.Layers, diffIDs) {
			k.of[id] = append(k.of[id], m)
			r.images[id] = true
		}
	case depth > 0:
		if ok, err = k.artifact(ctx, doc); ok {
			r.artifacts = []Manifest{m}
		}
	}
	k.seen[d.Digest] = r
	return r, err
}

// referenceType annotates the descriptor of what is no image but says something
// of one.
const referenceType = "vnd.docker.reference.type"

// read returns a manifest or an index if it is here and is what its digest says.
func (k *keeper) read(d ocispec.Descriptor) (m Manifest, doc layoutDoc, ok bool) {
	if d.Digest.Validate() != nil {
		return m, doc, false
	}
	raw, ok := k.documents[k.resolve(blobName(d.Digest))]
	if !ok || len(raw) > maxManifest || d.Digest.Algorithm().FromBytes(raw) != d.Digest || json.Unmarshal(raw, &doc) != nil {
		return m, doc, false
	}
	m = Manifest{Digest: d.Digest, MediaType: doc.MediaType, Raw: raw}
	if m.MediaType == "" {
		m.MediaType = d.MediaType
	}
	named := slices.Concat(doc.Manifests, doc.Layers)
	if doc.Config != nil {
		named = append(named, *doc.Config)
	}
	for _, d := range named {
		if d.Digest.Validate() != nil || d.Size < 0 {
			return m, doc, false
		}
	}
	if m.isIndex() {
		return m, doc, doc.SchemaVersion == 2 && doc.Config == nil && doc.Layers == nil
	}
	return m, doc, doc.SchemaVersion == 2 && isManifest(m.MediaType) && doc.Manifests == nil && doc.Config != nil
}

func isManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == "application/vnd.docker.distribution.manifest.v2+json"
}

// whole tells whether a manifest's layers are an image's, and here as they came.
// What the store has of them gets the load's lease.
func (k *keeper) whole(ctx context.Context, layers []ocispec.Descriptor, diffIDs []digest.Digest) bool {
	if len(layers) != len(diffIDs) {
		return false
	}
	var blobs []digest.Digest
	for i, d := range layers {
		if d.Digest == diffIDs[i] {
			continue // not packed: it is made again of the layer
		}
		b, err := k.store.Blob(ctx, d.Digest)
		if err != nil || b.DiffID != diffIDs[i] || b.Size != d.Size {
			return false
		}
		blobs = append(blobs, d.Digest)
	}
	return k.need(blobs)
}

// need leases blobs and notes that a manifest names them.
func (k *keeper) need(blobs []digest.Digest) bool {
	if k.store.LeaseBlobs(k.lease, blobs...) != nil {
		return false
	}
	for _, d := range blobs {
		if _, came := k.blobs[d]; came {
			k.blobs[d] = true
		}
	}
	return true
}

// artifact tells whether all of an artifact is here, and sees to it that the
// store has it.
func (k *keeper) artifact(ctx context.Context, doc layoutDoc) (bool, error) {
	var blobs []digest.Digest
	for _, d := range append([]ocispec.Descriptor{*doc.Config}, doc.Layers...) {
		raw, ok := k.documents[k.resolve(blobName(d.Digest))]
		if ok && int64(len(raw)) == d.Size && d.Digest.Algorithm().FromBytes(raw) == d.Digest {
			if err := k.addBlob(ctx, d.Digest, raw); err != nil {
				return false, err
			}
		}
		if b, err := k.store.Blob(ctx, d.Digest); err != nil || b.Size != d.Size {
			return false, nil
		}
		blobs = append(blobs, d.Digest)
	}
	return k.need(blobs), nil
}

func (k *keeper) addBlob(ctx context.Context, d digest.Digest, b []byte) (err error) {
	w, err := k.store.NewBlob(d.Algorithm())
	if err != nil {
		return err
	}
	defer func() {
		if cerr := w.Close(); err == nil {
			err = cerr
		}
	}()
	if _, err := w.Write(b); err != nil {
		return err
	}
	return k.commit(ctx, w, d, "")
}

// parts returns the images of an archive's indexes that are for other hosts than
// those in images, and are here whole.
func (c *contents) parts(images []found) []found {
	var index ocispec.Index
	if raw, ok := c.documents[ocispec.ImageIndexFile]; !ok || json.Unmarshal(raw, &index) != nil {
		return nil
	}
	have := map[digest.Digest]bool{}
	for _, f := range images {
		have[digest.FromBytes(f.config)] = true
	}
	var out []found
	seen := map[digest.Digest]bool{}
	var walk func(d ocispec.Descriptor, depth int)
	walk = func(d ocispec.Descriptor, depth int) {
		if seen[d.Digest] || depth > maxNesting || d.Annotations[referenceType] != "" {
			return
		}
		seen[d.Digest] = true
		var doc layoutDoc
		if raw, err := c.document(blobName(d.Digest)); err != nil || json.Unmarshal(raw, &doc) != nil {
			return
		}
		for _, part := range doc.Manifests {
			walk(part, depth+1)
		}
		if depth == 0 || doc.Config == nil || have[doc.Config.Digest] || !isImageConfig(doc.Config.MediaType) {
			return
		}
		if f, ok := c.part(doc); ok {
			have[doc.Config.Digest] = true
			out = append(out, f)
		}
	}
	for _, d := range index.Manifests {
		walk(d, 0)
	}
	return out
}

// part returns the image of a manifest if all its layers are here.
func (c *contents) part(doc layoutDoc) (f found, ok bool) {
	config, err := c.document(blobName(doc.Config.Digest))
	if err != nil {
		return f, false
	}
	var spec Spec
	if json.Unmarshal(config, &spec) != nil || len(spec.RootFS.DiffIDs) != len(doc.Layers) {
		return f, false
	}
	f = found{config: config, part: true}
	for i, d := range doc.Layers {
		name := blobName(d.Digest)
		if layer, ok := c.layers[c.resolve(name)]; !ok || layer.err != nil || layer.diffID != spec.RootFS.DiffIDs[i] {
			return f, false
		}
		f.layers = append(f.layers, name)
	}
	return f, true
}

// blobName returns the name of the file of a layout that a digest means; a digest
// that is none means no file.
func blobName(d digest.Digest) string {
	kind, hex, _ := strings.Cut(string(d), ":")
	return path.Join(ocispec.ImageBlobsDir, kind, hex)
}
