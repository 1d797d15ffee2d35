package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"gantry/engine/image"
	"gantry/internal/problem"
)

// PushRequest says what to push.
type PushRequest struct {
	Ref         reference.Named   // a name alone means all its tags
	Platform    *ocispec.Platform // nil: all that are here, where those are all of an index
	Credentials Credentials
}

// Push sends images to the registry that their name says: what was pulled goes
// out byte for byte. progress is as with Pull. Once Push has begun, errors are
// the registry's, or Docker's words.
func (c *Client) Push(ctx context.Context, req PushRequest, progress func(Event)) error {
	p := &pusher{client: c, req: req, lease: "push " + random(), progress: serial(progress)}
	defer c.cfg.Images.EndLease(p.lease)
	p.progress(Event{Status: fmt.Sprintf("The push refers to repository [%s]", req.Ref.Name())})
	refs, err := p.refs(ctx)
	if err != nil {
		return err
	}
	if p.repo, err = c.repository(ctx, req.Ref, req.Credentials); err != nil {
		return err
	}
	p.repo.warned = &warnings{tell: p.progress}
	for _, ref := range refs {
		if err := p.one(ctx, ref); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return err
		}
	}
	return nil
}

// pusher is one running Push.
type pusher struct {
	client   *Client
	req      PushRequest
	repo     *repository
	lease    string
	progress func(Event)
}

// refs are the tags to push.
func (p *pusher) refs(ctx context.Context) ([]reference.NamedTagged, error) {
	if _, ok := p.req.Ref.(reference.Digested); ok {
		return nil, problem.New(problem.Invalid, "cannot push a digest reference")
	}
	list, err := p.client.cfg.Images.List(ctx)
	if err != nil {
		return nil, err
	}
	var all []reference.NamedTagged
	known := false
	for _, img := range list {
		for _, tag := range img.RepoTags {
			n, err := reference.ParseNormalizedNamed(tag)
			if err != nil || n.Name() != p.req.Ref.Name() {
				continue
			}
			known = true
			t, ok := n.(reference.NamedTagged)
			if ok && (reference.IsNameOnly(p.req.Ref) || n.String() == p.req.Ref.String()) {
				all = append(all, t)
			}
		}
	}
	switch {
	case !known:
		return nil, problem.New(problem.NotFound, "An image does not exist locally with the tag: %s", reference.FamiliarName(p.req.Ref))
	case len(all) == 0:
		return nil, problem.New(problem.NotFound, "tag does not exist: %s", reference.FamiliarString(p.req.Ref))
	}
	return all, nil
}

func (p *pusher) one(ctx context.Context, ref reference.NamedTagged) error {
	img, err := p.client.cfg.Images.Resolve(ctx, ref.String())
	if err != nil {
		return err
	}
	list, err := p.choose(ctx, ref, img)
	if err != nil {
		return err
	}
	for _, m := range list {
		if !isIndex(m.MediaType) {
			if err := p.blobs(ctx, m); err != nil {
				return err
			}
		}
		what := m.Digest.String()
		if m.Digest == list[len(list)-1].Digest {
			what = ref.Tag()
		}
		if err := p.repo.putManifest(ctx, what, m); err != nil {
			return err
		}
	}
	top := list[len(list)-1]
	if err := p.noteDigest(ctx, ref, img, top); err != nil {
		return err
	}
	p.progress(Event{Status: fmt.Sprintf("%s: digest: %s size: %d", ref.Tag(), top.Digest, len(top.Raw))})
	p.progress(Event{Pushed: &Pushed{Tag: ref.Tag(), Digest: top.Digest, Size: int64(len(top.Raw))}})
	return nil
}

