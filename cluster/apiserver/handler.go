package apiserver

import (
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"gantry/cluster/resource"
	"gantry/internal/problem"
)

// Handler is the API as an http.Handler for requests that come over TLS.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serveRemote) }

// serveRemote authenticates a request by what it brings.
func (s *Server) serveRemote(w http.ResponseWriter, r *http.Request) {
	user, err := s.authenticate(r)
	if err == nil {
		user, err = impersonate(user, r.Header)
	}
	if err != nil {
		req := &request{r: r, w: w, query: r.URL.Query()}
		req.fail(err)
		return
	}
	s.serveAs(w, r, user)
}

// serveAs answers a request of a known user.
func (s *Server) serveAs(w http.ResponseWriter, r *http.Request, user identity) {
	req := &request{r: r, w: w, user: user, query: r.URL.Query()}
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			s.log.Error("request panicked", "path", r.URL.Path, "err", fmt.Sprint(p), "stack", string(debug.Stack()))
			req.fail(apierrors.NewInternalError(fmt.Errorf("panic: %v", p)))
		}
	}()
	if err := s.route(req); err != nil {
		if err == errNotServed {
			http.NotFound(w, r)
			return
		}
		req.fail(err)
	}
}

// errNotServed is for paths that are nothing here: plain text, as upstream.
var errNotServed = problem.New(problem.NotFound, "404 page not found")

func pageNotFound() error { return errNotServed }

func (s *Server) route(req *request) error {
	p := req.r.URL.Path
	if out, err := negotiate(req.r.Header.Get("Accept")); err == nil {
		req.out = out
	} else if strings.HasPrefix(p, "/api") && !strings.Contains(req.r.Header.Get("Accept"), "as=APIGroupDiscoveryList") {
		return err
	}
	info, ok := parsePath(p)
	if !ok {
		return s.routeOther(req)
	}
	info.verb = verbOf(req.r.Method, info, req.query)
	req.path, req.kind = info, s.kindOf(info)
	if err := s.authorize(req); err != nil {
		return err
	}
	if err := s.waitReady(req); err != nil {
		return err
	}
	if req.kind == nil {
		return s.routeVirtual(req)
	}
	if info.sub != "" {
		return s.routeSub(req)
	}
	return s.routeObject(req)
}

// waitReady holds requests of this process's own parts back until the cache is
// filled, and refuses others.
func (s *Server) waitReady(req *request) error {
	if s.feed.progress.now() > 0 {
		return nil
	}
	if !req.user.internal {
		return apierrors.NewServiceUnavailable("the server is starting")
	}
	return s.feed.progress.wait(req.r.Context(), 1)
}

func (s *Server) routeObject(req *request) error {
	if req.kind.Namespaced && req.path.namespace == "" && req.path.verb != "list" && req.path.verb != "watch" {
		return pageNotFound()
	}
	named := req.path.name != ""
	switch {
	case req.path.verb == "get":
		return s.serveGet(req)
	case req.path.verb == "list":
		return s.serveList(req)
	case req.path.verb == "watch":
		return s.serveWatch(req)
	case req.path.verb == "create" && !named:
		return s.serveCreate(req)
	case req.path.verb == "update" && named:
		return s.serveUpdate(req, resource.Main)
	case req.path.verb == "patch" && named:
		return s.servePatch(req, resource.Main)
	case req.path.verb == "delete":
		return s.serveDelete(req)
	case req.path.verb == "deletecollection" && !req.kind.NoBulkDelete:
		return s.serveDeleteCollection(req)
	}
	return methodNotAllowed(req)
}

func methodNotAllowed(req *request) error {
	action := req.path.verb
	if action == "" {
		action = strings.ToLower(req.r.Method)
	}
	return apierrors.NewMethodNotSupported(schema.GroupResource{Group: req.path.group, Resource: req.path.resource}, action)
}

func (s *Server) routeSub(req *request) error {
	sub := req.path.sub
	known := false
	for _, have := range s.subresources(req.kind) {
		known = known || have.name == sub
	}
	if !known {
		return pageNotFound()
	}
	switch sub {
	case "status", "finalize":
		return s.servePart(req, resource.Change(sub))
	case "scale":
		return s.serveScale(req)
	case "binding":
		return s.serveBinding(req)
	case "eviction":
		return s.serveEviction(req)
	case "token":
		return s.serveTokenRequest(req)
	}
	return s.serveConnect(req)
}

// servePart serves the subresources that are the object itself, of which only
// a part may change.
func (s *Server) servePart(req *request, part resource.Change) error {
	switch {
	case req.path.verb == "get" && part == resource.Status:
		return s.serveGet(req)
	case req.path.verb == "update":
		return s.serveUpdate(req, part)
	case req.path.verb == "patch" && part == resource.Status:
		return s.servePatch(req, part)
	}
	return methodNotAllowed(req)
}

func (s *Server) routeOther(req *request) error {
	p := req.r.URL.Path
	if err := s.authorizePath(req); err != nil {
		return err
	}
	switch {
	case p == "/version" || p == "/version/":
		return s.serveVersion(req)
	case p == "/healthz" || p == "/livez" || p == "/readyz" || strings.HasPrefix(p, "/healthz/"):
		return s.serveHealth(req)
	case p == "/openid/v1/jwks" || p == "/.well-known/openid-configuration":
		return s.serveIssuer(req)
	case strings.HasPrefix(p, "/openapi/"):
		return s.serveOpenAPI(req)
	case p == "/api" || p == "/apis" || strings.HasPrefix(p, "/api/") || strings.HasPrefix(p, "/apis/"):
		return s.serveDiscovery(req)
	}
	return pageNotFound()
}

// serveHealth answers probes.
func (s *Server) serveHealth(req *request) error {
	req.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	req.w.Header().Set("X-Content-Type-Options", "nosniff")
	if req.r.URL.Path == "/readyz" {
		select {
		case <-s.ready:
		default:
			req.w.WriteHeader(http.StatusInternalServerError)
			_, _ = req.w.Write([]byte("[-]default objects failed: not created yet\nreadyz check failed\n"))
			return nil
		}
	}
	if err := s.fresh(req.r.Context()); err != nil {
		req.w.WriteHeader(http.StatusInternalServerError)
		_, _ = fmt.Fprintf(req.w, "[-]etcd failed: %v\n", err)
		return nil
	}
	_, _ = req.w.Write([]byte("ok"))
	return nil
}
