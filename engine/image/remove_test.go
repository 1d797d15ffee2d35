package image

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"gantry/internal/problem"
)

// load puts an image of layers into the store.
func load(t testing.TB, s *Store, tags []string, layers ...[]byte) Image {
	t.Helper()
	images, err := s.Load(ctx, bytes.NewReader(dockerArchive(t, tags, layers, layers)), nil)
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Get(ctx, images[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestNames(t *testing.T) {
	s := open(t)
	img := load(t, s, []string{"web", "example.org:5000/a/b:1"}, archive(t, base...))
	hex := img.ID.Encoded()
	for _, ref := range []string{"web", "web:latest", "docker.io/web", "library/web", "docker.io/library/web:latest", "example.org:5000/a/b:1", hex, "sha256:" + hex, hex[:12], hex[:3], "sha256:" + hex[:7]} {
		if got, err := s.Resolve(ctx, ref); err != nil || got.ID != img.ID {
			t.Errorf("%s: %s, %v", ref, got.ID, err)
		}
	}
	for ref, want := range map[string]string{
		"nothere": "No such image: nothere:latest", "web:2": "No such image: web:2", "example.org/x": "No such image: example.org/x:latest",
		"sha256:" + strings.Repeat("0", 64): "No such image: sha256:" + strings.Repeat("0", 64),
		"Web":                               "invalid reference format: repository name (library/Web) must be lowercase", "": "invalid reference format", "a b": "invalid reference format",
	} {
		_, err := s.Resolve(ctx, ref)
		if err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", ref, err, want)
		}
		if kind := problem.NotFound; strings.HasPrefix(want, "No such") && !errors.Is(err, kind) {
			t.Errorf("%q: %v is not %s", ref, err, kind)
		}
	}
	if err := s.Tag(ctx, img.ID, "web@sha256:"+strings.Repeat("0", 64)); !errors.Is(err, problem.Invalid) {
		t.Errorf("tag with a digest: %v", err)
	}
	if diff := cmp.Diff([]string{"example.org:5000/a/b:1", "web:latest"}, img.RepoTags); diff != "" {
		t.Error(diff)
	}
}

// TestRemoveDecides is Docker's table of what docker rmi does.
func TestRemoveDecides(t *testing.T) {
	id := digest.FromString("x")
	const a, a2, b, aDigest = "docker.io/library/a:1", "docker.io/library/a:2", "docker.io/library/b:1", "docker.io/library/a@sha256:0000000000000000000000000000000000000000000000000000000000000000"
	for rule, c := range map[string]struct {
		in    removal
		force bool
		want  removalPlan
		err   string
	}{
		"the last name takes the image along":         {in: removal{name: a, names: []string{a}}, want: removalPlan{untag: []string{a}, image: true}},
		"another name keeps it":                       {in: removal{name: a, names: []string{a, b}}, want: removalPlan{untag: []string{a}}},
		"a repository's digests go with its last tag": {in: removal{name: a, names: []string{a, aDigest}}, want: removalPlan{untag: []string{a, aDigest}, image: true}},
		"and stay with another tag":                   {in: removal{name: a, names: []string{a, a2, aDigest}}, want: removalPlan{untag: []string{a}}},
		"by ID a tag and its digest go":               {in: removal{byID: true, names: []string{a, aDigest}}, want: removalPlan{untag: []string{a, aDigest}, image: true}},
		"by ID several tags need force":               {in: removal{byID: true, names: []string{a, a2}}, err: "conflict: unable to delete 2d711642b726 (must be forced) - image is referenced in multiple repositories"},
		"by ID several repositories need force":       {in: removal{byID: true, names: []string{a, b}}, err: "conflict: unable to delete 2d711642b726 (must be forced) - image is referenced in multiple repositories"},
		"which helps":                                 {in: removal{byID: true, names: []string{a, b}}, force: true, want: removalPlan{untag: []string{a, b}, image: true}},
		"a container keeps the last name":             {in: removal{ref: "a:1", name: a, names: []string{a}, stopped: "0123456789abcdef"}, err: `conflict: unable to remove repository reference "a:1" (must force) - container 0123456789ab is using its referenced image 2d711642b726`},
		"a container does not keep one of two":        {in: removal{name: a, names: []string{a, b}, running: "0123456789abcdef"}, want: removalPlan{untag: []string{a}}},
		"force takes the name from a running one":     {in: removal{name: a, names: []string{a}, running: "0123456789abcdef"}, force: true, want: removalPlan{untag: []string{a}}},
		"force takes the image from a stopped one":    {in: removal{name: a, names: []string{a}, stopped: "0123456789abcdef"}, force: true, want: removalPlan{untag: []string{a}, image: true}},
		"by ID, in use by a stopped container":        {in: removal{byID: true, stopped: "0123456789abcdef"}, err: "conflict: unable to delete 2d711642b726 (must be forced) - image is being used by stopped container 0123456789ab"},
		"by ID, in use by a running container":        {in: removal{byID: true, running: "0123456789abcdef"}, force: true, err: "conflict: unable to delete 2d711642b726 (cannot be forced) - image is being used by running container 0123456789ab"},
		"by ID, with children":                        {in: removal{byID: true, children: true}, force: true, err: "conflict: unable to delete 2d711642b726 (cannot be forced) - image has dependent child images"},
		"by name, with children":                      {in: removal{name: a, names: []string{a}, children: true}, want: removalPlan{untag: []string{a}}},
	} {
		c.in.id = id
		got, err := c.in.decide(RemoveOptions{Force: c.force})
		if c.err != "" {
			if err == nil || err.Error() != c.err || !errors.Is(err, problem.Conflict) {
				t.Errorf("%s: %v, want %s", rule, err, c.err)
			}
			continue
		}
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(removalPlan{})); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", rule, err, diff)
		}
	}
}

