package dockerapi

import (
	"net/http"
	"strings"
)

// route is one row of the table.
type route struct {
	method  string // empty: any
	pattern string // segments; {} is one of any content, {+} one or more (names of images have slashes)
	query   string // the known query parameters
	serve   func(*call) error
}

// match finds the first route for a request.
func match(method, path string) (found *route, vars []string) {
	segments := strings.Split(strings.Trim(path, "/"), "/")
	for i := range routes {
		rt := &routes[i]
		vars, ok := matchSegments(strings.Split(strings.Trim(rt.pattern, "/"), "/"), segments, nil)
		if !ok {
			continue
		}
		if rt.method == "" || rt.method == method || rt.method == http.MethodGet && method == http.MethodHead {
			return rt, vars
		}
	}
	return nil, nil
}

// matchSegments matches a path against a pattern and returns what the wildcards
// stand for.
func matchSegments(pattern, path, vars []string) ([]string, bool) {
	if len(pattern) == 0 {
		return vars, len(path) == 0
	}
	if len(path) == 0 {
		return nil, false
	}
	switch pattern[0] {
	case "{}":
		return matchSegments(pattern[1:], path[1:], append(vars[:len(vars):len(vars)], path[0]))
	case "{+}":
		// The longest first: the end of a name may look like the rest of the pattern.
		for n := len(path); n > 0; n-- {
			name := strings.Join(path[:n], "/")
			if out, ok := matchSegments(pattern[1:], path[n:], append(vars[:len(vars):len(vars)], name)); ok {
				return out, true
			}
		}
		return nil, false
	}
	if pattern[0] != path[0] {
		return nil, false
	}
	return matchSegments(pattern[1:], path[1:], vars)
}
