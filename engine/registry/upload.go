package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/engine/image"
	"gantry/internal/problem"
)

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

// uploadTries bounds how often an upload is gone on with after the connection
// broke.
const uploadTries = 5

// opener gives the bytes of a blob from an offset on.
type opener func(offset int64) (io.ReadCloser, error)

// upload sends a blob: POST, then PUT with all of it (spec, "Pushing a blob
// monolithically"). When the connection breaks it goes on where the registry
// says that it has got to, or begins again where it does not say.
func (r *repository) upload(ctx context.Context, d ocispec.Descriptor, open opener) (err error) {
	var session *url.URL
	var offset int64
	for try := 1; ; try++ {
		if session == nil {
			session, err = r.begin(ctx)
		}
		if err == nil {
			err = r.put(ctx, session, d, open, offset)
		}
		if err == nil {
			return nil
		}
		var e *Error
		again := errors.As(err, &e) && e.Status >= http.StatusInternalServerError || e == nil && temporary(err)
		if !again || try == uploadTries || ctx.Err() != nil {
			break
		}
		wait, _ := r.client.retry(try, nil, io.ErrUnexpectedEOF)
		r.client.log.Debug("upload is tried again", "digest", d.Digest, "attempt", try, "err", err)
		if perr := pause(ctx, wait); perr != nil {
			err = perr
			break
		}
		if session != nil {
			session, offset = r.progressOf(ctx, session, d.Size)
		}
		err = nil
	}
	if session != nil {
		r.cancel(context.WithoutCancel(ctx), session)
	}
	return err
}

// begin opens an upload.
func (r *repository) begin(ctx context.Context) (*url.URL, error) {
	resp, err := r.do(ctx, request{method: http.MethodPost, url: r.uploads(), scopes: r.pushScopes()})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusAccepted {
		return nil, refusal(resp)
	}
	return uploadLocation(resp)
}

// put sends what of a blob follows offset, and ends the upload.
func (r *repository) put(ctx context.Context, session *url.URL, d ocispec.Descriptor, open opener, offset int64) error {
	q := session.Query()
	q.Set("digest", d.Digest.String())
	at := *session
	at.RawQuery = q.Encode()
	header := http.Header{"Content-Type": {"application/octet-stream"}}
	if offset > 0 {
		header.Set("Content-Range", fmt.Sprintf("%d-%d", offset, d.Size-1))
	}
	resp, err := r.do(ctx, request{
		method: http.MethodPut, url: &at, length: d.Size - offset, scopes: r.pushScopes(), once: true, header: header,
		body: func() (io.ReadCloser, error) { return open(offset) },
	})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated {
		return refusal(resp)
	}
	return resp.Body.Close()
}

// progressOf asks how much of an upload has arrived (spec, "Pushing a blob in
// chunks"). A registry that does not say, or says that all has, gets it from the
// beginning, in another upload.
func (r *repository) progressOf(ctx context.Context, session *url.URL, size int64) (*url.URL, int64) {
	resp, err := r.do(ctx, request{method: http.MethodGet, url: session, scopes: r.pushScopes()})
	if err != nil {
		return nil, 0
	}
	there := resp.Header.Get("Range")
	next, err := uploadLocation(resp)
	_, last, ok := strings.Cut(there, "-")
	n, nerr := strconv.ParseInt(last, 10, 64)
	if resp.StatusCode != http.StatusNoContent || err != nil || !ok || nerr != nil || n <= 0 || n+1 >= size {
		r.cancel(ctx, session)
		return nil, 0
	}
	return next, n + 1
}

// putManifest stores a manifest under a tag or its digest (spec, "Pushing
// Manifests").
func (r *repository) putManifest(ctx context.Context, what string, m image.Manifest) error {
	resp, err := r.do(ctx, request{
		method: http.MethodPut, url: r.url("manifests", what), scopes: r.pushScopes(), length: int64(len(m.Raw)),
		header: http.Header{"Content-Type": {m.MediaType}},
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
