package image

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"gantry/internal/problem"
)

// untagged imports an image of one file that nothing names.
func untagged(t *testing.T, s *Store, body string) Image {
	t.Helper()
	id, err := s.Import(ctx, bytes.NewReader(archive(t, entry{name: "f", body: body})), ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Get(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestEvictTakesOnlyWhatNobodyNeeds(t *testing.T) {
	s := openSmall(t, "size=64m") // whose syncs cost nothing
	later := func() time.Time { return time.Now().Add(time.Minute) }
	var before time.Time
	for name, c := range map[string]struct {
		prepare func(Image)
		since   func() time.Time
		gone    bool
	}{
		"nothing has it":             {nil, later, true},
		"it came just now":           {nil, func() time.Time { return time.Now().Add(-time.Minute) }, false},
		"it has a tag":               {func(i Image) { tagImage(t, s, i, "kept") }, later, false},
		"a container has it":         {func(i Image) { s.Hold(Hold{Owner: "c", Image: i.ID, Layers: i.Layers}) }, later, false},
		"an image was built from it": {func(i Image) { child(t, s, i) }, later, false},
		"a name of it means another": {func(i Image) { tagImage(t, s, i, "moves"); tagImage(t, s, untagged(t, s, "other"), "moves") }, later, true},
		"it was looked up since":     {func(i Image) { before = time.Now(); _, _ = s.Resolve(ctx, i.ID.String()) }, func() time.Time { return before }, false},
	} {
		t.Run(name, func(t *testing.T) {
			img := untagged(t, s, name)
			if c.prepare != nil {
				c.prepare(img)
			}
			gone, err := s.Evict(ctx, img.ID, c.since())
			if err != nil || gone != c.gone {
				t.Errorf("Evict: %v, %v; want %v", gone, err, c.gone)
			}
			_, gerr := s.Get(ctx, img.ID)
			_, lerr := s.Layer(ctx, img.Layers[0])
			if errors.Is(gerr, problem.NotFound) != c.gone || errors.Is(lerr, problem.NotFound) != c.gone {
				t.Errorf("afterwards: %v, %v", gerr, lerr)
			}
			s.Release("c")
		})
	}
	if gone, err := s.Evict(ctx, digest.FromString("nothing"), later()); gone || err != nil {
		t.Errorf("an image that is not there: %v, %v", gone, err)
	}
}

func tagImage(t *testing.T, s *Store, img Image, name string) {
	t.Helper()
	if err := s.Tag(ctx, img.ID, name); err != nil {
		t.Fatal(err)
	}
}

func child(t *testing.T, s *Store, parent Image) {
	t.Helper()
	config := parent.Config
	config.Author = "child"
	if _, err := s.Create(ctx, config, parent.Layers, CreateOptions{Parent: parent.ID, Tags: []string{"child"}}); err != nil {
		t.Fatal(err)
	}
}

func TestACopyIsMadeAgainToTheByte(t *testing.T) {
	s := openSmall(t, "size=64m") // whose syncs cost nothing
	img := load(t, s, []string{"web"}, archive(t, base...))
	first, err := s.Pack(ctx, "push", img.ID)
	if err != nil {
		t.Fatal(err)
	}
	u, err := s.Usage(ctx)
	if err != nil || len(u.Copies) != 1 || !u.Copies[0].Leased || len(u.Images) != 1 || len(u.Images[0].Blobs) != 0 {
		t.Fatalf("Usage: %+v, %v", u, err)
	}
	blob := u.Copies[0].Blob
	soon := time.Now().Add(time.Minute)
	if n, err := s.DropCopy(ctx, blob, soon); n != 0 || err != nil {
		t.Errorf("a copy under a lease: %d, %v", n, err)
	}
	s.EndLease("push")
	if n, err := s.DropCopy(ctx, blob, time.Now().Add(-time.Minute)); n != 0 || err != nil {
		t.Errorf("a copy made just now: %d, %v", n, err)
	}
	if n, err := s.DropCopy(ctx, blob, soon); n != u.Blobs[blob] || err != nil {
		t.Errorf("DropCopy: %d, %v; want %d", n, err, u.Blobs[blob])
	}
	if _, err := s.OpenBlob(ctx, blob); !errors.Is(err, problem.NotFound) {
		t.Errorf("the blob is still there: %v", err)
	}
	again, err := s.Pack(ctx, "push", img.ID)
	if err != nil || again.Digest != first.Digest {
		t.Errorf("packed again: %s, %v; want %s", again.Digest, err, first.Digest)
	}
	s.EndLease("push")
}

func TestBlobsOfARegistryStayWithTheirImage(t *testing.T) {
	s := openSmall(t, "size=64m") // whose syncs cost nothing
	plain := archive(t, base...)
	packed := zstded(t, plain)
	w, err := s.NewBlob(digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Write(packed); err != nil {
		t.Fatal(err)
	}
	d := digest.FromBytes(packed)
	if err := w.Commit(ctx, "pull", d, digest.FromBytes(plain), Lazy); err != nil {
		t.Fatal(err)
	}
	if _, err := s.UnpackBlob(ctx, "pull", bytes.NewReader(packed)); err != nil {
		t.Fatal(err)
	}
	m := NewManifest("application/vnd.oci.image.manifest.v1+json", []byte(fmt.Sprintf(`{"layers":[{"digest":%q}]}`, d)))
	if _, err := s.AddPulled(ctx, Pulled{Config: configOf(t, plain), Manifests: []Manifest{m}}); err != nil {
		t.Fatal(err)
	}
	s.EndLease("pull")
	u, err := s.Usage(ctx)
	if err != nil || len(u.Copies) != 0 || len(u.Images) != 1 || len(u.Images[0].Blobs) != 1 || u.Images[0].Blobs[0] != d {
		t.Errorf("Usage: %+v, %v", u, err)
	}
	if n, err := s.DropCopy(ctx, d, time.Now().Add(time.Minute)); n != 0 || err != nil {
		t.Errorf("DropCopy: %d, %v", n, err)
	}
}

// TestCollectionBesideEverything evicts, drops and collects as fast as it can
// while images come, are used and go. Check, at the end, finds all in order.
func TestCollectionBesideEverything(t *testing.T) {
	s := openSmall(t, "size=64m") // whose syncs cost nothing
	soon := time.Now().Add(time.Hour)
	stop := make(chan struct{})
	var workers, collectors sync.WaitGroup
	collectors.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			u, err := s.Usage(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			for _, i := range u.Images {
				if _, err := s.Evict(ctx, i.ID, soon); err != nil {
					t.Error(err)
				}
			}
			for _, c := range u.Copies {
				if _, err := s.DropCopy(ctx, c.Blob, soon); err != nil {
					t.Error(err)
				}
			}
			if _, err := s.Collect(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	shared := archive(t, base...)
	for w := range 3 {
		workers.Go(func() {
			for n := range 4 {
				if err := liveWithCollection(t, s, shared, fmt.Sprintf("%d-%d", w, n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	workers.Wait()
	close(stop)
	collectors.Wait()
}

// liveWithCollection loads an image whose first layer others have too, packs it,
// holds it as a container does, and lets it go.
func liveWithCollection(t *testing.T, s *Store, shared []byte, name string) error {
	own := archive(t, entry{name: name, body: name})
	in := dockerArchive(t, []string{"image:" + name}, [][]byte{shared, own}, [][]byte{shared, gzipped(t, own)})
	images, err := s.Load(ctx, bytes.NewReader(in), nil)
	if err != nil {
		return fmt.Errorf("load %s: %w", name, err)
	}
	img := images[0]
	if _, err := s.Pack(ctx, name, img.ID); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	s.EndLease(name)
	s.Hold(Hold{Owner: name, Image: img.ID, Layers: img.Layers})
	if _, err := s.Remove(ctx, "image:"+name, RemoveOptions{Force: true}); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	root, err := s.OpenRoot(img.Layers)
	if err != nil {
		return fmt.Errorf("open %s, which is held: %w", name, err)
	}
	defer root.Close()
	if b, err := root.ReadFile(name, 100); string(b) != name {
		return fmt.Errorf("read %s: %q, %w", name, b, err)
	}
	s.Release(name)
	return nil
}
