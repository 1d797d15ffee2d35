package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestHostileArchivesStayInside unpacks archives that try to get out of the
// layer's directory, with a file next to the store as bait.
func TestHostileArchivesStayInside(t *testing.T) {
	for name, c := range map[string]struct {
		entries []entry
		refused bool
		inside  map[string]string // files that must be in the layer instead
	}{
		"dot dot":                      {entries: []entry{{name: "../../bait", body: "x"}, {name: "a/../../../bait", body: "y"}}, inside: map[string]string{"bait": "y"}},
		"absolute name":                {entries: []entry{{name: "/BAIT", body: "x"}}, inside: map[string]string{"BAIT": "x"}},
		"link out, then through it":    {entries: []entry{{name: "d", typ: tar.TypeSymlink, link: "DIR"}, {name: "d/bait", body: "x"}}, refused: true},
		"link to the root":             {entries: []entry{{name: "d", typ: tar.TypeSymlink, link: "/"}, {name: "d/bait", body: "x"}}, inside: map[string]string{"bait": "x"}},
		"relative link up":             {entries: []entry{{name: "d", typ: tar.TypeSymlink, link: "../../../../.."}, {name: "d/bait", body: "x"}}, inside: map[string]string{"bait": "x"}},
		"link as a file":               {entries: []entry{{name: "f", typ: tar.TypeSymlink, link: "BAIT"}, {name: "f", body: "x"}}, inside: map[string]string{"f": "x"}},
		"directory becomes a link":     {entries: []entry{{name: "d/"}, {name: "d/a", body: "1"}, {name: "d", typ: tar.TypeSymlink, link: "/"}, {name: "d/bait", body: "x"}}, inside: map[string]string{"bait": "x"}},
		"link becomes a directory":     {entries: []entry{{name: "d", typ: tar.TypeSymlink, link: "DIR"}, {name: "d/"}, {name: "d/bait", body: "x"}}, inside: map[string]string{"d/bait": "x"}},
		"hard link out":                {entries: []entry{{name: "h", typ: tar.TypeLink, link: "../../../BAIT"}}, refused: true},
		"hard link through a link":     {entries: []entry{{name: "d", typ: tar.TypeSymlink, link: "DIR"}, {name: "h", typ: tar.TypeLink, link: "d/bait"}}, refused: true},
		"hard link to a link":          {entries: []entry{{name: "l", typ: tar.TypeSymlink, link: "BAIT"}, {name: "h", typ: tar.TypeLink, link: "l"}, {name: "h", body: "x"}}, inside: map[string]string{"h": "x"}},
		"hard link to a directory":     {entries: []entry{{name: "d/"}, {name: "h", typ: tar.TypeLink, link: "d"}}, refused: true},
		"hard link to the root":        {entries: []entry{{name: "h", typ: tar.TypeLink, link: "/"}}, refused: true},
		"link through proc":            {entries: []entry{{name: "d", typ: tar.TypeSymlink, link: "/proc/self/root"}, {name: "d/bait", body: "x"}}, refused: true},
		"loop of links":                {entries: []entry{{name: "a", typ: tar.TypeSymlink, link: "b"}, {name: "b", typ: tar.TypeSymlink, link: "a"}, {name: "a/x", body: "x"}}, refused: true},
		"root as a file":               {entries: []entry{{name: ".", body: "x"}}, refused: true},
		"file in a file":               {entries: []entry{{name: "f", body: "x"}, {name: "f/g", body: "y"}}, refused: true},
		"whiteout of dot dot":          {entries: []entry{{name: "d/.wh..."}}, refused: true},
		"whiteout without a name":      {entries: []entry{{name: "d/.wh."}}, refused: true},
		"whiteout through a link":      {entries: []entry{{name: "d", typ: tar.TypeSymlink, link: "DIR"}, {name: "d/.wh.bait"}}, refused: true},
		"overlay attributes":           {entries: []entry{{name: "d/", pax: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/../../.."}}}},
		"unknown type":                 {entries: []entry{{name: "x", typ: '9'}}, refused: true},
		"AUFS's own files are nothing": {entries: []entry{{name: ".wh..wh.plnk/"}, {name: ".wh..wh.aufs", body: "x"}}},
	} {
		t.Run(name, func(t *testing.T) {
			outside := t.TempDir()
			bait := filepath.Join(outside, "bait")
			if err := os.WriteFile(bait, []byte("bait"), 0o600); err != nil {
				t.Fatal(err)
			}
			before, err := os.Stat(bait)
			if err != nil {
				t.Fatal(err)
			}
			s := open(t)
			for i := range c.entries {
				e := &c.entries[i]
				e.name = strings.ReplaceAll(e.name, "BAIT", bait[1:])
				e.link = strings.ReplaceAll(strings.ReplaceAll(e.link, "BAIT", bait), "DIR", outside)
			}
			id, err := s.Import(ctx, bytes.NewReader(archive(t, c.entries...)), ImportOptions{})
			if (err != nil) != c.refused {
				t.Errorf("Import: %v; refused should be %v", err, c.refused)
			}
			after, serr := os.Stat(bait)
			if serr != nil || after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) || after.Mode() != before.Mode() {
				t.Errorf("the file outside changed: %v, %v", after, serr)
			}
			if names, err := os.ReadDir(outside); err != nil || len(names) != 1 {
				t.Errorf("outside there is now %v, %v", names, err)
			}
			left, lerr := os.ReadDir(filepath.Join(s.dir, "tmp"))
			if lerr != nil || len(left) > 0 {
				t.Errorf("left in tmp: %v, %v", left, lerr)
			}
			if err != nil {
				return
			}
			img, err := s.Get(ctx, id)
			if err != nil {
				t.Fatal(err)
			}
			root, err := s.OpenRoot(img.Layers)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			for file, want := range c.inside {
				file = strings.ReplaceAll(file, "BAIT", bait[1:])
				if got, err := root.ReadFile(file, 100); string(got) != want {
					t.Errorf("%s = %q, %v; want %q", file, got, err, want)
				}
			}
		})
	}
}

func TestBrokenArchivesAreRefusedWhole(t *testing.T) {
	s := open(t)
	l1 := archive(t, base...)
	good := dockerArchive(t, []string{"x"}, [][]byte{l1}, [][]byte{gzipped(t, l1)})
	manifest := func(items ...manifestItem) string {
		b, err := json.Marshal(items)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	config := string(configOf(t, l1))
	for name, b := range map[string][]byte{
		"empty":                  {},
		"not an archive":         []byte(strings.Repeat("no", 1000)),
		"cut off":                good[:len(good)/2],
		"no manifest":            archive(t, entry{name: "x", body: "{}"}),
		"no images":              archive(t, entry{name: "manifest.json", body: "[]"}),
		"manifest is no JSON":    archive(t, entry{name: "manifest.json", body: "[x"}),
		"config missing":         archive(t, entry{name: "manifest.json", body: manifest(manifestItem{Config: "c.json"})}),
		"config of wrong digest": archive(t, entry{name: strings.Repeat("0", 64) + ".json", body: config}, entry{name: "manifest.json", body: manifest(manifestItem{Config: strings.Repeat("0", 64) + ".json", Layers: []string{"l"}})}, entry{name: "l", body: string(l1)}),
		"layer missing":          archive(t, entry{name: "c.json", body: config}, entry{name: "manifest.json", body: manifest(manifestItem{Config: "c.json", Layers: []string{"l"}})}),
		"layer is another":       archive(t, entry{name: "c.json", body: config}, entry{name: "l", body: string(archive(t, change...))}, entry{name: "manifest.json", body: manifest(manifestItem{Config: "c.json", Layers: []string{"l"}})}),
		"layer is no archive":    archive(t, entry{name: "c.json", body: config}, entry{name: "l", body: strings.Repeat("x", 2000)}, entry{name: "manifest.json", body: manifest(manifestItem{Config: "c.json", Layers: []string{"l"}})}),
		"layer is cut off":       archive(t, entry{name: "c.json", body: config}, entry{name: "l", body: string(gzipped(t, l1)[:90])}, entry{name: "manifest.json", body: manifest(manifestItem{Config: "c.json", Layers: []string{"l"}})}),
		"too few layers":         archive(t, entry{name: "c.json", body: config}, entry{name: "manifest.json", body: manifest(manifestItem{Config: "c.json"})}),
		"bad tag":                archive(t, entry{name: "c.json", body: config}, entry{name: "l", body: string(l1)}, entry{name: "manifest.json", body: manifest(manifestItem{Config: "c.json", Layers: []string{"l"}, RepoTags: []string{"A B"}})}),
		"links in a circle":      archive(t, entry{name: "a", typ: tar.TypeSymlink, link: "b"}, entry{name: "b", typ: tar.TypeSymlink, link: "a"}, entry{name: "manifest.json", body: manifest(manifestItem{Config: "a"})}),
	} {
		if _, err := s.Load(ctx, bytes.NewReader(b), nil); err == nil {
			t.Errorf("%s: loaded", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
		images, err := s.List(ctx)
		if err != nil || len(images) > 0 {
			t.Errorf("%s: left images %v, %v", name, images, err)
		}
		for _, dir := range []string{"tmp", "layers"} {
			left, err := os.ReadDir(filepath.Join(s.dir, dir))
			if err != nil || len(left) > 1 || len(left) == 1 && left[0].Name() != emptyName {
				t.Errorf("%s: left in %s: %v, %v", name, dir, left, err)
			}
		}
	}
}

func TestLoadOfAnOCILayout(t *testing.T) {
	s := open(t)
	l1 := archive(t, base...)
	packed := gzipped(t, l1)
	config := configOf(t, l1)
	blob := func(b []byte) entry { return entry{name: blobName(digest.FromBytes(b)), body: string(b)} }
	encode := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	manifest := encode(ocispec.Manifest{
		Config: descriptor(ocispec.MediaTypeImageConfig, config),
		Layers: []ocispec.Descriptor{descriptor(ocispec.MediaTypeImageLayerGzip, packed)},
	})
	part := descriptor(ocispec.MediaTypeImageManifest, manifest)
	host := Host()
	part.Platform = &host
	foreign := part
	foreign.Digest, foreign.Platform = digest.FromString("not in the archive"), &ocispec.Platform{OS: "linux", Architecture: "s390x"}
	index := encode(ocispec.Index{Manifests: []ocispec.Descriptor{foreign, part}})
	artifact := encode(map[string]any{"config": map[string]string{"mediaType": "application/x"}})
	named := descriptor(ocispec.MediaTypeImageIndex, index)
	named.Annotations = map[string]string{ocispec.AnnotationRefName: "example.org/web:1"}
	tagOnly := part
	tagOnly.Annotations = map[string]string{ocispec.AnnotationRefName: "latest"}
	top := encode(ocispec.Index{Manifests: []ocispec.Descriptor{named, tagOnly, descriptor(ocispec.MediaTypeImageManifest, artifact)}})
	whole := archive(t, entry{name: "oci-layout", body: `{"imageLayoutVersion":"1.0.0"}`}, entry{name: "index.json", body: string(top)},
		blob(config), blob(manifest), blob(index), blob(artifact), blob(packed))
	images, err := s.Load(ctx, bytes.NewReader(gzipped(t, whole)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(images) != 2 || images[0].ID != digest.FromBytes(config) || images[1].ID != images[0].ID {
		t.Errorf("loaded %+v", images)
	}
	img, err := s.Resolve(ctx, "example.org/web:1")
	if err != nil || len(img.RepoTags) != 1 {
		t.Errorf("names %v, %v", img.RepoTags, err)
	}
}
