package network

import (
	"maps"
	"net/netip"
	"slices"

	"gantry/internal/nft"
)

// dialect is what differs between the tables of the two families.
type dialect struct {
	family   nft.Family
	address  nft.Type
	from, to nft.Field
	loopback netip.Prefix
	detourTo netip.Addr // a neighbour that the copies of askInput are sent to; nobody has it
}

var dialect4 = dialect{nft.IPv4, nft.Address, nft.SourceAddress, nft.DestinationAddress, netip.MustParsePrefix("127.0.0.0/8"), netip.MustParseAddr("169.254.77.77")}
var dialect6 = dialect{nft.IPv6, nft.Address6, nft.SourceAddress6, nft.DestinationAddress6, netip.MustParsePrefix("::1/128"), netip.MustParseAddr("fe80::77:77")}

// subnet is a network's in this family; invalid when it has none.
func (d dialect) subnet(n *Network) netip.Prefix {
	if d.family == nft.IPv6 {
		return n.IPv6.Subnet
	}
	return n.Subnet
}

// target is a publication's address in this family; invalid when it has none.
func (d dialect) target(p Publication) netip.Addr {
	if d.family == nft.IPv6 {
		return p.Address6
	}
	return p.Address
}

func (d dialect) speaks(a netip.Addr) bool { return a.Is6() == (d.family == nft.IPv6) }

// describeLocked returns the table that the state wants.
func (h *Host) describeLocked(d dialect) *nft.Table {
	pubs := make([]Publication, 0, len(h.publications))
	for _, p := range h.publications {
		pubs = append(pubs, p.Publication)
	}
	return d.describe(h.cfg.Instance.Table(), h.sorted(), pubs, h.detour)
}

// describe decides all rules. See the package comment for what they are to do.
func (d dialect) describe(name string, networks []*Network, pubs []Publication, way detour) *nft.Table {
	t := &nft.Table{Family: d.family, Name: name, Sets: d.publishedSets(pubs), Chains: map[string]nft.Chain{
		// Before anything translates: an answer to a masqueraded client of
		// 127.0.0.1 still carries the bridge's address here.
		"guard": {Hook: &nft.RawPrerouting, Rules: []nft.Rule{
			nft.NewRule(nft.In("own", nft.InputInterface), nft.Subnet(d.to, nft.Is, d.loopback), nft.Drop()),
			nft.NewRule(nft.In("own", nft.InputInterface), nft.Subnet(d.from, nft.Is, d.loopback), nft.Drop()),
		}},
		// Nobody but this host's own processes may mean 127.0.0.1 by a port.
		"prerouting": {Hook: &nft.NATPrerouting, Rules: []nft.Rule{
			nft.NewRule(nft.ToLocal(), nft.Subnet(d.to, nft.IsNot, d.loopback), nft.Jump("published-ports")),
		}},
		"output": {Hook: &nft.NATOutput, Rules: []nft.Rule{d.fromHost()}},
		"published-ports": {Rules: []nft.Rule{
			nft.NewRule(nft.DNATBy(d.family, "published", d.to, nft.TransportProtocol, nft.DestinationPort)),
			nft.NewRule(nft.DNATBy(d.family, "published-any", nft.TransportProtocol, nft.DestinationPort)),
		}},
		"postrouting": {Hook: &nft.NATPostrouting, Rules: d.masquerade(networks)},
	}}
	isolate(t, networks)
	if way.in != "" {
		d.askInput(t, pubs, way)
	}
	return t
}

