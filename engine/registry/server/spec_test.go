package server

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// sentence is one MUST or SHOULD of the distribution specification 1.1 and how
// the registry keeps it.
type sentence struct {
	name string
	test func(t *testing.T, h *host)
}

func run(t *testing.T, sentences []sentence) {
	t.Helper()
	for _, s := range sentences {
		t.Run(s.name, func(t *testing.T) { s.test(t, newHost(t, nil)) })
	}
}

func TestPulling(t *testing.T) {
	run(t, []sentence{
		{"GET /v2/ MUST answer 200 where the specification is implemented", func(t *testing.T, h *host) {
			h.want(200, "GET", "/v2/", "")
			h.want(200, "HEAD", "/v2/", "")
		}},
		{"a name MUST match its regular expression, else NAME_INVALID", func(t *testing.T, h *host) {
			for _, name := range []string{"UPPER", "a..b", "a-", "-a", "a//b", "a_-b", strings.Repeat("a", 256)} {
				h.refused(400, codeNameInvalid, "GET", "/v2/"+name+"/tags/list", "")
			}
			for _, name := range []string{"a", "a/b/c", "a.b-c__d_e", "a--b", "blobs", "manifests/manifests", "tags/list/x"} {
				h.refused(404, codeNameUnknown, "GET", "/v2/"+name+"/tags/list", "")
			}
		}},
		{"a tag MUST have at most 128 characters and match its regular expression", func(t *testing.T, h *host) {
			raw, _ := h.manifest("a", "x", nil)
			h.refused(400, codeManifestInvalid, "PUT", "/v2/a/manifests/"+strings.Repeat("t", 129), raw, manifestType)
			h.refused(400, codeManifestInvalid, "PUT", "/v2/a/manifests/-t", raw, manifestType)
			h.want(201, "PUT", "/v2/a/manifests/"+strings.Repeat("t", 128), raw, manifestType)
		}},
		{"GET of a manifest by tag or digest SHOULD give its bytes, its Content-Type and Docker-Content-Digest", func(t *testing.T, h *host) {
			raw, d := h.manifest("a", "x", nil)
			h.want(201, "PUT", "/v2/a/manifests/1", raw, manifestType)
			for _, what := range []string{"1", d.String()} {
				for method, body := range map[string]string{"GET": raw, "HEAD": ""} {
					a := h.want(200, method, "/v2/a/manifests/"+what, "")
					if a.body != body || a.header.Get("Content-Type") != ocispec.MediaTypeImageManifest ||
						a.header.Get("Docker-Content-Digest") != d.String() || a.header.Get("Content-Length") != fmt.Sprint(len(raw)) {
						t.Errorf("%s %s: %v %q", method, what, a.header, a.body)
					}
				}
			}
		}},
		{"GET of a manifest that is not there MUST answer 404", func(t *testing.T, h *host) {
			h.refused(404, codeManifestUnknown, "GET", "/v2/a/manifests/1", "")
			h.refused(404, codeManifestUnknown, "GET", "/v2/a/manifests/"+digest.FromString("x").String(), "")
			h.refused(404, codeManifestUnknown, "HEAD", "/v2/a/manifests/1", "")
		}},
		{"GET of a blob MUST give the bytes of its digest, HEAD SHOULD give its length", func(t *testing.T, h *host) {
			d := h.blob("a", "content")
			a := h.want(200, "GET", "/v2/a/blobs/"+d.String(), "")
			if a.body != "content" || a.header.Get("Docker-Content-Digest") != d.String() {
				t.Errorf("%v %q", a.header, a.body)
			}
			if a := h.want(200, "HEAD", "/v2/a/blobs/"+d.String(), ""); a.header.Get("Content-Length") != "7" {
				t.Errorf("%v", a.header)
			}
		}},
		{"GET of a blob that the repository does not have MUST answer 404", func(t *testing.T, h *host) {
			d := h.blob("a", "content")
			h.refused(404, codeBlobUnknown, "GET", "/v2/b/blobs/"+d.String(), "")
			h.refused(404, codeBlobUnknown, "HEAD", "/v2/b/blobs/"+d.String(), "")
			h.refused(400, codeDigestInvalid, "GET", "/v2/a/blobs/sha256:short", "")
		}},
		{"a registry SHOULD support the Range header", func(t *testing.T, h *host) {
			d := h.blob("a", "0123456789")
			a := h.want(206, "GET", "/v2/a/blobs/"+d.String(), "", "Range: bytes=3-5")
			if a.body != "345" || a.header.Get("Content-Range") != "bytes 3-5/10" {
				t.Errorf("%v %q", a.header, a.body)
			}
			if a := h.want(206, "GET", "/v2/a/blobs/"+d.String(), "", "Range: bytes=8-"); a.body != "89" {
				t.Errorf("%q", a.body)
			}
			h.want(416, "GET", "/v2/a/blobs/"+d.String(), "", "Range: bytes=10-")
		}},
	})
}

