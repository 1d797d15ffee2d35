package apiserver

import (
	"net/http"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// virtual is a resource that is only ever created, and answered at once:
// a question in the form of an object.
type virtual struct {
	gv                     schema.GroupVersion
	plural, singular, kind string
	namespaced             bool
	answer                 func(req *request, obj runtime.Object) error
}

func (s *Server) virtualResources() []virtual {
	authn, authz := authenticationv1.SchemeGroupVersion, authorizationv1.SchemeGroupVersion
	return []virtual{
		{authn, "selfsubjectreviews", "selfsubjectreview", "SelfSubjectReview", false, s.answerSelf},
		{authn, "tokenreviews", "tokenreview", "TokenReview", false, s.answerToken},
		{authz, "localsubjectaccessreviews", "localsubjectaccessreview", "LocalSubjectAccessReview", true, s.answerAccess},
		{authz, "selfsubjectaccessreviews", "selfsubjectaccessreview", "SelfSubjectAccessReview", false, s.answerSelfAccess},
		{authz, "selfsubjectrulesreviews", "selfsubjectrulesreview", "SelfSubjectRulesReview", false, s.answerRules},
		{authz, "subjectaccessreviews", "subjectaccessreview", "SubjectAccessReview", false, s.answerAccess},
	}
}

// noCustomResources tells kubectl, which asks before it refuses an unknown kind,
// that there are no custom resources.
var noCustomResources = []byte(`{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinitionList","metadata":{},"items":[]}` + "\n")

func (s *Server) routeVirtual(req *request) error {
	if req.path.group == "apiextensions.k8s.io" && req.path.resource == "customresourcedefinitions" && req.path.verb == "list" {
		req.w.Header().Set("Content-Type", "application/json")
		_, _ = req.w.Write(noCustomResources) // the client may have gone
		return nil
	}
	for _, v := range s.virtual {
		if v.gv != (schema.GroupVersion{Group: req.path.group, Version: req.path.version}) || v.plural != req.path.resource || req.path.name != "" {
			continue
		}
		if req.path.verb != "create" {
			return methodNotAllowed(req)
		}
		gvk := v.gv.WithKind(v.kind)
		obj, err := s.decodeBody(req, gvk)
		if err != nil {
			return err
		}
		if err := v.answer(req, obj); err != nil {
			return err
		}
		req.out.shape = shapeObject
		return req.sendObject(http.StatusCreated, obj, gvk)
	}
	return pageNotFound()
}

func (id identity) info() authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: id.name, UID: id.uid, Groups: id.groups}
	for key, values := range id.extra {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[key] = values
	}
	return info
}

func (s *Server) answerSelf(req *request, obj runtime.Object) error {
	r := obj.(*authenticationv1.SelfSubjectReview)
	r.CreationTimestamp = now()
	r.Status.UserInfo = req.user.info()
	return nil
}

func (s *Server) answerToken(req *request, obj runtime.Object) error {
	r := obj.(*authenticationv1.TokenReview)
	audiences := r.Spec.Audiences
	if len(audiences) == 0 {
		audiences = []string{issuer}
	}
	for _, audience := range audiences {
		id, err := s.tokenIdentity(req.r.Context(), r.Spec.Token, audience)
		if err != nil {
			r.Status.Error = err.Error()
			continue
		}
		r.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: id.info(), Audiences: []string{audience}}
		return nil
	}
	return nil
}

// actionOf puts the attributes of a review in authorization's form.
func actionOf(r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) action {
	if r != nil {
		return action{verb: r.Verb, group: r.Group, version: r.Version, resource: r.Resource, sub: r.Subresource, namespace: r.Namespace, name: r.Name}
	}
	if n != nil {
		return action{verb: strings.ToLower(n.Verb), path: n.Path}
	}
	return action{}
}

func (s *Server) answerSelfAccess(req *request, obj runtime.Object) error {
	r := obj.(*authorizationv1.SelfSubjectAccessReview)
	r.Status.Allowed = allowed(req.user, actionOf(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes))
	return nil
}

func (s *Server) answerAccess(_ *request, obj runtime.Object) error {
	spec, status := (*authorizationv1.SubjectAccessReviewSpec)(nil), (*authorizationv1.SubjectAccessReviewStatus)(nil)
	switch r := obj.(type) {
	case *authorizationv1.SubjectAccessReview:
		spec, status = &r.Spec, &r.Status
	case *authorizationv1.LocalSubjectAccessReview:
		spec, status = &r.Spec, &r.Status
	}
	id := identity{name: spec.User, uid: spec.UID, groups: spec.Groups}
	status.Allowed = allowed(id, actionOf(spec.ResourceAttributes, spec.NonResourceAttributes))
	return nil
}

func (s *Server) answerRules(req *request, obj runtime.Object) error {
	r := obj.(*authorizationv1.SelfSubjectRulesReview)
	r.Status.ResourceRules, r.Status.NonResourceRules = []authorizationv1.ResourceRule{}, []authorizationv1.NonResourceRule{}
	if req.user.in(groupMasters) {
		all := []string{"*"}
		r.Status.ResourceRules = append(r.Status.ResourceRules, authorizationv1.ResourceRule{Verbs: all, APIGroups: all, Resources: all})
		r.Status.NonResourceRules = append(r.Status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: all, NonResourceURLs: all})
		return nil
	}
	r.Status.ResourceRules = append(r.Status.ResourceRules,
		authorizationv1.ResourceRule{Verbs: []string{"create"}, APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"selfsubjectreviews"}},
		authorizationv1.ResourceRule{Verbs: []string{"create"}, APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"selfsubjectaccessreviews", "selfsubjectrulesreviews"}})
	urls := append([]string(nil), openPaths...)
	for _, p := range discoveryPaths {
		urls = append(urls, p, p+"/*")
	}
	r.Status.NonResourceRules = append(r.Status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: []string{"get"}, NonResourceURLs: urls})
	return nil
}
