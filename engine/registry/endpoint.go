package registry

import (
	"context"
	"net/http"
	"net/url"

	"github.com/distribution/reference"
)

// The names of Docker's registry.
const (
	dockerHub     = "docker.io"
	dockerHubHost = "registry-1.docker.io"
)

// repository is one repository on one registry, as one user sees it.
type repository struct {
	client *Client
	name   string   // "library/busybox"
	base   *url.URL // without /v2/
	http   *http.Client
	auth   *authorizer
	domain string // of the registry that the name says
	mirror bool
	warned *warnings // nil: nobody wants to know
}

// repositories returns where an image may be pulled from: mirrors first, which
// get no credentials, then the registry that its name says.
func (c *Client) repositories(ctx context.Context, name reference.Named, creds Credentials) ([]*repository, error) {
	var list []*repository
	for _, m := range c.mirrors[reference.Domain(name)] {
		h, err := c.httpClient(m.Host)
		if err != nil {
			c.log.Warn("registry mirror is left out", "mirror", m.Host, "err", err)
			continue
		}
		list = append(list, &repository{client: c, name: reference.Path(name), base: m, http: h, auth: &authorizer{client: c}, domain: reference.Domain(name), mirror: true})
	}
	own, err := c.repository(ctx, name, creds)
	if err != nil && len(list) == 0 {
		return nil, err
	}
	if err == nil {
		list = append(list, own)
	}
	return list, nil
}

// repository returns the repository of an image on the registry of its name.
func (c *Client) repository(ctx context.Context, name reference.Named, creds Credentials) (*repository, error) {
	base, h, err := c.registry(ctx, reference.Domain(name))
	if err != nil {
		return nil, err
	}
	return &repository{client: c, name: reference.Path(name), base: base, http: h, auth: &authorizer{client: c, creds: creds}, domain: reference.Domain(name)}, nil
}

// registry returns the address of the registry that is called host, and what
// reaches it. An insecure one is asked whether it speaks TLS.
func (c *Client) registry(ctx context.Context, host string) (*url.URL, *http.Client, error) {
	if host == dockerHub || host == "index."+dockerHub {
		host = dockerHubHost
	}
	h, err := c.httpClient(host)
	if err != nil {
		return nil, nil, err
	}
	base := &url.URL{Scheme: "https", Host: host}
	if !c.insecure(host) || c.answers(ctx, h, base) == nil {
		return base, h, nil
	}
	base.Scheme = "http"
	if err := c.answers(ctx, h, base); err != nil {
		return nil, nil, err
	}
	return base, h, nil
}

// answers asks a registry for anything at all.
func (c *Client) answers(ctx context.Context, h *http.Client, base *url.URL) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath("v2/").String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	resp, err := h.Do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// url returns the address of something in the repository.
func (r *repository) url(kind, what string) *url.URL {
	u := r.base.JoinPath("v2", r.name, kind, what)
	if r.mirror {
		// As containerd says whose repository is meant; others ignore it.
		u.RawQuery = url.Values{"ns": {r.domain}}.Encode()
	}
	return u
}

// scope is what a token must allow.
func (r *repository) scope(actions string) string { return scopeOf(r.name, actions) }

func scopeOf(name, actions string) string { return "repository:" + name + ":" + actions }
