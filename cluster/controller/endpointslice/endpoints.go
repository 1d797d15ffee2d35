package endpointslice

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"gantry/cluster/internal/pods"
)

// group is the endpoints of one Service that share a slice: of one address
// family, with the same numbers behind the Service's ports.
type group struct {
	family    discoveryv1.AddressType
	ports     []discoveryv1.EndpointPort
	endpoints []discoveryv1.Endpoint
}

func (g *group) key() string { return groupKey(g.family, g.ports) }

func groupKey(family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) string {
	var b strings.Builder
	b.WriteString(string(family))
	for _, p := range ports {
		fmt.Fprintf(&b, ",%s/%v/%d", deref(p.Name), deref(p.Protocol), deref(p.Port))
		if p.AppProtocol != nil {
			b.WriteString("/" + *p.AppProtocol)
		}
	}
	return b.String()
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// groups sorts the pods behind a Service into groups, each with its endpoints
// in order of the pods' names.
func groups(service *corev1.Service, behind []*corev1.Pod, zone func(node string) string) []*group {
	behind = slices.Clone(behind)
	slices.SortFunc(behind, func(a, b *corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	var all []*group
	index := map[string]*group{}
	for _, family := range families(service) {
		for _, pod := range behind {
			endpoint, ok := endpointOf(service, pod, family, zone)
			if !ok {
				continue
			}
			g := &group{family: family, ports: portsOf(service, pod)}
			if have := index[g.key()]; have != nil {
				g = have
			} else {
				index[g.key()] = g
				all = append(all, g)
			}
			g.endpoints = append(g.endpoints, endpoint)
		}
		if !slices.ContainsFunc(all, func(g *group) bool { return g.family == family }) {
			// An empty slice tells that there is nothing, rather than that
			// nobody has looked yet.
			all = append(all, &group{family: family})
		}
	}
	return all
}

func families(service *corev1.Service) []discoveryv1.AddressType {
	var out []discoveryv1.AddressType
	for _, f := range service.Spec.IPFamilies {
		if f == corev1.IPv6Protocol {
			out = append(out, discoveryv1.AddressTypeIPv6)
		} else {
			out = append(out, discoveryv1.AddressTypeIPv4)
		}
	}
	if len(out) == 0 {
		out = append(out, discoveryv1.AddressTypeIPv4)
	}
	return out
}

// endpointOf returns the endpoint of a pod; ok is false when it has no address
// of the family or will not run again.
func endpointOf(service *corev1.Service, pod *corev1.Pod, family discoveryv1.AddressType, zone func(string) string) (_ discoveryv1.Endpoint, ok bool) {
	address := addressOf(pod, family)
	if address == "" || pods.Finished(pod) {
		return discoveryv1.Endpoint{}, false
	}
	serving, terminating := pods.Ready(pod), pod.DeletionTimestamp != nil
	e := discoveryv1.Endpoint{
		Addresses: []string{address},
		Conditions: discoveryv1.EndpointConditions{
			Ready:       new(service.Spec.PublishNotReadyAddresses || serving && !terminating),
			Serving:     new(serving),
			Terminating: new(terminating),
		},
		TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
	if pod.Spec.NodeName != "" {
		e.NodeName = new(pod.Spec.NodeName)
		if z := zone(pod.Spec.NodeName); z != "" {
			e.Zone = &z
		}
	}
	if pod.Spec.Hostname != "" && pod.Spec.Subdomain == service.Name {
		e.Hostname = new(pod.Spec.Hostname)
	}
	return e, true
}

func addressOf(pod *corev1.Pod, family discoveryv1.AddressType) string {
	all := pod.Status.PodIPs
	if len(all) == 0 && pod.Status.PodIP != "" {
		all = []corev1.PodIP{{IP: pod.Status.PodIP}}
	}
	for _, ip := range all {
		a, err := netip.ParseAddr(ip.IP)
		if err == nil && a.Is4() == (family == discoveryv1.AddressTypeIPv4) {
			return ip.IP
		}
	}
	return ""
}

// portsOf returns the Service's ports with the pod's numbers; a port whose
// name the pod does not have is left out.
func portsOf(service *corev1.Service, pod *corev1.Pod) []discoveryv1.EndpointPort {
	var out []discoveryv1.EndpointPort
	for i := range service.Spec.Ports {
		p := &service.Spec.Ports[i]
		number, ok := numberOf(p, pod)
		if !ok {
			continue
		}
		protocol := p.Protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		out = append(out, discoveryv1.EndpointPort{
			Name: new(p.Name), Port: &number, Protocol: &protocol, AppProtocol: p.AppProtocol,
		})
	}
	return out
}

func numberOf(port *corev1.ServicePort, pod *corev1.Pod) (int32, bool) {
	switch {
	case port.TargetPort.Type == intstr.Int && port.TargetPort.IntVal == 0:
		return port.Port, true
	case port.TargetPort.Type == intstr.Int:
		return port.TargetPort.IntVal, true
	}
	protocol := cmp.Or(port.Protocol, corev1.ProtocolTCP)
	match := func(c *corev1.Container) (int32, bool) {
		for _, p := range c.Ports {
			if p.Name == port.TargetPort.StrVal && cmp.Or(p.Protocol, corev1.ProtocolTCP) == protocol {
				return p.ContainerPort, true
			}
		}
		return 0, false
	}
	for i := range pod.Spec.Containers {
		if n, ok := match(&pod.Spec.Containers[i]); ok {
			return n, true
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			continue
		}
		if n, ok := match(c); ok {
			return n, true
		}
	}
	return 0, false
}
