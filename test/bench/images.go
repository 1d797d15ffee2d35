package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/gzip"
)

// The image that is saved and loaded: layers of files, a third of which is noise.
const (
	imageLayers   = 5
	filesPerLayer = 3000
	fileBytes     = 20 << 10
)

// images measures builds, archives of images, and what a pull moves.
func images(ctx context.Context, b *bench) ([]row, error) {
	s := &scenery{b: b}
	if err := s.prepare(); err != nil {
		return nil, err
	}
	return b.beside(ctx, imageRows, s.measure)
}

// imageRows are what measure gives, in order.
var imageRows = []aim{
	{buildCold, "500 ms"}, {buildCached, "100 ms"}, {loadImage, "2.0 s"}, {saveImage, "1.0 s"}, {pullSecond, "the fifth alone"},
}

const (
	buildCold   = "build: FROM busybox, COPY of 1000 files, RUN x5, cold"
	buildCached = "the same, cached"
	loadImage   = "docker load, 300 MiB in 5 layers of 3000 files"
	saveImage   = "docker save of it"
	pullSecond  = "pull of a second image that shares 4 of 5 layers: bytes moved of those of the fifth"
)

// scenery is what both targets are given.
type scenery struct {
	b       *bench
	busybox string // archive
	context string // directory of a build
	archive string // docker load reads it
	far     *far
}

func (s *scenery) prepare() (err error) {
	if s.busybox, err = s.b.busyboxTar(); err != nil {
		return err
	}
	s.context = filepath.Join(s.b.work, "context")
	if err := makeContext(s.context); err != nil {
		return err
	}
	s.archive = filepath.Join(s.b.work, "image.tar")
	if err := writeImage(s.archive); err != nil {
		return err
	}
	s.far, err = newFar()
	return err
}

func makeContext(dir string) error {
	noise := rand.New(rand.NewPCG(1, 2))
	for i := range 1000 {
		sub := filepath.Join(dir, "files", fmt.Sprint(i%20))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("file%d", i)), content(noise, 4<<10), 0o644); err != nil {
			return err
		}
	}
	dockerfile := "FROM busybox\nCOPY files /files\n"
	for i := range 5 {
		dockerfile += fmt.Sprintf("RUN echo %d > /step%d\n", i, i)
	}
	return os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644)
}

// content is n bytes, of which a third does not compress.
func content(noise *rand.Rand, n int) []byte {
	b := bytes.Repeat([]byte("lorem ipsum dolor "), n/18+1)[:n]
	for i := 0; i < n/3; i++ {
		b[i] = byte(noise.Uint32())
	}
	return b
}

// layer is the archive of files of one layer; the same number gives the same.
func layer(number, files int) []byte {
	noise := rand.New(rand.NewPCG(uint64(number), 7))
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i := range files {
		h := &tar.Header{Name: fmt.Sprintf("layer%d/dir%d/file%d", number, i%50, i), Mode: 0o644, Size: fileBytes, Typeflag: tar.TypeReg}
		_ = w.WriteHeader(h) // into memory
		_, _ = w.Write(content(noise, fileBytes))
	}
	_ = w.Close() // into memory
	return out.Bytes()
}

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

func imageConfig(diffIDs []string) []byte {
	doc, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Cmd": []string{"/none"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	if err != nil {
		panic(err) // strings alone
	}
	return doc
}

// writeImage writes an archive as docker save does.
func writeImage(path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := bufio.NewWriterSize(f, 1<<20)
	w := tar.NewWriter(buf)
	add := func(name string, b []byte) {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(b)), Typeflag: tar.TypeReg}))
		_, werr := w.Write(b)
		err = errors.Join(err, werr)
	}
	var diffIDs, names []string
	for n := range imageLayers {
		b := layer(n, filesPerLayer)
		diffIDs = append(diffIDs, digestOf(b))
		names = append(names, fmt.Sprintf("%d/layer.tar", n))
		add(names[n], b)
	}
	config := imageConfig(diffIDs)
	name := strings.TrimPrefix(digestOf(config), "sha256:") + ".json"
	add(name, config)
	manifest, merr := json.Marshal([]map[string]any{{"Config": name, "RepoTags": []string{"large:latest"}, "Layers": names}})
	add("manifest.json", manifest)
	return errors.Join(err, merr, w.Close(), buf.Flush())
}

