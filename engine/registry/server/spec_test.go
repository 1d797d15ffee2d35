package server

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// sentence is one MUST or SHOULD that the distribution specification 1.1.1 says
// to registries, in short, and how ours keeps it. Those that it says to clients
// are in the tests of package registry.
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

var noSuch = digest.FromString("there is no such content").String()

// begin opens an upload and returns where it goes on.
func (h *host) begin(repo string) string {
	h.t.Helper()
	return h.at(h.want(202, "POST", "/v2/"+repo+"/blobs/uploads/", "").header.Get("Location"))
}

// both asks for a path by GET and HEAD.
func (h *host) both(status int, path string) (get, head answer) {
	h.t.Helper()
	return h.want(status, "GET", path, ""), h.want(status, "HEAD", path, "")
}

// gives fails unless a Location gives content.
func (h *host) gives(location, content string) {
	h.t.Helper()
	if got := h.want(200, "GET", h.at(location), "").body; location == "" || got != content {
		h.t.Errorf("Location %q gives %q, want %q", location, got, content)
	}
}

func indexOf(t *testing.T, change func(*ocispec.Index)) string {
	t.Helper()
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	change(&index)
	raw, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

const indexType = "Content-Type: " + ocispec.MediaTypeImageIndex

func TestConformance(t *testing.T) {
	run(t, []sentence{
		{"registries MUST support Pull, and SHOULD support Push, Content Discovery and Content Management", func(t *testing.T, h *host) {
			h.want(200, "GET", "/v2/", "")                                                           // end-1
			d := h.push("a", "1", "x", nil).String()                                                 // end-4a, 6, 7
			h.both(200, "/v2/a/manifests/1")                                                         // end-3
			x := digest.FromString("x").String()                                                     //
			h.both(200, "/v2/a/blobs/"+x)                                                            // end-2
			h.want(201, "POST", "/v2/a/blobs/uploads/?digest="+digest.FromString("y").String(), "y") // end-4b
			at := h.begin("a")                                                                       //
			h.want(202, "PATCH", at, "z")                                                            // end-5
			h.want(204, "GET", at, "")                                                               // end-13
			h.want(200, "GET", "/v2/a/tags/list", "")                                                // end-8a
			h.want(200, "GET", "/v2/a/tags/list?n=1&last=0", "")                                     // end-8b
			h.want(201, "POST", "/v2/b/blobs/uploads/?mount="+x+"&from=a", "")                       // end-11
			h.want(200, "GET", "/v2/a/referrers/"+d, "")                                             // end-12a
			h.want(200, "GET", "/v2/a/referrers/"+d+"?artifactType=x", "")                           // end-12b
			h.want(202, "DELETE", "/v2/a/manifests/"+d, "")                                          // end-9
			h.want(202, "DELETE", "/v2/a/blobs/"+digest.FromString("y").String(), "")                // end-10
		}},
		{"a 4XX answer in JSON MUST have the list of errors, with codes of the specification, in capitals and underscores", func(t *testing.T, h *host) {
			known := []string{codeBlobUnknown, codeUploadInvalid, codeUploadUnknown, codeDigestInvalid, codeManifestBlobUnknown, codeManifestInvalid,
				codeManifestUnknown, codeNameInvalid, codeNameUnknown, codeSizeInvalid, codeUnauthorized, codeDenied, codeUnsupported, "TOOMANYREQUESTS"}
			for _, path := range []string{"/v2/a/manifests/1", "/v2/a/blobs/" + noSuch, "/v2/a/blobs/x:y", "/v2/A/tags/list", "/v2/a/tags/list", "/v2/a/blobs/uploads/x", "/other", "/v2/a"} {
				a := h.do("GET", path, "")
				if a.status < 400 || !slices.Contains(known, a.code()) || !regexp.MustCompile(`^[A-Z_]+$`).MatchString(a.code()) {
					t.Errorf("%s: %d %s", path, a.status, a.body)
				}
			}
			h.push("a", "1", "x", nil)
			h.refused(400, codeUnsupported, "GET", "/v2/a/tags/list?n=x", "")
			h.refused(405, codeUnsupported, "PATCH", "/v2/a/manifests/1", "")
			h.refused(405, codeUnsupported, "POST", "/v2/", "")
		}},
		{"Warning headers MUST have code 299 and agent -, no date, and together at most 4096 bytes", func(t *testing.T, h *host) {
			w := http.Header{}
			for range 100 {
				warn(w, "quote \" and\nline "+strings.Repeat("x", 100))
			}
			size := 0
			for _, text := range w.Values("Warning") {
				size += len(text)
				if !regexp.MustCompile(`^299 - "([^"\\\n]|\\.)*"$`).MatchString(text) {
					t.Errorf("%q", text)
				}
			}
			if size > 4096 || size < 3000 {
				t.Errorf("%d bytes", size)
			}
		}},
	})
}

func TestPulling(t *testing.T) {
	run(t, []sentence{
		{"a reference MUST be a digest or a tag, and nothing else", func(t *testing.T, h *host) {
			d := h.push("a", "1", "x", nil)
			h.both(200, "/v2/a/manifests/1")
			h.both(200, "/v2/a/manifests/"+d.String())
			h.refused(400, codeDigestInvalid, "GET", "/v2/a/manifests/sha256:short", "")
			h.refused(400, codeDigestInvalid, "GET", "/v2/a/manifests/1@"+d.String(), "")
		}},
		{"a name MUST match its regular expression", func(t *testing.T, h *host) {
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
		{"the Content-Type of a manifest SHOULD be the one that was pushed, without parameters", func(t *testing.T, h *host) {
			raw, _ := h.manifest("a", "x", nil)
			h.want(201, "PUT", "/v2/a/manifests/1", raw, manifestType+"; charset=utf-8")
			get, head := h.both(200, "/v2/a/manifests/1")
			if get.header.Get("Content-Type") != ocispec.MediaTypeImageManifest || head.header.Get("Content-Type") != ocispec.MediaTypeImageManifest {
				t.Errorf("%v %v", get.header, head.header)
			}
		}},
		{"GET of a manifest that is there MUST answer 200 and the manifest", func(t *testing.T, h *host) {
			raw, d := h.manifest("a", "x", nil)
			h.want(201, "PUT", "/v2/a/manifests/1", raw, manifestType)
			for _, what := range []string{"1", d.String()} {
				if got := h.want(200, "GET", "/v2/a/manifests/"+what, "").body; got != raw {
					t.Errorf("%s: %s", what, got)
				}
			}
		}},
		{"the answer SHOULD have the manifest's digest in Docker-Content-Digest", func(t *testing.T, h *host) {
			d := h.push("a", "1", "x", nil)
			if get, head := h.both(200, "/v2/a/manifests/1"); get.header.Get("Docker-Content-Digest") != d.String() || head.header.Get("Docker-Content-Digest") != d.String() {
				t.Errorf("%v %v", get.header, head.header)
			}
		}},
		{"a manifest that is not there MUST be answered 404", func(t *testing.T, h *host) {
			h.push("a", "1", "x", nil)
			h.refused(404, codeManifestUnknown, "GET", "/v2/a/manifests/2", "")
			h.refused(404, codeManifestUnknown, "GET", "/v2/a/manifests/"+noSuch, "")
		}},
		{"GET of a blob that is there MUST answer 200 and the blob", func(t *testing.T, h *host) {
			if got := h.want(200, "GET", "/v2/a/blobs/"+h.blob("a", "content").String(), "").body; got != "content" {
				t.Errorf("got %q", got)
			}
		}},
		{"the answer SHOULD have the blob's digest in Docker-Content-Digest, which MUST be that of the body", func(t *testing.T, h *host) {
			d := h.blob("a", "content").String()
			if get, head := h.both(200, "/v2/a/blobs/"+d); get.header.Get("Docker-Content-Digest") != d || head.header.Get("Docker-Content-Digest") != d {
				t.Errorf("%v %v", get.header, head.header)
			}
		}},
		{"a blob that is not in the repository MUST be answered 404", func(t *testing.T, h *host) {
			d := h.blob("a", "content")
			h.refused(404, codeBlobUnknown, "GET", "/v2/b/blobs/"+d.String(), "")
			h.refused(404, codeBlobUnknown, "GET", "/v2/a/blobs/"+noSuch, "")
			h.refused(400, codeDigestInvalid, "GET", "/v2/a/blobs/sha256:short", "")
		}},
		{"a registry SHOULD support the Range header of RFC 9110", func(t *testing.T, h *host) {
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
		{"HEAD of a blob or manifest that is there MUST answer 200", func(t *testing.T, h *host) {
			d := h.push("a", "1", "x", nil)
			h.want(200, "HEAD", "/v2/a/manifests/1", "")
			h.want(200, "HEAD", "/v2/a/manifests/"+d.String(), "")
			h.want(200, "HEAD", "/v2/a/blobs/"+digest.FromString("x").String(), "")
		}},
		{"HEAD SHOULD have the size in Content-Length", func(t *testing.T, h *host) {
			raw, _ := h.manifest("a", "content", nil)
			h.want(201, "PUT", "/v2/a/manifests/1", raw, manifestType)
			if a := h.want(200, "HEAD", "/v2/a/manifests/1", ""); a.header.Get("Content-Length") != fmt.Sprint(len(raw)) {
				t.Errorf("%v", a.header)
			}
			if a := h.want(200, "HEAD", "/v2/a/blobs/"+digest.FromString("content").String(), ""); a.header.Get("Content-Length") != "7" {
				t.Errorf("%v", a.header)
			}
		}},
		{"HEAD of what is not there MUST answer 404", func(t *testing.T, h *host) {
			h.want(404, "HEAD", "/v2/a/manifests/1", "")
			h.want(404, "HEAD", "/v2/a/manifests/"+noSuch, "")
			h.want(404, "HEAD", "/v2/a/blobs/"+noSuch, "")
		}},
	})
}

func TestPushingBlobs(t *testing.T) {
	run(t, []sentence{
		{"POST MUST answer 202 with a Location that holds a UUID", func(t *testing.T, h *host) {
			if at := h.begin("a"); !regexp.MustCompile(`/[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(at) {
				t.Errorf("Location %q", at)
			}
		}},
		{"PUT MUST answer 201 with the blob's Location", func(t *testing.T, h *host) {
			at := h.begin("a")
			a := h.want(201, "PUT", at+"?digest="+digest.FromString("body").String(), "body", "Content-Type: application/octet-stream")
			h.gives(a.header.Get("Location"), "body")
			h.refused(404, codeUploadUnknown, "GET", at, "")
		}},
		{"a POST with the blob MUST answer 201 with the blob's Location", func(t *testing.T, h *host) {
			h.gives(h.want(201, "POST", "/v2/a/blobs/uploads/?digest="+digest.FromString("body").String(), "body").header.Get("Location"), "body")
		}},
		{"the Content-Length MUST be the blob's", func(t *testing.T, h *host) {
			d := digest.FromString("body")
			conn, err := net.Dial("tcp", strings.TrimPrefix(h.http.URL, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(conn, "POST /v2/a/blobs/uploads/?digest=%s HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nbody", d)
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil && resp.StatusCode < 400 {
				t.Errorf("status %d", resp.StatusCode)
			}
			_ = conn.Close() // there is no more to it
			h.refused(404, codeBlobUnknown, "GET", "/v2/a/blobs/"+d.String(), "")
		}},
		{"the digest MUST be the blob's", func(t *testing.T, h *host) {
			d := digest.FromString("other")
			h.refused(400, codeDigestInvalid, "PUT", h.begin("a")+"?digest="+d.String(), "body")
			h.refused(400, codeDigestInvalid, "POST", "/v2/a/blobs/uploads/?digest="+d.String(), "body")
			h.refused(404, codeBlobUnknown, "GET", "/v2/a/blobs/"+d.String(), "")
			h.refused(404, codeBlobUnknown, "GET", "/v2/a/blobs/"+digest.FromString("body").String(), "")
		}},
		{"sha512 is verified as well", func(t *testing.T, h *host) {
			h.gives(h.want(201, "POST", "/v2/a/blobs/uploads/?digest="+digest.SHA512.FromString("body").String(), "body").header.Get("Location"), "body")
			h.refused(400, codeDigestInvalid, "POST", "/v2/a/blobs/uploads/?digest="+digest.SHA512.FromString("x").String(), "body")
		}},
		{"a registry with a minimum size of chunks SHOULD say it: ours has none", func(t *testing.T, h *host) {
			a := h.want(202, "POST", "/v2/a/blobs/uploads/", "", "Content-Length: 0")
			if a.header.Get("OCI-Chunk-Min-Length") != "" {
				t.Errorf("%v", a.header)
			}
			h.want(202, "PATCH", h.at(a.header.Get("Location")), "x", chunkRange(0, 1))
		}},
		{"a chunk's range MUST be inclusive, have the form FIRST-LAST, and begin with 0 at first", func(t *testing.T, h *host) {
			at := h.begin("a")
			h.refused(416, codeUploadInvalid, "PATCH", at, "4567", chunkRange(4, 4))
			h.refused(400, codeUploadInvalid, "PATCH", at, "0123", "Content-Range: all")
			h.refused(416, codeUploadInvalid, "PATCH", at, "0123", "Content-Range: 0-4")
			h.want(202, "PATCH", at, "0123", "Content-Range: 0-3")
		}},
		{"each chunk MUST be answered 202 with Location and Range", func(t *testing.T, h *host) {
			a := h.want(202, "PATCH", h.begin("a"), "0123", chunkRange(0, 4))
			if a.header.Get("Range") != "0-3" {
				t.Errorf("%v", a.header)
			}
			if a = h.want(202, "PATCH", h.at(a.header.Get("Location")), "4567", chunkRange(4, 4)); a.header.Get("Range") != "0-7" || a.header.Get("Location") == "" {
				t.Errorf("%v", a.header)
			}
		}},
		{"chunks MUST come in order, and one that does not MUST be answered 416", func(t *testing.T, h *host) {
			at := h.begin("a")
			h.want(202, "PATCH", at, "0123", chunkRange(0, 4))
			h.refused(416, codeUploadInvalid, "PATCH", at, "89", chunkRange(8, 2))
			h.refused(416, codeUploadInvalid, "PATCH", at, "0123", chunkRange(0, 4))
			h.want(202, "PATCH", at, "4567", chunkRange(4, 4))
		}},
		{"the session MUST be closed with PUT, which MUST have the digest of all", func(t *testing.T, h *host) {
			at, d := h.begin("a"), digest.FromString("012345").String()
			h.want(202, "PATCH", at, "0123", chunkRange(0, 4))
			h.refused(404, codeBlobUnknown, "GET", "/v2/a/blobs/"+digest.FromString("0123").String(), "")
			h.refused(400, codeDigestInvalid, "PUT", at, "45", chunkRange(4, 2))
			h.gives(h.want(201, "PUT", at+"?digest="+d, "45", chunkRange(4, 2)).header.Get("Location"), "012345")
		}},
		{"GET of an upload MUST answer 204 with Location and Range, so that one that was cut goes on", func(t *testing.T, h *host) {
			at := h.begin("a")
			h.want(202, "PATCH", at, "0123")
			a := h.want(204, "GET", at, "")
			if a.header.Get("Range") != "0-3" || a.header.Get("Location") == "" {
				t.Errorf("%v", a.header)
			}
			h.want(202, "PATCH", h.at(a.header.Get("Location")), "45", chunkRange(4, 2))
			h.want(201, "PUT", at+"?digest="+digest.FromString("012345").String(), "")
		}},
		{"an upload of another repository is unknown", func(t *testing.T, h *host) {
			h.refused(404, codeUploadUnknown, "PATCH", strings.Replace(h.begin("a"), "/a/", "/b/", 1), "x")
		}},
		{"DELETE ends an upload", func(t *testing.T, h *host) {
			at := h.begin("a")
			h.want(204, "DELETE", at, "")
			h.refused(404, codeUploadUnknown, "DELETE", at, "")
		}},
		{"a mount MUST answer 201 with the blob's Location", func(t *testing.T, h *host) {
			d := h.blob("a", "content")
			h.gives(h.want(201, "POST", "/v2/b/blobs/uploads/?mount="+d.String()+"&from=a", "").header.Get("Location"), "content")
		}},
		{"a mount that is not possible SHOULD answer 202 with an upload", func(t *testing.T, h *host) {
			d := h.blob("a", "content").String()
			for _, q := range []string{"?mount=" + noSuch + "&from=a", "?mount=" + d, "?mount=" + d + "&from=none"} {
				if at := h.want(202, "POST", "/v2/c/blobs/uploads/"+q, "").header.Get("Location"); at == "" {
					t.Errorf("%s gave no upload", q)
				}
			}
		}},
	})
}

func TestPushingManifests(t *testing.T) {
	subjectOf := func(d digest.Digest) func(*ocispec.Manifest) {
		return func(m *ocispec.Manifest) { m.Subject = &ocispec.Descriptor{MediaType: "x", Digest: d, Size: 1} }
	}
	run(t, []sentence{
		{"a manifest whose subject is not there MUST be taken", func(t *testing.T, h *host) {
			raw, _ := h.manifest("a", "x", subjectOf(digest.Digest(noSuch)))
			h.want(201, "PUT", "/v2/a/manifests/1", raw, manifestType)
		}},
		{"a manifest that is refused for a blob that is not there MUST give MANIFEST_BLOB_UNKNOWN", func(t *testing.T, h *host) {
			raw, _ := h.manifest("a", "x", func(m *ocispec.Manifest) { m.Layers[0].Digest = digest.Digest(noSuch) })
			h.refused(404, codeManifestBlobUnknown, "PUT", "/v2/a/manifests/1", raw, manifestType)
		}},
		{"parameters of the Content-Type SHOULD be ignored", func(t *testing.T, h *host) {
			raw, _ := h.manifest("a", "x", nil)
			h.want(201, "PUT", "/v2/a/manifests/1", raw, manifestType+"; charset=utf-8")
			h.refused(400, codeManifestInvalid, "PUT", "/v2/a/manifests/1", raw, indexType)
			h.refused(400, codeManifestInvalid, "PUT", "/v2/a/manifests/1", "{", manifestType)
		}},
		{"a manifest MUST be kept in its exact bytes", func(t *testing.T, h *host) {
			raw, _ := h.manifest("a", "x", nil)
			raw = strings.Replace(raw, "{", "{\n \t", 1)
			h.want(201, "PUT", "/v2/a/manifests/1", raw, manifestType)
			h.gives("/v2/a/manifests/1", raw)
		}},
		{"PUT MUST answer 201 with the manifest's Location", func(t *testing.T, h *host) {
			raw, _ := h.manifest("a", "x", nil)
			h.gives(h.want(201, "PUT", "/v2/a/manifests/1", raw, manifestType).header.Get("Location"), raw)
		}},
		{"Docker-Content-Digest MUST be the digest that the client gave", func(t *testing.T, h *host) {
			raw, _ := h.manifest("a", "x", nil)
			for _, kind := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
				d := kind.FromString(raw).String()
				if a := h.want(201, "PUT", "/v2/a/manifests/"+d, raw, manifestType); a.header.Get("Docker-Content-Digest") != d {
					t.Errorf("%v", a.header)
				}
			}
			h.refused(400, codeDigestInvalid, "PUT", "/v2/a/manifests/"+noSuch, raw, manifestType)
		}},
		{"a pull from a repository that does not exist MUST be answered 404", func(t *testing.T, h *host) {
			h.both(404, "/v2/none/manifests/1")
			h.both(404, "/v2/none/tags/list")
		}},
		{"a registry SHOULD bound manifests and answer 413 to a larger one, but take 4 MiB", func(t *testing.T, h *host) {
			raw, _ := h.manifest("a", "x", nil)
			h.want(201, "PUT", "/v2/a/manifests/1", raw+strings.Repeat(" ", maxManifest-len(raw)), manifestType)
			h.refused(413, codeSizeInvalid, "PUT", "/v2/a/manifests/1", raw+strings.Repeat(" ", maxManifest-len(raw)+1), manifestType)
		}},
		{"an index is taken without its parts", func(t *testing.T, h *host) {
			raw := indexOf(t, func(i *ocispec.Index) {
				i.Manifests = []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(noSuch), Size: 1}}
			})
			h.want(201, "PUT", "/v2/a/manifests/1", raw, indexType)
		}},
		{"a manifest with a subject MUST be answered with OCI-Subject", func(t *testing.T, h *host) {
			raw, _ := h.manifest("a", "x", subjectOf(digest.Digest(noSuch)))
			if got := h.want(201, "PUT", "/v2/a/manifests/1", raw, manifestType).header.Get("OCI-Subject"); got != noSuch {
				t.Errorf("OCI-Subject %q", got)
			}
			raw = indexOf(t, func(i *ocispec.Index) {
				i.Subject = &ocispec.Descriptor{MediaType: "x", Digest: digest.Digest(noSuch), Size: 1}
			})
			if got := h.want(201, "PUT", "/v2/a/manifests/2", raw, indexType).header.Get("OCI-Subject"); got != noSuch {
				t.Errorf("of an index: OCI-Subject %q", got)
			}
		}},
	})
}

type tagList struct {
	Name string
	Tags []string
}

// letters pushes one manifest under five tags and returns them in order.
func (h *host) letters() []string {
	h.t.Helper()
	raw, _ := h.manifest("a", "x", nil)
	for _, tag := range []string{"b", "a", "C", "d10", "d9"} {
		h.want(201, "PUT", "/v2/a/manifests/"+tag, raw, manifestType)
	}
	return []string{"a", "b", "C", "d10", "d9"}
}

func TestListingTags(t *testing.T) {
	run(t, []sentence{
		{"the tags of a repository MUST be answered 200, with name and tags", func(t *testing.T, h *host) {
			h.push("a", "1", "x", nil)
			if diff := cmp.Diff(tagList{"a", []string{"1"}}, decode[tagList](t, h.want(200, "GET", "/v2/a/tags/list", ""))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			h.want(202, "DELETE", "/v2/a/manifests/1", "")
			if got := h.want(200, "GET", "/v2/a/tags/list", "").body; !strings.Contains(got, `"tags":[]`) {
				t.Errorf("without tags: %s", got)
			}
		}},
		{"tags MUST be in alphanumeric order, without regard to case", func(t *testing.T, h *host) {
			want := h.letters()
			if diff := cmp.Diff(want, decode[tagList](t, h.want(200, "GET", "/v2/a/tags/list", "")).Tags); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}},
		{"n tags MUST be in the answer unless there are fewer", func(t *testing.T, h *host) {
			all := h.letters()
			for n := range len(all) + 2 {
				got := decode[tagList](t, h.want(200, "GET", fmt.Sprintf("/v2/a/tags/list?n=%d", n), "")).Tags
				if diff := cmp.Diff(all[:min(n, len(all))], got); diff != "" {
					t.Errorf("n=%d (-want +got):\n%s", n, diff)
				}
			}
		}},
		{"Link MUST have the form of RFC 5988 with rel=next, and pages MUST be in order", func(t *testing.T, h *host) {
			want := h.letters()
			var got []string
			for at := "/v2/a/tags/list?n=2"; at != ""; {
				a := h.want(200, "GET", at, "")
				got = append(got, decode[tagList](t, a).Tags...)
				link := a.header.Get("Link")
				if link != "" && !regexp.MustCompile(`^<[^>]+>; rel="next"$`).MatchString(link) {
					t.Fatalf("Link %q", link)
				}
				at, _, _ = strings.Cut(strings.TrimPrefix(link, "<"), ">")
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}},
		{"n=0 MUST give an empty list, and MUST NOT have a Link", func(t *testing.T, h *host) {
			h.letters()
			if a := h.want(200, "GET", "/v2/a/tags/list?n=0", ""); !strings.Contains(a.body, `"tags":[]`) || a.header.Get("Link") != "" {
				t.Errorf("%v %s", a.header, a.body)
			}
		}},
		{"last MUST be a tag, not a number: what follows it is listed", func(t *testing.T, h *host) {
			all := h.letters()
			for last, want := range map[string][]string{"b": all[2:], "bb": all[2:], "c": all[3:], "1": all, "d9": {}} {
				if diff := cmp.Diff(want, decode[tagList](t, h.want(200, "GET", "/v2/a/tags/list?last="+last, "")).Tags); diff != "" {
					t.Errorf("after %s (-want +got):\n%s", last, diff)
				}
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
