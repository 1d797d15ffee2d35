package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"gantry/internal/fault"
	"gantry/internal/problem"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// published is a Publication with the sockets that hold its ports.
type published struct {
	Publication
	held []*hold // by index of Ports; nil where the port could not be held
}

func (p *published) close() {
	for _, s := range p.held {
		s.close()
	}
}

// protocols that can be published, by name.
var protocols = map[string]uint8{TCP: unix.IPPROTO_TCP, UDP: unix.IPPROTO_UDP, SCTP: unix.IPPROTO_SCTP}

// normalized fills a binding's defaults and validates it.
func (b PortBinding) normalized() (PortBinding, error) {
	if b.Protocol == "" {
		b.Protocol = TCP
	}
	b.HostIP = b.HostIP.Unmap()
	if b.HostPortEnd == 0 {
		b.HostPortEnd = b.HostPort
	}
	switch {
	case protocols[b.Protocol] == 0:
		return b, problem.New(problem.Invalid, "invalid proto: %s", b.Protocol)
	case b.ContainerPort == 0:
		return b, problem.New(problem.Invalid, "invalid container port: 0")
	case b.HostPortEnd < b.HostPort:
		return b, problem.New(problem.Invalid, "invalid host port range: %d-%d", b.HostPort, b.HostPortEnd)
	}
	return b, nil
}

// Publish opens the host ports of p and returns them with the chosen numbers,
// in order. All or none are opened. Errors: Conflict, in Docker's wording and
// naming who has the port; Invalid; Unsupported.
func (h *Host) Publish(ctx context.Context, p Publication) ([]PortBinding, error) {
	if len(p.Ports) == 0 {
		return nil, nil
	}
	pub := &published{Publication: p}
	pub.Ports = make([]PortBinding, 0, len(p.Ports))
	for _, b := range p.Ports {
		if err := h.openEverywhere(pub, b); err != nil {
			pub.close()
			return nil, err
		}
	}
	if err := h.register(pub); err != nil {
		pub.close()
		return nil, err
	}
	err := fault.At("network/publish/before-rules")
	if err == nil {
		err = h.sync(ctx)
	}
	if err == nil {
		err = deleteFlows(pub.Publication, answeredByOthers)
	}
	if err == nil {
		err = h.links.hairpinByName(h.hostLinks(p.Container))
	}
	if err != nil {
		err = fmt.Errorf("publish ports of %s: %w", p.Name, err)
		return nil, errors.Join(err, h.Unpublish(context.WithoutCancel(ctx), p.Container))
	}
	return slices.Clone(pub.Ports), nil
}

// openEverywhere takes one host port for pub, without an address of the host in
// each family that the container has.
func (h *Host) openEverywhere(pub *published, b PortBinding) error {
	b, err := b.normalized()
	if err != nil {
		return err
	}
	if !b.HostIP.IsValid() {
		if n, err := h.Inspect(pub.Network); err == nil {
			b.HostIP = n.Binding
		}
	}
	switch {
	case b.HostIP.Is6() && !pub.Address6.IsValid():
		return problem.New(problem.Unsupported, "cannot publish on [%s]: the container has no IPv6 address", b.HostIP)
	case b.HostIP.IsValid():
		return h.open(pub, b)
	case !pub.Address6.IsValid():
		b.HostIP = netip.IPv4Unspecified()
		return h.open(pub, b)
	}
	return h.openBoth(pub, b)
}

// openBoth takes the same port of both families. One that the kernel chose may
// be free in one of them alone, so it is tried again.
func (h *Host) openBoth(pub *published, b PortBinding) error {
	four, six := b, b
	four.HostIP, six.HostIP = netip.IPv4Unspecified(), netip.IPv6Unspecified()
	const tries = 16
	var err error
	for range tries {
		if err = h.open(pub, four); err != nil {
			return err
		}
		last := len(pub.Ports) - 1
		chosen := pub.Ports[last].HostPort
		six.HostPort, six.HostPortEnd = chosen, chosen
		if err = h.open(pub, six); err == nil {
			return nil
		}
		pub.held[last].close()
		pub.Ports, pub.held = pub.Ports[:last], pub.held[:last]
		if b.HostPort == b.HostPortEnd && b.HostPort != 0 {
			return err
		}
		if b.HostPort != 0 { // the rest of a range
			if four.HostPort = chosen + 1; four.HostPort > four.HostPortEnd || four.HostPort == 0 {
				return err
			}
		}
	}
	return err
}

