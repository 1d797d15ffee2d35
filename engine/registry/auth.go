package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"gantry/internal/problem"
)

// authorizer adds one user's credentials to the requests to one registry, in
// the form that the registry asks for.
type authorizer struct {
	client *Client
	creds  Credentials

	flights singleflight.Group

	mu     sync.Mutex
	basic  bool              // the registry wants a password with each request
	tokens map[string]bearer // by scopes
}

type bearer struct {
	token   string
	expires time.Time
}

// apply adds what is known to be wanted; it reports whether it added anything.
func (a *authorizer) apply(req *http.Request, scopes []string) bool {
	if a.creds.RegistryToken != "" {
		req.Header.Set("Authorization", "Bearer "+a.creds.RegistryToken)
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if t, ok := a.tokens[strings.Join(scopes, " ")]; ok && time.Now().Before(t.expires) {
		req.Header.Set("Authorization", "Bearer "+t.token)
		return true
	}
	if a.basic {
		req.SetBasicAuth(a.creds.Username, a.creds.Password)
		return true
	}
	return false
}

// answer does what the challenges of a 401 ask for, so that apply can add it.
func (a *authorizer) answer(ctx context.Context, resp *http.Response, scopes []string) error {
	if a.creds.RegistryToken != "" {
		return refusal(resp)
	}
	challenges := parseChallenges(resp.Header.Values("WWW-Authenticate"))
	for _, ch := range challenges {
		if ch.scheme != "bearer" {
			continue
		}
		_ = resp.Body.Close() // nothing in it is of use
		key := strings.Join(scopes, " ")
		_, err, _ := a.flights.Do(key, func() (any, error) {
			t, err := a.fetch(ctx, resp.Request.URL, ch, scopes)
			if err != nil {
				return nil, err
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.tokens == nil {
				a.tokens = map[string]bearer{}
			}
			a.tokens[key] = t
			return nil, nil
		})
		return err
	}
	for _, ch := range challenges {
		if ch.scheme != "basic" {
			continue
		}
		a.mu.Lock()
		tried := a.basic
		a.basic = a.creds.Username != ""
		offered := a.basic
		a.mu.Unlock()
		if tried {
			return refusal(resp)
		}
		_ = resp.Body.Close() // nothing in it is of use
		if !offered {
			return fmt.Errorf("%s %q: %w", title(resp.Request.Method), resp.Request.URL.Redacted(), errNoCredentials)
		}
		return nil
	}
	return refusal(resp)
}

// errNoCredentials has the words of Docker.
var errNoCredentials = errors.New("no basic auth credentials")

func title(method string) string { return method[:1] + strings.ToLower(method[1:]) }

// maxToken bounds the answer of a token server.
const maxToken = 1 << 20

// fetch asks a token server (distribution, docs/spec/auth/token.md and oauth.md).
func (a *authorizer) fetch(ctx context.Context, registry *url.URL, ch challenge, scopes []string) (bearer, error) {
	realm, err := url.Parse(ch.params["realm"])
	if err != nil || realm.Host == "" || realm.Scheme != "https" && realm.Scheme != "http" {
		return bearer{}, problem.New(problem.Invalid, "registry %s names no token server: realm %q", registry.Host, ch.params["realm"])
	}
	if registry.Scheme == "https" && realm.Scheme != "https" {
		return bearer{}, problem.New(problem.Denied, "registry %s asks to send credentials in plain text to %s", registry.Host, realm.Host)
	}
	if len(scopes) == 0 && ch.params["scope"] != "" {
		scopes = []string{ch.params["scope"]}
	}
	req, err := a.tokenRequest(ctx, realm, ch.params["service"], scopes)
	if err != nil {
		return bearer{}, err
	}
	req.Header.Set("User-Agent", a.client.cfg.UserAgent)
	h, err := a.client.httpClient(realm.Host)
	if err != nil {
		return bearer{}, err
	}
	resp, err := h.Do(req)
	if err != nil {
		return bearer{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return bearer{}, refusal(resp)
	}
	defer resp.Body.Close()
	return readToken(io.LimitReader(resp.Body, maxToken), time.Now())
}

func (a *authorizer) tokenRequest(ctx context.Context, realm *url.URL, service string, scopes []string) (*http.Request, error) {
	q := realm.Query()
	if service != "" {
		q.Set("service", service)
	}
	if a.creds.IdentityToken != "" {
		q.Set("grant_type", "refresh_token")
		q.Set("refresh_token", a.creds.IdentityToken)
		q.Set("client_id", a.client.cfg.UserAgent)
		q.Set("scope", strings.Join(scopes, " "))
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(q.Encode()))
		if err == nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		return req, err
	}
	for _, s := range scopes {
		q.Add("scope", s)
	}
	if a.creds.Username != "" {
		q.Set("account", a.creds.Username)
	}
	u := *realm
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err == nil && a.creds.Username != "" {
		req.SetBasicAuth(a.creds.Username, a.creds.Password)
	}
	return req, err
}

// A token that says nothing lives for a minute; one is not used in the last
// seconds of its life, which it may spend on the way.
const (
	tokenLife   = time.Minute
	tokenMargin = 5 * time.Second
)

func readToken(r io.Reader, now time.Time) (bearer, error) {
	var doc struct {
		Token       string  `json:"token"`
		AccessToken string  `json:"access_token"`
		ExpiresIn   float64 `json:"expires_in"` // seconds
	}
	if err := json.NewDecoder(r).Decode(&doc); err != nil {
		return bearer{}, problem.New(problem.Invalid, "token server: %w", err)
	}
	t := doc.Token
	if t == "" {
		t = doc.AccessToken
	}
	if t == "" || strings.ContainsFunc(t, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return bearer{}, problem.New(problem.Invalid, "token server: authorization server did not include a token in the response")
	}
	life := tokenLife
	if doc.ExpiresIn > tokenLife.Seconds() && doc.ExpiresIn < 1e6 {
		life = time.Duration(doc.ExpiresIn) * time.Second
	}
	return bearer{token: t, expires: now.Add(life - tokenMargin)}, nil
}

// sortedScopes are what one request needs, in one order.
func sortedScopes(scopes ...string) []string {
	slices.Sort(scopes)
	return slices.Compact(scopes)
}
