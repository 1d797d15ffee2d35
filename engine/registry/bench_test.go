package registry

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// large is an image of about 300 MiB in five layers of 3000 files, a third of
// which does not compress.
func large(b *testing.B, f *far) {
	b.Helper()
	var layers []layer
	for n := range 5 {
		noise := rand.New(rand.NewPCG(uint64(n), 7))
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		for i := range 3000 {
			text := bytes.Repeat([]byte("lorem ipsum dolor "), 20<<10/18+1)[:20<<10]
			for j := range len(text) / 3 {
				text[j] = byte(noise.Uint32())
			}
			h := &tar.Header{Name: fmt.Sprintf("layer%d/dir%d/file%d", n, i%50, i), Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}
			_ = w.WriteHeader(h) // into memory
			_, _ = w.Write(text)
		}
		_ = w.Close() // into memory
		layers = append(layers, gzipped(b, out.Bytes()))
	}
	f.image("large", "1", ocispec.MediaTypeImageManifest, amd64, layers...)
}

func BenchmarkPull(b *testing.B) {
	f := newFar(b)
	large(b, f)
	for b.Loop() {
		b.StopTimer()
		c := newClient(b, Config{})
		b.StartTimer()
		if _, err := c.Pull(b.Context(), PullRequest{Ref: parseRef(b, f.host()+"/large:1")}, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPush(b *testing.B) {
	f, to := newFar(b), newOurs(b, "")
	large(b, f)
	c := newClient(b, Config{})
	img, err := c.Pull(b.Context(), PullRequest{Ref: parseRef(b, f.host()+"/large:1")}, nil)
	if err != nil {
		b.Fatal(err)
	}
	push := func(ref string) {
		if err := c.Push(b.Context(), PushRequest{Ref: parseRef(b, ref)}, nil); err != nil {
			b.Fatal(err)
		}
	}
	ref := to.tag(b, c, img, "all:1")
	push(ref)
	b.Run("all present", func(b *testing.B) {
		for b.Loop() {
			push(ref)
		}
	})
	b.Run("empty", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			empty := newOurs(b, "")
			ref := empty.tag(b, c, img, "large:1")
			b.StartTimer()
			push(ref)
		}
	})
}
