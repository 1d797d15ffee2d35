package registry

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"gantry/engine/image"
	"gantry/internal/problem"
)

// FetchManifest fetches what a name with a tag or digest means, verified, from
// a mirror or its registry. With FetchBlob, it is what a pull-through cache asks
// for.
//
// Errors: NotFound where the registry says so.
func (c *Client) FetchManifest(ctx context.Context, name reference.Named) (image.Manifest, error) {
	from, err := c.repositories(ctx, name, Credentials{})
	if err != nil {
		return image.Manifest{}, err
	}
	m, err := firstOf(from, func(r *repository) (image.Manifest, error) {
		m, _, err := r.manifest(ctx, tagOrDigest(name))
		return m, err
	})
	return m, withheld(err)
}

// withheld makes of a refusal for want of rights what it is to who has none: the
// thing is not there.
func withheld(err error) error {
	e, ok := errors.AsType[*Error](err)
	if ok && (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden) || errors.Is(err, errNoCredentials) {
		return problem.New(problem.NotFound, "%w", err)
	}
	return err
}

// FetchBlob opens a blob of a repository; who reads it verifies it. size is -1
// where the registry does not say it.
func (c *Client) FetchBlob(ctx context.Context, name reference.Named, d digest.Digest) (body io.ReadCloser, size int64, err error) {
	from, err := c.repositories(ctx, name, Credentials{})
	if err != nil {
		return nil, 0, err
	}
	resp, err := firstOf(from, func(r *repository) (*http.Response, error) {
		resp, err := r.do(ctx, request{method: http.MethodGet, url: r.url("blobs", d.String()), scopes: []string{r.scope("pull")}})
		if err == nil && resp.StatusCode != http.StatusOK {
			return nil, refusal(resp)
		}
		return resp, err
	})
	if err != nil {
		return nil, 0, withheld(err)
	}
	return resp.Body, resp.ContentLength, nil
}
