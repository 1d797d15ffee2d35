package ingress

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// annotationClass is how a class was named before spec.ingressClassName.
const annotationClass = "kubernetes.io/ingress.class"

// table is all routes. It is never changed once the handler can see it.
type table struct {
	exact    map[string][]route // by host
	wildcard map[string][]route // by what follows "*."
	any      []route            // rules without a host
	fallback *backend           // spec.defaultBackend of the oldest Ingress that has one
	backends map[backendKey]*backend
}

// route is one path of a host; a host's routes are sorted by precedence.
type route struct {
	path  string
	exact bool
	to    *backend
}

type backendKey struct {
	namespace, service string
	port               networkingv1.ServiceBackendPort
}

// backend is one port of a Service.
type backend struct {
	name      string // for messages: namespace/service
	problem   string // why there are no endpoints, when it is not that none is ready
	endpoints []string
	turn      *atomic.Uint32 // kept from table to table
}

// served returns the Ingresses of our class, oldest first.
func served(all []*networkingv1.Ingress) []*networkingv1.Ingress {
	var ours []*networkingv1.Ingress
	for _, in := range all {
		class := in.Annotations[annotationClass]
		if in.Spec.IngressClassName != nil {
			class = *in.Spec.IngressClassName
		}
		if (class == "" || class == Class) && in.DeletionTimestamp == nil {
			ours = append(ours, in)
		}
	}
	slices.SortFunc(ours, func(a, b *networkingv1.Ingress) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return ours
}

// build makes the table. Where two Ingresses claim the same host and path, the
// older one has it.
func build(ours []*networkingv1.Ingress, services corelisters.ServiceLister, all []*discoveryv1.EndpointSlice, old *table) *table {
	t := &table{exact: map[string][]route{}, wildcard: map[string][]route{}, backends: map[backendKey]*backend{}}
	groups := groupSlices(all)
	for _, in := range ours {
		find := func(b *networkingv1.IngressBackend) *backend {
			return t.backend(in.Namespace, b, services, groups, old)
		}
		if t.fallback == nil && in.Spec.DefaultBackend != nil {
			t.fallback = find(in.Spec.DefaultBackend)
		}
		for _, rule := range in.Spec.Rules {
			if rule.HTTP == nil {
				continue // "all traffic to the default backend"
			}
			var routes []route
			for _, p := range rule.HTTP.Paths {
				exact := p.PathType != nil && *p.PathType == networkingv1.PathTypeExact
				routes = append(routes, route{path: cmp.Or(p.Path, "/"), exact: exact, to: find(&p.Backend)})
			}
			t.add(strings.ToLower(rule.Host), routes)
		}
	}
	for _, hosts := range []map[string][]route{t.exact, t.wildcard, {"": t.any}} {
		for _, routes := range hosts {
			slices.SortStableFunc(routes, byPrecedence)
		}
	}
	return t
}

func (t *table) add(host string, routes []route) {
	suffix, wild := strings.CutPrefix(host, "*.")
	switch {
	case host == "":
		t.any = append(t.any, routes...)
	case wild:
		t.wildcard[suffix] = append(t.wildcard[suffix], routes...)
	default:
		t.exact[host] = append(t.exact[host], routes...)
	}
}

// byPrecedence puts the longest path first, and of equal ones the exact.
func byPrecedence(a, b route) int {
	if c := cmp.Compare(len(b.path), len(a.path)); c != 0 {
		return c
	}
	switch {
	case a.exact && !b.exact:
		return -1
	case b.exact && !a.exact:
		return 1
	}
	return 0
}

// backend returns the backend of b, one for all that name the same port.
func (t *table) backend(namespace string, b *networkingv1.IngressBackend, services corelisters.ServiceLister,
	groups map[string][]*discoveryv1.EndpointSlice, old *table) *backend {
	if b.Service == nil {
		return &backend{name: namespace, problem: "the rule's backend is not a Service, which is not supported", turn: new(atomic.Uint32)}
	}
	key := backendKey{namespace, b.Service.Name, b.Service.Port}
	if known := t.backends[key]; known != nil {
		return known
	}
	made := &backend{name: namespace + "/" + b.Service.Name, turn: new(atomic.Uint32)}
	if old != nil && old.backends[key] != nil {
		made.turn = old.backends[key].turn
	}
	t.backends[key] = made
	s, err := services.Services(namespace).Get(b.Service.Name)
	if err != nil {
		made.problem = "there is no such Service"
		return made
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		made.problem = "it is of type ExternalName, which is not supported behind an Ingress"
		return made
	}
	i := slices.IndexFunc(s.Spec.Ports, func(p corev1.ServicePort) bool {
		if b.Service.Port.Name != "" {
			return p.Name == b.Service.Port.Name
		}
		return p.Port == b.Service.Port.Number
	})
	if i < 0 {
		made.problem = "it has no such port"
		return made
	}
	made.endpoints = endpoints(s.Spec.Ports[i].Name, groups[made.name])
	return made
}

func groupSlices(all []*discoveryv1.EndpointSlice) map[string][]*discoveryv1.EndpointSlice {
	groups := make(map[string][]*discoveryv1.EndpointSlice)
	for _, s := range all {
		key := s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]
		groups[key] = append(groups[key], s)
	}
	return groups
}

