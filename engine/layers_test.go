package engine

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"gantry/internal/testenv"
)

// Both ways to mount layers work here; an older kernel has the second one only.
func TestLayersAreMounted(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	for _, file := range []string{"top/etc/own", "bottom/etc/passwd", "bottom/lib/target"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(file), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/lib/target", filepath.Join(dir, "top/etc/link")); err != nil {
		t.Fatal(err)
	}
	lower := []string{filepath.Join(dir, "top"), filepath.Join(dir, "bottom")}
	target := t.TempDir()
	mounts := map[string]func() (*os.File, error){
		"as it is done":    layers(lower).mount,
		"without a place":  func() (*os.File, error) { return mountDetached(lower) },
		"in a hidden one":  func() (*os.File, error) { return mountHidden(lower, target) },
		"hidden once more": func() (*os.File, error) { return mountHidden(lower, target) },
	}
	for name, mount := range mounts {
		root, err := mount()
		if name == "without a place" && err != nil {
			continue // before Linux 6.5
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for file, want := range map[string]string{"etc/own": "top/etc/own", "etc/passwd": "bottom/etc/passwd", "etc/link": "bottom/lib/target"} {
			f, err := openBeneath(int(root.Fd()), file, unix.RESOLVE_IN_ROOT)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if got, err := readRegular(f); string(got) != want || err != nil {
				t.Errorf("%s: %s has %q, %v", name, file, got, err)
			}
		}
		if err := root.Close(); err != nil {
			t.Error(err)
		}
	}
	if entries, err := os.ReadDir(target); err != nil || len(entries) != 0 {
		t.Errorf("the mount is seen: %v, %v", entries, err)
	}
	got, err := layers(lower[1:]).readMounted("etc/passwd")
	if err != nil || string(got) != "bottom/etc/passwd" {
		t.Errorf("one layer: %q, %v", got, err)
	}
}
