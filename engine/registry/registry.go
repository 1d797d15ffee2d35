// Package registry is the client of OCI registries: it pulls images into the
// engine's store and pushes them from there.
//
// Layers are downloaded, verified, decompressed and unpacked in one pass; what
// came is kept as a blob, so that an image that was pulled is pushed byte for
// byte. The same layer in several pulls at once is transferred once. A cut
// connection is resumed where it broke off.
//
// Trust, mirrors, insecure registries and the policy of signatures are settings
// of the Client alone, so that docker pull, FROM and pods see the same registries.
// The signatures that the policy asked for are kept, in Config.Dir:
//
//	signatures/ALGORITHM-DIGEST.json	those of one manifest
//
// Goroutines live no longer than the call that needs them: a transfer that
// several pulls wait for ends, at the latest, with the last of them.
//
// Package registry/server is the other side of the same protocol. Both follow
// the OCI distribution specification 1.1 ("spec" in comments).
package registry

import (
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"gantry/engine/image"
	"gantry/internal/problem"
)

// Config says how registries are reached. All but Images may be zero.
type Config struct {
	Images    *image.Store        // required
	CertDirs  []string            // each may hold HOST[:PORT]/{*.crt,*.cert,*.key}, as Docker's certs.d
	Mirrors   map[string][]string // by registry ("docker.io"): base URLs that are tried first, for pulls
	Insecure  []string            // HOST, HOST:PORT or CIDR: certificates are not verified, and plain HTTP will do
	UserAgent string
	Policy    *Policy      // nil: images need no signatures
	Dir       string       // where signatures are kept; required with a Policy
	Logger    *slog.Logger // nil discards
}

// Credentials are what a user gives for one registry. The zero value is
// anonymous.
type Credentials struct {
	Username      string
	Password      string
	IdentityToken string // an OAuth2 refresh token
	RegistryToken string // a bearer token, sent as it is
}

// Event is one step of a pull or push, in the words of Docker's progress.
type Event struct {
	ID      string // short digest of a layer, or a tag; may be empty
	Status  string
	Current int64
	Total   int64
	Pushed  *Pushed // at the end of a push; Status is empty then
}

// Pushed says what a push has made.
type Pushed struct {
	Tag    string
	Digest digest.Digest
	Size   int64
}

// Client reaches registries. Its methods may be called concurrently.
type Client struct {
	cfg      Config
	log      *slog.Logger
	networks []netip.Prefix  // insecure
	hosts    map[string]bool // insecure
	mirrors  map[string][]*url.URL
	slots    chan struct{} // one for each running download
	backoff  time.Duration // before the first retry; doubles
	stall    time.Duration // how long a body may give nothing

	mu         sync.Mutex
	transports map[string]*trusted          // by host
	transfers  map[digest.Digest]*transfer  // running downloads
	sources    map[digest.Digest][]location // where blobs are known to be, for mounts
}

// Numbers that are the reference's.
const (
	concurrentDownloads = 3
	concurrentUploads   = 5
)

// New returns a client. It reaches nothing yet.
func New(cfg Config) (*Client, error) {
	if cfg.Images == nil {
		return nil, problem.New(problem.Invalid, "registry: Images is required")
	}
	if cfg.Policy != nil && cfg.Dir == "" {
		return nil, problem.New(problem.Invalid, "registry: Dir is required with a Policy")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "gantry"
	}
	c := &Client{
		cfg: cfg, log: cfg.Logger, hosts: map[string]bool{}, mirrors: map[string][]*url.URL{},
		slots: make(chan struct{}, concurrentDownloads), backoff: 250 * time.Millisecond, stall: time.Minute,
		transports: map[string]*trusted{},
		transfers:  map[digest.Digest]*transfer{}, sources: map[digest.Digest][]location{},
	}
	for _, entry := range cfg.Insecure {
		if p, err := netip.ParsePrefix(entry); err == nil {
			c.networks = append(c.networks, p)
			continue
		}
		if entry == "" || strings.Contains(entry, "/") {
			return nil, problem.New(problem.Invalid, "insecure registry %q: want HOST, HOST:PORT or a CIDR", entry)
		}
		c.hosts[entry] = true
	}
	for host, list := range cfg.Mirrors {
		for _, text := range list {
			u, err := parseMirror(text)
			if err != nil {
				return nil, err
			}
			c.mirrors[host] = append(c.mirrors[host], u)
		}
	}
	return c, nil
}

func parseMirror(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, problem.New(problem.Invalid, "registry mirror %q: want http[s]://HOST[:PORT][/PATH]", text)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return u, nil
}

// Close lets go of idle connections.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.transports {
		t.transport.CloseIdleConnections()
	}
}

// httpClient returns what reaches host, whose certificates it verifies as told.
func (c *Client) httpClient(host string) (*http.Client, error) {
	t, err := c.transport(host)
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: t, CheckRedirect: checkRedirect}, nil
}

// maxRedirects is how many times a registry may send us elsewhere.
const maxRedirects = 10

// checkRedirect follows redirections (net/http takes Authorization off when the
// host changes), but never from TLS to plain text.
func checkRedirect(r *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return problem.New(problem.Invalid, "stopped after %d redirections", maxRedirects)
	}
	if via[0].URL.Scheme == "https" && r.URL.Scheme != "https" {
		return problem.New(problem.Denied, "%s redirects to plain HTTP", via[0].URL.Host)
	}
	return nil
}
