// Package server is an OCI registry over the engine's image store: the
// distribution specification 1.1 ("spec" in comments), with tags, manifests,
// referrers and uploads of its own, and beside them every image of the engine.
//
// A repository NAME holds what was pushed to it. Where it holds nothing of that
// name, the engine's image does: /v2/web/manifests/1 is the image web:1, and
// /v2/ghcr.io/a/b/manifests/1 is ghcr.io/a/b:1. Nothing is copied for that: an
// image that was pulled is served with the blobs that came, one that was built
// is packed when it is asked for first. What is the engine's is not deleted here.
//
// In the directory Config.Dir:
//
//	meta.db    bbolt: manifests, tags, referrers, which repository has which blob, what came from elsewhere
//
// A repository of a registry in Config.PullThrough is a cache of the one there:
// what a tag means is asked there each time, and what came before is served
// while nobody answers there.
//
// The blobs themselves are the image store's, under a lease of this package for
// as long as a repository has them. Uploads that were not finished are lost when
// the process ends; a client begins them again.
//
// The package runs no goroutines of its own.
package server

import (
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"gantry/engine/image"
	"gantry/internal/problem"
)

// Config says what a registry works with.
type Config struct {
	Dir    string       // required; created if missing
	Images *image.Store // required
	Users  *Users       // nil: everybody may do everything
	Logger *slog.Logger // nil discards

	Upstream    Upstream // nil: no pull-through cache
	PullThrough []string // the registries ("docker.io") that it is for
}

// Server is a registry. It is an http.Handler.
type Server struct {
	cfg     Config
	log     *slog.Logger
	store   *store
	uploads *uploads

	tokenKey []byte // of the tokens that this process gives
}

// Open opens the registry in cfg.Dir. It must be called before anything is
// removed from the image store, because it says what of it the registry uses.
func Open(cfg Config) (*Server, error) {
	if cfg.Dir == "" || cfg.Images == nil {
		return nil, problem.New(problem.Invalid, "registry: Dir and Images are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	st, err := openStore(cfg)
	if err != nil {
		return nil, err
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return &Server{cfg: cfg, log: cfg.Logger, store: st, uploads: newUploads(cfg.Images), tokenKey: key}, nil
}

// Close drops unfinished uploads and closes the store. No request may be running.
func (s *Server) Close() error { return errors.Join(s.uploads.closeAll(), s.store.db.Close()) }

// call is one request being served.
type call struct {
	*Server
	w    http.ResponseWriter
	r    *http.Request
	repo string
	what string // tag, digest or upload
	who  identity
}

// action is what a request does to a repository.
type action string

const (
	pull action = "pull"
	push action = "push" // and delete
)

// route is one row of the API: what follows the repository's name.
type route struct {
	methods string // separated by spaces
	middle  string // between name and what: "/manifests/"
	rest    bool   // something follows
	does    action
	serve   func(*call) error
}

// routes is the whole API beside /v2/ and /v2/_catalog (spec, "Endpoints").
var routes = []route{
	{"GET HEAD", "/blobs/", true, pull, (*call).getBlob},
	{"DELETE", "/blobs/", true, push, (*call).deleteBlob},
	{"POST", "/blobs/uploads", false, push, (*call).beginUpload},
	{"GET HEAD", "/blobs/uploads/", true, push, (*call).showUpload},
	{"PATCH", "/blobs/uploads/", true, push, (*call).continueUpload},
	{"PUT", "/blobs/uploads/", true, push, (*call).endUpload},
	{"DELETE", "/blobs/uploads/", true, push, (*call).cancelUpload},
	{"GET HEAD", "/manifests/", true, pull, (*call).getManifest},
	{"PUT", "/manifests/", true, push, (*call).putManifest},
	{"DELETE", "/manifests/", true, push, (*call).deleteManifest},
	{"GET HEAD", "/tags/list", false, pull, (*call).listTags},
	{"GET HEAD", "/referrers/", true, pull, (*call).listReferrers},
}

// match finds what a path means. known tells a path that only takes other
// methods from one that is nothing.
func match(method, path string) (found *route, repo, what string, known bool) {
	path = strings.TrimSuffix(path, "/")
	for i, rt := range routes {
		var name, rest string
		if rt.rest {
			at := strings.LastIndex(path, rt.middle)
			if at <= 0 {
				continue
			}
			name, rest = path[:at], path[at+len(rt.middle):]
			if rest == "" || strings.Contains(rest, "/") || rt.middle == "/blobs/" && rest == "uploads" {
				continue
			}
		} else {
			var ok bool
			if name, ok = strings.CutSuffix(path, rt.middle); !ok {
				continue
			}
		}
		known = true
		for m := range strings.FieldsSeq(rt.methods) {
			if m == method {
				return &routes[i], name, rest, true
			}
		}
	}
	return nil, "", "", known
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	c := &call{Server: s, w: w, r: r}
	if err := c.serve(); err != nil {
		c.fail(err)
	}
}

func (c *call) serve() error {
	if c.r.URL.Path == tokenPath {
		return c.giveToken()
	}
	path, ok := strings.CutPrefix(c.r.URL.Path, "/v2/")
	if c.r.URL.Path == "/v2" {
		path, ok = "", true
	}
	if !ok {
		return &refusal{status: http.StatusNotFound, code: codeUnsupported, message: "page not found"}
	}
	if err := c.authenticate(); err != nil {
		return err
	}
	if path == "" || path == "_catalog" {
		return c.serveRegistry(path)
	}
	found, repo, what, known := match(c.r.Method, path)
	switch {
	case found == nil && known:
		return &refusal{status: http.StatusMethodNotAllowed, code: codeUnsupported, message: "the operation is unsupported"}
	case found == nil:
		return &refusal{status: http.StatusNotFound, code: codeUnsupported, message: "page not found"}
	case !validName(repo):
		return &refusal{status: http.StatusBadRequest, code: codeNameInvalid, message: "invalid repository name", detail: repo}
	}
	repo = c.spaced(repo)
	if err := c.authorize(repo, found.does); err != nil {
		return err
	}
	c.repo, c.what = repo, what
	return found.serve(c)
}

// serveRegistry answers what is about no repository.
func (c *call) serveRegistry(path string) error {
	if c.r.Method != http.MethodGet && c.r.Method != http.MethodHead {
		return &refusal{status: http.StatusMethodNotAllowed, code: codeUnsupported, message: "the operation is unsupported"}
	}
	if path == "_catalog" {
		if err := c.known("registry:catalog:*"); err != nil {
			return err
		}
		return c.listRepositories()
	}
	if err := c.known(""); err != nil {
		return err
	}
	return c.json(http.StatusOK, struct{}{})
}

// uploadLife is how long an upload may rest.
const uploadLife = time.Hour
