package budget

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gantry/engine/builder"
	"gantry/engine/image"
	"gantry/engine/internal/enginetest"
	"gantry/internal/problem"
	"gantry/internal/testenv"
)

// The tests mount file systems of their own.
func TestMain(m *testing.M) {
	code := testenv.Isolate(m)
	enginetest.Clean()
	os.Exit(code)
}

// place is stores on a file system of 64 MiB.
type place struct {
	t       *testing.T
	dir     string
	images  *image.Store
	builder *builder.Builder
}

func newPlace(t *testing.T) *place {
	t.Helper()
	testenv.NeedRoot(t)
	p := &place{t: t, dir: t.TempDir()}
	if err := unix.Mount("tmpfs", p.dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(p.dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	var err error
	if p.images, err = image.Open(image.Config{Dir: filepath.Join(p.dir, "image")}); err != nil {
		t.Fatal(err)
	}
	if p.builder, err = builder.New(builder.Config{Dir: filepath.Join(p.dir, "build"), Images: p.images}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := errors.Join(append(p.builder.Check(), p.images.Check(context.Background()), p.builder.Close(), p.images.Close())...)
		if err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *place) budget(cfg Config) *Budget {
	p.t.Helper()
	cfg.Dir, cfg.Images, cfg.Builder = p.dir, p.images, p.builder
	if cfg.Floor == 0 {
		cfg.Floor = 1
	}
	b, err := New(cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

// archive is one of the named files, of so many MiB each that do not compress.
func archive(t *testing.T, mib int, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range files {
		body := make([]byte, mib<<20)
		_, _ = rand.Read(body) // never fails
		if name == "Dockerfile" {
			body = []byte("FROM scratch\nCOPY a /\n")
		}
		err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(body)), Mode: 0o644, Typeflag: tar.TypeReg})
		if err == nil {
			_, err = w.Write(body)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (p *place) image(ref string, mib int) string {
	p.t.Helper()
	id, err := p.images.Import(p.t.Context(), bytes.NewReader(archive(p.t, mib, "file")), image.ImportOptions{Ref: ref})
	if err != nil {
		p.t.Fatal(err)
	}
	return id.String()
}

func (p *place) has(ref string) bool {
	p.t.Helper()
	list, err := p.images.List(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	for _, i := range list {
		if i.ID.String() == ref || len(i.RepoTags) > 0 && i.RepoTags[0] == ref {
			return true
		}
	}
	return false
}

// build makes an image of mib MiB and forgets the image: its layer stays in the
// build cache.
func (p *place) build(mib int) {
	p.t.Helper()
	id, err := p.builder.Build(p.t.Context(), builder.Request{Context: bytes.NewReader(archive(p.t, mib, "Dockerfile", "a"))}, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.images.Remove(p.t.Context(), id.String(), image.RemoveOptions{}); err != nil {
		p.t.Fatal(err)
	}
}

func TestKeepTakesTheOldestOfWhatNobodyNeeds(t *testing.T) {
	p := newPlace(t)
	tagged := p.image("tagged", 8)
	oldest := p.image("", 8)
	p.build(8)
	held := p.image("", 8)
	img, err := p.images.Resolve(t.Context(), held)
	if err != nil {
		t.Fatal(err)
	}
	p.images.Hold(image.Hold{Owner: "container", Image: img.ID, Layers: img.Layers})
	newest := p.image("", 8)
	// 40 MiB are taken, 28.8 may be: 11.2 have to go.
	left, err := p.budget(Config{Percent: 45, Grace: 1}).Keep(t.Context())
	if err != nil || left != 0 {
		t.Errorf("Keep: %d, %v", left, err)
	}
	for ref, want := range map[string]bool{tagged: true, oldest: false, held: true, newest: true} {
		if p.has(ref) != want {
			t.Errorf("image %s is there: %v, want %v", ref, !want, want)
		}
	}
	if n := len(p.builder.Results()); n != 0 {
		t.Errorf("%d results of builds are left", n)
	}
	// Now more has to go than may.
	left, err = p.budget(Config{Percent: 10, Grace: 1}).Keep(t.Context())
	if err != nil || left < 9<<20 || p.has(newest) || !p.has(tagged) || !p.has(held) {
		t.Errorf("Keep of too much: %d, %v", left, err)
	}
	report, err := p.budget(Config{Percent: 10}).Report(t.Context())
	if err != nil || len(report.Images) != 2 || report.TakenBytes != 16<<20 {
		t.Errorf("Report: %+v, %v", report, err)
	}
}

func TestKeepLeavesAloneWhatIsNew(t *testing.T) {
	p := newPlace(t)
	id := p.image("", 16)
	p.build(16)
	left, err := p.budget(Config{Percent: 10}).Keep(t.Context())
	if err != nil || left < 20<<20 || !p.has(id) || len(p.builder.Results()) != 1 {
		t.Errorf("Keep: %d, %v; results %v", left, err, p.builder.Results())
	}
}

func TestTheFloorCountsWhatOthersHave(t *testing.T) {
	p := newPlace(t)
	id := p.image("", 8)
	if err := os.WriteFile(filepath.Join(p.dir, "others"), make([]byte, 32<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.budget(Config{Percent: 100, Grace: 1}).Keep(t.Context()); err != nil || !p.has(id) {
		t.Errorf("with enough free: %v, the image is there: %v", err, p.has(id))
	}
	if _, err := p.budget(Config{Percent: 100, Floor: 28 << 20, Grace: 1}).Keep(t.Context()); err != nil || p.has(id) {
		t.Errorf("with too little free: %v, the image is there: %v", err, p.has(id))
	}
}

func TestPackedCopiesGoFirst(t *testing.T) {
	p := newPlace(t)
	p.image("tagged", 8)
	old := p.image("", 8)
	img, err := p.images.Resolve(t.Context(), "tagged")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.images.Pack(t.Context(), "push", img.ID); err != nil {
		t.Fatal(err)
	}
	p.images.EndLease("push")
	if _, err := p.budget(Config{Percent: 35, Grace: 1}).Keep(t.Context()); err != nil || !p.has(old) {
		t.Errorf("Keep: %v, the old image is there: %v", err, p.has(old))
	}
	if u, err := p.images.Usage(t.Context()); err != nil || len(u.Copies) != 0 || len(u.Blobs) != 0 {
		t.Errorf("copies: %v, %v", u.Copies, err)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	p := newPlace(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.budget(Config{}).Run(ctx) }()
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("Run goes on")
	}
	if _, err := New(Config{Dir: p.dir, Images: p.images, Builder: p.builder, Percent: 101}); !errors.Is(err, problem.Invalid) {
		t.Errorf("101 percent: %v", err)
	}
}
