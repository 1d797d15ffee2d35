package registry

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestSpecification has what the distribution specification 1.1.1 says that
// clients MUST or SHOULD do, in short, a sentence each. Those about clients that
// push manifests with a subject are left out: ours does not.
func TestSpecification(t *testing.T) {
	for name, test := range map[string]func(t *testing.T){
		"an Accept header SHOULD say which manifests are understood": func(t *testing.T) {
			f := newFar(t)
			box(t, f, "web")
			f.before = func(_ http.ResponseWriter, r *http.Request) bool {
				if accept := r.Header.Get("Accept"); strings.Contains(r.URL.Path, "/manifests/") && (!strings.Contains(accept, ocispec.MediaTypeImageIndex) || !strings.Contains(accept, dockerManifest)) {
					t.Errorf("Accept %q", accept)
				}
				return false
			}
			mustPull(t, newClient(t, Config{}), f.host()+"/web:1")
		},
		"parameters of the Content-Type SHOULD be ignored": func(t *testing.T) {
			f := newFar(t)
			m := box(t, f, "web")
			m.MediaType += "; charset=utf-8"
			f.manifests["web 1"] = m
			mustPull(t, newClient(t, Config{}), f.host()+"/web:1")
		},
		"a mediaType that is not the Content-Type SHOULD be refused": func(t *testing.T) {
			f := newFar(t)
			m := box(t, f, "web")
			m.MediaType = dockerManifest
			f.manifests["web 1"] = m
			if _, _, err := pull(t, newClient(t, Config{}), f.host()+"/web:1"); err == nil || !strings.Contains(err.Error(), "manifest says that it is") {
				t.Errorf("got %v", err)
			}
		},
		"Docker-Content-Digest, where it is used, MUST be that of the manifest": func(t *testing.T) {
			f := newFar(t)
			m := box(t, f, "web")
			m.Digest = digest.FromString("other")
			f.manifests["web 1"] = m
			if _, _, err := pull(t, newClient(t, Config{}), f.host()+"/web:1"); err == nil || !strings.Contains(err.Error(), "manifest verification failed") {
				t.Errorf("got %v", err)
			}
		},
		"a manifest that was asked for by digest SHOULD have it": func(t *testing.T) {
			f := newFar(t)
			other := digest.FromString("other")
			f.manifests["web "+other.String()] = box(t, f, "web")
			if _, _, err := pull(t, newClient(t, Config{}), f.host()+"/web@"+other.String()); err == nil || !strings.Contains(err.Error(), "manifest verification failed for digest "+other.String()) {
				t.Errorf("got %v", err)
			}
		},
		"a blob SHOULD have the digest that was asked for": func(t *testing.T) {
			f := newFar(t)
			box(t, f, "web")
			for d := range f.blobs {
				f.blobs[d] = append([]byte("x"), f.blobs[d][1:]...)
			}
			if _, _, err := pull(t, newClient(t, Config{}), f.host()+"/web:1"); err == nil || !strings.Contains(err.Error(), "has digest") {
				t.Errorf("got %v", err)
			}
		},
		"the Location of an upload SHOULD be used as it came, its parameters too": func(t *testing.T) {
			c, to, ref := toPush(t)
			to.before = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPost {
					to.handler.ServeHTTP(relocate{w}, r)
					return true
				}
				if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/uploads/") && r.URL.Query().Get("state") != "kept" {
					t.Errorf("PUT to %s", r.URL)
				}
				return false
			}
			mustPush(t, c, ref)
		},
		"Content-Length and digest of a blob MUST be its own": func(t *testing.T) {
			c, to, ref := toPush(t)
			to.before = func(_ http.ResponseWriter, r *http.Request) bool {
				if d := r.URL.Query().Get("digest"); r.Method == http.MethodPut && d != "" {
					b, err := c.cfg.Images.Blob(r.Context(), digest.Digest(d))
					if err == nil && b.Size != r.ContentLength {
						t.Errorf("%d bytes of %s, which has %d", r.ContentLength, d, b.Size)
					}
				}
				return false
			}
			mustPush(t, c, ref)
		},
		"the Content-Type of a manifest SHOULD be set, MUST be its mediaType, and SHOULD have no parameters": func(t *testing.T) {
			c, to, ref := toPush(t)
			to.before = func(_ http.ResponseWriter, r *http.Request) bool {
				if kind := r.Header.Get("Content-Type"); r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") && kind != ocispec.MediaTypeImageManifest {
					t.Errorf("Content-Type %q", kind)
				}
				return false
			}
			mustPush(t, c, ref)
		},
		"referrers that are answered 404 MUST be looked for under the referrers tag": func(t *testing.T) {
			f := newFar(t)
			m := box(t, f, "web")
			want := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("sig"), Size: 1, ArtifactType: signatureArtifact}
			f.put("web", tagOf(m.Digest), ocispec.MediaTypeImageIndex, map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": []ocispec.Descriptor{want}})
			got, err := repo(t, f, "web").referrers(t.Context(), m.Digest)
			if diff := cmp.Diff([]ocispec.Descriptor{want}, got); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		},
		"where the tag is no index either, there SHOULD be no referrers": func(t *testing.T) {
			f := newFar(t)
			m := box(t, f, "web")
			none, err := repo(t, f, "web").referrers(t.Context(), m.Digest)
			if err != nil || len(none) > 0 {
				t.Errorf("without the tag: %v, %v", none, err)
			}
			f.manifests["web "+tagOf(m.Digest)] = m
			if none, err = repo(t, f, "web").referrers(t.Context(), m.Digest); err != nil || len(none) > 0 {
				t.Errorf("with the tag of an image: %v, %v", none, err)
			}
		},
		"pages of referrers are followed": func(t *testing.T) {
			f := newFar(t)
			f.before = func(w http.ResponseWriter, r *http.Request) bool {
				d := digest.FromString(r.URL.Query().Get("last"))
				if r.URL.Query().Get("last") == "" {
					w.Header().Set("Link", `<`+r.URL.Path+`?last=1>; rel="next"`)
				}
				_ = json.NewEncoder(w).Encode(ocispec.Index{Manifests: []ocispec.Descriptor{{Digest: d, Size: 1}}})
				return true
			}
			if got, err := repo(t, f, "web").referrers(t.Context(), digest.FromString("x")); err != nil || len(got) != 2 {
				t.Errorf("%v, %v", got, err)
			}
		},
		"a registry that is older MUST be supported: one without HEAD of blobs' digests, ranges and mounts": func(t *testing.T) {
			c, to, ref := toPush(t)
			to.before = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPost && r.URL.Query().Has("mount") {
					r.URL.RawQuery = ""
				}
				w.Header().Del("Docker-Content-Digest")
				return false
			}
			mustPush(t, c, ref)
			other := strings.Replace(ref, "/web:", "/other:", 1)
			img, err := c.cfg.Images.Resolve(t.Context(), ref)
			if err == nil {
				err = c.cfg.Images.Tag(t.Context(), img.ID, other)
			}
			if err != nil {
				t.Fatal(err)
			}
			mustPush(t, c, other)
		},
		"warnings SHOULD be told, each once, and nothing else MUST come of them": func(t *testing.T) {
			f := newFar(t)
			box(t, f, "web")
			f.before = func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header()["Warning"] = []string{`299 - "this image is \"old\""`, `299 - "bad` + "\u202e" + `text"`, `199 - "other"`}
				return false
			}
			var mu sync.Mutex
			var told []string
			_, err := newClient(t, Config{}).Pull(t.Context(), PullRequest{Ref: parseRef(t, f.host()+"/web:1")}, func(e Event) {
				mu.Lock()
				defer mu.Unlock()
				if strings.HasPrefix(e.Status, "WARNING") {
					told = append(told, e.Status)
				}
			})
			want := []string{"WARNING: registry " + f.host() + ` says: this image is "old"`, "WARNING: registry " + f.host() + " says: bad text"}
			if diff := cmp.Diff(want, told); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		},
	} {
		t.Run(name, test)
	}
}