func TestPushing(t *testing.T) {
	run(t, []sentence{
		{"POST then PUT: 202 with a Location, then 201 with the blob's Location", func(t *testing.T, h *host) {
			d := digest.FromString("body")
			at := h.want(202, "POST", "/v2/a/blobs/uploads/", "").header.Get("Location")
			a := h.want(201, "PUT", h.at(at)+"?digest="+d.String(), "body", "Content-Type: application/octet-stream")
			if got := h.want(200, "GET", h.at(a.header.Get("Location")), "").body; got != "body" {
				t.Errorf("the Location gives %q", got)
			}
			h.refused(404, codeUploadUnknown, "GET", h.at(at), "")
		}},
		{"single POST: 201 with the blob's Location", func(t *testing.T, h *host) {
			d := digest.FromString("body")
			a := h.want(201, "POST", "/v2/a/blobs/uploads/?digest="+d.String(), "body")
			if got := h.want(200, "GET", h.at(a.header.Get("Location")), "").body; got != "body" {
				t.Errorf("the Location gives %q", got)
			}
		}},
		{"a blob whose digest is another MUST be refused", func(t *testing.T, h *host) {
			d := digest.FromString("other")
			at := h.want(202, "POST", "/v2/a/blobs/uploads/", "").header.Get("Location")
			h.refused(400, codeDigestInvalid, "PUT", h.at(at)+"?digest="+d.String(), "body")
			h.refused(400, codeDigestInvalid, "POST", "/v2/a/blobs/uploads/?digest="+d.String(), "body")
			h.refused(404, codeBlobUnknown, "GET", "/v2/a/blobs/"+d.String(), "")
			h.refused(404, codeBlobUnknown, "GET", "/v2/a/blobs/"+digest.FromString("body").String(), "")
		}},
		{"chunks MUST be in order: 202 with Range for each, 416 for one out of order", func(t *testing.T, h *host) {
			at := h.want(202, "POST", "/v2/a/blobs/uploads/", "", "Content-Length: 0").header.Get("Location")
			a := h.want(202, "PATCH", h.at(at), "0123", chunkRange(0, 4))
			if got := a.header.Get("Range"); got != "0-3" {
				t.Errorf("Range %q after four bytes", got)
			}
			h.refused(416, codeUploadInvalid, "PATCH", h.at(at), "89", chunkRange(8, 2))
			h.want(416, "PATCH", h.at(at), "0123", chunkRange(0, 4))
			a = h.want(202, "PATCH", h.at(a.header.Get("Location")), "4567", chunkRange(4, 4))
			d := digest.FromString("0123456789")
			h.want(201, "PUT", h.at(a.header.Get("Location"))+"?digest="+d.String(), "89", chunkRange(8, 2))
			if got := h.want(200, "GET", "/v2/a/blobs/"+d.String(), "").body; got != "0123456789" {
				t.Errorf("got %q", got)
			}
		}},
		{"an upload that was cut is resumed: GET of it MUST answer 204 with Location and Range", func(t *testing.T, h *host) {
			at := h.want(202, "POST", "/v2/a/blobs/uploads/", "").header.Get("Location")
			h.want(202, "PATCH", h.at(at), "0123")
			a := h.want(204, "GET", h.at(at), "")
			if a.header.Get("Range") != "0-3" || a.header.Get("Location") == "" {
				t.Errorf("%v", a.header)
			}
			d := digest.FromString("012345")
			h.want(202, "PATCH", h.at(a.header.Get("Location")), "45", chunkRange(4, 2))
			h.want(201, "PUT", h.at(at)+"?digest="+d.String(), "")
		}},
		{"an upload of another repository is unknown", func(t *testing.T, h *host) {
			at := h.want(202, "POST", "/v2/a/blobs/uploads/", "").header.Get("Location")
			h.refused(404, codeUploadUnknown, "PATCH", h.at(strings.Replace(at, "/a/", "/b/", 1)), "x")
		}},
		{"DELETE ends an upload", func(t *testing.T, h *host) {
			at := h.want(202, "POST", "/v2/a/blobs/uploads/", "").header.Get("Location")
			h.want(204, "DELETE", h.at(at), "")
			h.refused(404, codeUploadUnknown, "DELETE", h.at(at), "")
		}},
		{"sha512 digests are verified too", func(t *testing.T, h *host) {
			d := digest.SHA512.FromString("body")
			h.want(201, "POST", "/v2/a/blobs/uploads/?digest="+d.String(), "body")
			if got := h.want(200, "GET", "/v2/a/blobs/"+d.String(), "").body; got != "body" {
				t.Errorf("got %q", got)
			}
			h.refused(400, codeDigestInvalid, "POST", "/v2/a/blobs/uploads/?digest="+digest.SHA512.FromString("x").String(), "body")
		}},
		{"mount MUST answer 201 with the Location, or 202 with an upload", func(t *testing.T, h *host) {
			d := h.blob("a", "content")
			a := h.want(201, "POST", "/v2/b/blobs/uploads/?mount="+d.String()+"&from=a", "")
			if got := h.want(200, "GET", h.at(a.header.Get("Location")), "").body; got != "content" {
				t.Errorf("the Location gives %q", got)
			}
			for _, q := range []string{"?mount=" + digest.FromString("none").String() + "&from=a", "?mount=" + d.String(), "?mount=" + d.String() + "&from=none"} {
				if at := h.want(202, "POST", "/v2/c/blobs/uploads/"+q, "").header.Get("Location"); at == "" {
					t.Errorf("%s gave no upload", q)
				}
			}
		}},
		{"PUT of a manifest MUST store its exact bytes, and answer 201 with Location and digest", func(t *testing.T, h *host) {
			raw, _ := h.manifest("a", "x", nil)
			raw = strings.Replace(raw, "{", "{\n \t", 1)
			d := digest.FromString(raw)
			a := h.want(201, "PUT", "/v2/a/manifests/1", raw, manifestType)
			if a.header.Get("Docker-Content-Digest") != d.String() || h.want(200, "GET", h.at(a.header.Get("Location")), "").body != raw {
				t.Errorf("%v", a.header)
			}
			h.want(201, "PUT", "/v2/a/manifests/"+d.String(), raw, manifestType)
			h.refused(400, codeDigestInvalid, "PUT", "/v2/a/manifests/"+digest.FromString("x").String(), raw, manifestType)
		}},
		{"the media type SHOULD be that of the Content-Type", func(t *testing.T, h *host) {
			raw, _ := h.manifest("a", "x", nil)
			h.refused(400, codeManifestInvalid, "PUT", "/v2/a/manifests/1", raw, "Content-Type: "+ocispec.MediaTypeImageIndex)
			h.refused(400, codeManifestInvalid, "PUT", "/v2/a/manifests/1", "{", manifestType)
		}},
		{"a manifest that names a blob which is not there is refused", func(t *testing.T, h *host) {
			raw, _ := h.manifest("a", "x", func(m *ocispec.Manifest) { m.Layers[0].Digest = digest.FromString("none") })
			h.refused(404, codeManifestBlobUnknown, "PUT", "/v2/a/manifests/1", raw, manifestType)
		}},
		{"a manifest of 4 MiB MUST be taken, a larger one SHOULD answer 413", func(t *testing.T, h *host) {
			raw, _ := h.manifest("a", "x", nil)
			h.want(201, "PUT", "/v2/a/manifests/1", raw+strings.Repeat(" ", maxManifest-len(raw)), manifestType)
			h.refused(413, codeSizeInvalid, "PUT", "/v2/a/manifests/1", raw+strings.Repeat(" ", maxManifest-len(raw)+1), manifestType)
		}},
		{"an index is taken without all its parts", func(t *testing.T, h *host) {
			raw, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
				Manifests: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("elsewhere"), Size: 1}}})
			if err != nil {
				t.Fatal(err)
			}
			h.want(201, "PUT", "/v2/a/manifests/1", string(raw), "Content-Type: "+ocispec.MediaTypeImageIndex)
		}},
		{"a manifest with a subject MUST be answered with OCI-Subject, the subject there or not", func(t *testing.T, h *host) {
			subject := digest.FromString("subject")
			raw, _ := h.manifest("a", "x", func(m *ocispec.Manifest) { m.Subject = &ocispec.Descriptor{MediaType: "x", Digest: subject, Size: 1} })
			if got := h.want(201, "PUT", "/v2/a/manifests/1", raw, manifestType).header.Get("OCI-Subject"); got != subject.String() {
				t.Errorf("OCI-Subject %q", got)
			}
		}},
	})
}

