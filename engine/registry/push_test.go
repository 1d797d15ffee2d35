package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/engine/image"
	"gantry/engine/registry/server"
	"gantry/internal/problem"
)

// ours is our own registry, for what is pushed. before, when it answers by
// itself, returns true.
type ours struct {
	*httptest.Server
	handler *server.Server

	mu     sync.Mutex
	asked  []string
	before func(w http.ResponseWriter, r *http.Request) bool
}

func newOurs(t testing.TB, users string) *ours {
	t.Helper()
	store, err := image.Open(image.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	cfg := server.Config{Dir: t.TempDir(), Images: store}
	if users != "" {
		file := filepath.Join(t.TempDir(), "users.yaml")
		if err := os.WriteFile(file, []byte(users), 0o600); err != nil {
			t.Fatal(err)
		}
		if cfg.Users, err = server.ReadUsers(file); err != nil {
			t.Fatal(err)
		}
	}
	o := &ours{}
	if o.handler, err = server.Open(cfg); err != nil {
		t.Fatal(err)
	}
	o.Server = httptest.NewServer(o)
	t.Cleanup(func() {
		o.Close()
		bad := o.handler.Check(context.Background())
		if err := errors.Join(append(bad, o.handler.Close(), store.Close())...); err != nil {
			t.Errorf("the registry after the test: %v", err)
		}
	})
	return o
}

func (o *ours) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	o.asked = append(o.asked, r.Method+" "+r.URL.Path)
	before := o.before
	o.mu.Unlock()
	if before == nil || !before(w, r) {
		o.handler.ServeHTTP(w, r)
	}
}

func (o *ours) host() string { return strings.TrimPrefix(o.URL, "http://") }

// count says how many requests of a method had a text in their path.
func (o *ours) count(method, text string) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, a := range o.asked {
		if strings.HasPrefix(a, method+" ") && strings.Contains(a, text) {
			n++
		}
	}
	return n
}

// tag gives an image a name on the registry.
func (o *ours) tag(t testing.TB, c *Client, img image.Image, name string) string {
	t.Helper()
	ref := o.host() + "/" + name
	if err := c.cfg.Images.Tag(t.Context(), img.ID, ref); err != nil {
		t.Fatal(err)
	}
	return ref
}

// twoPlatforms puts an index of two images under web:1.
func twoPlatforms(t testing.TB, f *far) (index image.Manifest, parts map[string]image.Manifest) {
	t.Helper()
	i := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	parts = map[string]image.Manifest{}
	for _, cpu := range []string{"amd64", "arm64"} {
		p := ocispec.Platform{OS: "linux", Architecture: cpu}
		m := f.image("web", "", ocispec.MediaTypeImageManifest, p, gzipped(t, archive(t, map[string]string{"cpu": cpu})))
		parts[cpu] = m
		i.Manifests = append(i.Manifests, ocispec.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Raw)), Platform: &p})
	}
	return f.put("web", "1", ocispec.MediaTypeImageIndex, i), parts
}

