package tree

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"

	"gantry/internal/problem"
	"gantry/internal/testenv"
)

var ctx = context.Background()

func openRoot(t testing.TB, dir string) *Root {
	t.Helper()
	r, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// headers lists an archive, one line an entry.
func headers(t testing.TB, b []byte) (out []string) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, strings.TrimSpace(fmt.Sprintf("%c %s %s%s", h.Typeflag, h.Name, h.Linkname, body)))
	}
}

func pack(t testing.TB, root *Root) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := Pack(ctx, &b, root); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestPackIsTheInverseOfALayersExtraction(t *testing.T) {
	testenv.NeedRoot(t)
	var in bytes.Buffer
	w := tar.NewWriter(&in)
	at := time.Unix(1600000000, 123456789)
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "a/", Mode: 0o2750, Uid: 5, Gid: 6, ModTime: at},
		{Typeflag: tar.TypeReg, Name: "a/.wh..wh..opq"},
		{Typeflag: tar.TypeReg, Name: "a/f", Mode: 0o4755, Size: 1, ModTime: at, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}},
		{Typeflag: tar.TypeLink, Name: "a/g", Linkname: "a/f", Mode: 0o4755, ModTime: at},
		{Typeflag: tar.TypeReg, Name: "a/.wh.gone"},
		{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "/nowhere", Uid: 7, ModTime: at},
		{Typeflag: tar.TypeFifo, Name: "p", Mode: 0o600, ModTime: at},
		{Typeflag: tar.TypeChar, Name: "z", Devmajor: 1, Devminor: 3, Mode: 0o666, ModTime: at},
	} {
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("x")[:h.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	first, second := openRoot(t, t.TempDir()), openRoot(t, t.TempDir())
	if err := Extract(ctx, bytes.NewReader(in.Bytes()), first, Options{Layer: true}); err != nil {
		t.Fatal(err)
	}
	st, err := first.Lstat("a/gone")
	if err != nil || !isWhiteout(&st) {
		t.Errorf("a/gone is no whiteout: %+v, %v", st, err)
	}
	out := pack(t, first)
	want := []string{"5 a/", "0 a/.wh..wh..opq", "0 a/f x", "1 a/g a/f", "0 a/.wh.gone", "2 l /nowhere", "6 p", "3 z"}
	if diff := cmp.Diff(want, headers(t, out)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := Extract(ctx, bytes.NewReader(out), second, Options{Layer: true}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out, pack(t, second)) {
		t.Error("packed again, the tree gives other bytes")
	}
	for name, want := range map[string]unix.Stat_t{"a": {Mode: unix.S_IFDIR | 0o2750, Uid: 5, Gid: 6}, "a/f": {Mode: unix.S_IFREG | 0o4755}, "l": {Mode: unix.S_IFLNK | 0o777, Uid: 7}} {
		st, err := second.Lstat(name)
		if err != nil || st.Mode != want.Mode || st.Uid != want.Uid || st.Gid != want.Gid || st.Mtim.Nsec != 123456789 {
			t.Errorf("%s: %+v, %v", name, st, err)
		}
	}
	if attrs, err := second.Xattrs("a/f"); err != nil || attrs["SCHILY.xattr.user.a"] != "b" {
		t.Errorf("attributes %v, %v", attrs, err)
	}
}

func TestAWhiteoutSparesWhatItsOwnLayerHas(t *testing.T) {
	testenv.NeedRoot(t)
	entries := []tar.Header{
		{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o755}, {Typeflag: tar.TypeReg, Name: "d/f"},
		{Typeflag: tar.TypeReg, Name: ".wh.d"}, {Typeflag: tar.TypeReg, Name: "file"}, {Typeflag: tar.TypeReg, Name: ".wh.file"},
	}
	for _, order := range [][]int{{0, 1, 2, 3, 4}, {2, 4, 0, 1, 3}, {2, 1, 4, 3}} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, i := range order {
			if err := w.WriteHeader(&entries[i]); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
		root := openRoot(t, t.TempDir())
		if err := Extract(ctx, &b, root, Options{Layer: true}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"5 d/", "0 d/.wh..wh..opq", "0 d/f", "0 file"}, headers(t, pack(t, root))); diff != "" {
			t.Errorf("order %v (-want +got):\n%s", order, diff)
		}
	}
}

func TestPackRefusesALayerThatIsNotComplete(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(filepath.Join(dir, "d"), "trusted.overlay.redirect", []byte("/x"), 0); err != nil {
		t.Skip(err)
	}
	if _, err := Pack(ctx, io.Discard, openRoot(t, dir)); err == nil || !strings.Contains(err.Error(), "redirect") {
		t.Error(err)
	}
}

func TestDecompress(t *testing.T) {
	plain := bytes.Repeat([]byte("some text "), 100_000)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(plain)
	z.Close()
	var tee bytes.Buffer
	r, kind, err := Decompress(bytes.NewReader(zipped.Bytes()), &tee)
	if err != nil || kind != Gzip {
		t.Fatal(kind, err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, plain) || !bytes.Equal(tee.Bytes(), plain) {
		t.Errorf("%d and %d bytes of %d, %v", len(got), tee.Len(), len(plain), err)
	}
	r.Close()
	cut, _, err := Decompress(bytes.NewReader(zipped.Bytes()[:zipped.Len()-20]), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(cut); err == nil {
		t.Error("a cut-off stream ends without an error")
	}
	cut.Close()
	if _, _, err := Decompress(strings.NewReader("LZIP....."), nil); !errors.Is(err, problem.Unsupported) {
		t.Errorf("lzip: %v", err)
	}
	packed, err := base64.StdEncoding.DecodeString("/Td6WFoAAATm1rRGAgAhARYAAAB0L+WjAQAHRlJPTSB4egoAl9l74qxfUEAAASAIuxnZux+2830BAAAAAARZWg==")
	if err != nil {
		t.Fatal(err)
	}
	if r, kind, err := Decompress(bytes.NewReader(packed), nil); err != nil || kind != XZ {
		t.Error(kind, err)
	} else if b, err := io.ReadAll(r); string(b) != "FROM xz\n" || err != nil {
		t.Errorf("%q, %v", b, err)
	} else {
		r.Close()
	}
	if r, kind, err := Decompress(strings.NewReader(""), nil); err != nil || kind != Plain {
		t.Error(kind, err)
	} else if b, err := io.ReadAll(r); len(b) > 0 || err != nil {
		t.Error(b, err)
	} else {
		r.Close()
	}
}

func TestDecompressEndsItsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which fails if one is left
		r, _, err := Decompress(bytes.NewReader(make([]byte, 10<<20)), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzExtract unpacks any bytes: it must not crash, write outside, or leave a
// tree that cannot be packed.
func FuzzExtract(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "a/", Mode: 0o755}, {Typeflag: tar.TypeReg, Name: "a/f", Size: 3}, {Typeflag: tar.TypeReg, Name: "a/.wh.f"},
		{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "../.."}, {Typeflag: tar.TypeLink, Name: "h", Linkname: "l/x"},
	} {
		if err := w.WriteHeader(h); err != nil {
			f.Fatal(err)
		}
		if _, err := w.Write([]byte("abc")[:h.Size]); err != nil {
			f.Fatal(err)
		}
	}
	w.Close()
	f.Add(b.Bytes())
	f.Add([]byte{})
	testenv.NeedRoot(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		outside := t.TempDir()
		inside := filepath.Join(outside, "in")
		if err := os.Mkdir(inside, 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := OpenRoot(inside)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		if err := Extract(ctx, bytes.NewReader(in), root, Options{Layer: true}); err == nil {
			if _, err := Pack(ctx, io.Discard, root); err != nil {
				t.Errorf("extracted, but not packed: %v", err)
			}
		}
		if names, err := os.ReadDir(outside); err != nil || len(names) != 1 {
			t.Errorf("outside there is %v, %v", names, err)
		}
	})
}
