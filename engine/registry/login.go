package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/engine/image"
	"gantry/internal/problem"
)

// ErrUnauthorized says that a registry does not take credentials.
var ErrUnauthorized = errors.New("unauthorized")

// ServerHost returns the host that a server's address means, as users and
// configuration files write it: "https://index.docker.io/v1/" is docker.io.
func ServerHost(address string) string {
	address = strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "http://")
	host, _, _ := strings.Cut(address, "/")
	switch host {
	case "", "index." + dockerHub, dockerHubHost:
		return dockerHub
	}
	return host
}

// Login asks a registry whether it takes credentials.
//
// Errors: ErrUnauthorized when it does not.
func (c *Client) Login(ctx context.Context, server string, creds Credentials) error {
	base, h, err := c.registry(ctx, ServerHost(server))
	if err != nil {
		return err
	}
	r := &repository{client: c, base: base, http: h, auth: &authorizer{client: c, creds: creds}}
	at := base.JoinPath("v2/")
	resp, err := r.do(ctx, request{method: http.MethodGet, url: at})
	if err == nil && resp.StatusCode == http.StatusOK {
		return resp.Body.Close()
	}
	if err == nil {
		err = refusal(resp)
	}
	if e, ok := errors.AsType[*Error](err); ok && (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden) {
		return &loginError{at: at, err: err}
	}
	return err
}

// loginError has the form of Docker's.
type loginError struct {
	at  *url.URL
	err error
}

func (e *loginError) Error() string {
	return "Get " + strconv.Quote(e.at.String()) + ": " + e.err.Error()
}
func (e *loginError) Unwrap() []error { return []error{e.err, ErrUnauthorized} }

// Remote is what a registry has under a name.
type Remote struct {
	Descriptor ocispec.Descriptor
	Platforms  []ocispec.Platform
}

// Inspect asks a registry what ref means, without pulling it.
func (c *Client) Inspect(ctx context.Context, ref reference.Named, creds Credentials) (Remote, error) {
	from, err := c.repositories(ctx, ref, creds)
	if err != nil {
		return Remote{}, err
	}
	out, err := firstOf(from, func(r *repository) (Remote, error) { return r.inspect(ctx, ref) })
	return out, pullError(err, ref)
}

func (r *repository) inspect(ctx context.Context, ref reference.Named) (out Remote, err error) {
	m, doc, err := r.manifest(ctx, tagOrDigest(ref))
	if err != nil {
		return out, err
	}
	out.Descriptor = ocispec.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: int64(len(m.Raw))}
	for _, d := range doc.Manifests {
		if d.Platform != nil {
			out.Platforms = append(out.Platforms, *d.Platform)
		}
	}
	if doc.Config == nil || doc.Config.MediaType != ocispec.MediaTypeImageConfig && doc.Config.MediaType != dockerConfig {
		return out, nil
	}
	config, err := fetch(ctx, []*repository{r}, *doc.Config, maxConfig)
	if err != nil {
		return out, err
	}
	var spec image.Spec
	if err := json.Unmarshal(config, &spec); err != nil {
		return out, problem.New(problem.Invalid, "image configuration: %w", err)
	}
	out.Platforms = append(out.Platforms, spec.Platform)
	return out, nil
}

// Found is one result of a search.
type Found struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Stars       int    `json:"star_count"`
	Official    bool   `json:"is_official"`
	Automated   bool   `json:"is_automated"`
}

// Search asks the registry that a term begins with, or else Docker's, for
// repositories. Only registries with the first version's search can answer.
func (c *Client) Search(ctx context.Context, term string, limit int, creds Credentials) ([]Found, error) {
	host := dockerHub
	if first, rest, ok := strings.Cut(term, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		host, term = first, rest
	}
	base, h, err := c.registry(ctx, host)
	if err != nil {
		return nil, err
	}
	at := *base
	if host == dockerHub {
		at.Host = "index." + dockerHub
		if h, err = c.httpClient(at.Host); err != nil {
			return nil, err
		}
	}
	at.Path = "/v1/search"
	at.RawQuery = url.Values{"q": {term}, "n": {strconv.Itoa(limit)}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	if creds.Username != "" {
		req.SetBasicAuth(creds.Username, creds.Password)
	}
	resp, err := h.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusNotFound {
		_ = resp.Body.Close() // it says no more
		return nil, problem.New(problem.Unsupported, "registry %s has no search", host)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, refusal(resp)
	}
	defer resp.Body.Close()
	var doc struct {
		Results []Found `json:"results"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxManifest)).Decode(&doc); err != nil {
		return nil, problem.New(problem.Invalid, "answer of the search: %w", err)
	}
	return doc.Results, nil
}
