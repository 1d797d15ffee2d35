package endpointslice

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation"
)

// maxEndpoints bounds a slice: every change of one endpoint is sent to every
// node with all of its slice.
const maxEndpoints = 100

var serviceKind = corev1.SchemeGroupVersion.WithKind("Service")

type plan struct {
	create, update, remove []*discoveryv1.EndpointSlice
}

// decide returns how the slices that a Service has become those it should
// have, with as few writes as it can: an endpoint stays in its slice, a new
// one goes where there is room, the fullest first.
func decide(service *corev1.Service, behind []*corev1.Pod, have []*discoveryv1.EndpointSlice, zone func(string) string) plan {
	var p plan
	byGroup := map[string][]*discoveryv1.EndpointSlice{}
	for _, s := range have {
		if s.DeletionTimestamp != nil {
			continue
		}
		if !metav1.IsControlledBy(s, service) {
			p.remove = append(p.remove, s) // of a former Service of this name
			continue
		}
		k := groupKey(s.AddressType, s.Ports)
		byGroup[k] = append(byGroup[k], s)
	}
	for _, g := range groups(service, behind, zone) {
		fill(&p, service, g, byGroup[g.key()])
		delete(byGroup, g.key())
	}
	for _, orphaned := range byGroup {
		p.remove = append(p.remove, orphaned...)
	}
	slices.SortFunc(p.remove, byName)
	return p
}

func byName(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) }

// fill distributes a group's endpoints over its slices.
func fill(p *plan, service *corev1.Service, g *group, have []*discoveryv1.EndpointSlice) {
	slices.SortFunc(have, byName)
	rest := map[types.UID]discoveryv1.Endpoint{}
	var order []types.UID
	for _, e := range g.endpoints {
		rest[e.TargetRef.UID] = e
		order = append(order, e.TargetRef.UID)
	}
	next := make([]*discoveryv1.EndpointSlice, len(have))
	for i, s := range have {
		next[i] = s.DeepCopy()
		decorate(next[i], service)
		next[i].Endpoints = nil
		for _, e := range s.Endpoints {
			if e.TargetRef == nil {
				continue
			}
			if now, ok := rest[e.TargetRef.UID]; ok {
				next[i].Endpoints = append(next[i].Endpoints, now)
				delete(rest, e.TargetRef.UID)
			}
		}
	}
	var homeless []discoveryv1.Endpoint
	for _, uid := range order {
		if e, ok := rest[uid]; ok {
			homeless = append(homeless, e)
		}
	}
	house(next, homeless, func(endpoints []discoveryv1.Endpoint) {
		s := newSlice(service, g, append(slices.Clone(next), p.create...), len(p.create))
		s.Endpoints = endpoints
		p.create = append(p.create, s)
	})
	if len(next) == 0 && len(g.endpoints) == 0 {
		p.create = append(p.create, newSlice(service, g, nil, len(p.create)))
	}
	for i, s := range next {
		switch {
		case len(s.Endpoints) == 0 && (len(g.endpoints) > 0 || i > 0):
			p.remove = append(p.remove, have[i])
		case !apiequality.Semantic.DeepEqual(s, have[i]):
			p.update = append(p.update, s)
		}
	}
}

// house puts endpoints where there is room, the fullest slice first, and what
// is left into new slices. Slices that hold nothing are filled last.
func house(in []*discoveryv1.EndpointSlice, homeless []discoveryv1.Endpoint, create func([]discoveryv1.Endpoint)) {
	fullest := slices.Clone(in)
	slices.SortStableFunc(fullest, func(a, b *discoveryv1.EndpointSlice) int {
		return cmp.Compare(len(b.Endpoints), len(a.Endpoints))
	})
	for _, s := range fullest {
		n := min(max(0, maxEndpoints-len(s.Endpoints)), len(homeless))
		s.Endpoints = append(s.Endpoints, homeless[:n]...)
		homeless = homeless[n:]
	}
	for len(homeless) > 0 {
		n := min(maxEndpoints, len(homeless))
		create(homeless[:n:n])
		homeless = homeless[n:]
	}
}

// newSlice returns an empty slice with a name that none of taken has.
func newSlice(service *corev1.Service, g *group, taken []*discoveryv1.EndpointSlice, number int) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       service.Namespace,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(service, serviceKind)},
		},
		AddressType: g.family,
		Ports:       g.ports,
		Endpoints:   []discoveryv1.Endpoint{},
	}
	named := func(t *discoveryv1.EndpointSlice) bool { return t.Name == s.Name }
	s.Name = sliceName(service, g, number)
	for slices.ContainsFunc(taken, named) {
		number++
		s.Name = sliceName(service, g, number)
	}
	decorate(s, service)
	return s
}

func sliceName(service *corev1.Service, g *group, number int) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s\n%s\n%d", service.UID, g.key(), number)
	suffix := rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
	suffix = suffix[max(0, len(suffix)-8):]
	room := validation.DNS1123SubdomainMaxLength - len(suffix) - 1
	return service.Name[:min(len(service.Name), room)] + "-" + suffix
}

// decorate puts the Service's labels and ours on a slice.
func decorate(s *discoveryv1.EndpointSlice, service *corev1.Service) {
	labels := map[string]string{}
	for k, v := range service.Labels {
		if !reserved(k) {
			labels[k] = v
		}
	}
	labels[discoveryv1.LabelServiceName] = service.Name
	labels[discoveryv1.LabelManagedBy] = ManagedBy
	if service.Spec.ClusterIP == corev1.ClusterIPNone {
		labels[corev1.IsHeadlessService] = ""
	}
	s.Labels = labels
}

func reserved(label string) bool {
	return label == discoveryv1.LabelServiceName || label == discoveryv1.LabelManagedBy ||
		label == corev1.IsHeadlessService || strings.HasPrefix(label, "endpointslice.kubernetes.io/")
}
