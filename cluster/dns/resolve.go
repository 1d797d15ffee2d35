package dns

import (
	"cmp"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// ttl of cluster records, in seconds.
const ttl = 5

// specVersion is the DNS specification's, which a TXT record tells.
const specVersion = "1.1.0"

// source is where the objects come from.
type source interface {
	namespace(name string) bool
	service(namespace, name string) *corev1.Service // nil: there is none
	slices(namespace, service string) []*discoveryv1.EndpointSlice
	servicesAt(ip string) []*corev1.Service // by ClusterIP
	slicesAt(ip string) []*discoveryv1.EndpointSlice
}

// answer is what resolve decided. With rcode NOERROR and no records the name
// exists, without data of that type.
type answer struct {
	rcode   int
	records []dns.RR
	extra   []dns.RR
	target  string // of the CNAME in records, to be resolved on
	foreign bool   // not the cluster's to answer
}

var (
	noData = answer{rcode: dns.RcodeSuccess}
	noName = answer{rcode: dns.RcodeNameError}
)

// resolve answers a question about a lower-case, fully qualified name.
func resolve(from source, zone, name string, kind uint16) answer {
	if strings.HasSuffix(name, ".in-addr.arpa.") {
		return reverse(from, zone, name, kind)
	}
	relative := strings.TrimSuffix(strings.TrimSuffix(name, zone), ".")
	if relative == "" {
		return apex(zone, kind)
	}
	labels := strings.Split(relative, ".")
	last := len(labels) - 1
	switch {
	case relative == "dns-version":
		if kind == dns.TypeTXT {
			return answer{records: []dns.RR{&dns.TXT{Hdr: header(name, dns.TypeTXT), Txt: []string{specVersion}}}}
		}
		return noData
	case labels[last] == "svc":
		return underSvc(from, zone, name, labels[:last], kind)
	case labels[last] == "pod":
		return underPod(from, name, labels[:last], kind)
	}
	return noName
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

func soa(zone string) dns.RR {
	return &dns.SOA{Hdr: header(zone, dns.TypeSOA), Ns: "ns.dns." + zone, Mbox: "hostmaster." + zone,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl}
}

func apex(zone string, kind uint16) answer {
	switch kind {
	case dns.TypeSOA:
		return answer{records: []dns.RR{soa(zone)}}
	case dns.TypeNS:
		return answer{records: []dns.RR{&dns.NS{Hdr: header(zone, dns.TypeNS), Ns: "ns.dns." + zone}}}
	}
	return noData
}

// underSvc answers [[_port._proto | host].service.]namespace.svc.
func underSvc(from source, zone, name string, labels []string, kind uint16) answer {
	if len(labels) == 0 {
		return noData
	}
	namespace := labels[len(labels)-1]
	if len(labels) == 1 {
		return existing(from.namespace(namespace))
	}
	s := from.service(namespace, labels[len(labels)-2])
	if s == nil || len(labels) > 4 {
		return noName
	}
	n := named{name: name, zone: zone, service: s, of: labels[:len(labels)-2]}
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return n.alias()
	}
	n.eps = from.slices(s.Namespace, s.Name)
	switch len(n.of) {
	case 0:
		return n.itself(kind)
	case 1:
		return n.host(kind)
	}
	return n.port(kind)
}

func existing(yes bool) answer {
	if yes {
		return noData
	}
	return noName
}

// underPod answers a-b-c-d.namespace.pod; as in CoreDNS's default, the pod
// itself is not looked for.
func underPod(from source, name string, labels []string, kind uint16) answer {
	if len(labels) == 0 {
		return noData
	}
	if len(labels) > 2 || !from.namespace(labels[len(labels)-1]) {
		return noName
	}
	if len(labels) == 1 {
		return noData
	}
	a, err := netip.ParseAddr(strings.ReplaceAll(labels[0], "-", "."))
	if err != nil || !a.Is4() {
		return noName
	}
	if kind != dns.TypeA {
		return noData
	}
	return answer{records: []dns.RR{address(name, a)}}
}

func address(name string, a netip.Addr) dns.RR {
	return &dns.A{Hdr: header(name, dns.TypeA), A: net.IP(a.AsSlice())}
}

// named is a name of or below a Service.
type named struct {
	name    string
	zone    string
	service *corev1.Service
	eps     []*discoveryv1.EndpointSlice
	of      []string // labels before the Service's
}

func (n named) own() string { return n.service.Name + "." + n.service.Namespace + ".svc." + n.zone }

func (n named) alias() answer {
	if len(n.of) > 0 {
		return noName
	}
	target := dns.Fqdn(n.service.Spec.ExternalName)
	if _, ok := dns.IsDomainName(target); !ok || target == "." {
		return noData
	}
	return answer{records: []dns.RR{&dns.CNAME{Hdr: header(n.name, dns.TypeCNAME), Target: target}}, target: target}
}

func (n named) headless() bool { return n.service.Spec.ClusterIP == corev1.ClusterIPNone }

// clusterIPs are the Service's IPv4 addresses.
func (n named) clusterIPs() []netip.Addr {
	var list []netip.Addr
	for _, text := range append([]string{n.service.Spec.ClusterIP}, n.service.Spec.ClusterIPs...) {
		if a, err := netip.ParseAddr(text); err == nil && a.Is4() && !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
}

// itself answers for the Service's own name.
func (n named) itself(kind uint16) answer {
	switch kind {
	case dns.TypeA:
		var a answer
		if !n.headless() {
			for _, ip := range n.clusterIPs() {
				a.records = append(a.records, address(n.name, ip))
			}
			return a
		}
		seen := make(map[netip.Addr]bool)
		for _, h := range n.hosts() {
			if !seen[h.ip] {
				seen[h.ip] = true
				a.records = append(a.records, address(n.name, h.ip))
			}
		}
		// Many clients take the first address: let it be another one each time.
		rand.Shuffle(len(a.records), func(i, j int) { a.records[i], a.records[j] = a.records[j], a.records[i] })
		return a
	case dns.TypeSRV:
		return n.srv("", "")
	}
	return noData
}

// host answers for one endpoint of a headless Service, by its hostname or by
// its address with hyphens; and for _proto, which exists when a port has it.
func (n named) host(kind uint16) answer {
	label := n.of[0]
	if protocol, ok := strings.CutPrefix(label, "_"); ok {
		return existing(slices.ContainsFunc(n.service.Spec.Ports, func(p corev1.ServicePort) bool {
			return p.Name != "" && protocolLabel(p.Protocol) == protocol
		}))
	}
	if !n.headless() {
		return noName
	}
	a := noName
	for _, h := range n.hosts() {
		if h.label() != label {
			continue
		}
		a.rcode = dns.RcodeSuccess
		if kind == dns.TypeA {
			a.records = append(a.records, address(n.name, h.ip))
		}
	}
	return a
}

// port answers _port._proto.
func (n named) port(kind uint16) answer {
	port, ok1 := strings.CutPrefix(n.of[0], "_")
	protocol, ok2 := strings.CutPrefix(n.of[1], "_")
	if !ok1 || !ok2 || port == "" {
		return noName
	}
	declared := slices.ContainsFunc(n.service.Spec.Ports, func(p corev1.ServicePort) bool {
		return p.Name == port && protocolLabel(p.Protocol) == protocol
	})
	if !declared {
		return noName
	}
	if kind != dns.TypeSRV {
		return noData
	}
	return n.srv(port, protocol)
}

func protocolLabel(p corev1.Protocol) string {
	return strings.ToLower(string(cmp.Or(p, corev1.ProtocolTCP)))
}

// srv lists where a port is served; "" means every port.
func (n named) srv(port, protocol string) answer {
	var a answer
	matches := func(name string, p corev1.Protocol) bool {
		return port == "" || name == port && protocolLabel(p) == protocol
	}
	if !n.headless() {
		for _, p := range n.service.Spec.Ports {
			if matches(p.Name, p.Protocol) {
				a.records = append(a.records, n.srvRecord(n.own(), uint16(p.Port)))
			}
		}
		for _, ip := range n.clusterIPs() {
			a.extra = append(a.extra, address(n.own(), ip))
		}
		return n.weighted(a)
	}
	known := make(map[netip.Addr]bool)
	for _, h := range n.hosts() {
		target := h.label() + "." + n.own()
		for _, p := range h.ports {
			if p.Port == nil || !matches(deref(p.Name, ""), deref(p.Protocol, corev1.ProtocolTCP)) {
				continue
			}
			a.records = append(a.records, n.srvRecord(target, uint16(*p.Port)))
			if !known[h.ip] {
				known[h.ip] = true
				a.extra = append(a.extra, address(target, h.ip))
			}
		}
	}
	return n.weighted(a)
}

func (n named) srvRecord(target string, port uint16) dns.RR {
	return &dns.SRV{Hdr: header(n.name, dns.TypeSRV), Port: port, Target: target}
}

// weighted gives the records equal shares of 100.
func (n named) weighted(a answer) answer {
	for _, r := range a.records {
		r.(*dns.SRV).Weight = uint16(max(1, 100/len(a.records)))
	}
	return a
}

// host is one ready endpoint.
type host struct {
	ip       netip.Addr
	hostname string
	ports    []discoveryv1.EndpointPort
}

func (h host) label() string {
	if h.hostname != "" {
		return strings.ToLower(h.hostname)
	}
	return strings.ReplaceAll(h.ip.String(), ".", "-")
}

// hosts are the ready endpoints; with publishNotReadyAddresses the slices say
// ready of all.
func (n named) hosts() []host {
	var list []host
	for _, s := range n.eps {
		if s.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		for _, e := range s.Endpoints {
			if !deref(e.Conditions.Ready, true) {
				continue
			}
			for _, text := range e.Addresses {
				if ip, err := netip.ParseAddr(text); err == nil && ip.Is4() {
					list = append(list, host{ip, deref(e.Hostname, ""), s.Ports})
				}
			}
		}
	}
	slices.SortStableFunc(list, func(a, b host) int { return a.ip.Compare(b.ip) })
	return list
}

func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// reverse answers for the addresses of Services and of headless endpoints that
// have a hostname. Others are not known to be the cluster's.
func reverse(from source, zone, name string, kind uint16) answer {
	ip, ok := reverseAddr(name)
	if !ok {
		return answer{foreign: true}
	}
	var names []string
	for _, s := range from.servicesAt(ip.String()) {
		names = append(names, s.Name+"."+s.Namespace+".svc."+zone)
	}
	for _, slice := range from.slicesAt(ip.String()) {
		service := slice.Labels[discoveryv1.LabelServiceName]
		s := from.service(slice.Namespace, service)
		if s == nil || s.Spec.ClusterIP != corev1.ClusterIPNone {
			continue
		}
		for _, e := range slice.Endpoints {
			if slices.Contains(e.Addresses, ip.String()) && deref(e.Conditions.Ready, true) {
				h := host{ip: ip, hostname: deref(e.Hostname, "")}
				names = append(names, h.label()+"."+service+"."+slice.Namespace+".svc."+zone)
			}
		}
	}
	if len(names) == 0 {
		return answer{foreign: true}
	}
	if kind != dns.TypePTR {
		return noData
	}
	slices.Sort(names)
	var a answer
	for _, target := range slices.Compact(names) {
		a.records = append(a.records, &dns.PTR{Hdr: header(name, dns.TypePTR), Ptr: target})
	}
	return a
}

// reverseAddr reads d.c.b.a.in-addr.arpa.
func reverseAddr(name string) (netip.Addr, bool) {
	labels := strings.Split(strings.TrimSuffix(name, ".in-addr.arpa."), ".")
	if len(labels) != 4 {
		return netip.Addr{}, false
	}
	slices.Reverse(labels)
	a, err := netip.ParseAddr(strings.Join(labels, "."))
	return a, err == nil && a.Is4()
}
