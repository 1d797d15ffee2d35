package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"gantry/internal/problem"
)

// Save writes images as docker save does since version 25: Docker's archive with
// an OCI layout in it. An image that came with a manifest, or was pushed, has that
// manifest there, and the packed layers that it names, if they are still here; so
// do the indexes that the manifest is in, with those of their parts that are here.
// The same images give the same bytes. What is written of a layer is verified
// against its digest; an error then means that what has been written is worthless.
//
// A ref may be what Resolve takes; a name without a tag means all the tags that
// the repository has.
func (s *Store) Save(ctx context.Context, w io.Writer, refs []string) error {
	buf := bufio.NewWriterSize(w, saveBuffer)
	sv := &saver{store: s, tar: tar.NewWriter(buf), written: map[string]bool{}, lease: "save " + random(), repos: map[string]map[string]string{}}
	defer s.EndLease(sv.lease)
	images, err := s.selected(refs)
	if err != nil {
		return err
	}
	for _, i := range images {
		if err := sv.describe(ctx, i); err != nil {
			return err
		}
	}
	if err := sv.head(); err != nil {
		return err
	}
	for _, b := range sv.blobs {
		if err := sv.blob(ctx, b); err != nil {
			return err
		}
	}
	return errors.Join(sv.tar.Close(), buf.Flush())
}

// saveBuffer is how much goes to the client at once: an archive is thousands of
// pieces.
const saveBuffer = 1 << 20

// selection is an image and the names with which it is saved.
type selection struct {
	image Image
	doc   []byte
	names []reference.Named
}

// selected finds the images that refs mean, in order, each once.
func (s *Store) selected(refs []string) ([]*selection, error) {
	var out []*selection
	byID := map[digest.Digest]*selection{}
	add := func(tx *bolt.Tx, id digest.Digest, n reference.Named) error {
		sel := byID[id]
		if sel == nil {
			img, err := getImage(tx, id)
			if err != nil {
				return err
			}
			sel = &selection{image: img, doc: bytes.Clone(tx.Bucket(documentsBucket).Get([]byte(id)))}
			byID[id] = sel
			out = append(out, sel)
		}
		if n != nil {
			sel.names = append(sel.names, n)
		}
		return nil
	}
	err := s.db.View(func(tx *bolt.Tx) error {
		for _, ref := range refs {
			if err := selectRef(tx, ref, add); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

func selectRef(tx *bolt.Tx, ref string, add func(*bolt.Tx, digest.Digest, reference.Named) error) error {
	if named, err := reference.ParseNormalizedNamed(ref); err == nil && reference.IsNameOnly(named) {
		matched := false
		c := tx.Bucket(namesBucket).Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			n, err := reference.ParseNormalizedNamed(string(k))
			if err != nil || n.Name() != named.Name() {
				continue
			}
			if _, ok := n.(reference.Tagged); !ok {
				continue
			}
			matched = true
			if err := add(tx, digest.Digest(v), n); err != nil {
				return err
			}
		}
		if matched {
			return nil
		}
	}
	id, err := find(tx, ref)
	if err != nil {
		return err
	}
	var name reference.Named
	if n, err := ParseName(ref); err == nil {
		if _, ok := n.(reference.Tagged); ok && string(tx.Bucket(namesBucket).Get([]byte(canonical(n)))) == string(id) {
			name = n
		}
	}
	return add(tx, id, name)
}

// saver is one running Save.
type saver struct {
	store   *Store
	tar     *tar.Writer
	lease   string
	written map[string]bool
	items   []manifestItem
	index   ocispec.Index
	repos   map[string]map[string]string
	docs    []document
	blobs   []savedBlob
}

type document struct {
	name string
	b    []byte
}

// describe notes an image's documents and names.
func (s *saver) describe(ctx context.Context, sel *selection) error {
	m, top, err := s.manifest(ctx, sel)
	if err != nil {
		return err
	}
	item := manifestItem{Config: blobName(sel.image.ID), Layers: []string{}}
	for _, l := range m.parse().Layers {
		item.Layers = append(item.Layers, blobName(l.Digest))
	}
	d := ocispec.Descriptor{MediaType: top.MediaType, Digest: top.Digest, Size: int64(len(top.Raw))}
	if !top.isIndex() {
		d.Platform = &ocispec.Platform{Architecture: sel.image.Config.Architecture, OS: sel.image.Config.OS, Variant: sel.image.Config.Variant}
	}
	if len(sel.names) == 0 {
		s.index.Manifests = append(s.index.Manifests, d)
	}
	for _, n := range sel.names {
		tag := n.(reference.Tagged).Tag() // selectRef lets no others through
		item.RepoTags = append(item.RepoTags, reference.FamiliarString(n))
		named := d
		named.Annotations = map[string]string{"io.containerd.image.name": n.String(), ocispec.AnnotationRefName: tag}
		s.index.Manifests = append(s.index.Manifests, named)
		repo := reference.FamiliarName(n)
		if s.repos[repo] == nil {
			s.repos[repo] = map[string]string{}
		}
		if k := len(item.Layers); k > 0 {
			s.repos[repo][tag] = sel.image.Layers[k-1].Encoded()
		}
	}
	s.items = append(s.items, item)
	return nil
}

func descriptor(mediaType string, b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
}

// head writes all documents, so that a reader knows what it gets.
func (s *saver) head() error {
	s.index.SchemaVersion, s.index.MediaType = 2, ocispec.MediaTypeImageIndex
	for _, f := range []struct {
		name string
		v    any
	}{
		{ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}},
		{ocispec.ImageIndexFile, s.index},
		{dockerManifest, s.items},
		{repositoriesFile, s.repos},
	} {
		b, err := json.Marshal(f.v)
		if err != nil {
			return err
		}
		s.docs = append(s.docs, document{f.name, b})
	}
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := s.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
	}
	for _, d := range s.docs {
		if s.written[d.name] {
			continue
		}
		s.written[d.name] = true
		if err := s.entry(d.name, int64(len(d.b))); err != nil {
			return err
		}
		if _, err := s.tar.Write(d.b); err != nil {
			return err
		}
	}
	return nil
}

func (s *saver) entry(name string, size int64) error {
	return s.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0)})
}

// Document returns an image's configuration exactly as it came.
func (s *Store) Document(_ context.Context, id digest.Digest) (doc []byte, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		doc = bytes.Clone(tx.Bucket(documentsBucket).Get([]byte(id)))
		if doc == nil {
			return problem.New(problem.NotFound, "document %s is not in the store", id)
		}
		return nil
	})
	return doc, err
}
