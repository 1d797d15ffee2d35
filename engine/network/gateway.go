package network

import (
	"context"
	"errors"
	"fmt"
	"net"

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
	if ep == nil {
		return inside.dropDefaultRoute()
	}
	link, err := inside.LinkByName(ep.Interface)
	if err != nil {
		return fmt.Errorf("interface %s: %w", ep.Interface, err)
	}
	return inside.defaultRoute(link, ep)
}

// defaultRoute makes the one default route lead through link.
func (n *handle) defaultRoute(link netlink.Link, ep *Endpoint) error {
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.IP(ep.Gateway.AsSlice()), Flags: int(netlink.FLAG_ONLINK)}
	if err := n.RouteReplace(route); err != nil {
		return fmt.Errorf("default route by %s: %w", ep.Gateway, err)
	}
	return nil
}

func (n *handle) dropDefaultRoute() error {
	err := n.RouteDel(&netlink.Route{Dst: ipNet(everywhere4)})
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove the default route: %w", err)
	}
	return nil
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
	moved.Network, moved.Address = to.Network, to.Address.Addr()
	h.publications[container] = moved
	h.wanted++
	h.mu.Unlock()
	err := h.sync(ctx)
	if err == nil {
		err = deleteFlows(old, answeredByContainer)
	}
	if err == nil {
		err = h.links.hairpinByName([]string{to.HostLink})
	}
	if err != nil {
		return moved.Publication, fmt.Errorf("publish ports of %s on network %s: %w", old.Name, to.Name, err)
	}
	return moved.Publication, nil
}
