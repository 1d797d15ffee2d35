package apiserver

import (
	"net/http"
	"net/url"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// request is one API request on its way.
type request struct {
	r        *http.Request
	w        http.ResponseWriter
	user     identity
	kind     *kind
	path     path
	query    url.Values
	out      output
	warnings map[string]bool
}

// path is a URL path taken apart: /api/VERSION/... or /apis/GROUP/VERSION/....
type path struct {
	group, version string
	resource       string
	namespace      string
	name           string
	sub            string // subresource
	rest           string // below the subresource
	verb           string
}

// parsePath takes a resource path apart. ok is false for other paths, also for
// /api, /apis/GROUP and the like.
func parsePath(p string) (out path, ok bool) {
	parts := strings.Split(strings.Trim(p, "/"), "/")
	switch {
	case len(parts) >= 3 && parts[0] == "api":
		out.version, parts = parts[1], parts[2:]
	case len(parts) >= 4 && parts[0] == "apis":
		out.group, out.version, parts = parts[1], parts[2], parts[3:]
	default:
		return path{}, false
	}
	if parts[0] == "namespaces" && len(parts) > 1 {
		out.namespace = parts[1]
		if len(parts) > 2 && parts[2] != "finalize" && parts[2] != "status" {
			parts = parts[2:]
		}
	}
	out.resource = parts[0]
	if len(parts) > 1 {
		out.name = parts[1]
	}
	if len(parts) > 2 {
		out.sub = parts[2]
	}
	if len(parts) > 3 {
		out.rest = strings.Join(parts[3:], "/")
	}
	if out.resource == "namespaces" {
		out.namespace = ""
	}
	return out, true
}

// verbOf is the verb that authorization and discovery speak of.
func verbOf(method string, p path, q url.Values) string {
	switch method {
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		if p.name == "" {
			return "deletecollection"
		}
		return "delete"
	case http.MethodGet, http.MethodHead:
		switch {
		case p.name != "":
			return "get"
		case isTrue(q.Get("watch")):
			return "watch"
		}
		return "list"
	}
	return ""
}

func isTrue(s string) bool { return s == "true" || s == "1" || s == "True" || s == "TRUE" }

// key is where an object of the request's kind and namespace is stored.
func (req *request) key(name string) string {
	k := req.kind
	if k.Namespaced {
		return k.cache.prefix + req.path.namespace + "/" + name
	}
	return k.cache.prefix + name
}

// keyPrefix begins the keys of all objects in the request's scope.
func (req *request) keyPrefix() string {
	if req.kind.Namespaced && req.path.namespace != "" {
		return req.kind.cache.prefix + req.path.namespace + "/"
	}
	return req.kind.cache.prefix
}

// warn adds a Warning header, once for each text, as kubectl prints it.
func (req *request) warn(texts ...string) {
	for _, t := range texts {
		if t == "" || req.warnings[t] {
			continue
		}
		if req.warnings == nil {
			req.warnings = map[string]bool{}
		}
		req.warnings[t] = true
		req.w.Header().Add("Warning", warningHeader(t))
	}
}

func warningHeader(text string) string {
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ").Replace(text)
	return `299 - "` + quoted + `"`
}

func isDryRun(values []string) bool {
	for _, v := range values {
		if v == metav1.DryRunAll {
			return true
		}
	}
	return false
}
