package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// SetGateway makes the default route of a namespace lead through ep; nil
// removes it.
func (h *Host) SetGateway(namespace string, ep *Endpoint) error {
	inside, err := h.enter(namespace)
	if err != nil {
		return err
	}
	defer inside.close()
	if ep == nil || !ep.Gateway6.IsValid() { // RouteReplace replaces the others
		if err := inside.dropDefaultRoute(netip.IPv6Unspecified()); err != nil || ep != nil {
			return errors.Join(err, inside.routeBy(ep))
		}
		return inside.dropDefaultRoute(netip.IPv4Unspecified())
	}
	return inside.routeBy(ep)
}

func (n *handle) routeBy(ep *Endpoint) error {
	index, _, err := n.index(ep.Interface)
	if err != nil {
		return err
	}
	var b batch
	b.defaultRoutes(index, ep)
	return n.do(&b)
}

// defaultRoutes makes the one default route of each family that ep has a gateway
// for lead through an interface.
func (b *batch) defaultRoutes(index int, ep *Endpoint) {
	for _, gateway := range []netip.Addr{ep.Gateway, ep.Gateway6} {
		if gateway.IsValid() {
			b.defaultRoute(index, gateway)
		}
	}
}

func (n *handle) dropDefaultRoute(a netip.Addr) error {
	err := n.links(func(inside *netlink.Handle) error { return inside.RouteDel(&netlink.Route{Dst: ipNet(everywhere(a))}) })
	if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the default route: %w", err)
	}
	return nil
}

// everywhere is all addresses of a's family.
func everywhere(a netip.Addr) netip.Prefix {
	if a.Is6() {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// Republish leads the published ports of a container to another of its
// addresses, and returns what is published now. Connections stay where they are.
func (h *Host) Republish(ctx context.Context, container string, to Endpoint) (Publication, error) {
	h.mu.Lock()
	pub := h.publications[container]
	if pub == nil {
		h.mu.Unlock()
		return Publication{}, nil
	}
	old := pub.Publication
	moved := &published{Publication: old, held: pub.held}
	moved.Network, moved.Address, moved.Address6 = to.Network, to.Address.Addr(), to.Address6.Addr()
	h.publications[container] = moved
	h.wanted++
	h.mu.Unlock()
	err := h.sync(ctx)
	if err == nil {
		err = deleteFlows(old, answeredByContainer)
	}
	if err == nil {
		err = h.links.hairpinByName(h.hostLinks(container))
	}
	if err != nil {
		return moved.Publication, fmt.Errorf("publish ports of %s on network %s: %w", old.Name, to.Name, err)
	}
	return moved.Publication, nil
}
