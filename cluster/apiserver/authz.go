package apiserver

import (
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// action is what someone wants to do, as authorization sees it.
type action struct {
	verb, group, version string
	resource, sub        string
	namespace, name      string
	path                 string // of a request that is about no resource
}

// openPaths may be read by everybody.
var openPaths = []string{"/healthz", "/livez", "/readyz", "/version"}

// discoveryPaths may be read by everybody who is somebody.
var discoveryPaths = []string{"/api", "/apis", "/openapi", "/openid/v1/jwks", "/.well-known/openid-configuration"}

// allowed decides. Objects of RBAC do not exist yet: besides administrators and
// nodes, an identity may look around and ask about itself.
func allowed(id identity, a action) bool {
	if id.in(groupMasters) {
		return true
	}
	if a.path != "" {
		open := openPaths
		if id.in(groupAuthenticated) {
			open = append(slices.Clone(openPaths), discoveryPaths...)
		}
		return (a.verb == "get" || a.verb == "head") && slices.ContainsFunc(open, func(p string) bool {
			return a.path == p || strings.HasPrefix(a.path, p+"/")
		})
	}
	if !id.in(groupAuthenticated) {
		return false
	}
	switch {
	case a.verb == "create" && a.group == "authorization.k8s.io" && strings.HasPrefix(a.resource, "selfsubject"):
		return true
	case a.verb == "create" && a.group == "authentication.k8s.io" && a.resource == "selfsubjectreviews":
		return true
	case id.in(groupNodes) && strings.HasPrefix(id.name, nodePrefix):
		return nodeAllowed(strings.TrimPrefix(id.name, nodePrefix), a)
	}
	return false
}

// authorize refuses a resource request in the reference's words.
func (s *Server) authorize(req *request) error {
	a := action{
		verb: req.path.verb, group: req.path.group, version: req.path.version, resource: req.path.resource,
		sub: req.path.sub, namespace: req.path.namespace, name: req.path.name,
	}
	if allowed(req.user, a) && s.nodeMayRead(req, a) {
		return nil
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.group, Resource: a.resource}, a.name,
		fmt.Errorf("%s", forbidden(req.user, a)))
}

// forbidden words the refusal.
func forbidden(id identity, a action) string {
	resource := a.resource
	if a.sub != "" {
		resource += "/" + a.sub
	}
	scope := "at the cluster scope"
	if a.namespace != "" {
		scope = fmt.Sprintf("in the namespace %q", a.namespace)
	}
	return fmt.Sprintf("User %q cannot %s resource %q in API group %q %s", id.name, a.verb, resource, a.group, scope)
}

// authorizePath refuses a request that is about no resource.
func (s *Server) authorizePath(req *request) error {
	a := action{verb: strings.ToLower(req.r.Method), path: req.r.URL.Path}
	if allowed(req.user, a) {
		return nil
	}
	err := apierrors.NewForbidden(schema.GroupResource{}, "", nil)
	err.ErrStatus.Message = fmt.Sprintf("forbidden: User %q cannot %s path %q", req.user.name, a.verb, a.path)
	return err
}