// choose returns the manifests to push, the one that gets the tag last: the
// index that the image came with where all its parts are here, or else, and
// where a platform was asked for, the image's own.
func (p *pusher) choose(ctx context.Context, ref reference.Named, img image.Image) ([]image.Manifest, error) {
	images := p.client.cfg.Images
	list, err := p.wholeIndex(ctx, img)
	if err != nil {
		return nil, err
	}
	want := p.req.Platform
	if want == nil && len(list) > 0 {
		return list, nil
	}
	if want != nil && !image.ForOneOf(img, []ocispec.Platform{*want}) {
		for _, m := range list {
			if part, err := p.imageOf(ctx, m); err == nil && image.ForOneOf(part, []ocispec.Platform{*want}) {
				return []image.Manifest{m}, nil
			}
		}
		return nil, problem.New(problem.NotFound, "image with reference %s was found but its platform (%s) does not match the specified platform (%s)",
			reference.FamiliarString(ref), image.FormatPlatform(img.Platform()), image.FormatPlatform(*want))
	}
	for _, l := range img.Layers {
		p.progress(Event{ID: shortID(l), Status: "Preparing"})
	}
	m, err := images.Pack(ctx, p.lease, img.ID)
	return []image.Manifest{m}, err
}

// wholeIndex returns the newest index that leads to an image and whose parts are
// all in the store as they came, after those parts; or nothing. The parts get
// the push's lease.
func (p *pusher) wholeIndex(ctx context.Context, img image.Image) ([]image.Manifest, error) {
	all, err := p.client.cfg.Images.Manifests(ctx, img.ID)
	if err != nil {
		return nil, err
	}
	for _, m := range slices.Backward(leadingTo(img.ID, all)) {
		if !isIndex(m.MediaType) {
			continue
		}
		if list := p.partsOf(ctx, m); len(list) > 0 {
			return append(list, m), nil
		}
	}
	return nil, nil
}

// artifact returns the blobs of what is no image, such as an attestation, under
// the push's lease; nothing if they are not all here.
func (p *pusher) artifact(m image.Manifest) []ocispec.Descriptor {
	doc, _, err := parseManifest(m.MediaType, m.Raw)
	if err != nil || doc.Config == nil {
		return nil
	}
	blobs := append([]ocispec.Descriptor{*doc.Config}, doc.Layers...)
	if p.client.cfg.Images.LeaseBlobs(p.lease, digestsOf(blobs)...) != nil {
		return nil
	}
	return blobs
}

func digestsOf(blobs []ocispec.Descriptor) []digest.Digest {
	list := make([]digest.Digest, len(blobs))
	for i, b := range blobs {
		list[i] = b.Digest
	}
	return list
}

// partsOf returns the manifests that an index names, if all are here with all of
// their blobs.
func (p *pusher) partsOf(ctx context.Context, index image.Manifest) (list []image.Manifest) {
	doc, _, err := parseManifest(index.MediaType, index.Raw)
	if err != nil {
		return nil
	}
	for _, d := range doc.Manifests {
		m, err := p.client.cfg.Images.Manifest(ctx, d.Digest)
		if err != nil || isIndex(m.MediaType) {
			return nil
		}
		if _, err := p.imageOf(ctx, m); err != nil && p.artifact(m) == nil {
			return nil
		}
		list = append(list, m)
	}
	return list
}

// imageOf returns the image of a manifest, under the push's lease with the
// blobs that the manifest names, or NotFound.
func (p *pusher) imageOf(ctx context.Context, m image.Manifest) (image.Image, error) {
	images := p.client.cfg.Images
	doc, _, err := parseManifest(m.MediaType, m.Raw)
	if err != nil {
		return image.Image{}, err
	}
	if doc.Config == nil {
		return image.Image{}, problem.New(problem.NotFound, "index %s is no image", m.Digest)
	}
	img, err := images.Get(ctx, doc.Config.Digest)
	if err != nil {
		return img, err
	}
	if len(doc.Layers) != len(img.Layers) {
		return img, problem.New(problem.Invalid, "manifest %s is not one of image %s", m.Digest, img.ID)
	}
	for _, l := range doc.Layers {
		if foreign(l) {
			continue
		}
		if err := images.LeaseBlobs(p.lease, l.Digest); err != nil {
			return img, err
		}
	}
	return img, nil
}

