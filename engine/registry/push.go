package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
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
	Ref         reference.Named // a name alone means all its tags
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
	images := p.client.cfg.Images
	img, err := images.Resolve(ctx, ref.String())
	if err != nil {
		return err
	}
	for _, l := range img.Layers {
		p.progress(Event{ID: shortID(l), Status: "Preparing"})
	}
	m, err := images.Pack(ctx, p.lease, img.ID)
	if err != nil {
		return err
	}
	doc, kind, err := parseManifest(m.MediaType, m.Raw)
	if err != nil {
		return err
	}
	if len(doc.Layers) != len(img.Layers) {
		return problem.New(problem.Invalid, "manifest %s is not one of image %s", m.Digest, img.ID)
	}
	if err := p.layers(ctx, doc.Layers, img.Layers); err != nil {
		return err
	}
	config, err := images.Document(ctx, img.ID)
	if err != nil {
		return err
	}
	if there, err := p.repo.has(ctx, doc.Config.Digest); err != nil {
		return err
	} else if !there {
		err := p.repo.upload(ctx, *doc.Config, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(config)), nil })
		if err != nil {
			return err
		}
	}
	if err := p.repo.putManifest(ctx, ref.Tag(), kind, m); err != nil {
		return err
	}
	if err := p.noteDigest(ctx, ref, img, m); err != nil {
		return err
	}
	p.progress(Event{Status: fmt.Sprintf("%s: digest: %s size: %d", ref.Tag(), m.Digest, len(m.Raw))})
	p.progress(Event{Pushed: &Pushed{Tag: ref.Tag(), Digest: m.Digest, Size: int64(len(m.Raw))}})
	return nil
}

// noteDigest gives the image the name under which the registry has it now.
func (p *pusher) noteDigest(ctx context.Context, ref reference.Named, img image.Image, m image.Manifest) error {
	name, err := reference.WithDigest(reference.TrimNamed(ref), m.Digest)
	if err != nil {
		return err
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
	if strings.Contains(l.MediaType, "foreign") || strings.Contains(l.MediaType, "nondistributable") {
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
	err = p.repo.upload(ctx, l, func() (io.ReadCloser, error) {
		f, err := p.client.cfg.Images.OpenBlob(ctx, l.Digest)
		if err != nil {
			return nil, err
		}
		return struct {
			io.Reader
			io.Closer
		}{reportReads(f, l.Size, "Pushing", tell), f}, nil
	})
	if err != nil {
		return err
	}
	p.client.noteSource(l.Digest, at)
	tell(Event{Status: "Pushed"})
	return nil
}

func isRefusal(err error) bool {
	_, ok := errors.AsType[*Error](err)
	return ok
}

// has asks whether the repository has a blob (spec, "Checking if content exists").
func (r *repository) has(ctx context.Context, d digest.Digest) (bool, error) {
	resp, err := r.do(ctx, request{method: http.MethodHead, url: r.url("blobs", d.String()), scopes: r.pushScopes()})
	if err != nil {
		return false, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return true, resp.Body.Close()
	case http.StatusNotFound:
		return false, resp.Body.Close()
	}
	return false, refusal(resp)
}

func (r *repository) pushScopes() []string { return []string{r.scope("pull,push")} }

// mount asks the registry to take a blob from another repository (spec,
// "Mounting a blob from another repository"). A session that it opens instead
// is given up.
func (r *repository) mount(ctx context.Context, d digest.Digest, from string) (bool, error) {
	at := r.uploads()
	at.RawQuery = url.Values{"mount": {d.String()}, "from": {from}}.Encode()
	scopes := sortedScopes(r.scope("pull,push"), scopeOf(from, "pull"))
	resp, err := r.do(ctx, request{method: http.MethodPost, url: at, scopes: scopes})
	if err != nil {
		return false, err
	}
	switch resp.StatusCode {
	case http.StatusCreated:
		return true, resp.Body.Close()
	case http.StatusAccepted:
		session, err := uploadLocation(resp)
		if err == nil {
			r.cancel(ctx, session)
		}
		return false, err
	}
	return false, refusal(resp)
}

// cancel ends an upload. A registry that cannot lets it expire.
func (r *repository) cancel(ctx context.Context, session *url.URL) {
	resp, err := r.send(ctx, request{method: http.MethodDelete, url: session, scopes: r.pushScopes()})
	if err == nil {
		_ = resp.Body.Close() // nothing was promised about it
	}
}

func (r *repository) uploads() *url.URL { return r.base.JoinPath("v2", r.name, "blobs", "uploads/") }

// uploadLocation reads where an upload goes on, and closes the answer.
func uploadLocation(resp *http.Response) (*url.URL, error) {
	defer resp.Body.Close()
	text := resp.Header.Get("Location")
	u, err := resp.Request.URL.Parse(text)
	if err != nil || text == "" {
		return nil, problem.New(problem.Invalid, "registry %s gave no place to upload to: %q", resp.Request.URL.Host, text)
	}
	return u, nil
}

// uploadTries bounds how often an upload is begun again after the connection
// broke.
const uploadTries = 5

// upload sends a blob: POST, then PUT with all of it (spec, "Pushing a blob
// monolithically"). open is called for each try.
func (r *repository) upload(ctx context.Context, d ocispec.Descriptor, open func() (io.ReadCloser, error)) error {
	for try := 1; ; try++ {
		err := r.uploadOnce(ctx, d, open)
		var e *Error
		again := errors.As(err, &e) && e.Status >= http.StatusInternalServerError || err != nil && e == nil && temporary(err)
		if !again || try == uploadTries || ctx.Err() != nil {
			return err
		}
		wait, _ := r.client.retry(try, nil, io.ErrUnexpectedEOF)
		r.client.log.Debug("upload is begun again", "digest", d.Digest, "attempt", try, "err", err)
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

func (r *repository) uploadOnce(ctx context.Context, d ocispec.Descriptor, open func() (io.ReadCloser, error)) error {
	resp, err := r.do(ctx, request{method: http.MethodPost, url: r.uploads(), scopes: r.pushScopes()})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusAccepted {
		return refusal(resp)
	}
	session, err := uploadLocation(resp)
	if err != nil {
		return err
	}
	q := session.Query()
	q.Set("digest", d.Digest.String())
	put := *session
	put.RawQuery = q.Encode()
	resp, err = r.do(ctx, request{
		method: http.MethodPut, url: &put, body: open, length: d.Size, scopes: r.pushScopes(), once: true,
		header: http.Header{"Content-Type": {"application/octet-stream"}},
	})
	if err != nil {
		r.cancel(context.WithoutCancel(ctx), session)
		return err
	}
	if resp.StatusCode != http.StatusCreated {
		return refusal(resp)
	}
	return resp.Body.Close()
}

// putManifest gives a manifest a tag (spec, "Pushing Manifests").
func (r *repository) putManifest(ctx context.Context, tag, kind string, m image.Manifest) error {
	resp, err := r.do(ctx, request{
		method: http.MethodPut, url: r.url("manifests", tag), scopes: r.pushScopes(), length: int64(len(m.Raw)),
		header: http.Header{"Content-Type": {kind}},
		body:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(m.Raw)), nil },
	})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated {
		return refusal(resp)
	}
	return resp.Body.Close()
}
