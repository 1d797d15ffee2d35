package image

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"gantry/internal/problem"
	"gantry/internal/tree"
)

// maxDocument bounds a JSON file of an archive, maxDocuments all of them.
const (
	maxDocument  = 8 << 20
	maxDocuments = 128 << 20
)

// Load reads images from an archive that docker save wrote, or from an OCI
// layout in a tar archive; either may be compressed, and so may the layers. It
// is all or nothing. Layers are unpacked as they stream by. progress may be nil.
func (s *Store) Load(ctx context.Context, r io.Reader, progress func(Event)) ([]Image, error) {
	return s.LoadFor(ctx, r, nil, progress)
}

// LoadFor is Load of those images of an archive that are for one of platforms; of
// all when there are none. Errors: NotFound if no image is.
func (s *Store) LoadFor(ctx context.Context, r io.Reader, platforms []ocispec.Platform, progress func(Event)) (_ []Image, err error) {
	if progress == nil {
		progress = func(Event) {}
	}
	l := &loader{store: s, progress: progress, platforms: platforms, lease: "load " + random(), blobs: map[digest.Digest]bool{}, contents: contents{
		documents: map[string][]byte{}, layers: map[string]blobLayer{}, links: map[string]string{},
	}}
	l.syncs.SetLimit(1)
	defer func() {
		_ = l.syncs.Wait() // finish has seen its error; without finish it does not matter
		err = errors.Join(err, l.clean(ctx))
	}()
	plain, _, err := tree.Decompress(ctxReader{ctx, r}, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	if err := l.take(ctx, tar.NewReader(plain)); err != nil {
		return nil, err
	}
	return l.finish(ctx)
}

// loader is one running Load.
type loader struct {
	store     *Store
	progress  func(Event)
	platforms []ocispec.Platform
	lease     string
	unpacked  []*unpacked
	blobs     map[digest.Digest]bool // that were not here before; true: a manifest that is kept names it
	read      int64                  // bytes of documents
	syncs     errgroup.Group         // one at a time
	contents
}

// clean ends the lease and removes what was unpacked and not installed, and
// blobs that nothing needs.
func (l *loader) clean(ctx context.Context) error {
	l.store.EndLease(l.lease)
	var errs []error
	for _, u := range l.unpacked {
		errs = append(errs, os.RemoveAll(u.dir))
	}
	for _, needed := range l.blobs {
		if !needed {
			_, err := l.store.Collect(context.WithoutCancel(ctx))
			errs = append(errs, err)
			break
		}
	}
	return errors.Join(errs...)
}

// take takes the archive apart.
func (l *loader) take(ctx context.Context, archive *tar.Reader) error {
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return problem.New(problem.Invalid, "invalid archive: %w", err)
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			err = l.file(ctx, name, h.Size, archive)
		case tar.TypeSymlink:
			l.links[name] = path.Join(path.Dir(name), h.Linkname)
		case tar.TypeLink:
			l.links[name] = path.Clean(h.Linkname)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

// file reads one file of the archive: a document, or something that may be a
// layer. What is no layer matters only if a manifest says that it is one.
func (l *loader) file(ctx context.Context, name string, size int64, r io.Reader) error {
	b := bufio.NewReaderSize(r, 4096)
	head, err := b.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if size <= maxDocument && looksJSON(head) {
		if l.read += size; l.read > maxDocuments {
			return problem.New(problem.Invalid, "invalid archive: more than %d bytes of documents", maxDocuments)
		}
		doc, err := io.ReadAll(b)
		l.documents[name] = doc
		return err
	}
	d, named := blobDigest(name)
	if len(head) < 64 && !named { // VERSION
		return nil
	}
	if known, ok := l.known(ctx, name); ok {
		l.layers[name] = blobLayer{diffID: known}
		return nil
	}
	c := &counter{r: b, total: size, report: func(n int64) {
		l.progress(Event{Status: "Loading layer", Layer: shortName(name), Current: n, Total: size})
	}}
	var layer blobLayer
	if named && !(d.Algorithm() == digest.SHA256 && isTar(head)) {
		layer, err = l.packed(ctx, c, d)
	} else if layer, err = l.unpack(ctx, c); named && layer.err == nil && layer.diffID != d {
		layer.err = problem.New(problem.Invalid, "it has digest %s", layer.diffID)
	}
	if err != nil {
		return err
	}
	c.report(size)
	l.layers[name] = layer
	return nil
}

// unpack makes a layer of a file, if it is one. An error is not the file's.
func (l *loader) unpack(ctx context.Context, r io.Reader) (blobLayer, error) {
	u, err := l.store.unpack(ctx, r)
	if err != nil && (context.Cause(ctx) != nil || isSpace(err)) {
		return blobLayer{}, err
	}
	if err != nil {
		return blobLayer{err: err}, nil
	}
	l.unpacked = append(l.unpacked, u)
	// The disk writes this layer while the next one is unpacked; what is written
	// before the image is recorded need not be waited for then.
	l.syncs.TryGo(l.store.sync)
	return blobLayer{diffID: u.diffID}, nil
}

// known returns the layer that a file named for its digest is, packed or not, if
// the store has it already. It gets a lease, and so does what it is packed to.
func (l *loader) known(ctx context.Context, name string) (digest.Digest, bool) {
	if d, ok := blobDigest(name); ok && l.store.LeaseBlobs(l.lease, d) == nil {
		b, err := l.store.Blob(ctx, d)
		if err == nil && b.DiffID != "" && l.store.Lease(l.lease, b.DiffID) == nil {
			return b.DiffID, true
		}
	}
	hex := path.Base(name)
	if len(hex) != 64 || !isHex(hex) {
		return "", false
	}
	d := digest.NewDigestFromEncoded(digest.SHA256, hex)
	return d, l.store.Lease(l.lease, d) == nil
}

func shortName(name string) digest.Digest {
	if hex := path.Base(name); len(hex) == 64 && isHex(hex) {
		return digest.NewDigestFromEncoded(digest.SHA256, hex)
	}
	if hex := path.Dir(name); len(hex) == 64 && isHex(hex) {
		return digest.NewDigestFromEncoded(digest.SHA256, hex)
	}
	return ""
}

// finish checks that the images are what they say, and installs them.
func (l *loader) finish(ctx context.Context) ([]Image, error) {
	images, err := l.images()
	if err != nil {
		return nil, err
	}
	if len(images) == 0 {
		return nil, problem.New(problem.Invalid, "invalid archive: there is no image in it")
	}
	images = append(images, l.parts(images)...)
	if images, err = l.wanted(images); err != nil {
		return nil, err
	}
	layers := map[digest.Digest]bool{}
	for _, f := range images {
		if err := l.verify(f, layers); err != nil {
			return nil, err
		}
	}
	manifests, err := l.manifests(ctx, images)
	if err != nil {
		return nil, err
	}
	if err := l.syncs.Wait(); err != nil {
		return nil, err
	}
	var lines []string
	needed := slices.DeleteFunc(slices.Clone(l.unpacked), func(u *unpacked) bool { return !layers[u.diffID] })
	_, err = l.store.install(ctx, needed, addition{durable: true, then: func(tx *bolt.Tx) error {
		for _, f := range images {
			said, err := replaced(tx, f)
			if err != nil {
				return err
			}
			lines = append(lines, said...)
			id := digest.FromBytes(f.config)
			if err := record(tx, id, f.config, "", f.names); err != nil {
				return err
			}
			if err := addManifests(tx, id, manifests[id]); err != nil {
				return err
			}
		}
		return nil
	}})
	if err != nil {
		return nil, err
	}
	var out []Image
	for _, f := range images {
		if f.part {
			continue
		}
		img, err := l.store.Get(ctx, digest.FromBytes(f.config))
		if err != nil {
			return nil, err
		}
		out = append(out, img)
		lines = append(lines, loaded(img.ID, f.names)...)
		if misfit := l.store.Misfit(img, img.ID.String()); misfit != "" {
			lines = append(lines, "WARNING: "+misfit+"\n")
		}
	}
	for _, line := range lines {
		l.progress(Event{Stream: line})
	}
	return out, nil
}

// wanted returns the images for one of the platforms that are asked for.
func (l *loader) wanted(images []found) ([]found, error) {
	if len(l.platforms) == 0 {
		return images, nil
	}
	var kept []found
	var is ocispec.Platform
	whole := false // not only parts
	for _, f := range images {
		var config Spec
		if err := json.Unmarshal(f.config, &config); err != nil {
			return nil, problem.New(problem.Invalid, "invalid archive: image configuration: %w", err)
		}
		if !f.part {
			is = config.Platform
		}
		if ForOneOf(Image{Config: config}, l.platforms) {
			kept = append(kept, f)
			whole = whole || !f.part
		}
	}
	if !whole {
		return nil, problem.New(problem.NotFound, "requested platform (%s) does not match image platform (%s)",
			FormatPlatform(l.platforms[0]), FormatPlatform(is))
	}
	return kept, nil
}

// verify checks that an image's layers are those of its configuration, and adds
// them to layers.
func (l *loader) verify(f found, layers map[digest.Digest]bool) error {
	var config Spec
	if err := json.Unmarshal(f.config, &config); err != nil {
		return problem.New(problem.Invalid, "invalid archive: image configuration: %w", err)
	}
	want := config.RootFS.DiffIDs
	if len(want) != len(f.layers) {
		return problem.New(problem.Invalid, "invalid manifest, layers length mismatch: expected %d, got %d", len(want), len(f.layers))
	}
	for i, name := range f.layers {
		if err := want[i].Validate(); err != nil || want[i].Algorithm() != digest.SHA256 {
			return problem.New(problem.Invalid, "invalid archive: layer %q", want[i])
		}
		layers[want[i]] = true
		layer, ok := l.layers[l.resolve(name)]
		if !ok { // an archive may leave out what the store has
			if err := l.store.Lease(l.lease, want[i]); err != nil {
				return problem.New(problem.Invalid, "invalid archive: layer %s is missing", name)
			}
			continue
		}
		if layer.err != nil {
			return problem.New(problem.Invalid, "invalid archive: layer %s: %w", name, layer.err)
		}
		if layer.diffID != want[i] {
			return problem.New(problem.Invalid, "invalid archive: layer %s has diffID %s, the image says %s", name, layer.diffID, want[i])
		}
	}
	return nil
}

// replaced says, in Docker's words, which images lose a name to f.
func replaced(tx *bolt.Tx, f found) ([]string, error) {
	var lines []string
	for _, n := range f.names {
		old := tx.Bucket(namesBucket).Get([]byte(canonical(n)))
		if old != nil && digest.Digest(old) != digest.FromBytes(f.config) {
			lines = append(lines, fmt.Sprintf("The image %s already exists, renaming the old one with ID %s to empty string\n",
				reference.FamiliarString(n), old))
		}
	}
	return lines, nil
}

func loaded(id digest.Digest, names []reference.Named) []string {
	if len(names) == 0 {
		return []string{fmt.Sprintf("Loaded image ID: %s\n", id)}
	}
	var lines []string
	for _, n := range names {
		lines = append(lines, fmt.Sprintf("Loaded image: %s\n", reference.FamiliarString(n)))
	}
	return lines
}

// counter reports how much was read, not more often than each hundredth.
type counter struct {
	r        io.Reader
	n, total int64
	reported int64
	report   func(int64)
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.n-c.reported >= max(c.total/100, 512<<10) {
		c.reported = c.n
		c.report(c.n)
	}
	return n, err
}
