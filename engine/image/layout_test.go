package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/problem"
)

// layout is an OCI layout that a test makes.
type layout struct {
	t       testing.TB
	entries []entry
	top     []ocispec.Descriptor
}

func (l *layout) put(kind string, b []byte) ocispec.Descriptor {
	d := descriptor(kind, b)
	l.entries = append(l.entries, entry{name: blobName(d.Digest), body: string(b)})
	return d
}

func (l *layout) putJSON(kind string, v any) ocispec.Descriptor {
	l.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.put(kind, b)
}

// image adds an image of one layer with an annotated manifest and a name.
func (l *layout) image(name string, plain, packed []byte, kind string) ocispec.Descriptor {
	l.t.Helper()
	d := l.putJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: l.put(ocispec.MediaTypeImageConfig, configOf(l.t, plain)), Layers: []ocispec.Descriptor{l.put(kind, packed)},
		Annotations: map[string]string{"org.example.note": name},
	})
	named := d
	named.Annotations = map[string]string{ocispec.AnnotationRefName: name}
	l.top = append(l.top, named)
	return d
}

func (l *layout) archive() []byte {
	l.t.Helper()
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: l.top})
	if err != nil {
		l.t.Fatal(err)
	}
	return archive(l.t, append(slices.Clone(l.entries), entry{name: "index.json", body: string(index)})...)
}

// digestsIn returns the digests of the manifests that an image has.
func digestsIn(t *testing.T, s *Store, id digest.Digest) (out []digest.Digest) {
	t.Helper()
	list, err := s.Manifests(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		out = append(out, m.Digest)
	}
	return out
}

func TestManifestsStayWithTheirImage(t *testing.T) {
	plain := archive(t, base...)

	for name, c := range map[string]struct {
		kind   string
		packed []byte
		blobs  int
	}{
		"gzip":             {ocispec.MediaTypeImageLayerGzip, gzipped(t, plain), 1},
		"gzip with a tail": {ocispec.MediaTypeImageLayerGzip, append(gzipped(t, plain), gzipped(t, nil)...), 1},
		"zstd":             {ocispec.MediaTypeImageLayerZstd, zstded(t, plain), 1},
		"not packed":       {ocispec.MediaTypeImageLayer, plain, 0},
	} {
		t.Run(name, func(t *testing.T) {
			l := &layout{t: t}
			m := l.image("example.org/web:1", plain, c.packed, c.kind)
			from := l.archive()
			for range 2 { // what was saved is loaded in the second round, by a store that has the layer
				s := open(t)
				images, err := s.Load(ctx, bytes.NewReader(from), nil)
				if err != nil || len(images) != 1 {
					t.Fatal(images, err)
				}
				id := images[0].ID
				if got := digestsIn(t, s, id); !slices.Equal(got, []digest.Digest{m.Digest}) {
					t.Errorf("manifests %v, want %s", got, m.Digest)
				}
				if u, err := s.Usage(ctx); err != nil || len(u.Blobs) != c.blobs {
					t.Errorf("blobs %v, %v", u.Blobs, err)
				}
				if again, err := s.Load(ctx, bytes.NewReader(from), nil); err != nil || again[0].ID != id {
					t.Error(again, err)
				}
				var saved bytes.Buffer
				if err := s.Save(ctx, &saved, []string{"example.org/web:1"}); err != nil {
					t.Fatal(err)
				}
				from = bytes.Clone(saved.Bytes())
				packed, err := s.Pack(ctx, "test", id)
				if err != nil || (packed.Digest == m.Digest) != (c.blobs > 0) {
					t.Errorf("packed as %s, %v; came as %s", packed.Digest, err, m.Digest)
				}
				s.EndLease("test")
				if _, err := s.Remove(ctx, id.String(), RemoveOptions{Force: true}); err != nil {
					t.Fatal(err)
				}
				if u, err := s.Usage(ctx); err != nil || len(u.Blobs) != 0 || len(u.Layers) != 0 {
					t.Errorf("left: %v %v, %v", u.Blobs, u.Layers, err)
				}
			}
		})
	}
}

func TestBlobsThatAreNotWhatTheyAreCalled(t *testing.T) {
	plain, other := archive(t, base...), archive(t, change...)
	for name, spoil := range map[string]func(*layout){
		"a packed layer":  func(l *layout) { l.entries[1].body = string(append(gzipped(t, plain), 0)) },
		"a manifest":      func(l *layout) { l.entries[2].body += " " },
		"a configuration": func(l *layout) { l.entries[0].body += " " },
		"a layer that is not packed": func(l *layout) {
			l.entries[1] = entry{name: l.entries[1].name, body: string(plain)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, l := open(t), &layout{t: t}
			l.image("example.org/web:1", plain, gzipped(t, plain), ocispec.MediaTypeImageLayerGzip)
			l.put("", gzipped(t, other)) // which nobody asks for
			spoil(l)
			images, err := s.Load(ctx, bytes.NewReader(l.archive()), nil)
			if !errors.Is(err, problem.Invalid) || !strings.Contains(err.Error(), "has digest") {
				t.Errorf("loaded %v, %v", images, err)
			}
			if u, err := s.Usage(ctx); err != nil || len(u.Blobs) != 0 || len(u.Layers) != 0 || len(u.Images) != 0 {
				t.Errorf("left: %+v, %v", u, err)
			}
		})
	}
}

// TestOnlyWhatIsNamedIsKept loads a layout with a layer and a blob that belong to
// no image, with a digest that is none, and with an index of parts that are not
// there.
func TestOnlyWhatIsNamedIsKept(t *testing.T) {
	plain := archive(t, base...)
	s, l := open(t), &layout{t: t}
	m := l.image("example.org/web:1", plain, gzipped(t, plain), ocispec.MediaTypeImageLayerGzip)
	l.top = nil
	l.put("", gzipped(t, archive(t, change...)))
	l.put("", archive(t, entry{name: "a", body: "b"}))
	l.put("", []byte("nothing at all"))
	absent := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("absent"), Size: 6}
	index := l.putJSON(ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{m, absent}})
	outer := l.putJSON(ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{index}})
	outer.Annotations = map[string]string{ocispec.AnnotationRefName: "example.org/web:1"}
	l.top = []ocispec.Descriptor{outer}
	images, err := s.Load(ctx, bytes.NewReader(l.archive()), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []digest.Digest{outer.Digest, index.Digest, m.Digest}
	if got := digestsIn(t, s, images[0].ID); !slices.Equal(got, want) {
		t.Errorf("manifests %v, want %v", got, want)
	}
	if u, err := s.Usage(ctx); err != nil || len(u.Blobs) != 1 || len(u.Layers) != 1 {
		t.Errorf("kept: %v %v, %v", u.Blobs, u.Layers, err)
	}
	var saved bytes.Buffer
	if err := s.Save(ctx, &saved, []string{"example.org/web:1"}); err != nil {
		t.Fatal(err)
	}
	other := open(t)
	if _, err := other.Load(ctx, &saved, nil); err != nil {
		t.Fatal(err)
	}
	if got := digestsIn(t, other, images[0].ID); !slices.Equal(got, want) {
		t.Errorf("manifests after a save and a load: %v, want %v", got, want)
	}
	l.top = append(l.top, ocispec.Descriptor{Digest: "none"})
	if images, err := s.Load(ctx, bytes.NewReader(l.archive()), nil); !errors.Is(err, problem.Invalid) {
		t.Errorf("a digest that is none: %v, %v", images, err)
	}
}