func TestRemoveTakesUnsharedLayersAlong(t *testing.T) {
	s := open(t)
	l1, l2, l3 := archive(t, base...), archive(t, change...), archive(t, entry{name: "x", body: "x"})
	load(t, s, []string{"a:1", "a:2"}, l1, l2)
	b := load(t, s, []string{"b"}, l1, l3)
	s.Hold(Hold{Owner: "c1", Image: b.ID, Layers: b.Layers, Running: func() bool { return false }})
	lines := func(ds []Deleted) (out []string) {
		for _, d := range ds {
			out = append(out, d.Untagged+strings.TrimPrefix(d.Deleted, "sha256:"))
		}
		return out
	}
	got, err := s.Remove(ctx, "a:1", RemoveOptions{})
	if err != nil || !slices.Equal(lines(got), []string{"a:1"}) {
		t.Errorf("first name: %v, %v", lines(got), err)
	}
	if got, err = s.Remove(ctx, "a:2", RemoveOptions{}); err != nil || len(got) != 3 {
		t.Errorf("last name: %v, %v; want the name, the image and one layer", lines(got), err)
	}
	if _, err := s.Layer(ctx, digest.FromBytes(l1)); err != nil {
		t.Errorf("a shared layer went: %v", err)
	}
	if _, err := s.Remove(ctx, "b", RemoveOptions{}); !errors.Is(err, problem.Conflict) {
		t.Errorf("in use: %v", err)
	}
	if _, err := s.Remove(ctx, "b", RemoveOptions{Force: true}); err != nil {
		t.Error(err)
	}
	// The stopped container may be started again.
	if dirs, err := s.LayerDirs(b.Layers); err != nil || len(dirs) != 2 {
		t.Errorf("layers of a container are gone: %v, %v", dirs, err)
	}
	s.Release("c1")
	if freed, err := s.Collect(ctx); err != nil || freed == 0 {
		t.Errorf("Collect = %d, %v", freed, err)
	}
	left, err := os.ReadDir(filepath.Join(s.dir, "layers"))
	if err != nil || len(left) != 1 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestPruneKeepsWhatIsNamedOrUsed(t *testing.T) {
	s := open(t)
	layer := func(n int) []byte { return archive(t, entry{name: fmt.Sprint("f", n), body: "12345678"}) }
	named, dangling, used := load(t, s, []string{"a"}, layer(1)), load(t, s, nil, layer(2)), load(t, s, nil, layer(3))
	s.Hold(Hold{Owner: "c", Image: used.ID, Layers: used.Layers})
	report, err := s.Prune(ctx, PruneOptions{})
	if err != nil || report.Reclaimed != 8 || len(report.Deleted) != 2 || report.Deleted[0].Deleted != dangling.ID.String() {
		t.Errorf("Prune = %+v, %v", report, err)
	}
	if report, err = s.Prune(ctx, PruneOptions{All: true}); err != nil || report.Reclaimed != 8 || report.Deleted[0].Untagged != "a:latest" {
		t.Errorf("Prune of all = %+v, %v", report, err)
	}
	if _, err := s.Get(ctx, named.ID); !errors.Is(err, problem.NotFound) {
		t.Errorf("still there: %v", err)
	}
	if _, err := s.Get(ctx, used.ID); err != nil {
		t.Error(err)
	}
}

// TestStartRepairsWhatACrashLeft makes by hand what a crash at each point of an
// installation and a removal leaves.
func TestStartRepairsWhatACrashLeft(t *testing.T) {
	dir := t.TempDir()
	s := open(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, dir)
	img := load(t, s, []string{"a"}, archive(t, base...))
	scratch, err := s.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(scratch.Upper, "f"), []byte("f"), 0o644); err != nil {
		t.Fatal(err)
	}
	fresh, err := s.CommitLayer(ctx, "build", scratch.Upper)
	if err != nil {
		t.Fatal(err)
	}
	// As if the host had been rebooted since: nobody knows whether fresh is whole.
	err = s.db.Update(func(tx *bolt.Tx) error {
		r, err := getLayer(tx, fresh.DiffID)
		if err != nil || r.Boot == "" {
			return fmt.Errorf("record %+v, %w", r, err)
		}
		r.Boot = "another boot"
		return putLayer(tx, fresh.DiffID, r)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"tmp/layer-1/diff", "layers/" + strings.Repeat("0", 64) + "/diff"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	links, err := s.links(img.Layers)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{os.Remove(s.link(links[0])), os.Symlink("/", s.link("zz")), s.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s = openAt(t, dir) // whose Check must be content
	if _, err := s.Layer(ctx, fresh.DiffID); !errors.Is(err, problem.NotFound) {
		t.Errorf("a layer that may be torn is used: %v", err)
	}
	if _, err := os.ReadDir(s.link(links[0])); err != nil {
		t.Error(err)
	}
	if _, err := Open(Config{Dir: dir}); !errors.Is(err, problem.Unavailable) {
		t.Errorf("a second process: %v", err)
	}
}

func TestCheckFindsDamage(t *testing.T) {
	s := open(t)
	img := load(t, s, []string{"a"}, archive(t, base...))
	file := filepath.Join(s.layerDir(img.Layers[0]), "diff/etc/passwd")
	for what, do := range map[string]func() error{
		"a changed file":  func() error { return os.WriteFile(file, []byte("root:x:0:0::/:/bin/ash"), 0o644) },
		"a shorter file":  func() error { return os.WriteFile(file, nil, 0o644) },
		"a file restored": func() error { return os.WriteFile(file, []byte("root:x:0:0::/:/bin/sh\n"), 0o644) },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
		if err := s.Check(ctx); (err != nil) == strings.Contains(what, "restored") {
			t.Errorf("%s: Check = %v", what, err)
		}
		if err := os.WriteFile(file, []byte("root:x:0:0::/:/bin/sh\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWrongCPUIsNamed(t *testing.T) {
	img := Image{}
	img.Config.OS, img.Config.Architecture = "linux", "s390x"
	if err := CheckPlatform(img, "web:1"); err == nil || err.Error() != "image web:1 is for linux/s390x, this host is "+FormatPlatform(Host()) {
		t.Error(err)
	}
	s := open(t)
	foreign := "\x7fELF\x02\x02\x01" + strings.Repeat("\x00", 9) + "\x00\x02\x00\x16" + strings.Repeat("\x00", 40)
	img = load(t, s, []string{"x"}, archive(t, entry{name: "usr/bin/app", body: foreign, mode: 0o755}, entry{name: "bin", typ: '2', link: "usr/bin"}, entry{name: "script", body: "#!/bin/sh\n", mode: 0o755}))
	root, err := s.OpenRoot(img.Layers)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for command, refused := range map[string]bool{"/usr/bin/app": true, "app": true, "bin/app": true, "/bin/app": true, "/script": false, "/nothere": false, "nothere": false} {
		err := CheckExecutable(root, "x", []string{command}, []string{"PATH=/none:/bin"}, "/")
		if (err != nil) != refused {
			t.Errorf("%s: %v", command, err)
		}
		if err != nil && !strings.Contains(err.Error(), "is for linux/s390x, this host is linux/") {
			t.Error(err)
		}
	}
}
