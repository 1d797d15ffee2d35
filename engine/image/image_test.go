package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"gantry/internal/testenv"
)

// entry is one entry of an archive that a test makes.
type entry struct {
	name string
	typ  byte // 0: a regular file, or a directory if the name ends in /
	body string
	link string
	mode int64
	uid  int
	gid  int
	time time.Time
	pax  map[string]string
	dev  [2]int64
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{
			Name: e.name, Typeflag: e.typ, Linkname: e.link, Mode: e.mode, Uid: e.uid, Gid: e.gid,
			ModTime: e.time, PAXRecords: e.pax, Size: int64(len(e.body)), Devmajor: e.dev[0], Devminor: e.dev[1],
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(e.name, "/") {
				h.Typeflag = tar.TypeDir
			}
		}
		if h.Mode == 0 {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if e.pax != nil || e.time.Nanosecond() != 0 {
			h.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstded(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// open opens a store in a new directory; when the test ends it must be whole.
func open(t testing.TB) *Store {
	t.Helper()
	testenv.NeedRoot(t)
	return openAt(t, t.TempDir())
}

func openAt(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Check(context.Background()); err != nil && !strings.Contains(err.Error(), "database not open") {
			t.Errorf("Check: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func configOf(t testing.TB, layers ...[]byte) []byte {
	t.Helper()
	var c Spec
	c.OS, c.Architecture = Host().OS, Host().Architecture
	c.Config.Cmd = []string{"/bin/true"}
	c.RootFS.Type = "layers"
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromBytes(l))
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// dockerArchive is an archive as docker save wrote it before version 25. packed
// layers may differ from the plain ones in compression.
func dockerArchive(t testing.TB, tags []string, plain, packed [][]byte) []byte {
	t.Helper()
	config := configOf(t, plain...)
	name := digest.FromBytes(config).Encoded() + ".json"
	item := manifestItem{Config: name, RepoTags: tags}
	var entries []entry
	for i, l := range packed {
		n := strings.Repeat("abcd", 15) + "000" + string(rune('a'+i)) + "/layer.tar"
		item.Layers = append(item.Layers, n)
		entries = append(entries, entry{name: n, body: string(l)})
	}
	manifest, err := json.Marshal([]manifestItem{item})
	if err != nil {
		t.Fatal(err)
	}
	entries = append(entries, entry{name: name, body: string(config)}, entry{name: "manifest.json", body: string(manifest)})
	return archive(t, entries...)
}

var (
	ctx  = context.Background()
	base = []entry{
		{name: "bin/"}, {name: "bin/true", body: "\x7fELF", mode: 0o755},
		{name: "etc/", mode: 0o750, uid: 7, gid: 8}, {name: "etc/passwd", body: "root:x:0:0::/:/bin/sh\n"},
		{name: "data/"}, {name: "data/old", body: "old"}, {name: "data/kept", body: "kept"},
	}
	change = []entry{
		{name: "etc/.wh.passwd"}, {name: "data/"}, {name: "data/.wh..wh..opq"}, {name: "data/new", body: "new"},
	}
)

func TestLoadKeepsOneCopyAndOverlaysSeeTheChanges(t *testing.T) {
	s := open(t)
	l1, l2 := archive(t, base...), archive(t, change...)
	packings := map[string]func(testing.TB, []byte) []byte{
		"plain": func(_ testing.TB, b []byte) []byte { return b }, "gzip": gzipped, "zstd": zstded,
	}
	for name, pack := range packings {
		var said []string
		images, err := s.Load(ctx, bytes.NewReader(dockerArchive(t, []string{"web:" + name}, [][]byte{l1, l2},
			[][]byte{pack(t, l1), pack(t, l2)})), func(e Event) { said = append(said, e.Stream) })
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if want := "Loaded image: web:" + name + "\n"; said[len(said)-1] != want {
			t.Errorf("%s: last event %q, want %q", name, said[len(said)-1], want)
		}
		if len(images) != 1 || len(images[0].Layers) != 2 {
			t.Errorf("%s: loaded %+v", name, images)
		}
	}
	img, err := s.Resolve(ctx, "web:gzip")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"web:gzip", "web:plain", "web:zstd"}, img.RepoTags); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	root, err := s.OpenRoot(img.Layers)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for dir, want := range map[string][]string{"/": {"bin", "data", "etc"}, "/data": {"new"}, "/etc": {}} {
		got, err := root.ReadDir(dir)
		if err != nil || !cmp.Equal(append([]string{}, got...), want) {
			t.Errorf("ReadDir(%s) = %v, %v; want %v", dir, got, err, want)
		}
	}
	st, err := root.Stat("/etc")
	if err != nil || st.Uid != 0 || st.Gid != 0 || st.Mode&0o7777 != 0o755 {
		// change implies etc without naming it, so the upper layer's directory is what shows.
		t.Errorf("etc is %d:%d %o, %v", st.Uid, st.Gid, st.Mode, err)
	}
	dirs, err := os.ReadDir(filepath.Join(s.dir, "layers"))
	if err != nil || len(dirs) != 3 {
		t.Errorf("layers/ holds %v, %v; want two layers and the empty one", dirs, err)
	}
}

func TestSaveGivesBackWhatWasLoaded(t *testing.T) {
	s := open(t)
	odd := archive(t,
		entry{name: "./"}, entry{name: "./a", body: "first"}, entry{name: "./a", body: "second, in its place"},
		entry{name: "d/f", body: "below a directory that goes"}, entry{name: "d", body: "file"},
		entry{name: "real/"}, entry{name: "alias", typ: tar.TypeSymlink, link: "/real"}, entry{name: "alias/x", body: "through a link"},
		entry{name: "alias/"}, entry{name: "hard", typ: tar.TypeLink, link: "a"},
		entry{name: strings.Repeat("long/", 40) + strings.Repeat("n", 200), body: "long"},
		entry{name: "who", body: "x", uid: 3000000, gid: 4000000, time: time.Unix(1700000000, 123456789)},
		entry{name: "cap", body: "x", pax: map[string]string{"SCHILY.xattr.user.note": "hello"}},
		entry{name: "dev", typ: tar.TypeChar, dev: [2]int64{1, 3}}, entry{name: "pipe", typ: tar.TypeFifo},
		entry{name: "redirect/", pax: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/etc"}},
	)
	odd = append(odd, make([]byte, 9000)...)
	odd = append(odd, "trailing bytes belong to the digest too"...)
	images, err := s.Load(ctx, bytes.NewReader(dockerArchive(t, []string{"odd"}, [][]byte{odd}, [][]byte{gzipped(t, odd)})), nil)
	if err != nil {
		t.Fatal(err)
	}
	root, err := s.OpenRoot(images[0].Layers)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"a": "second, in its place", "hard": "second, in its place", "d": "file"} {
		if got, err := root.ReadFile(name, 100); string(got) != want {
			t.Errorf("%s = %q, %v; want %q", name, got, err, want)
		}
	}
	st, err := root.Stat("who")
	if err != nil || st.Uid != 3000000 || st.Gid != 4000000 || st.Mtim.Sec != 1700000000 || st.Mtim.Nsec != 123456789 {
		t.Errorf("who: %+v, %v", st, err)
	}
	if err := root.Close(); err != nil {
		t.Error(err)
	}
	var first, second bytes.Buffer
	if err := s.Save(ctx, &first, []string{"odd"}); err != nil {
		t.Fatal(err)
	}
	other := open(t)
	again, err := other.Load(ctx, bytes.NewReader(first.Bytes()), nil)
	if err != nil {
		t.Fatal(err)
	}
	if again[0].ID != images[0].ID || !cmp.Equal(again[0].RepoTags, []string{"odd:latest"}) {
		t.Errorf("loaded again: %s %v, want %s", again[0].ID, again[0].RepoTags, images[0].ID)
	}
	if err := other.Save(ctx, &second, []string{"odd:latest"}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two stores save the same image to different bytes")
	}
}

func TestCommitTakesTheUpperOver(t *testing.T) {
	s := open(t)
	l1 := archive(t, base...)
	images, err := s.Load(ctx, bytes.NewReader(dockerArchive(t, nil, [][]byte{l1}, [][]byte{l1})), nil)
	if err != nil {
		t.Fatal(err)
	}
	scratch, err := s.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	root, err := s.OpenWritable(images[0].Layers, scratch)
	if err != nil {
		t.Fatal(err)
	}
	h, err := root.Handle("/")
	if err != nil {
		t.Fatal(err)
	}
	// Through the overlay: remove, replace a directory, write.
	at := int(h.Fd())
	for _, err := range []error{
		unix.Unlinkat(at, "etc/passwd", 0), unix.Unlinkat(at, "data/old", 0), unix.Unlinkat(at, "data/kept", 0),
		unix.Unlinkat(at, "data", unix.AT_REMOVEDIR), unix.Mkdirat(at, "data", 0o700), unix.Linkat(at, "bin/true", at, "bin/yes", 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	h.Close()
	root.Close()
	layer, err := s.CommitLayer(ctx, "test", scratch.Upper)
	if err != nil {
		t.Fatal(err)
	}
	if err := scratch.Close(); err != nil {
		t.Fatal(err)
	}
	img, err := s.Create(ctx, images[0].Config, append(images[0].Layers, layer.DiffID), CreateOptions{Tags: []string{"committed"}})
	if err != nil {
		t.Fatal(err)
	}
	var saved bytes.Buffer
	if err := s.Save(ctx, &saved, []string{"committed"}); err != nil {
		t.Fatal(err)
	}
	for name, st := range map[string]*Store{"committed": s, "loaded": open(t)} {
		if name == "loaded" {
			if _, err := st.Load(ctx, bytes.NewReader(saved.Bytes()), nil); err != nil {
				t.Fatal(err)
			}
		}
		root, err := st.OpenRoot(img.Layers)
		if err != nil {
			t.Fatal(err)
		}
		for dir, want := range map[string][]string{"/": {"bin", "data", "etc"}, "/data": {}, "/etc": {}, "/bin": {"true", "yes"}} {
			got, err := root.ReadDir(dir)
			if err != nil || !cmp.Equal(append([]string{}, got...), want) {
				t.Errorf("%s: ReadDir(%s) = %v, %v; want %v", name, dir, got, err, want)
			}
		}
		a, err1 := root.Stat("bin/true")
		b, err2 := root.Stat("bin/yes")
		if err1 != nil || err2 != nil || a.Ino != b.Ino {
			t.Errorf("%s: hard link became two files: %v %v", name, err1, err2)
		}
		root.Close()
	}
}

func TestManyLayersAndTheSameOneTwice(t *testing.T) {
	s := open(t)
	var layers [][]byte
	for i := range 130 {
		layers = append(layers, archive(t, entry{name: fmt.Sprintf("f%d", i), body: "x"}, entry{name: "last", body: fmt.Sprint(i)}))
	}
	layers = append(layers, archive(t, entry{name: ".wh.f7"}), layers[0])
	img := load(t, s, []string{"many"}, layers...)
	dirs, err := s.LowerDirs(img)
	if err != nil || len(dirs) != 131 || len(dirs[0]) > len(s.dir)+6 {
		t.Errorf("%d directories, such as %s, %v", len(dirs), dirs[0], err)
	}
	root, err := s.OpenRoot(img.Layers)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	names, err := root.ReadDir("/")
	if err != nil || len(names) != 130 {
		t.Errorf("%d names, %v; want 130", len(names), err)
	}
	if last, err := root.ReadFile("last", 10); string(last) != "0" {
		t.Errorf("last = %s, %v; want that of the uppermost layer", last, err)
	}
}

func TestAnEmptyImageHasALowerLayer(t *testing.T) {
	s := open(t)
	img, err := s.Create(ctx, Spec{}, nil, CreateOptions{Tags: []string{"empty"}})
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := s.LowerDirs(img)
	if err != nil || len(dirs) != 1 {
		t.Fatal(dirs, err)
	}
	if names, err := os.ReadDir(dirs[0]); err != nil || len(names) > 0 {
		t.Error(names, err)
	}
}

func TestHistoryShowsSizesAndNames(t *testing.T) {
	s := open(t)
	img := load(t, s, []string{"a"}, archive(t, base...))
	config := img.Config
	config.History = []ocispec.History{{CreatedBy: "layer"}, {CreatedBy: "CMD", EmptyLayer: true}}
	if _, err := s.Create(ctx, config, img.Layers, CreateOptions{Tags: []string{"b"}}); err != nil {
		t.Fatal(err)
	}
	h, err := s.History(ctx, "b")
	if err != nil || len(h) != 2 || h[0].CreatedBy != "CMD" || h[0].Tags[0] != "b:latest" || h[1].ID != "<missing>" || h[1].Size != img.Size {
		t.Errorf("%+v, %v", h, err)
	}
}
