package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	dcontainer "github.com/moby/moby/api/types/container"
	dmount "github.com/moby/moby/api/types/mount"

	"gantry/internal/tree"
)

func TestPreserveEnd(t *testing.T) {
	for _, c := range [][3]string{
		{"/a", "a", "/a"}, {"/a", "a/", "/a/"}, {"/a", "/a/.", "/a/."}, {"/", "/", "/"}, {"/", "/.", "/."}, {"/", ".", "/."}, {"/b", "a/../b", "/b"},
	} {
		if got := preserveEnd(c[0], c[1]); got != c[2] {
			t.Errorf("preserveEnd(%q, %q) = %q, want %q", c[0], c[1], got, c[2])
		}
	}
}

func TestCheckWritable(t *testing.T) {
	point := func(kind dmount.Type, at string, rw bool) mountPoint {
		return mountPoint{MountPoint: dcontainer.MountPoint{Type: kind, Destination: at, RW: rw}}
	}
	cfg := &config{
		HostConfig: &dcontainer.HostConfig{ReadonlyRootfs: true},
		Mounts: []mountPoint{
			point(dmount.TypeVolume, "/ro", false), point(dmount.TypeBind, "/ro/rw", true), point(dmount.TypeTmpfs, "/tmp", true),
		},
	}
	for dir, want := range map[string]string{
		"/ro": "mounted volume is marked read-only", "/ro/x": "mounted volume is marked read-only", "/ro/rw/x": "",
		"/rooms": "container rootfs is marked read-only", "/tmp": "container rootfs is marked read-only",
	} {
		err := checkWritable(cfg, dir)
		if (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("%s: %v, want %q", dir, err, want)
		}
	}
}

// FuzzExtract writes archives into a directory: whatever they hold, nothing
// comes to be outside the root.
func FuzzExtract(f *testing.F) {
	for _, headers := range [][]tar.Header{
		{{Name: "a/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "a/f", Typeflag: tar.TypeReg, Mode: 0o644}},
		{{Name: "../x", Typeflag: tar.TypeReg}},
		{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../../.."}, {Name: "l/x", Typeflag: tar.TypeReg}},
		{{Name: "h", Typeflag: tar.TypeLink, Linkname: "../../../etc/passwd"}},
		{{Name: "p", Typeflag: tar.TypeFifo}, {Name: "p/x", Typeflag: tar.TypeReg}},
	} {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		for _, h := range headers {
			if err := w.WriteHeader(&h); err != nil {
				f.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		f.Add(out.Bytes(), true)
		f.Add(out.Bytes(), false)
	}
	f.Fuzz(func(t *testing.T, archive []byte, keep bool) {
		if len(archive) > 1<<20 {
			t.Skip("an archive may claim any size of holes")
		}
		above := t.TempDir()
		dir := filepath.Join(above, "root")
		if err := os.MkdirAll(filepath.Join(dir, "in"), 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := tree.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		x := extractor{root: root, dir: "/in", keep: keep, owner: &[2]int{os.Getuid(), os.Getgid()}}
		_ = x.extract(context.Background(), bytes.NewReader(archive)) // most are refused
		if names, err := os.ReadDir(above); err != nil || len(names) != 1 {
			t.Errorf("beside the root: %v, %v", names, err)
		}
	})
}
