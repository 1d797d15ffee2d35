package proxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gantry/internal/nft"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// facts are what decisions rest on besides the objects.
type facts struct {
	node          string
	serviceSubnet netip.Prefix
	podSubnet     netip.Prefix
}

// part is what one Service adds to the table.
type part struct {
	chains    map[string]nft.Chain
	sets      map[string]nft.Set
	addresses map[string]nft.Value // of the map "services"
	nodePorts map[string]nft.Value // of the map "node-ports"
	empty     map[string]nft.Value // of the map "no-endpoints"
	emptyPort map[string]nft.Value // of the map "no-endpoints-node-ports"
	hairpin   map[netip.Addr]bool  // this node's endpoints, which may get themselves
	udp       []udpPort
}

// udpPort is what connection tracking may have stale entries for.
type udpPort struct {
	addresses []netip.AddrPort // ClusterIPs and the like
	nodePort  uint16
	endpoints []netip.AddrPort
}

// endpoint is one way to serve a port.
type endpoint struct {
	to          netip.AddrPort
	local       bool // on this node
	ready       bool
	terminating bool // serving, though
}

// affinityDefault is the API's default of ClientIP's timeout.
const affinityDefault = 3 * time.Hour

// groupSlices sorts the IPv4 slices by the Service they are of.
func groupSlices(all []*discoveryv1.EndpointSlice) map[string][]*discoveryv1.EndpointSlice {
	groups := make(map[string][]*discoveryv1.EndpointSlice)
	for _, s := range all {
		if name := s.Labels[discoveryv1.LabelServiceName]; name != "" && s.AddressType == discoveryv1.AddressTypeIPv4 {
			key := s.Namespace + "/" + name
			groups[key] = append(groups[key], s)
		}
	}
	for _, group := range groups {
		slices.SortFunc(group, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
	}
	return groups
}

func samePointers(a, b []*discoveryv1.EndpointSlice) bool { return slices.Equal(a, b) }

// decide makes a Service's part.
func decide(f facts, s *corev1.Service, eps []*discoveryv1.EndpointSlice) *part {
	p := &part{chains: map[string]nft.Chain{}, sets: map[string]nft.Set{}, addresses: map[string]nft.Value{}, nodePorts: map[string]nft.Value{},
		empty: map[string]nft.Value{}, emptyPort: map[string]nft.Value{}, hairpin: map[netip.Addr]bool{}}
	if s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.ClusterIP == corev1.ClusterIPNone {
		return p
	}
	for _, sp := range s.Spec.Ports {
		if number := protocolNumber(sp.Protocol); number != 0 {
			p.addPort(f, s, sp, number, endpointsOf(f, sp, eps))
		}
	}
	return p
}

func protocolNumber(p corev1.Protocol) uint8 {
	switch p {
	case corev1.ProtocolTCP, "":
		return unix.IPPROTO_TCP
	case corev1.ProtocolUDP:
		return unix.IPPROTO_UDP
	case corev1.ProtocolSCTP:
		return unix.IPPROTO_SCTP
	}
	return 0
}

// endpointsOf collects who serves a port, each once, in a fixed order.
func endpointsOf(f facts, sp corev1.ServicePort, eps []*discoveryv1.EndpointSlice) []endpoint {
	found := make(map[netip.AddrPort]endpoint)
	for _, slice := range eps {
		for _, port := range slice.Ports {
			if port.Port == nil || deref(port.Name, "") != sp.Name || deref(port.Protocol, corev1.ProtocolTCP) != cmp.Or(sp.Protocol, corev1.ProtocolTCP) {
				continue
			}
			for _, e := range slice.Endpoints {
				if len(e.Addresses) == 0 {
					continue
				}
				a, err := netip.ParseAddr(e.Addresses[0]) // further addresses are the same endpoint's
				if err != nil || !a.Is4() {
					continue
				}
				ready := deref(e.Conditions.Ready, true)
				x := endpoint{to: netip.AddrPortFrom(a, uint16(*port.Port)), local: f.node != "" && deref(e.NodeName, "") == f.node,
					ready: ready, terminating: deref(e.Conditions.Serving, ready) && deref(e.Conditions.Terminating, false)}
				if old, twice := found[x.to]; !twice || !old.ready {
					found[x.to] = x // while a slice is split an endpoint may be in two
				}
			}
		}
	}
	list := make([]endpoint, 0, len(found))
	for _, e := range found {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b endpoint) int { return a.to.Compare(b.to) })
	return list
}

func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// usable are the ready ones, or if there are none, those that still serve
// while they terminate (KEP-1669).
func usable(all []endpoint, localOnly bool) []endpoint {
	var ready, terminating []endpoint
	for _, e := range all {
		switch {
		case localOnly && !e.local:
		case e.ready:
			ready = append(ready, e)
		case e.terminating:
			terminating = append(terminating, e)
		}
	}
	if len(ready) > 0 {
		return ready
	}
	return terminating
}

