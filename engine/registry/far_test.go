package registry

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distribution/reference"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/engine/image"
	"gantry/internal/testenv"
)

// Nobody else is in the tests' network: no address is translated, no port taken.
func TestMain(m *testing.M) { os.Exit(testenv.Isolate(m)) }

// far is a registry that a test makes: it holds what it is told, serves ranges,
// and can be told to misbehave.
type far struct {
	*httptest.Server
	t testing.TB

	mu        sync.Mutex
	manifests map[string]image.Manifest // by "NAME TAG" and "NAME DIGEST"
	blobs     map[digest.Digest][]byte
	asked     []string // "GET /v2/..." in order
	// before is called first; when it answers by itself it returns true.
	before func(w http.ResponseWriter, r *http.Request) bool
}

func newFar(t testing.TB) *far {
	f := &far{t: t, manifests: map[string]image.Manifest{}, blobs: map[digest.Digest][]byte{}}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *far) host() string {
	return strings.TrimPrefix(strings.TrimPrefix(f.URL, "http://"), "https://")
}

func (f *far) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.asked = append(f.asked, r.Method+" "+r.URL.Path)
	before := f.before
	f.mu.Unlock()
	if before != nil && before(w, r) {
		return
	}
	rest := strings.TrimPrefix(r.URL.Path, "/v2/")
	if rest == "" {
		return
	}
	if name, what, ok := strings.Cut(rest, "/manifests/"); ok {
		f.mu.Lock()
		m, ok := f.manifests[name+" "+what]
		f.mu.Unlock()
		if !ok {
			refuse(w, 404, "MANIFEST_UNKNOWN", "manifest unknown")
			return
		}
		w.Header().Set("Content-Type", m.MediaType)
		w.Header().Set("Docker-Content-Digest", m.Digest.String())
		_, _ = w.Write(m.Raw)
		return
	}
	if _, what, ok := strings.Cut(rest, "/blobs/"); ok {
		f.mu.Lock()
		b, ok := f.blobs[digest.Digest(what)]
		f.mu.Unlock()
		if !ok {
			refuse(w, 404, "BLOB_UNKNOWN", "blob unknown to registry")
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
		return
	}
	if name, ok := strings.CutSuffix(rest, "/tags/list"); ok {
		f.tags(w, r, name)
		return
	}
	refuse(w, 404, "NAME_UNKNOWN", "repository name not known to registry")
}

// tags gives one tag a page.
func (f *far) tags(w http.ResponseWriter, r *http.Request, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	last := r.URL.Query().Get("last")
	var next string
	for key := range f.manifests {
		tag, ok := strings.CutPrefix(key, name+" ")
		if ok && !strings.Contains(tag, ":") && tag > last && (next == "" || tag < next) {
			next = tag
		}
	}
	tags := []string{}
	if next != "" {
		tags = append(tags, next)
		w.Header().Set("Link", fmt.Sprintf(`</v2/%s/tags/list?last=%s>; rel="next"`, name, next))
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"name": name, "tags": tags})
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []any{map[string]string{"code": code, "message": message}}})
}

// count says how many requests began with prefix.
func (f *far) count(prefix string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.asked {
		if strings.HasPrefix(a, prefix) {
			n++
		}
	}
	return n
}

func (f *far) add(b []byte) digest.Digest {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := digest.FromBytes(b)
	f.blobs[d] = b
	return d
}

// put stores a manifest under its digest and a tag.
func (f *far) put(name, tag, kind string, v any) image.Manifest {
	f.t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		f.t.Fatal(err)
	}
	m := image.NewManifest(kind, raw)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.manifests[name+" "+m.Digest.String()] = m
	if tag != "" {
		f.manifests[name+" "+tag] = m
	}
	return m
}

// layer is one layer of a test's image.
type layer struct {
	kind   string // media type
	packed []byte
	diffID digest.Digest
}

func archive(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, body := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body)), ModTime: time.Unix(1, 0)}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, plain []byte) layer {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return layer{ocispec.MediaTypeImageLayerGzip, b.Bytes(), digest.FromBytes(plain)}
}

func zstded(t testing.TB, plain []byte) layer {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return layer{ocispec.MediaTypeImageLayerZstd, w.EncodeAll(plain, nil), digest.FromBytes(plain)}
}

func unpacked(plain []byte) layer {
	return layer{ocispec.MediaTypeImageLayer, plain, digest.FromBytes(plain)}
}

// image puts an image into the far registry and returns its manifest.
func (f *far) image(name, tag, kind string, platform ocispec.Platform, layers ...layer) image.Manifest {
	f.t.Helper()
	config := image.Spec{}
	config.Platform = platform
	config.RootFS.Type = "layers"
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: kind, Layers: []ocispec.Descriptor{}}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.diffID)
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: l.kind, Digest: f.add(l.packed), Size: int64(len(l.packed))})
	}
	doc, err := json.Marshal(config)
	if err != nil {
		f.t.Fatal(err)
	}
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: f.add(doc), Size: int64(len(doc))}
	if kind == dockerManifest {
		m.Config.MediaType = dockerConfig
		for i := range m.Layers {
			m.Layers[i].MediaType = dockerLayer
		}
	}
	return f.put(name, tag, kind, m)
}

// noise is text that does not compress well.
func noise(n int, seed uint64) string {
	var b strings.Builder
	for b.Len() < n {
		seed = seed*6364136223846793005 + 1442695040888963407
		fmt.Fprintf(&b, "%016x", seed)
	}
	return b.String()[:n]
}

// client opens a store and a client of it that does not wait long.
func newClient(t testing.TB, cfg Config) *Client {
	t.Helper()
	testenv.NeedRoot(t)
	store, err := image.Open(image.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Check(context.Background()); err != nil {
			t.Errorf("the store after the test: %v", err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	cfg.Images = store
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	c.backoff = time.Millisecond
	return c
}

func parseRef(t testing.TB, s string) reference.Named {
	t.Helper()
	n, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

var amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}
