package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"gantry/internal/fault"
	"gantry/internal/problem"

	"github.com/vishvananda/netlink"
)

// Attach puts an interface with an address and a route into a namespace.
// Errors: NotFound (network), Conflict (address in use), Invalid, NoSpace (no
// address left).
func (h *Host) Attach(ctx context.Context, req AttachRequest) (Endpoint, error) {
	mac, err := parseMAC(req.MAC)
	if err != nil {
		return Endpoint{}, err
	}
	ep, n, err := h.reserve(req)
	if err != nil {
		return Endpoint{}, err
	}
	if mac == nil {
		mac = hardwareAddr(ep.Address.Addr())
	}
	ep.MAC = mac.String()
	if err := h.plug(ctx, ep, n, mac, req); err != nil {
		h.release(ep)
		return Endpoint{}, fmt.Errorf("attach %s to network %s: %w", req.Container, n.Name, err)
	}
	return *ep, nil
}

func parseMAC(s string) (net.HardwareAddr, error) {
	if s == "" {
		return nil, nil
	}
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		return nil, problem.New(problem.Invalid, "invalid MAC address: %s", s)
	}
	return mac, nil
}

// reserve takes an address and registers the endpoint, before anything exists.
func (h *Host) reserve(req AttachRequest) (*Endpoint, Network, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, err := h.findLocked(req.Network)
	if err != nil {
		return nil, Network{}, err
	}
	if n.Driver != DriverBridge && n.Driver != DriverMacvlan {
		return nil, Network{}, problem.New(problem.Invalid, "network %s has no interfaces to attach", n.Name)
	}
	ep := &Endpoint{ID: newID(), Network: n.ID, Name: n.Name, Driver: n.Driver, Container: req.Container, Namespace: req.Namespace,
		Interface: req.Interface, Gateway: n.Gateway, Aliases: req.Aliases, Links: req.Links}
	if n.Internal {
		ep.Gateway = netip.Addr{}
	}
	if n.Driver == DriverBridge {
		ep.HostLink = h.cfg.Instance.LinkPrefix() + ep.ID[:8]
	}
	if ep.Interface == "" {
		ep.Interface = h.freeInterfaceLocked(req.Namespace)
	}
	if ep.Address, err = h.pools[n.ID].give(req.Address, ep.ID); err != nil {
		return nil, Network{}, err
	}
	if six := h.pools6[n.ID]; six != nil {
		if ep.Address6, err = six.give(req.Address6, ep.ID); err != nil {
			h.pools[n.ID].release(ep.Address.Addr(), ep.ID)
			return nil, Network{}, err
		}
		if !n.Internal {
			ep.Gateway6 = n.IPv6.Gateway
		}
	} else if req.Address6.IsValid() {
		h.pools[n.ID].release(ep.Address.Addr(), ep.ID)
		return nil, Network{}, problem.New(problem.Invalid, "network %s has no IPv6 subnet for address %s", n.Name, req.Address6)
	}
	h.addEndpointLocked(ep)
	return ep, *n, nil
}

func (h *Host) freeInterfaceLocked(namespace string) string {
	used := make(map[string]bool)
	for _, ep := range h.endpoints {
		if ep.Namespace == namespace {
			used[ep.Interface] = true
		}
	}
	for i := 0; ; i++ {
		if name := fmt.Sprintf("eth%d", i); !used[name] {
			return name
		}
	}
}

// plug makes the interface pair and configures its inner end.
func (h *Host) plug(ctx context.Context, ep *Endpoint, n Network, mac net.HardwareAddr, req AttachRequest) error {
	if n.Driver == DriverMacvlan {
		return h.plugMacvlan(ep, n, mac, req)
	}
	bridge, bridgeUp, err := h.links.request.index(n.Link)
	if err != nil {
		return err
	}
	inside, err := h.enter(ep.Namespace)
	if err != nil {
		return err
	}
	defer inside.close()
	err = h.links.addPair(pair{host: ep.HostLink, inside: ep.Interface, bridge: bridge,
		namespace: inside.space, mtu: n.MTU, mac: mac})
	if err != nil {
		return err
	}
	if err := h.finish(ctx, ep, n, inside, req, bridgeUp); err != nil {
		return errors.Join(err, h.links.remove(ep.HostLink))
	}
	return nil
}

