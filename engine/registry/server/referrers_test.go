package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// referring is a change of a manifest that gives it a subject.
func referring(subject digest.Digest, kind string) func(*ocispec.Manifest) {
	return func(m *ocispec.Manifest) {
		m.Subject = &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: subject, Size: 1}
		m.ArtifactType, m.Annotations = kind, map[string]string{"k": "v"}
	}
}

// referrers asks for what refers to a digest, by digest.
func (h *host) referrers(query string) (map[digest.Digest]ocispec.Descriptor, answer) {
	h.t.Helper()
	a := h.want(200, "GET", "/v2/a/referrers/"+query, "")
	list := map[digest.Digest]ocispec.Descriptor{}
	for _, d := range decode[ocispec.Index](h.t, a).Manifests {
		list[d.Digest] = d
	}
	return list, a
}

func TestListingReferrers(t *testing.T) {
	run(t, []sentence{
		{"referrers MUST be answered 200, and MUST NOT be answered 404", func(t *testing.T, h *host) {
			d := h.push("a", "1", "x", nil)
			h.want(200, "GET", "/v2/a/referrers/"+d.String(), "")
			h.want(200, "GET", "/v2/a/referrers/"+noSuch, "")
			h.want(200, "GET", "/v2/none/referrers/"+noSuch, "")
		}},
		{"a digest that is none MUST be answered 400", func(t *testing.T, h *host) {
			h.want(400, "GET", "/v2/a/referrers/1", "")
			h.want(400, "GET", "/v2/a/referrers/sha256:short", "")
		}},
		{"the answer MUST be an image index, with its Content-Type", func(t *testing.T, h *host) {
			_, a := h.referrers(noSuch)
			if index := decode[ocispec.Index](t, a); a.header.Get("Content-Type") != ocispec.MediaTypeImageIndex || index.SchemaVersion != 2 || index.MediaType != ocispec.MediaTypeImageIndex {
				t.Errorf("%v %s", a.header, a.body)
			}
		}},
		{"without referrers the list MUST be there and empty", func(t *testing.T, h *host) {
			if _, a := h.referrers(noSuch); !strings.Contains(a.body, `"manifests":[]`) {
				t.Errorf("%s", a.body)
			}
		}},
		{"a descriptor MUST have the manifest's artifactType and annotations", func(t *testing.T, h *host) {
			d := h.push("a", "1", "x", referring(digest.Digest(noSuch), "test/signature"))
			list, _ := h.referrers(noSuch)
			if got := list[d]; got.ArtifactType != "test/signature" || got.Annotations["k"] != "v" || got.Size == 0 || got.MediaType != ocispec.MediaTypeImageManifest {
				t.Errorf("%+v", list)
			}
		}},
		{"without an artifactType it MUST be the config's media type", func(t *testing.T, h *host) {
			d := h.push("a", "1", "x", referring(digest.Digest(noSuch), ""))
			if list, _ := h.referrers(noSuch); list[d].ArtifactType != "application/vnd.test.config" {
				t.Errorf("%+v", list)
			}
		}},
		{"of an index without artifactType it MUST be left out", func(t *testing.T, h *host) {
			raw := indexOf(t, func(i *ocispec.Index) {
				i.Subject = &ocispec.Descriptor{MediaType: "x", Digest: digest.Digest(noSuch), Size: 1}
			})
			h.want(201, "PUT", "/v2/a/manifests/1", raw, indexType)
			if list, a := h.referrers(noSuch); len(list) != 1 || strings.Contains(a.body, "artifactType") {
				t.Errorf("%s", a.body)
			}
		}},
		{"a list that is too long for one answer MUST have a Link as RFC 5988 says", func(t *testing.T, h *host) {
			var all []ocispec.Descriptor
			for i := range 5 {
				all = append(all, ocispec.Descriptor{Digest: digest.FromString(fmt.Sprint(i)), Size: 1})
			}
			slices.SortFunc(all, func(a, b ocispec.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
			one, err := json.Marshal(all[0])
			if err != nil {
				t.Fatal(err)
			}
			var got []ocispec.Descriptor
			pages := 0
			for last := digest.Digest(""); ; pages++ {
				page, next := pageReferrers(slices.Clone(all), last, 2*len(one)+2)
				got = append(got, page...)
				if last = next; next == "" {
					break
				}
			}
			if diff := cmp.Diff(all, got); diff != "" || pages != 2 {
				t.Errorf("%d pages (-want +got):\n%s", pages, diff)
			}
			large := strings.Repeat("x", 1<<20)
			for i := range 5 {
				raw := indexOf(t, func(x *ocispec.Index) {
					x.Subject, x.Annotations = &ocispec.Descriptor{MediaType: "x", Digest: digest.Digest(noSuch), Size: 1}, map[string]string{"n": fmt.Sprint(i), "large": large}
				})
				h.want(201, "PUT", fmt.Sprintf("/v2/a/manifests/%d", i), raw, indexType)
			}
			first, a := h.referrers(noSuch)
			at, ok := strings.CutSuffix(strings.TrimPrefix(a.header.Get("Link"), "<"), `>; rel="next"`)
			if !ok || len(first) != 3 {
				t.Fatalf("%d referrers, Link %q", len(first), a.header.Get("Link"))
			}
			if a := h.want(200, "GET", at, ""); len(decode[ocispec.Index](t, a).Manifests) != 2 || a.header.Get("Link") != "" {
				t.Errorf("the second page: %v", a.header)
			}
		}},
		{"a filter by artifactType SHOULD be supported, and MUST be said in OCI-Filters-Applied", func(t *testing.T, h *host) {
			d := h.push("a", "1", "x", referring(digest.Digest(noSuch), "test/signature"))
			h.push("a", "2", "y", referring(digest.Digest(noSuch), "test/sbom"))
			list, a := h.referrers(noSuch + "?artifactType=test/signature")
			if len(list) != 1 || list[d].Digest != d || a.header.Get("OCI-Filters-Applied") != "artifactType" {
				t.Errorf("%v %+v", a.header, list)
			}
			if _, a := h.referrers(noSuch); a.header.Get("OCI-Filters-Applied") != "" {
				t.Errorf("without a filter: %v", a.header)
			}
		}},
		{"manifests that a client also lists under the referrers tag MUST be in the answer, as all that are pushed", func(t *testing.T, h *host) {
			d := h.push("a", "1", "x", referring(digest.Digest(noSuch), "test/signature"))
			raw := indexOf(t, func(i *ocispec.Index) {
				i.Manifests = []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: 1, ArtifactType: "test/signature"}}
			})
			h.want(201, "PUT", "/v2/a/manifests/"+strings.Replace(noSuch, ":", "-", 1), raw, indexType)
			if list, _ := h.referrers(noSuch); len(list) != 1 || list[d].Digest != d {
				t.Errorf("%+v", list)
			}
			h.want(202, "DELETE", "/v2/a/manifests/"+d.String(), "")
			if list, _ := h.referrers(noSuch); len(list) != 0 {
				t.Errorf("after the removal: %+v", list)
			}
		}},
	})
}

