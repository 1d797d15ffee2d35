package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/engine/image"
	"gantry/internal/problem"
)

// pull pulls and returns the image and the distinct lines of progress.
func pull(t testing.TB, c *Client, ref string) (image.Image, []string, error) {
	t.Helper()
	return pullAs(t.Context(), t, c, PullRequest{Ref: parseRef(t, ref)})
}

func pullAs(ctx context.Context, _ testing.TB, c *Client, req PullRequest) (image.Image, []string, error) {
	var lines []string
	img, err := c.Pull(ctx, req, func(e Event) {
		line := strings.TrimSpace(e.ID + " " + e.Status)
		if len(lines) == 0 || lines[len(lines)-1] != line {
			lines = append(lines, line)
		}
	})
	return img, lines, err
}

func mustPull(t testing.TB, c *Client, ref string) (image.Image, []string) {
	t.Helper()
	img, lines, err := pull(t, c, ref)
	if err != nil {
		t.Fatalf("pull %s: %v", ref, err)
	}
	return img, lines
}

// content reads a file of an image.
func content(t testing.TB, c *Client, img image.Image, name string) string {
	t.Helper()
	root, err := c.cfg.Images.OpenRoot(img.Layers)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	f, err := root.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPullOfEachFormAndCompression(t *testing.T) {
	big := noise(300<<10, 1)
	for name, kind := range map[string]string{"OCI": ocispec.MediaTypeImageManifest, "Docker schema 2": dockerManifest} {
		t.Run(name, func(t *testing.T) {
			f := newFar(t)
			m := f.image("web", "1", kind, amd64,
				gzipped(t, archive(t, map[string]string{"a": "one"})),
				zstded(t, archive(t, map[string]string{"b": big})),
				unpacked(archive(t, map[string]string{"c": "three"})))
			c := newClient(t, Config{})
			img, lines := mustPull(t, c, f.host()+"/web:1")
			for file, want := range map[string]string{"a": "one", "b": big, "c": "three"} {
				if got := content(t, c, img, file); got != want {
					t.Errorf("%s holds %d bytes, want %d", file, len(got), len(want))
				}
			}
			if diff := cmp.Diff([]string{f.host() + "/web:1"}, img.RepoTags); diff != "" {
				t.Errorf("tags (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{f.host() + "/web@" + m.Digest.String()}, img.RepoDigests); diff != "" {
				t.Errorf("digests (-want +got):\n%s", diff)
			}
			all := strings.Join(lines, "\n")
			for _, want := range []string{
				"1 Pulling from web", " Pulling fs layer", " Downloading", " Verifying Checksum", " Download complete", " Extracting", " Pull complete",
				"Digest: " + m.Digest.String(), "Status: Downloaded newer image for " + f.host() + "/web:1",
			} {
				if !strings.Contains(all, want) {
					t.Errorf("progress lacks %q:\n%s", want, all)
				}
			}
			kept, err := c.cfg.Images.Pack(t.Context(), "test", img.ID)
			if err != nil || kept.Digest != m.Digest || string(kept.Raw) != string(m.Raw) {
				t.Errorf("the manifest to push is %s (%v), not the one that was pulled", kept.Digest, err)
			}
			c.cfg.Images.EndLease("test")

			before := f.count("GET /v2/web/blobs/")
			_, lines = mustPull(t, c, f.host()+"/web:1")
			if got := f.count("GET /v2/web/blobs/"); got != before {
				t.Errorf("pulling again fetched %d blobs", got-before)
			}
			want := []string{"1 Pulling from web", "Digest: " + m.Digest.String(), "Status: Image is up to date for " + f.host() + "/web:1"}
			if diff := cmp.Diff(want, lines); diff != "" {
				t.Errorf("progress of the second pull (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTotalsOfProgressAreThePackedSizes(t *testing.T) {
	f := newFar(t)
	l := gzipped(t, archive(t, map[string]string{"a": noise(2<<20, 3)}))
	f.image("web", "1", ocispec.MediaTypeImageManifest, amd64, l)
	c := newClient(t, Config{})
	var last int64
	_, err := c.Pull(t.Context(), PullRequest{Ref: parseRef(t, f.host()+"/web:1")}, func(e Event) {
		if e.Status != "Downloading" {
			return
		}
		if e.Total != int64(len(l.packed)) || e.Current < last || e.Current > e.Total {
			t.Errorf("progress %d of %d after %d, want a total of %d", e.Current, e.Total, last, len(l.packed))
		}
		last = e.Current
	})
	if err != nil || last != int64(len(l.packed)) {
		t.Errorf("err %v, last progress %d of %d", err, last, len(l.packed))
	}
}

func TestPullChoosesThePlatform(t *testing.T) {
	f := newFar(t)
	var parts []ocispec.Descriptor
	for _, p := range []ocispec.Platform{{OS: "linux", Architecture: "arm", Variant: "v7"}, amd64, {OS: "linux", Architecture: "arm64", Variant: "v8"}} {
		m := f.image("web", "", ocispec.MediaTypeImageManifest, p, gzipped(t, archive(t, map[string]string{"arch": p.Architecture})))
		parts = append(parts, ocispec.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Raw)), Platform: &p})
	}
	parts = append(parts, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1,
		Platform: &ocispec.Platform{OS: "unknown", Architecture: "unknown"}, Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest"}})
	index := f.put("web", "1", ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: parts})
	for want, wants := range map[string]string{"amd64": "linux/amd64", "arm64": "linux/arm64", "arm": "linux/arm/v7"} {
		c := newClient(t, Config{})
		p, err := image.ParsePlatform(wants)
		if err != nil {
			t.Fatal(err)
		}
		img, _, err := pullAs(t.Context(), t, c, PullRequest{Ref: parseRef(t, f.host()+"/web:1"), Platform: &p})
		if err != nil {
			t.Fatal(err)
		}
		if got := content(t, c, img, "arch"); got != want {
			t.Errorf("%s gave the image of %s", wants, got)
		}
		if diff := cmp.Diff([]string{f.host() + "/web@" + index.Digest.String()}, img.RepoDigests); diff != "" {
			t.Errorf("the digest is not the index's (-want +got):\n%s", diff)
		}
	}
	c := newClient(t, Config{})
	_, _, err := pullAs(t.Context(), t, c, PullRequest{Ref: parseRef(t, f.host()+"/web:1"), Platform: &ocispec.Platform{OS: "linux", Architecture: "s390x"}})
	if !errors.Is(err, problem.NotFound) || !strings.Contains(err.Error(), "no matching manifest for linux/s390x in the manifest list entries") {
		t.Errorf("got %v", err)
	}
}

func TestPullByDigest(t *testing.T) {
	f := newFar(t)
	m := f.image("web", "1", ocispec.MediaTypeImageManifest, amd64, gzipped(t, archive(t, map[string]string{"a": "x"})))
	c := newClient(t, Config{})
	img, _ := mustPull(t, c, f.host()+"/web@"+m.Digest.String())
	if len(img.RepoTags) != 0 || len(img.RepoDigests) != 1 {
		t.Errorf("names: %v %v", img.RepoTags, img.RepoDigests)
	}
	other := image.NewManifest(m.MediaType, append(m.Raw, '\n'))
	f.manifests["web "+m.Digest.String()] = other
	c = newClient(t, Config{})
	if _, _, err := pull(t, c, f.host()+"/web@"+m.Digest.String()); err == nil || !strings.Contains(err.Error(), "manifest verification failed for digest "+m.Digest.String()) {
		t.Errorf("a manifest with another digest: %v", err)
	}
}

func TestPullOfAllTagsFollowsPages(t *testing.T) {
	f := newFar(t)
	for _, tag := range []string{"1", "2", "3"} {
		f.image("web", tag, ocispec.MediaTypeImageManifest, amd64, gzipped(t, archive(t, map[string]string{"a": tag})))
	}
	c := newClient(t, Config{})
	_, lines := mustPull(t, c, f.host()+"/web")
	list, err := c.cfg.Images.List(t.Context())
	if err != nil || len(list) != 3 {
		t.Errorf("%d images (%v) after:\n%s", len(list), err, strings.Join(lines, "\n"))
	}
	if got, want := lines[len(lines)-1], "Status: Downloaded newer image for "+f.host()+"/web"; got != want {
		t.Errorf("last line %q, want %q", got, want)
	}
}

func TestAnErrorOfTheRegistryHasDockersWords(t *testing.T) {
	f := newFar(t)
	c := newClient(t, Config{})
	_, lines, err := pull(t, c, f.host()+"/none:1")
	want := "manifest for " + f.host() + "/none:1 not found: manifest unknown: manifest unknown"
	if err == nil || err.Error() != want || !errors.Is(err, problem.NotFound) || len(lines) > 0 {
		t.Errorf("got %v after %v, want %s", err, lines, want)
	}
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		refuse(w, http.StatusForbidden, "DENIED", "requested access to the resource is denied")
		return true
	}
	_, _, err = pull(t, c, f.host()+"/none:1")
	want = "pull access denied for " + f.host() + "/none, repository does not exist or may require 'docker login': denied: requested access to the resource is denied"
	if err == nil || err.Error() != want || !errors.Is(err, problem.NotFound) {
		t.Errorf("got %v, want %s", err, want)
	}
}

// leavesNothing fails the test if the store holds anything.
func leavesNothing(t *testing.T, c *Client) {
	t.Helper()
	dir := storeDir(t, c)
	for _, sub := range []string{"tmp", "blobs/sha256", "layers"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() != "empty" {
				t.Errorf("left: %s/%s", sub, e.Name())
			}
		}
	}
}

func storeDir(t *testing.T, c *Client) string {
	t.Helper()
	s, err := c.cfg.Images.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	return filepath.Dir(filepath.Dir(s.Dir))
}

func TestACutConnectionIsResumed(t *testing.T) {
	for name, ranges := range map[string]bool{"with ranges": true, "without ranges": false} {
		t.Run(name, func(t *testing.T) {
			f := newFar(t)
			l := gzipped(t, archive(t, map[string]string{"a": noise(4<<20, 5)}))
			f.image("web", "1", ocispec.MediaTypeImageManifest, amd64, l)
			d := digest.FromBytes(l.packed)
			var mu sync.Mutex
			var asked []string
			f.before = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, d.String()) {
					return false
				}
				mu.Lock()
				asked = append(asked, r.Header.Get("Range"))
				mu.Unlock()
				if !ranges {
					r.Header.Del("Range")
				}
				return false
			}
			cut := &cutter{far: f, every: len(l.packed) / 3, times: 2, path: d.String()}
			f.Config.Handler = cut
			c := newClient(t, Config{})
			img, _ := mustPull(t, c, f.host()+"/web:1")
			if got := content(t, c, img, "a"); got != noise(4<<20, 5) {
				t.Error("the content is another")
			}
			if len(asked) != 3 || asked[0] != "" || !strings.HasPrefix(asked[1], "bytes=") || ranges && asked[1] == asked[2] {
				t.Errorf("ranges asked for: %q", asked)
			}
		})
	}
}