// measure takes all figures of one engine, which starts empty.
func (s *scenery) measure(ctx context.Context, t *target, log *bytes.Buffer) (map[string]string, error) {
	if err := t.start(ctx, log); err != nil {
		return nil, err
	}
	if _, err := t.docker(ctx, "import", s.busybox, "busybox:latest"); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, m := range []struct {
		name  string
		tries int
		take  func() (time.Duration, error)
	}{
		{buildCold, 5, func() (time.Duration, error) { return t.build(ctx, s.context, "--no-cache") }},
		{buildCached, 9, func() (time.Duration, error) { return t.build(ctx, s.context) }},
		{loadImage, 3, func() (time.Duration, error) {
			d, err := t.docker(ctx, "load", "-q", "-i", s.archive)
			if err != nil {
				return 0, err
			}
			_, err = t.docker(ctx, "rmi", "large")
			return d, err
		}},
		{saveImage, 3, func() (time.Duration, error) {
			if _, err := t.docker(ctx, "load", "-q", "-i", s.archive); err != nil {
				return 0, err
			}
			return t.docker(ctx, "save", "-o", filepath.Join(s.b.work, "saved.tar"), "large")
		}},
	} {
		fmt.Fprintf(os.Stderr, "  %s: %s\n", t.name, m.name)
		d, err := median(m.tries, m.take)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		out[m.name] = ms(d)
	}
	moved, err := s.far.second(ctx, t)
	out[pullSecond] = moved
	return out, err
}

// build runs the classic builder, which needs no plug-in of the client.
func (t *target) build(ctx context.Context, dir string, args ...string) (time.Duration, error) {
	all := append([]string{"build", "-q", "-t", "built"}, args...)
	return timed(ctx, append(t.env(), "DOCKER_BUILDKIT=0"), "docker", append(all, dir)...)
}

// far is a registry on loopback with two images, of which the second shares
// four of five layers with the first. It counts what it sends of blobs.
type far struct {
	address string
	files   map[string][]byte // by path
	kinds   map[string]string
	sent    atomic.Int64
	fifth   int64 // bytes of the layer and configuration that only the second has
}

func newFar() (*far, error) {
	f := &far{files: map[string][]byte{"/v2/": []byte("{}")}, kinds: map[string]string{}}
	var layers []farLayer
	for n := range imageLayers + 1 {
		plain := layer(100+n, 100)
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		_, err := z.Write(plain)
		if err = errors.Join(err, z.Close()); err != nil {
			return nil, err
		}
		layers = append(layers, farLayer{digestOf(plain), packed.Bytes()})
	}
	f.image("first", layers[:imageLayers])
	f.fifth = f.image("second", append(layers[:imageLayers-1:imageLayers-1], layers[imageLayers]))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f.address = l.Addr().String()
	go func() { _ = http.Serve(l, f) }() // as long as the bench
	return f, nil
}

type farLayer struct {
	diffID string
	packed []byte
}

// image adds an image, and returns the bytes of its last layer and configuration.
func (f *far) image(name string, layers []farLayer) int64 {
	const kind = "application/vnd.docker.distribution.manifest.v2+json"
	var diffIDs []string
	var list []map[string]any
	blob := func(mediaType string, b []byte) map[string]any {
		for _, repo := range []string{"first", "second"} {
			f.files["/v2/"+repo+"/blobs/"+digestOf(b)] = b
		}
		return map[string]any{"mediaType": mediaType, "digest": digestOf(b), "size": len(b)}
	}
	for _, l := range layers {
		diffIDs = append(diffIDs, l.diffID)
		list = append(list, blob("application/vnd.docker.image.rootfs.diff.tar.gzip", l.packed))
	}
	config := imageConfig(diffIDs)
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": kind, "config": blob("application/vnd.docker.container.image.v1+json", config), "layers": list,
	})
	if err != nil {
		panic(err) // strings and numbers alone
	}
	for _, ref := range []string{"latest", digestOf(manifest)} {
		f.files["/v2/"+name+"/manifests/"+ref], f.kinds["/v2/"+name+"/manifests/"+ref] = manifest, kind
	}
	return int64(len(config) + len(layers[len(layers)-1].packed))
}

func (f *far) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, ok := f.files[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if kind := f.kinds[r.URL.Path]; kind != "" {
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Docker-Content-Digest", digestOf(b))
	}
	if strings.Contains(r.URL.Path, "/blobs/") {
		w = counting{w, &f.sent}
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}

type counting struct {
	http.ResponseWriter
	sent *atomic.Int64
}

func (c counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.sent.Add(int64(n))
	return n, err
}

// second pulls both images and tells what the second one moved.
func (f *far) second(ctx context.Context, t *target) (string, error) {
	if _, err := t.docker(ctx, "pull", "-q", f.address+"/first"); err != nil {
		return "", err
	}
	f.sent.Store(0)
	if _, err := t.docker(ctx, "pull", "-q", f.address+"/second"); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d of %d", f.sent.Load(), f.fifth), nil
}
