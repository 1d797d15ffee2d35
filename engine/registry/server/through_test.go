package server

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	ref "github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"gantry/engine/image"
	"gantry/engine/registry"
	"gantry/internal/problem"
)

// newCache returns an upstream registry, a cache of it, and the query that names
// the upstream there.
func newCache(t *testing.T) (up, cache *host, ns string) {
	t.Helper()
	up = newHost(t, nil)
	ns = strings.TrimPrefix(up.http.URL, "http://")
	cache = newHost(t, nil)
	cache.close()
	images, err := image.Open(image.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	client, err := registry.New(registry.Config{Images: images})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		if err := images.Close(); err != nil {
			t.Error(err)
		}
	})
	cache.upstream, cache.through = client, []string{ns}
	cache.open(nil)
	return up, cache, "?ns=" + ns
}

func TestPullThrough(t *testing.T) {
	up, h, ns := newCache(t)
	first := up.push("team/web", "1", "content", nil)
	layer := digest.FromString("content").String()
	raw := up.want(200, "GET", "/v2/team/web/manifests/1", "").body

	if a := h.want(200, "GET", "/v2/team/web/manifests/1"+ns, ""); a.body != raw || a.header.Get("Docker-Content-Digest") != first.String() || a.header.Get("Content-Type") != ocispec.MediaTypeImageManifest {
		t.Errorf("%v %s", a.header, a.body)
	}
	if a := h.want(200, "HEAD", "/v2/team/web/blobs/"+layer+ns, ""); a.header.Get("Content-Length") != "7" {
		t.Errorf("HEAD: %v", a.header)
	}
	if got := h.want(200, "GET", "/v2/team/web/blobs/"+layer+ns, "").body; got != "content" {
		t.Errorf("got %q", got)
	}
	h.refused(404, codeManifestUnknown, "GET", "/v2/team/web/manifests/2"+ns, "")
	h.refused(404, codeBlobUnknown, "GET", "/v2/team/web/blobs/"+noSuch+ns, "")
	h.refused(404, codeManifestUnknown, "GET", "/v2/team/web/manifests/1", "") // nobody said where
	h.refused(405, codeUnsupported, "POST", "/v2/team/web/blobs/uploads/"+ns, "")
	h.refused(405, codeUnsupported, "PUT", "/v2/team/web/manifests/3"+ns, raw, manifestType)

	second := up.push("team/web", "1", "other", nil)
	if a := h.want(200, "GET", "/v2/team/web/manifests/1"+ns, ""); a.header.Get("Docker-Content-Digest") != second.String() {
		t.Errorf("a tag that moved: %v", a.header)
	}
	up.want(202, "DELETE", "/v2/team/web/manifests/1", "")
	h.refused(404, codeManifestUnknown, "GET", "/v2/team/web/manifests/1"+ns, "")
	h.want(200, "GET", "/v2/team/web/manifests/"+first.String()+ns, "")
}

