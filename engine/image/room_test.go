package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"

	"gantry/internal/problem"
	"gantry/internal/testenv"
)

// openSmall opens a store on a file system of its own.
func openSmall(t testing.TB, options string) *Store {
	t.Helper()
	testenv.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return openAt(t, filepath.Join(dir, "image"))
}

// zeros is an archive of files of a MiB of zeros each, packed to a thousandth.
func zeros(t *testing.T, files int) io.Reader {
	t.Helper()
	r, w := io.Pipe()
	go func() {
		z := gzip.NewWriter(w)
		a := tar.NewWriter(z)
		var err error
		for i := 0; i < files && err == nil; i++ {
			err = a.WriteHeader(&tar.Header{Name: fmt.Sprintf("zeros%d", i), Mode: 0o600, Size: 1 << 20, Typeflag: tar.TypeReg})
			if err == nil {
				_, err = io.CopyN(a, endless{}, 1<<20)
			}
		}
		w.CloseWithError(errors.Join(err, a.Close(), z.Close()))
	}()
	t.Cleanup(func() { r.Close() })
	return r
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// block is the header of an archive's entry, as archive/tar would not write it.
func block(name string, typ byte, size int) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x00")
	copy(b[124:], fmt.Sprintf("%011o\x00%011o\x00", size, 0))
	b[156] = typ
	copy(b[257:], "ustar\x0000")
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func padded(b []byte) []byte { return append(b, make([]byte, (512-len(b)%512)%512)...) }

// sparseOf is an archive of a file which has that many bytes, all of them holes.
func sparseOf(size int64) []byte {
	var records []byte
	for _, kv := range [][2]string{
		{"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"}, {"GNU.sparse.name", "sp"}, {"GNU.sparse.realsize", fmt.Sprint(size)},
	} {
		line := fmt.Sprintf(" %s=%s\n", kv[0], kv[1])
		records = append(records, fmt.Sprintf("%d%s", len(line)+2, line)...)
	}
	layout := padded([]byte(fmt.Sprintf("1\n%d\n0\n", size)))
	var out []byte
	out = append(out, block("pax", 'x', len(records))...)
	out = append(out, padded(records)...)
	out = append(out, block("sp", '0', len(layout))...)
	out = append(out, layout...)
	return append(out, make([]byte, 1024)...)
}

func TestArchivesThatFillTheDiskAreRefused(t *testing.T) {
	devices := make([]entry, 3000)
	for i := range devices {
		devices[i] = entry{name: fmt.Sprintf("dev%d", i), typ: tar.TypeChar, dev: [2]int64{1, 3}}
	}
	for name, c := range map[string]struct {
		options string
		in      func(*testing.T) io.Reader
	}{
		"zeros":   {"size=32m", func(t *testing.T) io.Reader { return zeros(t, 256) }},
		"devices": {"size=32m,nr_inodes=2000", func(t *testing.T) io.Reader { return bytes.NewReader(archive(t, devices...)) }},
		"holes":   {"size=32m", func(*testing.T) io.Reader { return bytes.NewReader(sparseOf(1 << 60)) }},
	} {
		t.Run(name, func(t *testing.T) {
			s := openSmall(t, c.options)
			_, err := s.Import(ctx, c.in(t), ImportOptions{})
			if !errors.Is(err, problem.NoSpace) && !errors.Is(err, unix.ENOSPC) {
				t.Errorf("Import: %v; want %v", err, problem.NoSpace)
			}
			left, err := os.ReadDir(filepath.Join(s.dir, "tmp"))
			if err != nil || len(left) > 0 {
				t.Errorf("left in tmp: %v, %v", left, err)
			}
			// What fits goes in as before.
			if _, err := s.Import(ctx, bytes.NewReader(archive(t, base...)), ImportOptions{Ref: "fits"}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRoomLeavesSomethingFree(t *testing.T) {
	s := openSmall(t, "size=64m")
	r, err := newRoom(ctx, s.dir)
	if err != nil {
		t.Fatal(err)
	}
	r.reserve = 60 << 20
	if err := r.look(); err != nil {
		t.Errorf("with nearly all free: %v", err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "tmp", "taken"), make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.content(int(r.step)); !errors.Is(err, problem.NoSpace) || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("below the reserve: %v", err)
	}
	if err := os.Remove(filepath.Join(s.dir, "tmp", "taken")); err != nil {
		t.Fatal(err)
	}
	holes := &tar.Header{Name: "sparse", Typeflag: tar.TypeGNUSparse, Size: 20 << 30}
	for r.largest = 1 << 40; r.holes < 60<<30; {
		if err := r.entry(holes); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.entry(holes); !errors.Is(err, problem.Invalid) {
		t.Errorf("sparse files of 80 GiB: %v", err)
	}
	r.entries = maxEntries
	if err := r.entry(&tar.Header{Name: "one more"}); !errors.Is(err, problem.Invalid) {
		t.Errorf("one entry too many: %v", err)
	}
}

func TestHolesEndWithTheirContext(t *testing.T) {
	s := open(t)
	ended, cancel := context.WithCancel(ctx)
	r, err := newRoom(ended, s.dir)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := r.content(int(r.step)); !errors.Is(err, context.Canceled) {
		t.Errorf("content: %v", err)
	}
}