// finish makes a pair that exists work.
func (h *Host) finish(ctx context.Context, ep *Endpoint, n Network, inside *handle, req AttachRequest, bridgeUp bool) error {
	if err := fault.At("network/attach/after-link"); err != nil {
		return err
	}
	if err := inside.configure(ep, n.Name == Pods, req); err != nil {
		return err
	}
	link, err := h.links.waitUp(ctx, ep.HostLink)
	if err == nil && !bridgeUp {
		_, err = h.links.waitUp(ctx, n.Link) // it is without a carrier until its first port has one
	}
	if err == nil && ep.Address6.IsValid() {
		// IPv6 begins when the inner end, too, is known to be up; asking waits for it.
		err = inside.links(func(all *netlink.Handle) error {
			_, err := all.LinkByName(ep.Interface)
			return err
		})
	}
	if err == nil && n.Name == Pods {
		err = h.links.hairpin(link) // a pod that is an endpoint of a Service it uses
	}
	if err == nil && n.Apart {
		err = h.links.LinkSetIsolated(link, true) // below IP, whatever bridge-nf-call-iptables says
	}
	return err
}

func (h *Host) plugMacvlan(ep *Endpoint, n Network, mac net.HardwareAddr, req AttachRequest) error {
	inside, err := h.enter(ep.Namespace)
	if err != nil {
		return err
	}
	defer inside.close()
	if err := h.links.addMacvlan(ep, n, inside.space, mac); err != nil {
		return err
	}
	if err := inside.configure(ep, false, req); err != nil {
		return errors.Join(err, inside.remove(ep.Interface))
	}
	return nil
}

// Detach releases the endpoint's address. Its interface dies with the
// namespace, or at once when link is RemoveLink. It succeeds when the endpoint
// is gone already.
func (h *Host) Detach(_ context.Context, ep Endpoint, link LinkFate) error {
	if link == LeaveLink {
		h.leave(ep.HostLink)
	}
	h.release(&ep)
	if link == LeaveLink {
		return nil
	}
	err := error(nil)
	if ep.HostLink != "" {
		err = h.links.remove(ep.HostLink)
	} else {
		err = h.removeInside(&ep)
	}
	if err != nil {
		return fmt.Errorf("detach %s from network %s: %w", ep.Container, ep.Name, err)
	}
	return nil
}

// maxLeaving bounds what is remembered for Check alone.
const maxLeaving = 4096

func (h *Host) leave(link string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.leaving) >= maxLeaving {
		clear(h.leaving)
	}
	if link != "" {
		h.leaving[link] = true
	}
}

// LinkFate tells Detach what becomes of the interface.
type LinkFate int

// The fates.
const (
	LeaveLink  LinkFate = iota // it dies with its namespace
	RemoveLink                 // the namespace lives on without it; waits for the kernel, 12-50 ms
)

func (h *Host) release(ep *Endpoint) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropEndpointLocked(ep.ID)
	if p := h.pools[ep.Network]; p != nil {
		p.release(ep.Address.Addr(), ep.ID)
	}
	if p := h.pools6[ep.Network]; p != nil {
		p.release(ep.Address6.Addr(), ep.ID)
	}
}

// removeInside removes an interface that has no end on the host.
func (h *Host) removeInside(ep *Endpoint) error {
	inside, err := h.enter(ep.Namespace)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer inside.close()
	return inside.remove(ep.Interface)
}

// hostLinks returns the host's ends of the interfaces of a container.
func (h *Host) hostLinks(container string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var names []string
	for _, ep := range h.attached[container] {
		if ep.HostLink == "" {
			continue
		}
		names = append(names, ep.HostLink)
	}
	return names
}