// targetOf tells where a port of a container is now.
func (h *Host) targetOf(container string, port uint16) func() netip.AddrPort {
	return func() netip.AddrPort {
		h.mu.Lock()
		defer h.mu.Unlock()
		pub := h.publications[container]
		switch {
		case pub == nil:
			return netip.AddrPort{} // no longer, or not yet: dialling it fails
		case pub.Address6.IsValid():
			return netip.AddrPortFrom(pub.Address6, port)
		}
		return netip.AddrPortFrom(pub.Address, port)
	}
}

// open takes one host port for pub.
func (h *Host) open(pub *published, b PortBinding) error {
	var firstTaken error
	for port := int(b.HostPort); port <= int(b.HostPortEnd); port++ {
		if who := h.holder(pub, b, uint16(port)); who != "" {
			firstTaken = errors.Join(firstTaken, taken(b.HostIP, uint16(port), fmt.Sprintf("container %q", who)))
			continue
		}
		held, chosen, err := holdPort(b.Protocol, b.HostIP, uint16(port), h.targetOf(pub.Container, b.ContainerPort))
		if errors.Is(err, unix.EADDRINUSE) {
			firstTaken = errors.Join(firstTaken, taken(b.HostIP, uint16(port), whoListens(b.Protocol, b.HostIP, uint16(port))))
			continue
		}
		if err != nil {
			return problem.New(problem.Invalid, "Bind for %s:%d failed: %w", b.HostIP, port, err)
		}
		b.HostPort, b.HostPortEnd = chosen, 0
		pub.Ports, pub.held = append(pub.Ports, b), append(pub.held, held)
		return nil
	}
	if b.HostPort != b.HostPortEnd {
		return problem.New(problem.Conflict, "Bind for %s:%d-%d failed: all ports are allocated", b.HostIP, b.HostPort, b.HostPortEnd)
	}
	return firstTaken
}

// taken is Docker's sentence, and who has the port.
func taken(ip netip.Addr, port uint16, by string) error {
	if by != "" {
		by = " by " + by
	}
	return problem.New(problem.Conflict, "Bind for %s failed: port is already allocated%s", netip.AddrPortFrom(ip, port), by)
}

