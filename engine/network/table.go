package network

import (
	"net/netip"

	"gantry/internal/nft"
)

var everywhere4 = netip.MustParsePrefix("0.0.0.0/0")

var loopback = netip.MustParsePrefix("127.0.0.0/8")

// describeLocked returns the table that the state wants.
func (h *Host) describeLocked() *nft.Table {
	pubs := make([]Publication, 0, len(h.publications))
	for _, p := range h.publications {
		pubs = append(pubs, p.Publication)
	}
	return describe(h.cfg.Instance.Table(), h.sorted(), pubs)
}

// describe decides all rules. See the package comment for what they are to do.
func describe(name string, networks []*Network, pubs []Publication) *nft.Table {
	own, isolated, pairs := map[string]nft.Value{}, map[string]nft.Value{}, map[string]nft.Value{}
	postrouting := []nft.Rule{
		// Clients on this host that use 127.0.0.1: the container must see an
		// address that it can answer.
		nft.NewRule(nft.Subnet(nft.SourceAddress, nft.Is, loopback), nft.In("own", nft.OutputInterface), nft.Masquerade()),
		nft.NewRule(nft.In("hairpin", nft.SourceAddress, nft.DestinationAddress), nft.Masquerade()),
	}
	forward := []nft.Rule{
		nft.NewRule(nft.Established(), nft.Accept()),
		nft.NewRule(nft.In("isolated", nft.OutputInterface), nft.Jump("to-container")),
	}
	fromPods := []nft.Rule{}
	for _, n := range networks {
		if n.Driver != DriverBridge {
			continue
		}
		own[nft.EncodeKey(n.Link)] = nft.Value{}
		if n.Name == Pods {
			fromPods = append(fromPods, nft.NewRule(nft.Link(nft.InputInterface, nft.Is, n.Link), nft.Accept()))
			forward = append(forward, nft.NewRule(nft.In("isolated", nft.InputInterface), nft.Link(nft.OutputInterface, nft.Is, n.Link),
				nft.NotTranslated(), nft.Drop()))
		} else {
			isolated[nft.EncodeKey(n.Link)] = nft.Value{}
			pairs[nft.EncodeKey(n.Link, n.Link)] = nft.Value{}
			// A container that uses a published port of its own network: the
			// answer must come back through this host to be translated.
			postrouting = append(postrouting, nft.NewRule(nft.Subnet(nft.SourceAddress, nft.Is, n.Subnet),
				nft.Link(nft.OutputInterface, nft.Is, n.Link), nft.Translated(), nft.Masquerade()))
		}
		postrouting = append(postrouting, nft.NewRule(nft.Subnet(nft.SourceAddress, nft.Is, n.Subnet),
			nft.NotIn("own", nft.OutputInterface), nft.Masquerade()))
	}
	toContainer := append([]nft.Rule{
		nft.NewRule(nft.Translated(), nft.Accept()),
		nft.NewRule(nft.In("pairs", nft.InputInterface, nft.OutputInterface), nft.Accept()),
	}, fromPods...)
	toContainer = append(toContainer, nft.NewRule(nft.Drop()))

	t := &nft.Table{Name: name, Sets: publishedSets(pubs), Chains: map[string]nft.Chain{
		// Before anything translates: an answer to a masqueraded client of
		// 127.0.0.1 still carries the bridge's address here.
		"guard": {Hook: &nft.RawPrerouting, Rules: []nft.Rule{
			nft.NewRule(nft.In("own", nft.InputInterface), nft.Subnet(nft.DestinationAddress, nft.Is, loopback), nft.Drop()),
			nft.NewRule(nft.In("own", nft.InputInterface), nft.Subnet(nft.SourceAddress, nft.Is, loopback), nft.Drop()),
		}},
		// Nobody but this host's own processes may mean 127.0.0.1 by a port.
		"prerouting": {Hook: &nft.NATPrerouting, Rules: []nft.Rule{
			nft.NewRule(nft.ToLocal(), nft.Subnet(nft.DestinationAddress, nft.IsNot, loopback), nft.Jump("published-ports")),
		}},
		"output": {Hook: &nft.NATOutput, Rules: []nft.Rule{nft.NewRule(nft.ToLocal(), nft.Jump("published-ports"))}},
		"published-ports": {Rules: []nft.Rule{
			nft.NewRule(nft.DNATBy("published", nft.DestinationAddress, nft.TransportProtocol, nft.DestinationPort)),
			nft.NewRule(nft.DNATBy("published-any", nft.TransportProtocol, nft.DestinationPort)),
		}},
		"postrouting":  {Hook: &nft.NATPostrouting, Rules: postrouting},
		"forward":      {Hook: &nft.Forward, Rules: forward},
		"to-container": {Rules: toContainer},
	}}
	t.Sets["own"] = nft.Set{Key: []nft.Type{nft.Interface}, Elements: own}
	t.Sets["isolated"] = nft.Set{Key: []nft.Type{nft.Interface}, Elements: isolated}
	t.Sets["pairs"] = nft.Set{Key: []nft.Type{nft.Interface, nft.Interface}, Elements: pairs}
	return t
}

// publishedSets are the maps from host ports to containers, and the set of
// containers that reach themselves through one.
func publishedSets(pubs []Publication) map[string]nft.Set {
	byAddress, byPort, hairpin := map[string]nft.Value{}, map[string]nft.Value{}, map[string]nft.Value{}
	for _, p := range pubs {
		if !p.Address.Is4() {
			continue
		}
		hairpin[nft.EncodeKey(p.Address, p.Address)] = nft.Value{}
		for _, b := range p.Ports {
			to := nft.Value{Bytes: nft.EncodeKey(p.Address, b.ContainerPort)}
			if b.HostIP.IsUnspecified() {
				byPort[nft.EncodeKey(protocols[b.Protocol], b.HostPort)] = to
			} else {
				byAddress[nft.EncodeKey(b.HostIP, protocols[b.Protocol], b.HostPort)] = to
			}
		}
	}
	target := []nft.Type{nft.Address, nft.Port}
	return map[string]nft.Set{
		"published":     {Key: []nft.Type{nft.Address, nft.Protocol, nft.Port}, Data: target, Elements: byAddress},
		"published-any": {Key: []nft.Type{nft.Protocol, nft.Port}, Data: target, Elements: byPort},
		"hairpin":       {Key: []nft.Type{nft.Address, nft.Address}, Elements: hairpin},
	}
}
