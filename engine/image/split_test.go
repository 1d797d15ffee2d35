package image

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"testing"
)

// FuzzUnpack unpacks any bytes as a layer: what is accepted can be made again to
// the byte. An execution writes to a disk, and no two cover the same: it wants
// -fuzzminimizetime=10x, without which the fuzzer seems to stand still while it
// tries for a minute to make each input smaller.
func FuzzUnpack(f *testing.F) {
	s := open(f)
	f.Add(archive(f, base...))
	f.Add(archive(f, entry{name: "a", body: "1"}, entry{name: "a", body: "2"}, entry{name: "a/"}, entry{name: "l", typ: tar.TypeSymlink, link: "a"}, entry{name: "l/x", body: "3"}))
	f.Add(sparseOf(1 << 50))
	f.Add(archive(f, entry{name: "a/", pax: map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y"}}, entry{name: "a/.wh.b"}, entry{name: "a/.wh..wh..opq"}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		if showsMuch(in) {
			return // within the bounds of a layer, and too slow for a fuzzer
		}
		u, err := s.unpack(ctx, bytes.NewReader(in))
		if err != nil {
			return
		}
		defer os.RemoveAll(u.dir)
		layers, err := s.install(ctx, []*unpacked{u}, addition{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.writeArchive(ctx, new(bytes.Buffer), layers[0].DiffID); err != nil {
			t.Errorf("the archive cannot be made again: %v", err)
		}
		if _, err := s.Collect(ctx); err != nil {
			t.Fatal(err)
		}
	})
}

// showsMuch tells whether the files of an archive have more than a few bytes.
func showsMuch(in []byte) bool {
	for r, n := tar.NewReader(bytes.NewReader(in)), int64(0); ; {
		h, err := r.Next()
		if err != nil {
			return false
		}
		if n += h.Size; n > 1<<24 || n < 0 {
			return n < 1<<40
		}
	}
}

// sparseArchives are what GNU tar -S makes of a file of 1 GiB that is "data" at
// 5000000, and nothing else, in two formats.
var sparseArchives = map[string]string{
	"gnu":   "H4sIAAAAAAACA+3QOwqAQAxF0SxllpD5OBtxBQP2io7791OoKCgiisU9TRKSNK9r5HU6iiHMdbSrdu5t4VVdjN460WkoxJTygb7LqTVG2rrOZ3dX+yfpOK/hmIguRDf9bfbJMwAAAIBVlXIiBQAAAAAAAAAAAPzFADxNFhIAKAAA",
	"posix": "H4sIAAAAAAACA+3UTU7DMBAFYK99ipzA8c/YrhfZFlYICXEAi3oR1DaRHaSK0+N2QwiiLIAKxPs2tmYmkhPrRbS38XCd4ibl0paR/QRZOaLTWi1Xqb1jypq6cc4ozaSq45Y1B3YBT2WKuR6F/U9aN1c396KMMZckdvFxyJ3ii2q/r1W5qO7jLnVl5Ibm1ZzitvTPqVPSG09qpYkb2eymvk4rH6y2lsJKSOvJazL22I3vuk69dh8+fpbBF4m2Xt7d6e7W/TYJHbTx3/wjOJ9/pY77t/knR5I18pL5z8MwnZv7rL98ub+Sf04heKUlJxkcn6VWIl0AAAAAAAAzmzhFfAUAAAAAAAAAAAD4jV4AduojbAAoAAA=",
}

func TestSparseFilesKeepTheirHoles(t *testing.T) {
	s := open(t)
	for format, b64 := range sparseArchives {
		packed, err := base64.StdEncoding.DecodeString(b64)
		if err != nil {
			t.Fatal(err)
		}
		id, err := s.Import(ctx, bytes.NewReader(packed), ImportOptions{Ref: format})
		if err != nil {
			t.Fatal(err)
		}
		img, err := s.Get(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		root, err := s.OpenRoot(img.Layers)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		st, err := root.Stat("sp")
		if err != nil || st.Size != 1<<30 || st.Blocks > 4096 {
			t.Errorf("%s: %d bytes in %d blocks, %v", format, st.Size, st.Blocks, err)
		}
		f, err := root.Open("sp")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got := make([]byte, 4)
		if _, err := f.ReadAt(got, 5000000); err != nil || string(got) != "data" {
			t.Errorf("%s: %q, %v", format, got, err)
		}
		// Check, which runs when the test ends, makes the archives again.
	}
}

func BenchmarkLoad(b *testing.B) {
	var entries []entry
	for d := range 300 {
		entries = append(entries, entry{name: fmt.Sprintf("d%d/", d)})
		for f := range 50 {
			body := bytes.Repeat([]byte(fmt.Sprintf("%d %d some text that compresses a bit\n", d, f)), 300)
			entries = append(entries, entry{name: fmt.Sprintf("d%d/f%d", d, f), body: string(body)})
		}
	}
	layer := archive(b, entries...)
	for name, packed := range map[string][]byte{"plain": layer, "gzip": gzipped(b, layer), "zstd": zstded(b, layer)} {
		whole := dockerArchive(b, []string{"x"}, [][]byte{layer}, [][]byte{packed})
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(layer)))
			for b.Loop() {
				b.StopTimer()
				s := open(b)
				b.StartTimer()
				if _, err := s.Load(ctx, bytes.NewReader(whole), nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSave(b *testing.B) {
	s := open(b)
	var entries []entry
	for d := range 300 {
		entries = append(entries, entry{name: fmt.Sprintf("d%d/", d)})
		for f := range 50 {
			entries = append(entries, entry{name: fmt.Sprintf("d%d/f%d", d, f), body: string(bytes.Repeat([]byte{byte(f), byte(d)}, 10<<10))})
		}
	}
	layer := archive(b, entries...)
	load(b, s, []string{"x"}, layer)
	b.SetBytes(int64(len(layer)))
	for b.Loop() {
		if err := s.Save(ctx, io.Discard, []string{"x"}); err != nil {
			b.Fatal(err)
		}
	}
}