// blobs sees to it that the registry has what a manifest names.
func (p *pusher) blobs(ctx context.Context, m image.Manifest) error {
	img, err := p.imageOf(ctx, m)
	if err != nil {
		if parts := p.artifact(m); parts != nil {
			return p.layers(ctx, parts, digestsOf(parts))
		}
		return err
	}
	doc, _, err := parseManifest(m.MediaType, m.Raw)
	if err != nil {
		return err
	}
	if err := p.layers(ctx, doc.Layers, img.Layers); err != nil {
		return err
	}
	config, err := p.client.cfg.Images.Document(ctx, img.ID)
	if err != nil {
		return err
	}
	there, err := p.repo.has(ctx, doc.Config.Digest)
	if err != nil || there {
		return err
	}
	return p.repo.upload(ctx, *doc.Config, func(offset int64) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(config[offset:])), nil })
}

// noteDigest gives the image the name under which the registry has it now.
func (p *pusher) noteDigest(ctx context.Context, ref reference.Named, img image.Image, m image.Manifest) error {
	name, err := reference.WithDigest(reference.TrimNamed(ref), m.Digest)
	if err != nil {
		return err
	}
	known := func(text string) bool {
		n, err := reference.ParseNormalizedNamed(text)
		return err == nil && n.String() == name.String()
	}
	if slices.ContainsFunc(img.RepoDigests, known) {
		return nil // nothing is new, so nothing waits for the disk
	}
	config, err := p.client.cfg.Images.Document(ctx, img.ID)
	if err != nil {
		return err
	}
	_, err = p.client.cfg.Images.AddPulled(ctx, image.Pulled{Config: config, Manifests: []image.Manifest{m}, Names: []reference.Named{name}})
	return err
}

func (p *pusher) layers(ctx context.Context, blobs []ocispec.Descriptor, diffIDs []digest.Digest) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(concurrentUploads)
	seen := map[digest.Digest]bool{}
	for i, l := range blobs {
		id := shortID(diffIDs[i])
		if seen[l.Digest] {
			continue
		}
		seen[l.Digest] = true
		if i >= concurrentUploads {
			p.progress(Event{ID: id, Status: "Waiting"})
		}
		g.Go(func() error {
			return p.layer(ctx, l, func(e Event) {
				e.ID = id
				p.progress(e)
			})
		})
	}
	return g.Wait()
}

// layer sees to it that the registry has a layer.
func (p *pusher) layer(ctx context.Context, l ocispec.Descriptor, tell func(Event)) error {
	if foreign(l) {
		tell(Event{Status: "Skipped foreign layer"})
		return nil
	}
	at := location{reference.Domain(p.req.Ref), reference.Path(p.req.Ref)}
	there, err := p.repo.has(ctx, l.Digest)
	if err != nil {
		return err
	}
	if there {
		p.client.noteSource(l.Digest, at)
		tell(Event{Status: "Layer already exists"})
		return nil
	}
	for _, from := range p.client.sourcesOf(l.Digest, at) {
		mounted, err := p.repo.mount(ctx, l.Digest, from)
		if err != nil && !isRefusal(err) {
			return err
		}
		if mounted {
			p.client.noteSource(l.Digest, at)
			tell(Event{Status: "Mounted from " + from})
			return nil
		}
	}
	err = p.repo.upload(ctx, l, func(offset int64) (io.ReadCloser, error) {
		f, err := p.client.cfg.Images.OpenBlob(ctx, l.Digest)
		if err != nil {
			return nil, err
		}
		if _, err := f.Seek(offset, io.SeekStart); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return struct {
			io.Reader
			io.Closer
		}{&reader{r: f, n: offset, total: l.Size, status: "Pushing", tell: tell}, f}, nil
	})
	if err != nil {
		return err
	}
	p.client.noteSource(l.Digest, at)
	tell(Event{Status: "Pushed"})
	return nil
}

// foreign tells a layer that is not distributed through registries.
func foreign(l ocispec.Descriptor) bool {
	return strings.Contains(l.MediaType, "foreign") || strings.Contains(l.MediaType, "nondistributable")
}

func isRefusal(err error) bool {
	_, ok := errors.AsType[*Error](err)
	return ok
}