func TestContentManagement(t *testing.T) {
	run(t, []sentence{
		{"DELETE of a tag MUST answer 202, and leaves the manifest", func(t *testing.T, h *host) {
			d := h.push("a", "1", "x", nil)
			h.want(202, "DELETE", "/v2/a/manifests/1", "")
			h.want(404, "GET", "/v2/a/manifests/1", "")
			h.want(200, "GET", "/v2/a/manifests/"+d.String(), "")
			h.refused(404, codeManifestUnknown, "DELETE", "/v2/a/manifests/1", "")
		}},
		{"DELETE of a manifest MUST answer 202; its tags and blobs go", func(t *testing.T, h *host) {
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
		{"DELETE in a repository that does not exist MUST answer 404", func(t *testing.T, h *host) {
			h.refused(404, codeManifestUnknown, "DELETE", "/v2/none/manifests/"+noSuch, "")
			h.refused(404, codeManifestUnknown, "DELETE", "/v2/none/manifests/1", "")
			h.refused(404, codeBlobUnknown, "DELETE", "/v2/none/blobs/"+noSuch, "")
		}},
		{"DELETE of a blob MUST answer 202", func(t *testing.T, h *host) {
			d := h.blob("a", "x")
			h.want(202, "DELETE", "/v2/a/blobs/"+d.String(), "")
			h.both(404, "/v2/a/blobs/"+d.String())
		}},
		{"DELETE of a blob that is not there MUST answer 404", func(t *testing.T, h *host) {
			h.push("a", "1", "x", nil)
			h.refused(404, codeBlobUnknown, "DELETE", "/v2/a/blobs/"+noSuch, "")
		}},
		{"DELETE of what may not be deleted MUST answer 400 or 405", func(t *testing.T, h *host) {
			h.push("a", "1", "x", nil)
			h.refused(405, codeUnsupported, "DELETE", "/v2/a/blobs/"+digest.FromString("x").String(), "")
			h.built("box:1", "content")
			h.refused(405, codeUnsupported, "DELETE", "/v2/box/manifests/1", "")
		}},
	})
}

func TestBearerTokens(t *testing.T) {
	users, err := parseUsers([]byte(testUsers + "anonymous:\n  pull: ['open/*']\n"))
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t, users)
	h.user = "root:secret"
	for _, repo := range []string{"secret", "open/web", "team/web"} {
		h.push(repo, "1", repo, nil)
	}
	h.user = ""
	ping := h.want(401, "GET", "/v2/", "")
	realm := fmt.Sprintf(`Bearer realm="%s/token",service=%q`, h.http.URL, strings.TrimPrefix(h.http.URL, "http://"))
	if got := ping.header.Values("WWW-Authenticate"); len(got) != 2 || got[0] != realm || !strings.HasPrefix(got[1], "Basic ") {
		t.Errorf("challenges %q, want %q and a basic one", got, realm)
	}
	if got := h.want(401, "PUT", "/v2/team/web/manifests/1", "").header.Get("WWW-Authenticate"); got != realm+`,scope="repository:team/web:pull,push"` {
		t.Errorf("challenge of a push: %s", got)
	}
	h.want(200, "GET", "/v2/open/web/manifests/1", "")

	token := func(user, query string) string {
		h.user = user
		defer func() { h.user = "" }()
		doc := decode[struct {
			Token       string
			AccessToken string `json:"access_token"`
			ExpiresIn   int    `json:"expires_in"`
		}](t, h.want(200, "GET", "/token?service=x"+query, ""))
		if doc.Token == "" || doc.Token != doc.AccessToken || doc.ExpiresIn < 60 {
			t.Fatalf("%+v", doc)
		}
		return "Authorization: Bearer " + doc.Token
	}
	ann := token("ann:secret", "&scope=repository:team/web:pull,push&scope=repository:secret:pull&scope=registry:catalog:*")
	h.want(200, "GET", "/v2/", "", ann)
	h.want(200, "GET", "/v2/team/web/manifests/1", "", ann)
	h.want(202, "POST", "/v2/team/web/blobs/uploads/", "", ann)
	a := h.want(401, "GET", "/v2/secret/manifests/1", "", ann)
	if a.code() != codeDenied || !strings.HasSuffix(a.header.Values("WWW-Authenticate")[0], `,error="insufficient_scope"`) {
		t.Errorf("beyond the user's rights: %v %s", a.header, a.body)
	}
	h.want(401, "GET", "/v2/team/other/manifests/1", "", ann) // no scope was asked for
	reader := token("ann:secret", "&scope=repository:team/web:pull")
	h.want(200, "GET", "/v2/team/web/manifests/1", "", reader)
	h.refused(401, codeDenied, "DELETE", "/v2/team/web/manifests/1", "", reader)
	nobody := token("", "&scope=repository:open/web:pull+repository:secret:pull")
	h.want(200, "GET", "/v2/open/web/manifests/1", "", nobody)
	h.refused(401, codeDenied, "GET", "/v2/secret/manifests/1", "", nobody)
	if got := h.want(200, "GET", "/v2/_catalog", "", ann).body; !strings.Contains(got, `["open/web","team/web"]`) {
		t.Errorf("catalog: %s", got)
	}

	form := "Content-Type: application/x-www-form-urlencoded"
	if got := h.want(200, "POST", "/token", "grant_type=password&username=ann&password=secret&scope=repository:team/web:pull", form).body; !strings.Contains(got, "access_token") {
		t.Errorf("by POST: %s", got)
	}
	h.want(401, "POST", "/token", "grant_type=password&username=ann&password=wrong", form)
	h.want(400, "POST", "/token", "grant_type=refresh_token&refresh_token=x", form)
	h.want(404, "PUT", "/token", "")
	h.user = "ann:wrong"
	h.want(401, "GET", "/token", "")
	h.user = ""
	for _, bad := range []string{"x", "x.y", strings.Replace(strings.TrimPrefix(ann, "Authorization: Bearer "), ".", ".A", 1)} {
		if got := h.want(401, "GET", "/v2/open/web/manifests/1", "", "Authorization: Bearer "+bad).header.Get("WWW-Authenticate"); !strings.Contains(got, "invalid_token") {
			t.Errorf("token %q: %s", bad, got)
		}
	}
	old := signToken(h.server.tokenKey, claims{User: "ann", Expires: 1})
	h.want(401, "GET", "/v2/", "", "Authorization: Bearer "+old)
}

func TestWithoutUsersThereAreNoTokens(t *testing.T) {
	newHost(t, nil).want(http.StatusNotFound, "GET", "/token", "")
}

func FuzzParseScope(f *testing.F) {
	f.Add("repository:team/web:pull,push")
	f.Add("repository:h:5000/x:*")
	f.Add("registry:catalog:*")
	f.Fuzz(func(t *testing.T, s string) {
		if repo, _, ok := parseScope(s); ok && !validName(repo) {
			t.Errorf("%q gave %q", s, repo)
		}
	})
}