func TestDiscovery(t *testing.T) {
	type tagList struct {
		Name string
		Tags []string
	}
	run(t, []sentence{
		{"tags MUST be in lexical order, pages by n and last, with Link to the next", func(t *testing.T, h *host) {
			raw, _ := h.manifest("a", "x", nil)
			for _, tag := range []string{"b", "a", "C", "d10", "d9"} {
				h.want(201, "PUT", "/v2/a/manifests/"+tag, raw, manifestType)
			}
			all := []string{"C", "a", "b", "d10", "d9"}
			if diff := cmp.Diff(tagList{"a", all}, decode[tagList](t, h.want(200, "GET", "/v2/a/tags/list", ""))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			var got []string
			for at := "/v2/a/tags/list?n=2"; at != ""; {
				a := h.want(200, "GET", at, "")
				got = append(got, decode[tagList](t, a).Tags...)
				at, _, _ = strings.Cut(strings.TrimPrefix(a.header.Get("Link"), "<"), ">")
			}
			if diff := cmp.Diff(all, got); diff != "" {
				t.Errorf("in pages (-want +got):\n%s", diff)
			}
			if got := decode[tagList](t, h.want(200, "GET", "/v2/a/tags/list?last=b", "")).Tags; len(got) != 2 {
				t.Errorf("after b: %v", got)
			}
			if a := h.want(200, "GET", "/v2/a/tags/list?n=0", ""); !strings.Contains(a.body, `"tags":[]`) || a.header.Get("Link") != "" {
				t.Errorf("n=0: %s", a.body)
			}
		}},
		{"referrers MUST be an index, empty where there are none, and 400 for what is no digest", func(t *testing.T, h *host) {
			a := h.want(200, "GET", "/v2/a/referrers/"+digest.FromString("x").String(), "")
			index := decode[ocispec.Index](t, a)
			if a.header.Get("Content-Type") != ocispec.MediaTypeImageIndex || index.SchemaVersion != 2 || !strings.Contains(a.body, `"manifests":[]`) {
				t.Errorf("%v %s", a.header, a.body)
			}
			h.want(400, "GET", "/v2/a/referrers/1", "")
		}},
		{"each referrer MUST have its artifact type and annotations; a filter is said", func(t *testing.T, h *host) {
			subject := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: h.push("a", "1", "x", nil), Size: 1}
			signature := h.push("a", "sig", "s", func(m *ocispec.Manifest) {
				m.Subject, m.ArtifactType, m.Annotations = &subject, "test/signature", map[string]string{"k": "v"}
			})
			h.push("a", "sbom", "b", func(m *ocispec.Manifest) { m.Subject = &subject })
			list := decode[ocispec.Index](t, h.want(200, "GET", "/v2/a/referrers/"+subject.Digest.String(), "")).Manifests
			kinds := map[string]ocispec.Descriptor{}
			for _, d := range list {
				kinds[d.ArtifactType] = d
			}
			if len(list) != 2 || kinds["test/signature"].Digest != signature || kinds["test/signature"].Annotations["k"] != "v" || kinds["application/vnd.test.config"].Size == 0 {
				t.Errorf("%+v", list)
			}
			a := h.want(200, "GET", "/v2/a/referrers/"+subject.Digest.String()+"?artifactType=test/signature", "")
			if list := decode[ocispec.Index](t, a).Manifests; len(list) != 1 || a.header.Get("OCI-Filters-Applied") != "artifactType" {
				t.Errorf("filtered: %v %+v", a.header, list)
			}
			h.want(202, "DELETE", "/v2/a/manifests/"+signature.String(), "")
			if list := decode[ocispec.Index](t, h.want(200, "GET", "/v2/a/referrers/"+subject.Digest.String(), "")).Manifests; len(list) != 1 {
				t.Errorf("after the removal: %+v", list)
			}
		}},
		{"the catalog lists repositories", func(t *testing.T, h *host) {
			h.push("b/c", "1", "x", nil)
			h.push("a", "1", "x", nil)
			if a := h.want(200, "GET", "/v2/_catalog?n=1", ""); !strings.Contains(a.body, `{"repositories":["a"]}`) || !strings.Contains(a.header.Get("Link"), "last=a") {
				t.Errorf("%v %s", a.header, a.body)
			}
		}},
	})
}

