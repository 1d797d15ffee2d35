package registry

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"gantry/engine/image"
	"gantry/internal/fault"
	"gantry/internal/problem"
)

// PullRequest says what to pull.
type PullRequest struct {
	Ref         reference.Named   // a name alone means all tags
	Platform    *ocispec.Platform // nil: the host's
	Credentials Credentials
}

// Pull brings images into the store and gives them the names that were asked
// for. progress may be nil; it is called from one goroutine at a time, and not
// after Pull has returned. What was there already is not transferred. When ctx
// ends, nothing is left of what was begun.
//
// Errors: NotFound and others of a registry, in Docker's words.
func (c *Client) Pull(ctx context.Context, req PullRequest, progress func(Event)) (image.Image, error) {
	p := &puller{client: c, req: req, platform: image.Host(), lease: "pull " + random(), progress: serial(progress)}
	if req.Platform != nil {
		p.platform = *req.Platform
	}
	img, err := p.pull(ctx)
	c.cfg.Images.EndLease(p.lease)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return img, errors.Join(pullError(err, req.Ref), c.tidy(ctx))
	}
	return img, nil
}

// tidy removes what a call that failed has left in the store.
func (c *Client) tidy(ctx context.Context) error {
	_, err := c.cfg.Images.Collect(context.WithoutCancel(ctx))
	return err
}

// serial makes calls of progress one at a time.
func serial(progress func(Event)) func(Event) {
	if progress == nil {
		return func(Event) {}
	}
	var mu sync.Mutex
	return func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		progress(e)
	}
}

func random() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// puller is one running Pull.
type puller struct {
	client   *Client
	req      PullRequest
	platform ocispec.Platform
	lease    string
	progress func(Event)
	newer    bool // a name means another image than before
}

func (p *puller) pull(ctx context.Context) (img image.Image, err error) {
	from, err := p.client.repositories(ctx, p.req.Ref, p.req.Credentials)
	if err != nil {
		return img, err
	}
	warned := &warnings{tell: p.progress}
	for _, r := range from {
		r.warned = warned
	}
	refs := []reference.Named{p.req.Ref}
	if reference.IsNameOnly(p.req.Ref) {
		if refs, err = p.allTags(ctx, from); err != nil {
			return img, err
		}
	}
	for _, ref := range refs {
		if img, err = p.one(ctx, from, ref); err != nil {
			return img, err
		}
	}
	status := "Status: Image is up to date for "
	if p.newer {
		status = "Status: Downloaded newer image for "
	}
	p.progress(Event{Status: status + reference.FamiliarString(p.req.Ref)})
	return img, nil
}

func (p *puller) allTags(ctx context.Context, from []*repository) ([]reference.Named, error) {
	tags, err := firstOf(from, func(r *repository) ([]string, error) { return r.tags(ctx) })
	if err != nil {
		return nil, err
	}
	var refs []reference.Named
	for _, t := range tags {
		ref, err := reference.WithTag(p.req.Ref, t)
		if err != nil {
			return nil, problem.New(problem.Invalid, "tag %q: %w", t, err)
		}
		refs = append(refs, ref)
	}
	if len(refs) == 0 {
		return nil, problem.New(problem.NotFound, "no tags found for %s", reference.FamiliarName(p.req.Ref))
	}
	return refs, nil
}

// firstOf asks repositories in order until one answers; the last, which is no
// mirror, says what is wrong.
func firstOf[T any](from []*repository, ask func(*repository) (T, error)) (out T, err error) {
	for _, r := range from {
		if out, err = ask(r); err == nil {
			return out, nil
		}
		if r.mirror {
			r.client.log.Debug("registry mirror does not answer", "registry", r.base.Host, "err", err)
		}
	}
	return out, err
}

// tagOrDigest is what a reference asks a registry for.
func tagOrDigest(ref reference.Named) string {
	if d, ok := ref.(reference.Digested); ok {
		return d.Digest().String()
	}
	return ref.(reference.Tagged).Tag() // TagNameOnly has seen to it
}

// found is a manifest, how it was found, and where its blobs are.
type found struct {
	doc   document
	trail []image.Manifest // the indexes, outermost first, then the manifest
	from  []*repository
}

// find fetches what ref means, down to an image's manifest.
func (p *puller) find(ctx context.Context, from []*repository, ref reference.Named) (found, error) {
	f, err := firstOf(from, func(r *repository) (found, error) {
		m, doc, err := r.manifest(ctx, tagOrDigest(ref))
		return found{doc: doc, trail: []image.Manifest{m}, from: from[slices.Index(from, r):]}, err
	})
	if err != nil {
		return f, err
	}
	p.progress(Event{ID: tagOrDigest(ref), Status: "Pulling from " + reference.Path(ref)})
	for depth := 0; isIndex(f.trail[len(f.trail)-1].MediaType); depth++ {
		if depth == maxNesting {
			return f, problem.New(problem.Invalid, "indexes are nested too deep")
		}
		part, err := choose(f.doc.Manifests, p.platform)
		if err != nil {
			return f, err
		}
		var m image.Manifest
		m, err = firstOf(f.from, func(r *repository) (m image.Manifest, err error) {
			m, f.doc, err = r.manifest(ctx, part.Digest.String())
			return m, err
		})
		if err != nil {
			return f, err
		}
		f.trail = append(f.trail, m)
	}
	return f, nil
}

