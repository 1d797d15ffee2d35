package server

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/engine/image"
	"gantry/internal/testenv"
)

// Nobody else is in the tests' network: no address is translated, no port taken.
func TestMain(m *testing.M) { os.Exit(testenv.Isolate(m)) }

// host is a registry that a test talks to.
type host struct {
	t      testing.TB
	dir    string
	images *image.Store
	server *Server
	http   *httptest.Server
	user   string // NAME:PASSWORD; empty: none

	upstream Upstream // from the next open on
	through  []string
}

func newHost(t testing.TB, users *Users) *host {
	t.Helper()
	testenv.NeedRoot(t)
	h := &host{t: t, dir: t.TempDir()}
	h.open(users)
	t.Cleanup(h.close)
	return h
}

func (h *host) open(users *Users) {
	h.t.Helper()
	var err error
	if h.images, err = image.Open(image.Config{Dir: filepath.Join(h.dir, "image")}); err != nil {
		h.t.Fatal(err)
	}
	if h.server, err = Open(Config{Dir: filepath.Join(h.dir, "registry"), Images: h.images, Users: users, Upstream: h.upstream, PullThrough: h.through}); err != nil {
		h.t.Fatal(err)
	}
	h.http = httptest.NewServer(h.server)
}

func (h *host) close() {
	h.http.Close()
	for _, err := range h.server.Check(context.Background()) {
		h.t.Errorf("the registry after the test: %v", err)
	}
	if err := h.server.Close(); err != nil {
		h.t.Error(err)
	}
	if err := h.images.Check(context.Background()); err != nil {
		h.t.Errorf("the store after the test: %v", err)
	}
	if err := h.images.Close(); err != nil {
		h.t.Error(err)
	}
}

// answer is what a request got.
type answer struct {
	status int
	header http.Header
	body   string
}

// code is the first error's.
func (a answer) code() string {
	var doc struct {
		Errors []struct{ Code string } `json:"errors"`
	}
	if json.Unmarshal([]byte(a.body), &doc) != nil || len(doc.Errors) == 0 {
		return ""
	}
	return doc.Errors[0].Code
}

// do sends a request; headers are "Name: value".
func (h *host) do(method, path, body string, headers ...string) answer {
	h.t.Helper()
	if !strings.HasPrefix(path, "http") {
		path = h.http.URL + path
	}
	req, err := http.NewRequest(method, path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, text := range headers {
		name, value, _ := strings.Cut(text, ": ")
		req.Header.Set(name, value)
	}
	if name, password, ok := strings.Cut(h.user, ":"); ok {
		req.SetBasicAuth(name, password)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// want sends a request whose answer has a status.
func (h *host) want(status int, method, path, body string, headers ...string) answer {
	h.t.Helper()
	a := h.do(method, path, body, headers...)
	if a.status != status {
		h.t.Fatalf("%s %s: status %d, want %d: %s", method, path, a.status, status, a.body)
	}
	return a
}

// refused is want of an error with a code.
func (h *host) refused(status int, code, method, path, body string, headers ...string) {
	h.t.Helper()
	a := h.want(status, method, path, body, headers...)
	if a.code() != code && method != http.MethodHead {
		h.t.Errorf("%s %s: code %q, want %q", method, path, a.code(), code)
	}
}

// blob pushes a blob and returns its digest.
func (h *host) blob(repo, body string) digest.Digest {
	h.t.Helper()
	d := digest.FromString(body)
	at := h.want(202, "POST", "/v2/"+repo+"/blobs/uploads/", "").header.Get("Location")
	h.want(201, "PUT", h.at(at)+"?digest="+d.String(), body)
	return d
}

// at makes a Location absolute.
func (h *host) at(location string) string {
	if strings.HasPrefix(location, "/") {
		return h.http.URL + location
	}
	return location
}

// manifest makes a manifest over a blob that it pushes.
func (h *host) manifest(repo, content string, change func(*ocispec.Manifest)) (raw string, d digest.Digest) {
	h.t.Helper()
	config := h.blob(repo, "{}")
	layer := h.blob(repo, content)
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: "application/vnd.test.config", Digest: config, Size: 2},
		Layers: []ocispec.Descriptor{{MediaType: "application/vnd.test.layer", Digest: layer, Size: int64(len(content))}},
	}
	if change != nil {
		change(&m)
	}
	b, err := json.Marshal(m)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(b), digest.FromBytes(b)
}

const manifestType = "Content-Type: " + ocispec.MediaTypeImageManifest

// push pushes an image with a tag and returns its digest.
func (h *host) push(repo, tag, content string, change func(*ocispec.Manifest)) digest.Digest {
	h.t.Helper()
	raw, d := h.manifest(repo, content, change)
	h.want(201, "PUT", "/v2/"+repo+"/manifests/"+tag, raw, manifestType)
	return d
}

// built makes an image in the engine.
func (h *host) built(name, content string) image.Image {
	h.t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "file", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(1, 0)}); err != nil {
		h.t.Fatal(err)
	}
	_, err := w.Write([]byte(content))
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		h.t.Fatal(err)
	}
	id, err := h.images.Import(h.t.Context(), &b, image.ImportOptions{Ref: name})
	if err != nil {
		h.t.Fatal(err)
	}
	img, err := h.images.Get(h.t.Context(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	return img
}

func decode[T any](t testing.TB, a answer) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
	return v
}

func chunkRange(first, length int) string {
	return fmt.Sprintf("Content-Range: %d-%d", first, first+length-1)
}