// digestOf asks a registry what a tag means.
func digestOf(t testing.TB, c *Client, ref string) digest.Digest {
	t.Helper()
	remote, err := c.Inspect(t.Context(), parseRef(t, ref), Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	return remote.Descriptor.Digest
}

func TestPushOfAnIndexOfSeveralPlatforms(t *testing.T) {
	f, to := newFar(t), newOurs(t, "")
	index, parts := twoPlatforms(t, f)
	c := newClient(t, Config{})
	push := func(name string, p *ocispec.Platform) error {
		return c.Push(t.Context(), PushRequest{Ref: parseRef(t, name), Platform: p}, nil)
	}
	host := ocispec.Platform{OS: "linux", Architecture: "amd64"}
	other := ocispec.Platform{OS: "linux", Architecture: "arm64"}
	pullFor := func(p ocispec.Platform) image.Image {
		img, err := c.Pull(t.Context(), PullRequest{Ref: parseRef(t, f.host()+"/web:1"), Platform: &p}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	img := pullFor(host)
	name := to.tag(t, c, img, "one:1")
	if err := push(name, nil); err != nil {
		t.Fatal(err)
	}
	if got := digestOf(t, c, name); got != parts["amd64"].Digest {
		t.Errorf("with one part here: %s, want that part", got)
	}
	if err := push(name, &other); !errors.Is(err, problem.NotFound) || !strings.Contains(err.Error(), "does not match the specified platform (linux/arm64)") {
		t.Errorf("a platform that is not here: %v", err)
	}

	// The other part takes the tag, as with Docker; its image stays by its digest.
	if err := c.cfg.Images.Tag(t.Context(), img.ID, "kept:1"); err != nil {
		t.Fatal(err)
	}
	pullFor(other)
	name = to.tag(t, c, img, "all:1")
	if err := push(name, nil); err != nil {
		t.Fatal(err)
	}
	if got := digestOf(t, c, name); got != index.Digest {
		t.Errorf("with all parts here: %s, want the index %s", got, index.Digest)
	}
	fresh := newClient(t, Config{})
	for cpu := range parts {
		got, err := fresh.Pull(t.Context(), PullRequest{Ref: parseRef(t, name), Platform: &ocispec.Platform{OS: "linux", Architecture: cpu}}, nil)
		if err != nil || got.Platform().Architecture != cpu {
			t.Errorf("what was pushed, for %s: %v, %v", cpu, got.Platform(), err)
		}
	}
	name = to.tag(t, c, img, "arm:1")
	if err := push(name, &other); err != nil {
		t.Fatal(err)
	}
	if got := digestOf(t, c, name); got != parts["arm64"].Digest {
		t.Errorf("with a platform: %s, want its part", got)
	}
}

func TestAPushNamesTheImageOnce(t *testing.T) {
	c, to, ref := toPush(t)
	for i := range 3 {
		mustPush(t, c, ref)
		img, err := c.cfg.Images.Resolve(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		want := to.host() + "/web@" + digestOf(t, c, ref).String()
		if n := len(img.RepoDigests); n != 2 || !slices.Contains(img.RepoDigests, want) {
			t.Errorf("push %d: names %v lack %s", i, img.RepoDigests, want)
		}
	}
	if n := to.count("PUT", "/uploads/"); n != 2 {
		t.Errorf("%d blobs were sent, want the layer and the configuration, once", n)
	}
}

// breaking lets a body through up to some bytes, and then breaks the connection.
type breaking struct {
	io.ReadCloser
	left int
}

func (b *breaking) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

func TestAnUploadThatBreaksGoesOn(t *testing.T) {
	for name, tells := range map[string]bool{"where the registry has got to": true, "from the beginning where the registry does not say": false} {
		t.Run(name, func(t *testing.T) {
			f, to := newFar(t), newOurs(t, "")
			f.image("web", "1", ocispec.MediaTypeImageManifest, amd64, gzipped(t, archive(t, map[string]string{"a": noise(300_000, 1)})))
			c := newClient(t, Config{})
			img, _ := mustPull(t, c, f.host()+"/web:1")
			var mu sync.Mutex
			broke, went := 0, []string{}
			to.before = func(w http.ResponseWriter, r *http.Request) bool {
				upload := strings.Contains(r.URL.Path, "/blobs/uploads/")
				mu.Lock()
				defer mu.Unlock()
				switch {
				case r.Method == http.MethodPut && upload && r.ContentLength > 100_000 && broke == 0:
					broke++
					r.Body = &breaking{r.Body, 50_000}
					to.handler.ServeHTTP(httptest.NewRecorder(), r)
					panic(http.ErrAbortHandler)
				case r.Method == http.MethodGet && upload && !tells:
					w.WriteHeader(http.StatusNotFound)
					return true
				case r.Method == http.MethodPut && upload && r.ContentLength > 50_000:
					went = append(went, r.Header.Get("Content-Range"))
				}
				return false
			}
			ref := to.tag(t, c, img, "web:1")
			if err := c.Push(t.Context(), PushRequest{Ref: parseRef(t, ref)}, nil); err != nil {
				t.Fatal(err)
			}
			if broke != 1 || len(went) != 1 || tells != strings.HasPrefix(went[0], "50000-") {
				t.Errorf("broke %d times, went on with ranges %q", broke, went)
			}
			if got := digestOf(t, c, ref); got != digestOf(t, c, f.host()+"/web:1") {
				t.Errorf("%s was pushed", got)
			}
		})
	}
}

func TestABusyRegistryIsPushedToAgain(t *testing.T) {
	f, to := newFar(t), newOurs(t, "")
	c := newClient(t, Config{})
	box(t, f, "web")
	img, _ := mustPull(t, c, f.host()+"/web:1")
	refused := map[string]bool{}
	var mu sync.Mutex
	to.before = func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/uploads/") || refused[r.Method] {
			return false // a body that is refused goes on elsewhere
		}
		refused[r.Method] = true
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	}
	ref := to.tag(t, c, img, "web:1")
	if err := c.Push(t.Context(), PushRequest{Ref: parseRef(t, ref)}, nil); err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"HEAD", "POST", "PUT"} {
		if !refused[method] {
			t.Errorf("%s was not refused, so nothing was tried", method)
		}
	}
}

func TestPushAndPullWithTokensOfOurRegistry(t *testing.T) {
	f := newFar(t)
	// The password is "secret".
	to := newOurs(t, "users: [{name: ann, password: $2b$04$F4PcK7zfVNI6WLW68lX.zuD3KSOoGI1cAeq1RBZVbmpfWu4X8G1Sq, push: ['team/*']}]\nanonymous: {pull: ['team/open']}\n")
	c := newClient(t, Config{})
	box(t, f, "web")
	img, _ := mustPull(t, c, f.host()+"/web:1")
	ann := Credentials{Username: "ann", Password: "secret"}
	for name, want := range map[string]string{"team/open:1": "", "team/web:1": "", "other:1": "denied: requested access to the resource is denied"} {
		err := c.Push(t.Context(), PushRequest{Ref: parseRef(t, to.tag(t, c, img, name)), Credentials: ann}, nil)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("push of %s: %v, want %q", name, err, want)
		}
	}
	if n := to.count("GET", "/token"); n == 0 {
		t.Error("no token was asked for")
	}
	fresh := newClient(t, Config{})
	if _, err := fresh.Pull(t.Context(), PullRequest{Ref: parseRef(t, to.host()+"/team/open:1")}, nil); err != nil {
		t.Errorf("what everybody may: %v", err)
	}
	if _, err := fresh.Pull(t.Context(), PullRequest{Ref: parseRef(t, to.host()+"/team/web:1")}, nil); err == nil || !strings.Contains(err.Error(), "pull access denied") {
		t.Errorf("without credentials: %v", err)
	}
	if _, err := fresh.Pull(t.Context(), PullRequest{Ref: parseRef(t, to.host()+"/team/web:1"), Credentials: ann}, nil); err != nil {
		t.Errorf("with credentials: %v", err)
	}
	if err := fresh.Login(t.Context(), to.host(), ann); err != nil {
		t.Errorf("login: %v", err)
	}
	if err := fresh.Login(t.Context(), to.host(), Credentials{Username: "ann", Password: "wrong"}); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("login with a wrong password: %v", err)
	}
}