func TestALayerThatIsNotWhatItsDigestSays(t *testing.T) {
	good := gzipped(t, archive(t, map[string]string{"a": noise(100<<10, 7)}))
	other := gzipped(t, archive(t, map[string]string{"a": noise(100<<10, 8)}))
	for name, bad := range map[string][]byte{
		"another archive": other.packed,
		"cut short":       good.packed[:len(good.packed)/2],
		"one byte more":   append(append([]byte(nil), good.packed...), 0),
		"no archive":      []byte(noise(len(good.packed), 9)),
		"nothing":         {},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFar(t)
			f.image("web", "1", ocispec.MediaTypeImageManifest, amd64, good)
			f.blobs[digest.FromBytes(good.packed)] = bad
			c := newClient(t, Config{})
			if _, _, err := pull(t, c, f.host()+"/web:1"); err == nil {
				t.Error("no error")
			}
			leavesNothing(t, c)
		})
	}
}

func TestCancellationLeavesNothing(t *testing.T) {
	f := newFar(t)
	f.image("web", "1", ocispec.MediaTypeImageManifest, amd64,
		gzipped(t, archive(t, map[string]string{"a": "small"})),
		gzipped(t, archive(t, map[string]string{"b": noise(8<<20, 11)})))
	release := make(chan struct{})
	f.Config.Handler = &cutter{far: f, every: 64 << 10, hold: release, path: "/blobs/"}
	c := newClient(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	_, err := c.Pull(ctx, PullRequest{Ref: parseRef(t, f.host()+"/web:1")}, func(e Event) {
		if e.Status == "Downloading" && e.Total > 1<<20 {
			cancel()
		}
	})
	close(release)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	leavesNothing(t, c)
	if n := len(c.transfers); n != 0 {
		t.Errorf("%d transfers are left", n)
	}
}

func TestALayerOfSeveralPullsIsTransferredOnce(t *testing.T) {
	f := newFar(t)
	shared := gzipped(t, archive(t, map[string]string{"s": noise(2<<20, 13)}))
	f.image("a", "1", ocispec.MediaTypeImageManifest, amd64, shared, gzipped(t, archive(t, map[string]string{"x": "a"})))
	f.image("b", "1", ocispec.MediaTypeImageManifest, amd64, shared, gzipped(t, archive(t, map[string]string{"x": "b"})))
	release := make(chan struct{})
	cut := &cutter{far: f, every: 64 << 10, hold: release, path: digest.FromBytes(shared.packed).String()}
	f.Config.Handler = cut
	c := newClient(t, Config{})
	var joined sync.WaitGroup
	joined.Add(2)
	go func() { // both have joined when both have heard of the download
		joined.Wait()
		close(release)
	}()
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b"} {
		wg.Go(func() {
			var once sync.Once
			_, err := c.Pull(t.Context(), PullRequest{Ref: parseRef(t, f.host()+"/"+name+":1")}, func(e Event) {
				if e.ID == shortID(digest.FromBytes(shared.packed)) && e.Status == "Downloading" {
					once.Do(joined.Done)
				}
			})
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	wg.Wait()
	if n := f.count("GET /v2/a/blobs/"+digest.FromBytes(shared.packed).String()) + f.count("GET /v2/b/blobs/"+digest.FromBytes(shared.packed).String()); n != 1 {
		t.Errorf("the layer was asked for %d times", n)
	}
}

func TestOneOfTwoWaitersMayLeave(t *testing.T) {
	f := newFar(t)
	shared := gzipped(t, archive(t, map[string]string{"s": noise(2<<20, 17)}))
	f.image("a", "1", ocispec.MediaTypeImageManifest, amd64, shared)
	release := make(chan struct{})
	f.Config.Handler = &cutter{far: f, every: 64 << 10, hold: release, path: digest.FromBytes(shared.packed).String()}
	c := newClient(t, Config{})
	first, leave := context.WithCancel(t.Context())
	heard := make(chan struct{})
	var once sync.Once
	gone := make(chan error, 1)
	go func() {
		_, err := c.Pull(first, PullRequest{Ref: parseRef(t, f.host()+"/a:1")}, func(e Event) {
			if e.Status == "Downloading" {
				once.Do(func() { close(heard) })
			}
		})
		gone <- err
	}()
	select {
	case <-heard:
	case err := <-gone:
		t.Fatalf("the first pull ended: %v", err)
	}
	var onceMore sync.Once
	img, err := c.Pull(t.Context(), PullRequest{Ref: parseRef(t, f.host()+"/a:1")}, func(e Event) {
		if e.Status == "Downloading" {
			onceMore.Do(func() {
				leave()
				if err := <-gone; !errors.Is(err, context.Canceled) {
					t.Errorf("the first pull: %v", err)
				}
				close(release)
			})
		}
	})
	if err != nil || len(img.Layers) != 1 {
		t.Errorf("the second pull: %v", err)
	}
}

func TestBusyRegistryIsAskedAgain(t *testing.T) {
	f := newFar(t)
	f.image("web", "1", ocispec.MediaTypeImageManifest, amd64, gzipped(t, archive(t, map[string]string{"a": "x"})))
	var mu sync.Mutex
	times := map[string]int{}
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		times[r.URL.Path]++
		switch n := times[r.URL.Path]; {
		case r.URL.Path == "/v2/" || n > 2:
			return false
		case n == 1:
			w.Header().Set("Retry-After", "0")
			refuse(w, http.StatusTooManyRequests, "TOOMANYREQUESTS", "slow down")
		default:
			w.WriteHeader(http.StatusBadGateway)
		}
		return true
	}
	c := newClient(t, Config{})
	mustPull(t, c, f.host()+"/web:1")
}

func TestMirrorsComeFirstAndMayFail(t *testing.T) {
	upstream, mirror, dead := newFar(t), newFar(t), newFar(t)
	dead.Close()
	l := gzipped(t, archive(t, map[string]string{"a": "x"}))
	m := upstream.image("web", "1", ocispec.MediaTypeImageManifest, amd64, l)
	mirror.image("web", "1", ocispec.MediaTypeImageManifest, amd64, l)
	c := newClient(t, Config{Mirrors: map[string][]string{upstream.host(): {dead.URL, mirror.URL}}})
	img, _ := mustPull(t, c, upstream.host()+"/web:1")
	if n := upstream.count("GET /v2/web"); n != 0 {
		t.Errorf("upstream was asked %d times", n)
	}
	if diff := cmp.Diff([]string{upstream.host() + "/web@" + m.Digest.String()}, img.RepoDigests); diff != "" {
		t.Errorf("the name is not upstream's (-want +got):\n%s", diff)
	}

	delete(mirror.blobs, digest.FromBytes(l.packed))
	c = newClient(t, Config{Mirrors: map[string][]string{upstream.host(): {mirror.URL}}})
	mustPull(t, c, upstream.host()+"/web:1")
	if n := upstream.count("GET /v2/web/blobs"); n != 1 {
		t.Errorf("upstream was asked for %d blobs, want the one that the mirror lacks", n)
	}
}

func TestRedirectToPlainTextIsNotFollowed(t *testing.T) {
	r := func(s string) *http.Request { return &http.Request{URL: must(url.Parse(s))} }
	if err := checkRedirect(r("http://b/"), []*http.Request{r("https://a/")}); !errors.Is(err, problem.Denied) {
		t.Errorf("got %v", err)
	}
	if err := checkRedirect(r("https://b/"), []*http.Request{r("https://a/")}); err != nil {
		t.Error(err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// cutter is a far registry whose bodies break off, or wait, after some bytes.
type cutter struct {
	far   *far
	path  string // of the bodies
	every int
	hold  chan struct{} // nil: the body breaks off

	mu    sync.Mutex
	times int // how often it still breaks off
}

func (c *cutter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.URL.Path, c.path) {
		w = &cutWriter{ResponseWriter: w, cutter: c, ctx: r.Context()}
	}
	c.far.ServeHTTP(w, r)
}

type cutWriter struct {
	http.ResponseWriter
	cutter *cutter
	ctx    context.Context //nolint:containedctx // as long as one request
	n      int
	held   bool
}

func (w *cutWriter) Write(p []byte) (int, error) {
	if w.n+len(p) < w.cutter.every || w.held {
		w.n += len(p)
		return w.ResponseWriter.Write(p)
	}
	c := w.cutter
	if c.hold == nil {
		c.mu.Lock()
		c.times--
		broken := c.times >= 0
		c.mu.Unlock()
		w.held = true
		if !broken {
			return w.Write(p)
		}
		_, _ = w.ResponseWriter.Write(p)
		_ = http.NewResponseController(w.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	w.held = true
	if _, err := w.Write(p); err != nil {
		return 0, err
	}
	_ = http.NewResponseController(w.ResponseWriter).Flush()
	select {
	case <-c.hold:
	case <-w.ctx.Done():
	}
	return len(p), nil
}

func TestPullReportsProgramsForAnotherCPU(t *testing.T) {
	f := newFar(t)
	foreign := "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9) + "\x02\x00\xf3\x00" + strings.Repeat("\x00", 40) // riscv64
	says := image.Host()
	f.image("web", "1", ocispec.MediaTypeImageManifest, says, gzipped(t, archive(t, map[string]string{"bin/sh": foreign})))
	_, lines := mustPull(t, newClient(t, Config{}), f.host()+"/web:1")
	want := "WARNING: image " + f.host() + "/web:1 says that it is for " + image.FormatPlatform(says) + ", but its /bin/sh is for linux/riscv64"
	if all := strings.Join(lines, "\n"); !strings.Contains(all, want) {
		t.Errorf("pull said\n%s\nwant %q", all, want)
	}
}