func TestContentManagement(t *testing.T) {
	run(t, []sentence{
		{"DELETE of a tag MUST answer 202, and leave the manifest", func(t *testing.T, h *host) {
			d := h.push("a", "1", "x", nil)
			h.want(202, "DELETE", "/v2/a/manifests/1", "")
			h.want(404, "GET", "/v2/a/manifests/1", "")
			h.want(200, "GET", "/v2/a/manifests/"+d.String(), "")
			h.refused(404, codeManifestUnknown, "DELETE", "/v2/a/manifests/1", "")
		}},
		{"DELETE of a manifest MUST answer 202, its tags and blobs go", func(t *testing.T, h *host) {
			d := h.push("a", "1", "x", nil)
			h.push("a", "2", "y", nil)
			h.want(202, "DELETE", "/v2/a/manifests/"+d.String(), "")
			h.want(404, "GET", "/v2/a/manifests/1", "")
			h.want(404, "GET", "/v2/a/manifests/"+d.String(), "")
			h.want(404, "HEAD", "/v2/a/blobs/"+digest.FromString("x").String(), "")
			h.want(200, "HEAD", "/v2/a/blobs/"+digest.FromString("{}").String(), "")
			if _, err := h.images.Blob(t.Context(), digest.FromString("x")); err == nil {
				t.Error("the blob is still in the store")
			}
		}},
		{"DELETE of a blob MUST answer 202, then 404", func(t *testing.T, h *host) {
			d := h.blob("a", "x")
			h.want(202, "DELETE", "/v2/a/blobs/"+d.String(), "")
			h.refused(404, codeBlobUnknown, "DELETE", "/v2/a/blobs/"+d.String(), "")
		}},
		{"what does not exist answers 404 or 405", func(t *testing.T, h *host) {
			h.refused(405, codeUnsupported, "PATCH", "/v2/a/manifests/1", "")
			h.refused(405, codeUnsupported, "POST", "/v2/", "")
			h.refused(404, codeUnsupported, "GET", "/v2/a", "")
			h.refused(404, codeUnsupported, "GET", "/other", "")
		}},
	})
}

func FuzzParseDocument(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}`))
	f.Add([]byte(`{"manifests":[{"digest":"sha256:x"}],"subject":{"size":-1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		doc, err := parseDocument(b)
		if err != nil {
			return
		}
		for _, d := range doc.blobs() {
			if d.Digest.Validate() != nil || d.Size < 0 {
				t.Errorf("%q passed", d.Digest)
			}
		}
	})
}

func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"0-3", "bytes 5-9/10", "9-5", "-1-2", "0-9223372036854775807", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if first, last, ok := parseRange(s); ok && (first < 0 || last < first || last-first+1 <= 0) {
			t.Errorf("%q gave %d to %d", s, first, last)
		}
	})
}

func FuzzMatch(f *testing.F) {
	f.Add("GET", "a/b/manifests/latest")
	f.Add("PATCH", "a/blobs/uploads/x")
	f.Add("POST", "blobs/uploads/blobs/uploads/")
	f.Fuzz(func(t *testing.T, method, path string) {
		found, repo, what, known := match(method, path)
		if found != nil && (!known || repo == "" || found.rest && (what == "" || strings.Contains(what, "/"))) {
			t.Errorf("%s %q gave %q and %q", method, path, repo, what)
		}
	})
}