func TestASecondImageSendsOnlyTheLayerThatIsNew(t *testing.T) {
	f, to := newFar(t), newOurs(t, "")
	var shared []layer
	for i := range 4 {
		shared = append(shared, gzipped(t, archive(t, map[string]string{"shared": strings.Repeat("x", i+1)})))
	}
	c := newClient(t, Config{})
	for _, name := range []string{"a", "b"} {
		last := gzipped(t, archive(t, map[string]string{"own": name}))
		f.image("web", name, ocispec.MediaTypeImageManifest, amd64, append(slices.Clone(shared), last)...)
	}
	pulled := func(tag string) (layers int) {
		before := f.count("GET /v2/web/blobs/")
		img, _ := mustPull(t, c, f.host()+"/web:"+tag)
		if err := c.Push(t.Context(), PushRequest{Ref: parseRef(t, to.tag(t, c, img, "web:"+tag))}, nil); err != nil {
			t.Fatal(err)
		}
		return f.count("GET /v2/web/blobs/") - before - 1 // the configuration
	}
	if n := pulled("a"); n != 5 {
		t.Errorf("the first image fetched %d layers", n)
	}
	sent := to.count("PUT", "/uploads/")
	if n := pulled("b"); n != 1 {
		t.Errorf("the second image fetched %d layers", n)
	}
	if n := to.count("PUT", "/uploads/") - sent; n != 2 {
		t.Errorf("the second image sent %d blobs, want its layer and its configuration", n)
	}
}