// holder returns the name of the container that has published what binding b
// would take on port, or "".
func (h *Host) holder(pub *published, b PortBinding, port uint16) string {
	if port == 0 {
		return ""
	}
	b.HostPort = port
	for _, mine := range pub.Ports {
		if mine.overlaps(b) {
			return pub.Name
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, other := range h.publications {
		for _, theirs := range other.Ports {
			if theirs.overlaps(b) {
				return other.Name
			}
		}
	}
	return ""
}

func (b PortBinding) overlaps(o PortBinding) bool {
	sameAddress := b.HostIP == o.HostIP || b.HostIP.Is4() == o.HostIP.Is4() && (b.HostIP.IsUnspecified() || o.HostIP.IsUnspecified())
	return sameAddress && b.Protocol == o.Protocol && b.HostPort == o.HostPort
}

// register makes pub count; a rival that registered since open is found here.
// It happens only where sockets cannot be held.
func (h *Host) register(pub *published) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.publications[pub.Container] != nil {
		return problem.New(problem.Exists, "container %s has published its ports already", pub.Name)
	}
	for _, other := range h.publications {
		for _, theirs := range other.Ports {
			if slices.ContainsFunc(pub.Ports, theirs.overlaps) {
				return taken(theirs.HostIP, theirs.HostPort, fmt.Sprintf("container %q", other.Name))
			}
		}
	}
	h.publications[pub.Container] = pub
	h.wanted++
	return nil
}

// hold takes the ports of a publication that outlived the previous daemon. A
// port that somebody took meanwhile stays published, without being held.
func (h *Host) hold(p Publication) *published {
	pub := &published{Publication: p}
	pub.Ports = make([]PortBinding, 0, len(p.Ports))
	for _, b := range p.Ports {
		b, err := b.normalized()
		if err != nil {
			h.log.Warn("cannot publish again", "container", p.Container, "port", b.HostPort, "err", err)
			continue
		}
		b.HostPortEnd = 0
		if !b.HostIP.IsValid() {
			b.HostIP = netip.IPv4Unspecified()
		}
		held, _, err := holdPort(b.Protocol, b.HostIP, b.HostPort, h.targetOf(p.Container, b.ContainerPort))
		if err != nil {
			h.log.Warn("a published port was taken by another process", "container", p.Container, "port", b.HostPort,
				"by", whoListens(b.Protocol, b.HostIP, b.HostPort), "err", err)
		}
		pub.Ports, pub.held = append(pub.Ports, b), append(pub.held, held)
	}
	return pub
}

// flowKind tells which entries of connection tracking deleteFlows deletes.
type flowKind int

const (
	answeredByOthers    flowKind = iota // from before the port was published
	answeredByContainer                 // from while it was
)

// deleteFlows deletes what connection tracking remembers of the publication's
// UDP ports: as long as a client goes on sending, its packets would take the
// remembered way, past the rules.
func deleteFlows(p Publication, kind flowKind) error {
	flows := udpFlows{publication: p, kind: kind}
	for _, b := range p.Ports {
		if b.Protocol == UDP {
			flows.ports = append(flows.ports, b)
		}
	}
	if len(flows.ports) == 0 {
		return nil
	}
	families := map[netlink.InetFamily]bool{}
	for _, b := range flows.ports {
		family := netlink.InetFamily(netlink.FAMILY_V4)
		if b.HostIP.Is6() {
			family = netlink.FAMILY_V6
		}
		families[family] = true
	}
	for family := range families {
		_, err := whole(func() ([]struct{}, error) {
			_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, &flows)
			return nil, err
		})
		if err != nil {
			return fmt.Errorf("delete remembered connections: %w", err)
		}
	}
	return nil
}

type udpFlows struct {
	publication Publication
	ports       []PortBinding
	kind        flowKind
}

// MatchConntrackFlow tells whether an entry is to go.
func (f *udpFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	to, ok1 := netip.AddrFromSlice(flow.Forward.DstIP)
	from, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if !ok1 || !ok2 {
		return false
	}
	for _, b := range f.ports {
		if b.HostPort != flow.Forward.DstPort || !b.HostIP.IsUnspecified() && b.HostIP != to.Unmap() {
			continue
		}
		if b.HostIP.Is4() != to.Unmap().Is4() {
			continue
		}
		ours := (from.Unmap() == f.publication.Address || from == f.publication.Address6) && flow.Reverse.SrcPort == b.ContainerPort
		// Another host's port of the same number is not translated either.
		if f.kind == answeredByContainer && ours || f.kind == answeredByOthers && !ours && isLocal(to) {
			return true
		}
	}
	return false
}

// isLocal tells whether a is an address of this host.
func isLocal(a netip.Addr) bool {
	routes, err := netlink.RouteGet(a.AsSlice())
	return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL
}

// Unpublish closes every port of the container. It succeeds when there is none.
func (h *Host) Unpublish(ctx context.Context, container string) error {
	h.mu.Lock()
	pub := h.publications[container]
	delete(h.publications, container)
	if pub != nil {
		h.wanted++
	}
	h.mu.Unlock()
	if pub == nil {
		return nil
	}
	// The rules first: a connection in between is refused, not left hanging.
	err := h.sync(ctx)
	if err == nil {
		err = deleteFlows(pub.Publication, answeredByContainer)
	}
	pub.close()
	if err != nil {
		return fmt.Errorf("unpublish ports of %s: %w", pub.Name, err)
	}
	return nil
}