// relocate adds a parameter to Locations.
type relocate struct{ http.ResponseWriter }

func (w relocate) WriteHeader(status int) {
	if at := w.Header().Get("Location"); at != "" {
		w.Header().Set("Location", at+"?state=kept")
	}
	w.ResponseWriter.WriteHeader(status)
}

// toPush returns a client with an image that is named for a registry.
func toPush(t *testing.T) (*Client, *ours, string) {
	t.Helper()
	f, to, c := newFar(t), newOurs(t, ""), newClient(t, Config{})
	box(t, f, "web")
	img, _ := mustPull(t, c, f.host()+"/web:1")
	return c, to, to.tag(t, c, img, "web:1")
}

func mustPush(t *testing.T, c *Client, ref string) {
	t.Helper()
	if err := c.Push(t.Context(), PushRequest{Ref: parseRef(t, ref)}, nil); err != nil {
		t.Fatal(err)
	}
}

// repo is a repository of the test's registry.
func repo(t *testing.T, f *far, name string) *repository {
	t.Helper()
	r, err := newClient(t, Config{}).repository(t.Context(), parseRef(t, f.host()+"/"+name), Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func FuzzParseWarnings(f *testing.F) {
	f.Add(`299 - "a", 299 - "b\"c"`)
	f.Add(`299 - "`)
	f.Fuzz(func(t *testing.T, s string) {
		for _, text := range parseWarnings([]string{s}) {
			if text == "" || strings.ContainsAny(text, "\x1b\r\n\x00") {
				t.Errorf("%q gave %q", s, text)
			}
		}
	})
}
