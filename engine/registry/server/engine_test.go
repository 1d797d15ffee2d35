package server

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/engine/image"
)

func TestABuiltImageIsServed(t *testing.T) {
	h := newHost(t, nil)
	img := h.built("web:1", "hello")
	a := h.want(200, "GET", "/v2/web/manifests/1", "")
	m := decode[ocispec.Manifest](t, a)
	if m.Config.Digest != img.ID || len(m.Layers) != 1 {
		t.Fatalf("manifest %+v", m)
	}
	for _, d := range []ocispec.Descriptor{m.Config, m.Layers[0]} {
		if got := h.want(200, "GET", "/v2/web/blobs/"+d.Digest.String(), "").body; digest.FromString(got) != d.Digest || int64(len(got)) != d.Size {
			t.Errorf("blob %s is %d bytes", d.Digest, len(got))
		}
	}
	if again := h.want(200, "HEAD", "/v2/web/manifests/1", ""); again.header.Get("Docker-Content-Digest") != a.header.Get("Docker-Content-Digest") {
		t.Error("packed again, it is another")
	}
	h.want(200, "GET", "/v2/web/manifests/"+a.header.Get("Docker-Content-Digest"), "")
	if got := h.want(200, "GET", "/v2/web/tags/list", "").body; !strings.Contains(got, `["1"]`) {
		t.Errorf("tags: %s", got)
	}
	if got := h.want(200, "GET", "/v2/_catalog", "").body; !strings.Contains(got, `["web"]`) {
		t.Errorf("catalog: %s", got)
	}
	h.refused(404, codeBlobUnknown, "GET", "/v2/other/blobs/"+m.Layers[0].Digest.String(), "")
	h.refused(405, codeUnsupported, "DELETE", "/v2/web/manifests/1", "")

	h.want(201, "POST", "/v2/copy/blobs/uploads/?from=web&mount="+m.Layers[0].Digest.String(), "")
	h.want(201, "POST", "/v2/copy/blobs/uploads/?from=web&mount="+m.Config.Digest.String(), "")
	h.want(201, "PUT", "/v2/copy/manifests/1", a.body, manifestType)
	if _, err := h.images.Remove(t.Context(), "web:1", image.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	h.want(404, "GET", "/v2/web/manifests/1", "")
	h.want(200, "GET", "/v2/copy/blobs/"+m.Layers[0].Digest.String(), "")
}

func TestPackedLayersAreTheSameEverywhere(t *testing.T) {
	one, two := newHost(t, nil), newHost(t, nil)
	var digests []string
	for _, h := range []*host{one, two} {
		h.built("web:1", strings.Repeat("same bytes ", 10_000))
		digests = append(digests, decode[ocispec.Manifest](t, h.want(200, "GET", "/v2/web/manifests/1", "")).Layers[0].Digest.String())
	}
	if digests[0] != digests[1] {
		t.Errorf("the same layer is packed to %v", digests)
	}
}

func TestPackedLayersAreInTheImagesOrder(t *testing.T) {
	h := newHost(t, nil)
	var layers []digest.Digest
	var want []string
	for i, content := range []string{"a", "b", strings.Repeat("c", 100_000), "d", "e"} {
		img := h.built(fmt.Sprintf("one:%d", i), content)
		layers = append(layers, img.Layers...)
	}
	layers = append(layers, layers[0], layers[2]) // the same once more, packed at the same time
	if _, err := h.images.Create(t.Context(), image.Spec{}, layers, image.CreateOptions{Tags: []string{"all:1"}}); err != nil {
		t.Fatal(err)
	}
	all := decode[ocispec.Manifest](t, h.want(200, "GET", "/v2/all/manifests/1", "")).Layers
	for i := range layers[:5] {
		want = append(want, decode[ocispec.Manifest](t, h.want(200, "GET", fmt.Sprintf("/v2/one/manifests/%d", i), "")).Layers[0].Digest.String())
	}
	want = append(want, want[0], want[2])
	var got []string
	for _, l := range all {
		got = append(got, l.Digest.String())
		h.want(200, "HEAD", "/v2/all/blobs/"+l.Digest.String(), "")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAnImageTaggedForThisRegistryIsServedUntilItIsPushed(t *testing.T) {
	h := newHost(t, nil)
	h.built(strings.TrimPrefix(h.http.URL, "http://")+"/team/web:1", "hello")
	h.want(200, "GET", "/v2/team/web/manifests/1", "")
}

func TestWhatWasPushedSurvivesARestartAndACollection(t *testing.T) {
	h := newHost(t, nil)
	d := h.push("a", "1", "content", nil)
	at := h.want(202, "POST", "/v2/a/blobs/uploads/", "").header.Get("Location")
	h.close()
	h.open(nil)
	if _, err := h.images.Collect(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := h.want(200, "GET", "/v2/a/manifests/1", "").header.Get("Docker-Content-Digest"); got != d.String() {
		t.Errorf("manifest %s", got)
	}
	if got := h.want(200, "GET", "/v2/a/blobs/"+digest.FromString("content").String(), "").body; got != "content" {
		t.Errorf("blob %q", got)
	}
	path := at[strings.Index(at, "/v2/"):]
	h.refused(404, codeUploadUnknown, "PATCH", path, "x")
}

const testUsers = `
users:
- name: ann
  password: $2b$04$F4PcK7zfVNI6WLW68lX.zuD3KSOoGI1cAeq1RBZVbmpfWu4X8G1Sq
  push: ["team/*"]
  pull: ["public"]
- name: root
  password: $2b$04$F4PcK7zfVNI6WLW68lX.zuD3KSOoGI1cAeq1RBZVbmpfWu4X8G1Sq
  push: ["*"]
`

func TestRights(t *testing.T) {
	users, err := parseUsers([]byte(testUsers))
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t, users)
	a := h.want(401, "GET", "/v2/", "")
	if a.code() != codeUnauthorized {
		t.Errorf("%v %s", a.header, a.body)
	}
	h.user = "ann:wrong"
	h.want(401, "GET", "/v2/", "")
	h.user = "root:secret"
	h.push("public", "1", "x", nil)
	h.push("secret", "1", "y", nil)
	h.user = "ann:secret"
	h.want(200, "GET", "/v2/", "")
	h.push("team/web", "1", "z", nil)
	h.want(200, "GET", "/v2/public/manifests/1", "")
	h.refused(403, codeDenied, "GET", "/v2/secret/manifests/1", "")
	h.refused(403, codeDenied, "POST", "/v2/public/blobs/uploads/", "")
	h.refused(403, codeDenied, "DELETE", "/v2/public/manifests/1", "")
	h.refused(403, codeDenied, "GET", "/v2/team/tags/list", "")
	if got := h.want(200, "GET", "/v2/_catalog", "").body; !strings.Contains(got, `["public","team/web"]`) {
		t.Errorf("catalog: %s", got)
	}
	// A blob is not taken from where the user may not read.
	h.want(202, "POST", "/v2/team/web/blobs/uploads/?from=secret&mount="+digest.FromString("y").String(), "")
	h.want(201, "POST", "/v2/team/web/blobs/uploads/?from=public&mount="+digest.FromString("x").String(), "")
}

func TestUsersFileIsReadStrictly(t *testing.T) {
	for _, bad := range []string{"", "users: []", "users: [{name: a, password: plain}]", "users: [{name: a, pasword: x}]", "{",
		"users: [{name: 'a:b', password: '$2b$04$F4PcK7zfVNI6WLW68lX.zuD3KSOoGI1cAeq1RBZVbmpfWu4X8G1Sq'}]"} {
		if _, err := parseUsers([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func FuzzParseUsers(f *testing.F) {
	f.Add([]byte(testUsers))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = parseUsers(b) })
}

func TestEveryRouteSaysWhatItDoes(t *testing.T) {
	for _, rt := range routes {
		reads := slices.Contains(strings.Fields(rt.methods), http.MethodGet) && rt.middle != "/blobs/uploads/"
		if reads != (rt.does == pull) {
			t.Errorf("%s %s needs the right to %s", rt.methods, rt.middle, rt.does)
		}
	}
}