// askInput lets only those packets from outside be translated that the host's
// input chains have accepted.
func (d dialect) askInput(t *nft.Table, pubs []Publication, way detour) {
	trusted := maps.Clone(t.Sets["own"].Elements)
	trusted[nft.EncodeKey(way.in)] = nft.Value{}
	t.Sets["trusted"] = nft.Set{Key: []nft.Type{nft.Interface}, Elements: trusted}
	translate := t.Chains["prerouting"]
	translate.Rules = []nft.Rule{nft.NewRule(nft.In("trusted", nft.InputInterface), nft.ToLocal(), nft.Subnet(d.to, nft.IsNot, d.loopback), nft.Jump("published-ports"))}
	t.Chains["prerouting"] = translate

	byAddress, byPort := map[string]nft.Value{}, map[string]nft.Value{}
	for _, b := range d.bindings(pubs) {
		if b.HostIP.IsUnspecified() {
			byPort[nft.EncodeKey(protocols[b.Protocol], b.HostPort)] = nft.Value{}
		} else if !b.HostIP.IsLoopback() {
			byAddress[nft.EncodeKey(b.HostIP, protocols[b.Protocol], b.HostPort)] = nft.Value{}
		}
	}
	t.Sets["open"] = nft.Set{Key: []nft.Type{d.address, nft.Protocol, nft.Port}, Elements: byAddress}
	t.Sets["open-any"] = nft.Set{Key: []nft.Type{nft.Protocol, nft.Port}, Elements: byPort}
	// Addressed to this host alone: what is for everybody is not a published port's.
	fresh := []nft.Stmt{nft.New(), nft.NotIn("trusted", nft.InputInterface), nft.ToLocal(), nft.Subnet(d.to, nft.IsNot, d.loopback)}
	again := []nft.Stmt{nft.DupTo(d.detourTo, way.out), nft.Drop()}
	t.Chains["accepted"] = nft.Chain{Hook: &nft.LastInput, Rules: []nft.Rule{
		nft.NewRule(slices.Concat(fresh, []nft.Stmt{nft.In("open", d.to, nft.TransportProtocol, nft.DestinationPort)}, again)...),
		nft.NewRule(slices.Concat(fresh, []nft.Stmt{nft.In("open-any", nft.TransportProtocol, nft.DestinationPort)}, again)...),
	}}
	if d.family == nft.IPv4 { // a copy must not be fragmented, the packet that it stands for may
		guard := t.Chains["guard"]
		guard.Rules = append(guard.Rules, nft.NewRule(nft.Link(nft.InputInterface, nft.Is, way.in), nft.LetFragment()))
		t.Chains["guard"] = guard
	}
}

// bindings are the published ports of this family.
func (d dialect) bindings(pubs []Publication) (list []PortBinding) {
	for _, p := range pubs {
		if !d.target(p).IsValid() {
			continue
		}
		for _, b := range p.Ports {
			if d.speaks(b.HostIP) {
				list = append(list, b)
			}
		}
	}
	return list
}

// fromHost translates what this host's own processes send. An answer to ::1
// would not be taken from a bridge: relay carries those.
func (d dialect) fromHost() nft.Rule {
	if d.family == nft.IPv6 {
		return nft.NewRule(nft.ToLocal(), nft.Subnet(d.to, nft.IsNot, d.loopback), nft.Jump("published-ports"))
	}
	return nft.NewRule(nft.ToLocal(), nft.Jump("published-ports"))
}