// endpoints returns the ready addresses of a port, or if there are none those
// that still serve while they terminate; each once, sorted.
func endpoints(port string, eps []*discoveryv1.EndpointSlice) []string {
	var ready, terminating []string
	for _, s := range eps {
		for _, p := range s.Ports {
			if p.Port == nil || deref(p.Name, "") != port || deref(p.Protocol, corev1.ProtocolTCP) != corev1.ProtocolTCP {
				continue
			}
			for _, e := range s.Endpoints {
				if len(e.Addresses) == 0 {
					continue
				}
				ip, err := netip.ParseAddr(e.Addresses[0])
				if err != nil {
					continue
				}
				to := netip.AddrPortFrom(ip, uint16(*p.Port)).String()
				isReady := deref(e.Conditions.Ready, true)
				if isReady {
					ready = append(ready, to)
				} else if deref(e.Conditions.Serving, false) && deref(e.Conditions.Terminating, false) {
					terminating = append(terminating, to)
				}
			}
		}
	}
	if len(ready) == 0 {
		ready = terminating
	}
	slices.Sort(ready)
	return slices.Compact(ready)
}

func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// match finds who serves a request: nil when no rule does.
func (t *table) match(host, path string) *backend {
	host = hostname(host)
	if b := matchPath(t.exact[host], path); b != nil {
		return b
	}
	// A wildcard stands for exactly one label.
	if _, suffix, ok := strings.Cut(host, "."); ok {
		if b := matchPath(t.wildcard[suffix], path); b != nil {
			return b
		}
	}
	if b := matchPath(t.any, path); b != nil {
		return b
	}
	return t.fallback
}

// hostname is what rules name: lower case, without port and final dot.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

func matchPath(routes []route, path string) *backend {
	for _, r := range routes {
		if r.exact && r.path == path || !r.exact && hasPrefix(path, r.path) {
			return r.to
		}
	}
	return nil
}

// hasPrefix compares element by element: /foo is a prefix of /foo/ and
// /foo/bar, and not of /foobar.
func hasPrefix(path, prefix string) bool {
	prefix = strings.TrimSuffix(prefix, "/")
	if !strings.HasPrefix(path, prefix) {
		return false
	}
	return len(path) == len(prefix) || path[len(prefix)] == '/'
}

// next returns the backend's endpoints in the order in which to try them.
func (b *backend) next() func() (string, bool) {
	start, tried := b.turn.Add(1), 0
	return func() (string, bool) {
		if tried >= len(b.endpoints) {
			return "", false
		}
		e := b.endpoints[(int(start)+tried)%len(b.endpoints)]
		tried++
		return e, true
	}
}
