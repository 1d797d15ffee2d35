package image

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"gantry/internal/tree"
)

// TestArchivesOfOtherPrograms loads what podman 4.3, skopeo 1.9 and buildah 1.28
// have written of one image of two layers, the second of which removes a file of
// the first, and what is saved of it again.
func TestArchivesOfOtherPrograms(t *testing.T) {
	paths, err := filepath.Glob("testdata/programs/*.tar.gz")
	if err != nil || len(paths) != 7 {
		t.Fatalf("%d archives, %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			packed, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			s := openSmall(t, "size=64m")
			loaded := loadTiny(t, s, packed)
			// A layout that is a directory knows no repository: its name is a tag alone.
			name := "example.org/tiny:1"
			if len(loaded.RepoTags) == 0 && filepath.Base(path) == "skopeo-oci-layout.tar.gz" {
				tagImage(t, s, loaded, name)
			} else if len(loaded.RepoTags) != 1 || loaded.RepoTags[0] != name {
				t.Fatalf("names: %q", loaded.RepoTags)
			}
			var saved bytes.Buffer
			if err := s.Save(ctx, &saved, []string{name}); err != nil {
				t.Fatal(err)
			}
			other := openSmall(t, "size=64m")
			if again := loadTiny(t, other, saved.Bytes()); again.ID != loaded.ID || len(again.RepoTags) != 1 || again.RepoTags[0] != name {
				t.Errorf("saved and loaded again: %s %q, was %s", again.ID, again.RepoTags, loaded.ID)
			}
		})
	}
}

func loadTiny(t *testing.T, s *Store, archive []byte) Image {
	t.Helper()
	images, err := s.Load(ctx, bytes.NewReader(archive), nil)
	if err != nil || len(images) != 1 {
		t.Fatalf("Load: %v, %v", images, err)
	}
	img := images[0]
	if img.Config.Config.Labels["from"] != "test" || len(img.Layers) != 2 || img.Config.Config.Cmd[0] != "/none" {
		t.Errorf("configuration %+v of %d layers", img.Config.Config, len(img.Layers))
	}
	root, err := s.OpenRoot(img.Layers)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if b, err := root.ReadFile("etc/two", 100); string(b) != "two\n" {
		t.Errorf("etc/two: %q, %v", b, err)
	}
	if _, err := root.Lstat("etc/one"); !os.IsNotExist(err) {
		t.Errorf("etc/one, which is removed: %v", err)
	}
	return img
}

// FuzzLoad loads any bytes: what is accepted is whole, what is refused leaves
// nothing.
func FuzzLoad(f *testing.F) {
	s := openSmall(f, "size=256m")
	paths, err := filepath.Glob("testdata/programs/*.tar.gz")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		packed, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		plain, _, err := tree.Decompress(bytes.NewReader(packed), nil)
		if err != nil {
			f.Fatal(err)
		}
		b, err := io.ReadAll(plain)
		if err = errors.Join(err, plain.Close()); err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("[]"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if showsMuch(in) {
			return
		}
		images, err := s.Load(ctx, bytes.NewReader(in), nil)
		if err != nil && len(images) > 0 {
			t.Errorf("images %v beside %v", images, err)
		}
		for _, i := range images {
			if err := s.Save(ctx, io.Discard, []string{i.ID.String()}); err != nil {
				t.Errorf("what was loaded cannot be saved: %v", err)
			}
		}
		if _, err := s.Prune(ctx, PruneOptions{All: true}); err != nil {
			t.Error(err)
		}
		for _, dir := range []string{"tmp", "layers", "blobs/sha256", "blobs/sha512"} {
			left, err := os.ReadDir(filepath.Join(s.dir, dir))
			if err != nil || len(left) > 1 || len(left) == 1 && left[0].Name() != emptyName {
				t.Errorf("left in %s: %v, %v", dir, left, err)
			}
		}
	})
}