// isolate decides what is forwarded between bridges.
func isolate(t *nft.Table, networks []*Network) {
	own, isolated, internal, pairs := map[string]nft.Value{}, map[string]nft.Value{}, map[string]nft.Value{}, map[string]nft.Value{}
	fromPods, toPods := []nft.Rule{}, []nft.Rule{}
	for _, n := range networks {
		if n.Driver != DriverBridge {
			continue
		}
		link := nft.EncodeKey(n.Link)
		own[link] = nft.Value{}
		if n.Internal {
			internal[link] = nft.Value{}
		}
		if n.Name == Pods {
			fromPods = append(fromPods, nft.NewRule(nft.Link(nft.InputInterface, nft.Is, n.Link), nft.Accept()))
			toPods = append(toPods, nft.NewRule(nft.In("isolated", nft.InputInterface), nft.Link(nft.OutputInterface, nft.Is, n.Link),
				nft.NotTranslated(), nft.Drop()))
			continue
		}
		isolated[link] = nft.Value{}
		if !n.Apart {
			pairs[nft.EncodeKey(n.Link, n.Link)] = nft.Value{}
		}
	}
	forward := append([]nft.Rule{
		// An internal network leads nowhere, whatever was translated before.
		nft.NewRule(nft.In("internal", nft.InputInterface), nft.NotIn("pairs", nft.InputInterface, nft.OutputInterface), nft.Drop()),
		nft.NewRule(nft.In("internal", nft.OutputInterface), nft.NotIn("pairs", nft.InputInterface, nft.OutputInterface), nft.Drop()),
		nft.NewRule(nft.Established(), nft.Accept()),
		nft.NewRule(nft.In("isolated", nft.OutputInterface), nft.Jump("to-container")),
	}, toPods...)
	toContainer := append([]nft.Rule{
		nft.NewRule(nft.Translated(), nft.Accept()),
		nft.NewRule(nft.In("pairs", nft.InputInterface, nft.OutputInterface), nft.Accept()),
	}, fromPods...)
	t.Chains["forward"] = nft.Chain{Hook: &nft.Forward, Rules: forward}
	t.Chains["to-container"] = nft.Chain{Rules: append(toContainer, nft.NewRule(nft.Drop()))}
	link := []nft.Type{nft.Interface}
	t.Sets["own"] = nft.Set{Key: link, Elements: own}
	t.Sets["isolated"] = nft.Set{Key: link, Elements: isolated}
	t.Sets["internal"] = nft.Set{Key: link, Elements: internal}
	t.Sets["pairs"] = nft.Set{Key: []nft.Type{nft.Interface, nft.Interface}, Elements: pairs}
}

// masquerade are the rules for packets whose source must become this host's.
func (d dialect) masquerade(networks []*Network) []nft.Rule {
	rules := []nft.Rule{
		// Clients on this host that use 127.0.0.1: the container must see an
		// address that it can answer.
		nft.NewRule(nft.Subnet(d.from, nft.Is, d.loopback), nft.In("own", nft.OutputInterface), nft.Masquerade()),
		nft.NewRule(nft.In("hairpin", d.from, d.to), nft.Masquerade()),
	}
	for _, n := range networks {
		subnet := d.subnet(n)
		if n.Driver != DriverBridge || !subnet.IsValid() || n.Internal {
			continue
		}
		if n.Name != Pods {
			// A container that uses a published port of its own network: the
			// answer must come back through this host to be translated.
			rules = append(rules, nft.NewRule(nft.Subnet(d.from, nft.Is, subnet),
				nft.Link(nft.OutputInterface, nft.Is, n.Link), nft.Translated(), nft.Masquerade()))
		}
		if !n.Unmasked {
			rules = append(rules, nft.NewRule(nft.Subnet(d.from, nft.Is, subnet), nft.NotIn("own", nft.OutputInterface), nft.Masquerade()))
		}
	}
	return rules
}

// publishedSets are the maps from host ports to containers, and the set of
// containers that reach themselves through one.
func (d dialect) publishedSets(pubs []Publication) map[string]nft.Set {
	byAddress, byPort, hairpin := map[string]nft.Value{}, map[string]nft.Value{}, map[string]nft.Value{}
	for _, p := range pubs {
		target := d.target(p)
		if !target.IsValid() {
			continue
		}
		hairpin[nft.EncodeKey(target, target)] = nft.Value{}
		for _, b := range p.Ports {
			to := nft.Value{Bytes: nft.EncodeKey(target, b.ContainerPort)}
			switch {
			case !d.speaks(b.HostIP):
			case b.HostIP.IsUnspecified():
				byPort[nft.EncodeKey(protocols[b.Protocol], b.HostPort)] = to
			default:
				byAddress[nft.EncodeKey(b.HostIP, protocols[b.Protocol], b.HostPort)] = to
			}
		}
	}
	target := []nft.Type{d.address, nft.Port}
	return map[string]nft.Set{
		"published":     {Key: []nft.Type{d.address, nft.Protocol, nft.Port}, Data: target, Elements: byAddress},
		"published-any": {Key: []nft.Type{nft.Protocol, nft.Port}, Data: target, Elements: byPort},
		"hairpin":       {Key: []nft.Type{d.address, d.address}, Elements: hairpin},
	}
}