func TestPullThroughThatIsTurnedOffLeavesWhatCame(t *testing.T) {
	_, h, _ := newCache(t)
	h.through = []string{"far.example"}
	h.upstream = one{image.NewManifest(ocispec.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[]}`))}
	h.close()
	h.open(nil)
	for _, path := range []string{"/v2/far.example/web/manifests/1", "/v2/web/manifests/1?ns=far.example"} {
		h.want(200, "GET", path, "")
	}
	raw, d := h.want(200, "GET", "/v2/far.example/web/manifests/1", "").body, digest.FromString(`{"schemaVersion":2,"manifests":[]}`)
	h.refused(405, codeUnsupported, "PUT", "/v2/far.example/web/manifests/2", raw, indexType)
	h.upstream = nil
	h.close()
	h.open(nil)
	h.want(200, "GET", "/v2/far.example/web/manifests/1", "")
	h.want(201, "PUT", "/v2/far.example/web/manifests/2", raw, indexType)
	if err := h.server.store.dropThrough(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	h.want(200, "GET", "/v2/far.example/web/manifests/"+d.String(), "")
}

// one is an upstream with one manifest.
type one struct{ m image.Manifest }

func (o one) FetchManifest(context.Context, ref.Named) (image.Manifest, error) { return o.m, nil }

func (o one) FetchBlob(_ context.Context, name ref.Named, _ digest.Digest) (io.ReadCloser, int64, error) {
	return nil, 0, problem.New(problem.NotFound, "%s has no blobs", name)
}

func TestPullThroughLeavesTheEnginesImages(t *testing.T) {
	up, h, ns := newCache(t)
	up.push("team/web", "1", "content", nil)
	h.built(strings.TrimPrefix(ns, "?ns=")+"/team/web:1", "made here")
	before := h.want(200, "GET", "/v2/team/web/manifests/1"+ns, "").header.Get("Docker-Content-Digest")
	if theirs := up.want(200, "GET", "/v2/team/web/manifests/1", "").header.Get("Docker-Content-Digest"); before == theirs {
		t.Errorf("what was built here is taken from elsewhere: %s", before)
	}
	h.upstream = down{}
	h.close()
	h.open(nil)
	for _, what := range []string{"1", before} {
		if got := h.want(200, "GET", "/v2/team/web/manifests/"+what+ns, "").header.Get("Docker-Content-Digest"); got != before {
			t.Errorf("while nobody answers: %s", got)
		}
	}
}

func TestPullThroughServesWhatWasWhileNobodyAnswers(t *testing.T) {
	up, h, ns := newCache(t)
	up.push("team/web", "1", "content", nil)
	h.want(200, "GET", "/v2/team/web/manifests/1"+ns, "")
	layer := "/v2/team/web/blobs/" + digest.FromString("content").String() + ns
	h.want(200, "GET", layer, "")
	h.upstream = down{}
	h.close()
	h.open(nil)
	a := h.want(200, "GET", "/v2/team/web/manifests/1"+ns, "")
	if warning := a.header.Get("Warning"); !strings.HasPrefix(warning, `299 - "`) || !strings.Contains(warning, "does not answer") {
		t.Errorf("Warning %q", warning)
	}
	if got := h.want(200, "GET", layer, "").body; got != "content" {
		t.Errorf("got %q", got)
	}
	h.refused(502, codeUnsupported, "GET", "/v2/team/web/manifests/2"+ns, "")
}

// down is an upstream that does not answer.
type down struct{}

func (down) FetchManifest(context.Context, ref.Named) (image.Manifest, error) {
	return image.Manifest{}, errors.New("connection refused")
}

func (down) FetchBlob(context.Context, ref.Named, digest.Digest) (io.ReadCloser, int64, error) {
	return nil, 0, errors.New("connection refused")
}

// wrong is an upstream whose blobs are not what their digests say.
type wrong struct{ Upstream }

func (wrong) FetchBlob(context.Context, ref.Named, digest.Digest) (io.ReadCloser, int64, error) {
	return io.NopCloser(strings.NewReader("wrong")), -1, nil
}

func TestPullThroughKeepsNothingThatIsWrong(t *testing.T) {
	up, h, ns := newCache(t)
	up.push("team/web", "1", "content", nil)
	h.upstream = wrong{h.upstream}
	h.close()
	h.open(nil)
	h.want(200, "GET", "/v2/team/web/manifests/1"+ns, "")
	resp, err := h.http.Client().Get(h.http.URL + "/v2/team/web/blobs/" + digest.FromString("content").String() + ns)
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close() // it was read
	}
	if err == nil {
		t.Error("the client was not told")
	}
	if _, err := h.images.Blob(t.Context(), digest.FromString("content")); err == nil {
		t.Error("it was kept")
	}
}

func TestPullThroughDropsWhatNobodyAsksFor(t *testing.T) {
	up, h, ns := newCache(t)
	old := up.push("team/web", "old", "old", nil)
	up.push("team/web", "new", "new", nil)
	for _, tag := range []string{"old", "new"} {
		h.want(200, "GET", "/v2/team/web/manifests/"+tag+ns, "")
		h.want(200, "GET", "/v2/team/web/blobs/"+digest.FromString(tag).String()+ns, "")
	}
	repo := strings.TrimPrefix(ns, "?ns=") + "/team/web"
	err := h.server.store.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(throughBucket).Put(key(repo, old.String()), []byte("1"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.server.store.dropThrough(t.Context(), time.Now().Add(-throughLife)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.images.Blob(t.Context(), digest.FromString("old")); err == nil {
		t.Error("the old blob is still here")
	}
	if _, err := h.images.Blob(t.Context(), digest.FromString("new")); err != nil {
		t.Errorf("the new blob: %v", err)
	}
	if tags, _ := h.server.store.tags(repo); len(tags) != 1 || tags[0] != "new" {
		t.Errorf("tags %v", tags)
	}
}