// maxNesting is how deep indexes may hold indexes.
const maxNesting = 3

// one pulls one tag or digest.
func (p *puller) one(ctx context.Context, from []*repository, ref reference.Named) (image.Image, error) {
	f, err := p.find(ctx, from, ref)
	if err != nil {
		return image.Image{}, err
	}
	if kind := f.doc.Config.MediaType; kind != ocispec.MediaTypeImageConfig && kind != dockerConfig {
		return image.Image{}, problem.New(problem.Unsupported, "invalid image: %q is no image but an artifact of type %q", reference.FamiliarString(ref), kind)
	}
	if err := p.client.checkSigned(ctx, f.from, ref, f.trail); err != nil {
		return image.Image{}, err
	}
	config, err := p.layers(ctx, f)
	if err != nil {
		return image.Image{}, err
	}
	top := f.trail[0].Digest
	names := []reference.Named{}
	if byDigest, err := reference.WithDigest(reference.TrimNamed(ref), top); err == nil {
		names = append(names, byDigest)
	}
	if _, pinned := ref.(reference.Digested); !pinned {
		names = append(names, ref)
	}
	before, err := p.client.cfg.Images.Resolve(ctx, reference.FamiliarString(ref))
	if err != nil && !errors.Is(err, problem.NotFound) {
		return before, err
	}
	if err := fault.At("registry/pull/before-image"); err != nil {
		return before, err
	}
	img, err := p.client.cfg.Images.AddPulled(ctx, image.Pulled{Config: config, Manifests: f.trail, Names: names})
	if err != nil {
		return img, err
	}
	p.newer = p.newer || before.ID != img.ID
	p.progress(Event{Status: "Digest: " + top.String()})
	p.remember(ref, f.doc)
	if misfit := p.client.cfg.Images.Misfit(img, reference.FamiliarString(ref)); misfit != "" {
		p.progress(Event{Status: "WARNING: " + misfit})
		p.client.log.Warn("image with programs for another CPU", "image", reference.FamiliarString(ref), "err", misfit)
	}
	if want := p.req.Platform; want != nil && rankPlatform(new(img.Platform()), *want) == 0 {
		p.progress(Event{Status: fmt.Sprintf("WARNING: image with reference %s was found but does not match the specified platform: wanted %s, actual: %s",
			reference.FamiliarString(ref), image.FormatPlatform(*want), image.FormatPlatform(img.Platform()))})
	}
	return img, nil
}

// remember notes where blobs are, so that a push to the same registry need not
// send them.
func (p *puller) remember(ref reference.Named, doc document) {
	for _, l := range doc.Layers {
		p.client.noteSource(l.Digest, location{reference.Domain(ref), reference.Path(ref)})
	}
}

// layers brings an image's configuration and layers into the store, under the
// puller's lease, and returns the configuration.
func (p *puller) layers(ctx context.Context, f found) ([]byte, error) {
	images := p.client.cfg.Images
	id := f.doc.Config.Digest
	if img, err := images.Get(ctx, id); err == nil && images.Lease(p.lease, img.Layers...) == nil {
		return images.Document(ctx, id)
	}
	if id.Algorithm() != digest.SHA256 {
		return nil, problem.New(problem.Unsupported, "image configuration %s: only sha256 is supported", id)
	}
	config, err := fetch(ctx, f.from, *f.doc.Config, maxConfig)
	if err != nil {
		return nil, fmt.Errorf("error pulling image configuration: %w", err)
	}
	var spec image.Spec
	if err := json.Unmarshal(config, &spec); err != nil {
		return nil, problem.New(problem.Invalid, "image configuration: %w", err)
	}
	diffIDs := spec.RootFS.DiffIDs
	if len(diffIDs) != len(f.doc.Layers) {
		return nil, problem.New(problem.Invalid, "layers from manifest don't match image configuration")
	}
	for _, d := range diffIDs {
		if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
			return nil, problem.New(problem.Invalid, "invalid rootfs in image configuration: layer %q", d)
		}
	}
	return config, p.fetchLayers(ctx, f, diffIDs)
}

func (p *puller) fetchLayers(ctx context.Context, f found, diffIDs []digest.Digest) error {
	g, ctx := errgroup.WithContext(ctx)
	seen := map[digest.Digest]bool{}
	var missing []func() error
	for i, l := range f.doc.Layers {
		if seen[l.Digest] {
			continue
		}
		seen[l.Digest] = true
		id := shortID(l.Digest)
		if p.client.cfg.Images.Lease(p.lease, diffIDs[i]) == nil {
			p.progress(Event{ID: id, Status: "Already exists"})
			// The blob goes with the image if it is there; it is not fetched for
			// that alone.
			_ = p.client.cfg.Images.LeaseBlobs(p.lease, l.Digest)
			continue
		}
		p.progress(Event{ID: id, Status: "Pulling fs layer"})
		missing = append(missing, func() error {
			return p.client.layer(ctx, wanted{desc: l, diffID: diffIDs[i], from: f.from, lease: p.lease}, func(e Event) {
				e.ID = id
				p.progress(e)
			})
		})
	}
	for _, get := range missing {
		g.Go(get)
	}
	return g.Wait()
}

func shortID(d digest.Digest) string { return d.Encoded()[:min(12, len(d.Encoded()))] }