// addPort adds what serves one port of s.
func (p *part) addPort(f facts, s *corev1.Service, sp corev1.ServicePort, protocol uint8, all []endpoint) {
	name := fmt.Sprintf("%s/%s/%s/%d", s.Namespace, s.Name, strings.ToLower(string(cmp.Or(sp.Protocol, corev1.ProtocolTCP))), sp.Port)
	any := usable(all, false)
	inside := any
	if deref(s.Spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster) == corev1.ServiceInternalTrafficPolicyLocal {
		inside = usable(all, true)
	}
	onlyLocal := s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	for _, e := range any {
		if f.podSubnet.Contains(e.to.Addr()) {
			p.hairpin[e.to.Addr()] = true
		}
	}
	internal := addressesOf(s.Spec.ClusterIPs, s.Spec.ClusterIP)
	external := externalAddresses(s)
	sticky := stickyFor(s)

	whole := p.balance("svc/"+name, name, sticky, any)
	chain := whole
	if len(inside) != len(any) {
		chain = p.balance("int/"+name, name, sticky, inside)
	}
	p.lead(internal, protocol, uint16(sp.Port), chain, len(any) > 0)
	if len(external) > 0 || sp.NodePort != 0 {
		chain := p.external(f, name, whole, any)
		if onlyLocal && whole != "" {
			chain = p.externalLocal(f, name, whole, p.balance("local/"+name, name, sticky, usable(all, true)))
		}
		p.lead(external, protocol, uint16(sp.Port), chain, len(any) > 0)
		p.leadNodePort(protocol, uint16(sp.NodePort), chain, len(any) > 0)
	}
	if protocol == unix.IPPROTO_UDP {
		u := udpPort{nodePort: uint16(sp.NodePort)}
		for _, a := range append(internal, external...) {
			u.addresses = append(u.addresses, netip.AddrPortFrom(a, uint16(sp.Port)))
		}
		for _, e := range any {
			u.endpoints = append(u.endpoints, e.to)
		}
		p.udp = append(p.udp, u)
	}
}

// lead sends connections to the addresses into chain; with chain "" there is
// nobody, and they are refused, or if somebody serves elsewhere, dropped.
func (p *part) lead(to []netip.Addr, protocol uint8, port uint16, chain string, elsewhere bool) {
	for _, a := range to {
		key := nft.EncodeKey(a, protocol, port)
		if chain != "" {
			p.addresses[key] = nft.Goto(chain)
		} else {
			p.empty[key] = nft.Goto(nobody(elsewhere))
		}
	}
}

func (p *part) leadNodePort(protocol uint8, port uint16, chain string, elsewhere bool) {
	if port == 0 {
		return
	}
	key := nft.EncodeKey(protocol, port)
	if chain != "" {
		p.nodePorts[key] = nft.Goto(chain)
	} else {
		p.emptyPort[key] = nft.Goto(nobody(elsewhere))
	}
}

func nobody(elsewhere bool) string {
	if elsewhere {
		return chainDrop
	}
	return chainRefuse
}

func stickyFor(s *corev1.Service) time.Duration {
	if s.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		return time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
	}
	return affinityDefault
}

// balance adds a chain that chooses among the endpoints, and returns its name,
// "" when there are none.
func (p *part) balance(chain, name string, sticky time.Duration, among []endpoint) string {
	if len(among) == 0 {
		return ""
	}
	if sticky == 0 {
		to := make([]netip.AddrPort, len(among))
		for i, e := range among {
			to[i] = e.to
		}
		p.chains[chain] = nft.Chain{Rules: []nft.Rule{nft.NewRule(nft.DNATAny(to))}}
		return chain
	}
	var rules []nft.Rule
	var chains []string
	for _, e := range among {
		own := fmt.Sprintf("ep/%s/%s/%d", name, e.to.Addr(), e.to.Port())
		clients := "clients/" + own
		p.sets[clients] = nft.Set{Key: []nft.Type{nft.Address}, Timeout: sticky}
		p.chains[own] = nft.Chain{Rules: []nft.Rule{
			nft.NewRule(nft.Remember(clients, sticky, nft.SourceAddress), nft.DNAT(e.to)),
		}}
		rules = append(rules, nft.NewRule(nft.In(clients, nft.SourceAddress), nft.GotoChain(own)))
		chains = append(chains, own)
	}
	p.chains[chain] = nft.Chain{Rules: append(rules, nft.NewRule(nft.GotoAny(chains)))}
	return chain
}

// external returns the chain for what comes from outside the cluster: whole,
// the one that chooses among all endpoints, unless some of them answer by
// another way than through this node.
func (p *part) external(f facts, name, whole string, all []endpoint) string {
	if !slices.ContainsFunc(all, func(e endpoint) bool { return !f.podSubnet.Contains(e.to.Addr()) }) {
		return whole
	}
	chain := "ext/" + name
	p.chains[chain] = nft.Chain{Rules: []nft.Rule{nft.NewRule(nft.SetMark(masqueradeMark)), nft.NewRule(nft.GotoChain(whole))}}
	return chain
}

// externalLocal adds the chain of externalTrafficPolicy Local. Pods and this
// node itself are inside, and use all endpoints (KEP-1860).
func (p *part) externalLocal(f facts, name, whole, local string) string {
	chain := "ext/" + name
	last := nft.NewRule(nft.Drop())
	if local != "" {
		last = nft.NewRule(nft.GotoChain(local))
	}
	p.chains[chain] = nft.Chain{Rules: []nft.Rule{
		nft.NewRule(nft.Subnet(nft.SourceAddress, nft.Is, f.podSubnet), nft.GotoChain(whole)),
		nft.NewRule(nft.FromLocal(), nft.GotoChain(whole)),
		last,
	}}
	return chain
}

func addressesOf(texts []string, first string) []netip.Addr {
	var list []netip.Addr
	for _, text := range append(slices.Clone(texts), first) {
		if a, err := netip.ParseAddr(text); err == nil && a.Is4() && !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
}

// externalAddresses are the Service's externalIPs and load balancers.
func externalAddresses(s *corev1.Service) []netip.Addr {
	texts := slices.Clone(s.Spec.ExternalIPs)
	for _, in := range s.Status.LoadBalancer.Ingress {
		texts = append(texts, in.IP)
	}
	return addressesOf(texts, "")
}
