package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	dvolume "github.com/moby/moby/api/types/volume"

	"gantry/internal/problem"
	"gantry/internal/testenv"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestVolumesSurviveAReopen(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	s := open(t, dir)
	made, err := s.Create(ctx, dvolume.CreateRequest{Name: "web-data", Labels: map[string]string{"a": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Create(ctx, dvolume.CreateRequest{Name: "web-data"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(made, again); diff != "" {
		t.Errorf("a second creation changed the volume:\n%s", diff)
	}
	if err := os.MkdirAll(filepath.Join(dir, "half", dataDir), 0o755); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if diff := cmp.Diff([]dvolume.Volume{made}, s.List(ctx)); diff != "" {
		t.Errorf("after a reopen:\n%s", diff)
	}
	if _, err := os.Stat(filepath.Join(dir, "half")); !os.IsNotExist(err) {
		t.Errorf("the half-made volume is still there: %v", err)
	}
	if errs := s.Check(ctx); len(errs) > 0 {
		t.Error(errs)
	}
	if err := s.Remove(ctx, "web-data"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Inspect(ctx, "web-data"); !errors.Is(err, problem.NotFound) {
		t.Errorf("inspect after remove: %v, want NotFound", err)
	}
	if err := s.Remove(ctx, "web-data"); !errors.Is(err, problem.NotFound) {
		t.Errorf("second remove: %v, want NotFound", err)
	}
}

func TestBadRequestsAreRefused(t *testing.T) {
	s := open(t, t.TempDir())
	for name, c := range map[string]struct {
		req  dvolume.CreateRequest
		want problem.Kind
	}{
		"a path":            {dvolume.CreateRequest{Name: "../etc"}, problem.Invalid},
		"one letter":        {dvolume.CreateRequest{Name: "a"}, problem.Invalid},
		"a foreign driver":  {dvolume.CreateRequest{Name: "data", Driver: "nfs"}, problem.NotFound},
		"options":           {dvolume.CreateRequest{Name: "data", DriverOpts: map[string]string{"type": "tmpfs"}}, problem.Invalid},
		"a cluster volume":  {dvolume.CreateRequest{Name: "data", ClusterVolumeSpec: &dvolume.ClusterVolumeSpec{}}, problem.Unsupported},
		"a separator later": {dvolume.CreateRequest{Name: "a/b"}, problem.Invalid},
	} {
		if _, err := s.Create(context.Background(), c.req); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestCopyUpKeepsWhatFilesAre(t *testing.T) {
	testenv.NeedRoot(t)
	ctx, src := context.Background(), t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Chmod(src, 0o750))
	must(os.Chown(src, 12, 34))
	must(os.Mkdir(filepath.Join(src, "sub"), 0o700))
	must(os.WriteFile(filepath.Join(src, "sub", "file"), []byte("content"), 0o640))
	must(os.Chown(filepath.Join(src, "sub", "file"), 56, 78))
	must(os.Chmod(filepath.Join(src, "sub", "file"), 0o640|os.ModeSetuid))
	must(os.Link(filepath.Join(src, "sub", "file"), filepath.Join(src, "hard")))
	must(os.Symlink("/etc/passwd", filepath.Join(src, "soft")))

	s := open(t, t.TempDir())
	v, err := s.Create(ctx, Anonymous())
	must(err)
	must(s.CopyUp(ctx, v.Name, src))

	stat := func(name string) *syscall.Stat_t {
		info, err := os.Lstat(filepath.Join(v.Mountpoint, name))
		must(err)
		return info.Sys().(*syscall.Stat_t)
	}
	if st := stat("."); st.Mode&0o7777 != 0o750 || st.Uid != 12 || st.Gid != 34 {
		t.Errorf("root: mode %o uid %d gid %d", st.Mode, st.Uid, st.Gid)
	}
	file := stat("sub/file")
	if file.Mode&0o7777 != 0o4640 || file.Uid != 56 || file.Gid != 78 {
		t.Errorf("file: mode %o uid %d gid %d", file.Mode, file.Uid, file.Gid)
	}
	if stat("hard").Ino != file.Ino {
		t.Error("the hard link became a file of its own")
	}
	if target, err := os.Readlink(filepath.Join(v.Mountpoint, "soft")); err != nil || target != "/etc/passwd" {
		t.Errorf("soft link: %q, %v", target, err)
	}

	must(os.WriteFile(filepath.Join(src, "later"), nil, 0o600))
	must(s.CopyUp(ctx, v.Name, src))
	if _, err := os.Stat(filepath.Join(v.Mountpoint, "later")); err == nil {
		t.Error("a volume with content was filled again")
	}
	if n, err := s.Size(ctx, v.Name); err != nil || n == 0 {
		t.Errorf("size %d, %v", n, err)
	}
}
