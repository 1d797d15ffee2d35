package proxy

import (
	"maps"
	"net/netip"

	"gantry/internal/nft"

	"golang.org/x/sys/unix"
)

// Names of chains that do not belong to a Service.
const (
	chainRefuse = "refuse"
	chainDrop   = "no-local-endpoint"
)

// masqueradeMark marks packets whose source is to be hidden; it is the bit that
// Kubernetes uses for it, so that no other program gives it another meaning.
const masqueradeMark = 0x4000

var loopback = netip.MustParsePrefix("127.0.0.0/8")

// Hooks around translation: what a Service has nobody for is seen before, what
// no Service is for afterwards.
var (
	beforePrerouting = nft.Hook{Type: "filter", Number: unix.NF_INET_PRE_ROUTING, Priority: -110}
	beforeOutput     = nft.Hook{Type: "filter", Number: unix.NF_INET_LOCAL_OUT, Priority: -110}
	afterPrerouting  = nft.Hook{Type: "filter", Number: unix.NF_INET_PRE_ROUTING, Priority: -90}
	afterOutput      = nft.Hook{Type: "filter", Number: unix.NF_INET_LOCAL_OUT, Priority: -90}
)

// assemble makes the table of all parts.
func assemble(f facts, name string, parts []*part) *nft.Table {
	address := []nft.Type{nft.Address, nft.Protocol, nft.Port}
	port := []nft.Type{nft.Protocol, nft.Port}
	verdict := []nft.Type{nft.Verdict}
	services, nodePorts, empty, emptyPorts, hairpin := map[string]nft.Value{}, map[string]nft.Value{}, map[string]nft.Value{}, map[string]nft.Value{}, map[string]nft.Value{}
	t := &nft.Table{Family: nft.IPv4, Name: name, Chains: fixedChains(f), Sets: map[string]nft.Set{
		"services":                {Key: address, Data: verdict, Elements: services},
		"node-ports":              {Key: port, Data: verdict, Elements: nodePorts},
		"no-endpoints":            {Key: address, Data: verdict, Elements: empty},
		"no-endpoints-node-ports": {Key: port, Data: verdict, Elements: emptyPorts},
		"hairpin":                 {Key: []nft.Type{nft.Address, nft.Address}, Elements: hairpin},
	}}
	for _, p := range parts {
		maps.Copy(t.Chains, p.chains)
		maps.Copy(t.Sets, p.sets)
		maps.Copy(services, p.addresses)
		maps.Copy(nodePorts, p.nodePorts)
		maps.Copy(empty, p.empty)
		maps.Copy(emptyPorts, p.emptyPort)
		for a := range p.hairpin {
			hairpin[nft.EncodeKey(a, a)] = nft.Value{}
		}
	}
	return t
}

func fixedChains(f facts) map[string]nft.Chain {
	toService := nft.VerdictOf("services", nft.DestinationAddress, nft.TransportProtocol, nft.DestinationPort)
	toNodePort := nft.VerdictOf("node-ports", nft.TransportProtocol, nft.DestinationPort)
	notLoopback := nft.Subnet(nft.DestinationAddress, nft.IsNot, loopback)
	noEndpoints := nft.Chain{Rules: []nft.Rule{
		nft.NewRule(nft.New(), nft.VerdictOf("no-endpoints", nft.DestinationAddress, nft.TransportProtocol, nft.DestinationPort)),
		nft.NewRule(nft.New(), nft.ToLocal(), nft.VerdictOf("no-endpoints-node-ports", nft.TransportProtocol, nft.DestinationPort)),
	}}
	noService := nft.NewRule(nft.Subnet(nft.DestinationAddress, nft.Is, f.serviceSubnet), nft.GotoChain(chainRefuse))
	return map[string]nft.Chain{
		"empty-prerouting": {Hook: &beforePrerouting, Rules: noEndpoints.Rules},
		"empty-output":     {Hook: &beforeOutput, Rules: noEndpoints.Rules},
		"prerouting":       {Hook: &nft.NATPrerouting, Rules: []nft.Rule{nft.NewRule(toService), nft.NewRule(nft.ToLocal(), notLoopback, toNodePort)}},
		"output":           {Hook: &nft.NATOutput, Rules: []nft.Rule{nft.NewRule(toService), nft.NewRule(nft.ToLocal(), toNodePort)}},
		"lost-prerouting":  {Hook: &afterPrerouting, Rules: []nft.Rule{noService}},
		"lost-output":      {Hook: &afterOutput, Rules: []nft.Rule{noService}},
		"postrouting": {Hook: &nft.NATPostrouting, Rules: []nft.Rule{
			nft.NewRule(nft.In("hairpin", nft.SourceAddress, nft.DestinationAddress), nft.Masquerade()),
			nft.NewRule(nft.Subnet(nft.SourceAddress, nft.Is, loopback), nft.Link(nft.OutputInterface, nft.IsNot, "lo"), nft.Translated(), nft.Masquerade()),
			nft.NewRule(nft.Marked(masqueradeMark), nft.Subnet(nft.DestinationAddress, nft.IsNot, f.podSubnet), nft.Masquerade()),
		}},
		chainRefuse: {Rules: []nft.Rule{nft.NewRule(nft.Proto(unix.IPPROTO_TCP), nft.RejectTCP()), nft.NewRule(nft.RejectUnreachable())}},
		chainDrop:   {Rules: []nft.Rule{nft.NewRule(nft.Drop())}},
	}
}
