package network

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"gantry/internal/atomicfile"
	"gantry/internal/fault"
	"gantry/internal/problem"

	"github.com/vishvananda/netlink"
)

var networkName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// newID returns 64 random hexadecimal digits.
func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// loadNetworks reads what is persisted and adds the predefined networks that
// are not.
func (h *Host) loadNetworks() error {
	if err := atomicfile.Sweep(h.networksDir()); err != nil {
		return err
	}
	entries, err := os.ReadDir(h.networksDir())
	if err != nil {
		return err
	}
	byName := make(map[string]*Network)
	for _, e := range entries {
		n, err := readNetwork(filepath.Join(h.networksDir(), e.Name()))
		if err != nil {
			return err
		}
		h.networks[n.ID], byName[n.Name] = n, n
	}
	for _, n := range h.predefined() {
		if byName[n.Name] != nil {
			continue
		}
		h.networks[n.ID] = n
		if n.Driver == DriverBridge {
			continue // written once it has a subnet
		}
		if err := h.save(n); err != nil {
			return err
		}
	}
	return nil
}

func readNetwork(path string) (*Network, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	n := &Network{}
	if err := json.Unmarshal(data, n); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if n.ID == "" || n.Name == "" || n.ID+".json" != filepath.Base(path) {
		return nil, fmt.Errorf("%s does not describe a network", path)
	}
	return n, nil
}

func (h *Host) save(n *Network) error {
	return atomicfile.WriteJSON(filepath.Join(h.networksDir(), n.ID+".json"), n, 0o600)
}

func (h *Host) predefined() []*Network {
	inst, now := h.cfg.Instance, time.Now().UTC()
	return []*Network{
		{ID: newID(), Name: Bridge, Driver: DriverBridge, Link: inst.Bridge(), Chosen: true, Created: now},
		{ID: newID(), Name: Pods, Driver: DriverBridge, Link: inst.PodBridge(), Chosen: true, Created: now},
		{ID: newID(), Name: HostMode, Driver: DriverHost, Created: now},
		{ID: newID(), Name: None, Driver: DriverNull, Created: now},
	}
}

// raiseBridges gives every bridge network its subnet and its bridge. A subnet
// that was chosen here moves when the host routes it elsewhere by now and
// nothing lives on it.
func (h *Host) raiseBridges(live Live) error {
	taken, err := h.links.routed(h.ours(h.sorted()))
	if err != nil {
		return err
	}
	taken = append(taken, h.cfg.Instance.ServiceSubnet())
	taken = append(taken, resolverSubnets()...)
	inUse := make(map[string]bool)
	for _, ep := range live.Endpoints {
		inUse[ep.Network] = true
	}
	for _, n := range h.sorted() {
		if n.Driver == DriverMacvlan {
			h.openPools(n)
			if err := h.links.raiseParent(n); err != nil {
				h.log.Warn("a network has no parent interface", "network", n.Name, "err", err)
			}
		}
		if n.Driver != DriverBridge {
			continue
		}
		collides := n.Subnet.IsValid() && overlapsAny(n.Subnet, taken)
		if collides && (!n.Chosen || inUse[n.ID]) {
			h.log.Warn("the host routes a network's subnet elsewhere", "network", n.Name, "subnet", n.Subnet)
		}
		if !n.Subnet.IsValid() || collides && n.Chosen && !inUse[n.ID] {
			if err := h.move(n, taken); err != nil {
				return err
			}
		}
		taken = append(taken, n.Subnet)
		if err := h.links.raiseBridge(h.cfg.Instance.Name, n); err != nil {
			return err
		}
		if err := h.keepApart(n, live); err != nil {
			return err
		}
		h.openPools(n)
	}
	return nil
}

// keepApart makes the containers of the default network reach each other or not,
// as it is set by now, those that run included.
func (h *Host) keepApart(n *Network, live Live) error {
	apart := h.cfg.Instance.ICC != nil && !*h.cfg.Instance.ICC
	if n.Name != Bridge || n.Apart == apart {
		return nil
	}
	for _, ep := range live.Endpoints {
		if ep.Network != n.ID {
			continue
		}
		link, err := h.links.LinkByName(ep.HostLink)
		if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
			continue // with its namespace
		}
		if err == nil {
			err = h.links.LinkSetIsolated(link, apart)
		}
		if err != nil {
			return fmt.Errorf("isolation of %s: %w", ep.HostLink, err)
		}
	}
	n.Apart = apart
	return h.save(n)
}

// openPools begins to hand out a network's addresses.
func (h *Host) openPools(n *Network) {
	h.pools[n.ID] = newPool(n.Subnet, n.Range, n.Gateway, n.Reserved)
	if n.IPv6.Subnet.IsValid() {
		h.pools6[n.ID] = newPool(n.IPv6.Subnet, n.IPv6.Range, n.IPv6.Gateway, n.IPv6.Reserved)
	}
}

// resolverSubnets keeps the host's name servers reachable: they are often
// behind the default route, in ranges that no route shows.
func resolverSubnets() []netip.Prefix {
	r, err := HostResolver()
	if err != nil {
		return nil // resolv.conf is read again, and its error seen, where it is needed
	}
	var list []netip.Prefix
	for _, s := range r.Servers {
		if s.Is4() {
			list = append(list, netip.PrefixFrom(s, 32))
		}
	}
	return list
}

// move gives n the first free subnet and records it.
func (h *Host) move(n *Network, taken []netip.Prefix) error {
	list := candidates(h.offset())
	if n.Name == Pods {
		list = podCandidates(h.cfg.Instance.PodSubnet())
	}
	subnet, err := chooseSubnet(list, taken)
	if err != nil {
		return fmt.Errorf("network %s: %w", n.Name, err)
	}
	if n.Subnet.IsValid() {
		h.log.Warn("network moves to a free subnet", "network", n.Name, "from", n.Subnet, "to", subnet)
	}
	n.Subnet, n.Gateway = subnet, subnet.Addr().Next()
	return h.save(n)
}

// offset is where this instance begins among the candidates; the default
// instance begins as Docker does.
func (h *Host) offset() uint32 {
	b := bridgeAddr(h.cfg.Instance.Name, "")
	if h.cfg.Instance.LinkPrefix() == "gt" {
		return 0
	}
	return uint32(b[5])
}

// Create makes a user-defined bridge network. Errors: Exists, Invalid,
// Conflict (the subnet overlaps another's), Unsupported.
func (h *Host) Create(ctx context.Context, req CreateRequest) (Network, error) {
	n, err := newNetwork(req, h.cfg.Instance.LinkPrefix())
	if err != nil {
		return Network{}, err
	}
	var taken []netip.Prefix
	if n.Driver == DriverBridge { // the others are where the host already is
		if taken, err = h.links.routed(func(string) bool { return false }); err != nil {
			return Network{}, err
		}
		taken = append(taken, h.cfg.Instance.ServiceSubnet())
	}
	if err := h.links.checkLink(n, h.cfg.Instance.LinkPrefix()); err != nil {
		return Network{}, err
	}
	if err := h.admit(n, taken); err != nil {
		return Network{}, err
	}
	err = h.save(n)
	if err == nil {
		err = fault.At("network/create/after-record")
	}
	if err == nil && n.Driver == DriverMacvlan {
		err = h.links.raiseParent(n)
	} else if err == nil {
		err = h.links.raiseBridge(h.cfg.Instance.Name, n)
	}
	if err == nil && n.IPv6.Subnet.IsValid() {
		err = h.begin6()
	}
	if err == nil {
		err = h.sync(ctx)
	}
	if err != nil {
		err = fmt.Errorf("create network %s: %w", req.Name, err)
		return Network{}, errors.Join(err, h.forget(context.WithoutCancel(ctx), n))
	}
	return *n, nil
}

// newNetwork validates req; subnets may still be missing.
func newNetwork(req CreateRequest, prefix string) (*Network, error) {
	if !networkName.MatchString(req.Name) {
		return nil, problem.New(problem.Invalid, "%q is an invalid network name: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", req.Name)
	}
	n := &Network{ID: newID(), Name: req.Name, Driver: req.Driver, Subnet: req.Subnet, Gateway: req.Gateway, Range: req.Range, Reserved: req.Reserved,
		Internal: req.Internal, Attachable: req.Attachable,
		Labels: maps.Clone(req.Labels), Options: maps.Clone(req.Options), Created: time.Now().UTC(), Chosen: !req.Subnet.IsValid()}
	switch req.Driver {
	case "", DriverBridge:
		n.Driver, n.Link = DriverBridge, prefix+"-"+n.ID[:8]
	case DriverMacvlan:
	case "ipvlan", "overlay":
		return nil, problem.New(problem.Unsupported, "network driver %q is not supported by this version of Gantry", req.Driver)
	default:
		return nil, problem.New(problem.NotFound, "could not find plugin %s in v1 plugin registry: plugin not found", req.Driver)
	}
	if err := n.applyOptions(); err != nil {
		return nil, err
	}
	if req.IPv6 != nil {
		n.IPv6, n.wants6 = *req.IPv6, true
		n.IPv6.Given = n.IPv6.Subnet.IsValid()
		if err := checkStack(&n.IPv6); err != nil {
			return nil, err
		}
	}
	if n.Chosen {
		if n.Gateway.IsValid() || n.Range.IsValid() || len(n.Reserved) > 0 {
			return nil, problem.New(problem.Invalid, "a gateway, an ip-range or an auxiliary address needs a subnet")
		}
		return n, nil
	}
	if !n.Gateway.IsValid() {
		n.Gateway = n.Subnet.Masked().Addr().Next()
	}
	return n, checkSubnet(n.Subnet, n.Gateway, n.Range, n.Reserved)
}

// checkStack validates the IPv6 half of a request; the subnet may be missing.
func checkStack(s *Stack) error {
	if !s.Given {
		if s.Gateway.IsValid() || s.Range.IsValid() || len(s.Reserved) > 0 {
			return problem.New(problem.Invalid, "a gateway, an ip-range or an auxiliary address needs a subnet")
		}
		return nil
	}
	if !s.Gateway.IsValid() {
		s.Gateway = s.Subnet.Masked().Addr().Next()
	}
	return checkSubnet(s.Subnet, s.Gateway, s.Range, s.Reserved)
}

// admit registers n, with free subnets where it has none.
func (h *Host) admit(n *Network, taken []netip.Prefix) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, other := range h.networks {
		if other.Name == n.Name {
			return problem.New(problem.Exists, "network with name %s already exists", n.Name)
		}
		if other.Driver == n.Driver && n.Driver == DriverBridge && other.Link == n.Link {
			return problem.New(problem.Denied, "cannot create network %s (%s): conflicts with network %s (%s): networks have same bridge name", n.ID, n.Link, other.ID, other.Name)
		}
		for _, subnet := range []netip.Prefix{other.Subnet, other.IPv6.Subnet} {
			if subnet.IsValid() {
				taken = append(taken, subnet)
			}
		}
	}
	clash := problem.New(problem.Denied, "invalid pool request: Pool overlaps with other one on this address space")
	if !n.Chosen && overlapsAny(n.Subnet, taken) || n.IPv6.Given && overlapsAny(n.IPv6.Subnet, taken) {
		return clash
	}
	if n.Chosen {
		subnet, err := chooseSubnet(candidates(h.offset()), append(taken, resolverSubnets()...))
		if err != nil {
			return err
		}
		n.Subnet, n.Gateway = subnet, subnet.Addr().Next()
	}
	if n.wants6 && !n.IPv6.Given {
		subnet, err := chooseSubnet(candidates6(h.seed()), taken)
		if err != nil {
			return err
		}
		n.IPv6.Subnet, n.IPv6.Gateway = subnet, subnet.Addr().Next()
	}
	h.networks[n.ID] = n
	h.openPools(n)
	h.wanted++
	return nil
}

// seed tells this instance on this host from all others.
func (h *Host) seed() string {
	id, _ := os.ReadFile("/etc/machine-id") // without one, hosts of the same instance name share prefixes
	return string(id) + h.cfg.Instance.Name
}

// forget removes a network's every trace. The record goes first: what follows
// is finished by the next Restore if it is cut short.
func (h *Host) forget(ctx context.Context, n *Network) error {
	// A link by the user's name would not be known as ours without the record.
	if err := h.links.removeNamed(n, h.cfg.Instance.LinkPrefix()); err != nil {
		return err
	}
	err := os.Remove(filepath.Join(h.networksDir(), n.ID+".json"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	h.mu.Lock()
	delete(h.networks, n.ID)
	delete(h.pools, n.ID)
	delete(h.pools6, n.ID)
	h.wanted++
	h.mu.Unlock()
	err = errors.Join(h.sync(ctx), fault.At("network/remove/before-link"))
	if n.Driver == DriverBridge {
		err = errors.Join(err, h.links.remove(n.Link))
	}
	return err
}

// List returns all networks, oldest first; Pods is among them.
func (h *Host) List() []Network {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []Network
	for _, n := range h.sorted() {
		list = append(list, *n)
	}
	return list
}

// sorted needs h.mu, or that Restore has not returned.
func (h *Host) sorted() []*Network {
	return slices.SortedFunc(maps.Values(h.networks), func(a, b *Network) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
}

// Inspect finds a network by name, ID or unambiguous ID prefix.
// Errors: NotFound, Conflict (ambiguous).
func (h *Host) Inspect(ref string) (Network, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, err := h.findLocked(ref)
	if err != nil {
		return Network{}, err
	}
	return *n, nil
}

func (h *Host) findLocked(ref string) (*Network, error) {
	if n := h.networks[ref]; n != nil {
		return n, nil
	}
	var matches []*Network
	for _, n := range h.networks {
		if n.Name == ref {
			return n, nil
		}
		if ref != "" && strings.HasPrefix(n.ID, ref) {
			matches = append(matches, n)
		}
	}
	switch len(matches) {
	case 0:
		return nil, problem.New(problem.NotFound, "network %s not found", ref)
	case 1:
		return matches[0], nil
	}
	return nil, problem.New(problem.Conflict, "network %s is ambiguous (%d matches found based on ID prefix)", ref, len(matches))
}

// Endpoints returns what is attached to the network with this ID.
func (h *Host) Endpoints(id string) []Endpoint {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []Endpoint
	for _, ep := range h.endpoints {
		if ep.Network == id {
			list = append(list, *ep)
		}
	}
	slices.SortFunc(list, func(a, b Endpoint) int { return a.Address.Addr().Compare(b.Address.Addr()) })
	return list
}

// Remove deletes a user-defined network. Errors: NotFound, Denied
// (predefined, or has endpoints).
func (h *Host) Remove(ctx context.Context, ref string) error {
	n, err := h.Inspect(ref)
	if err != nil {
		return err
	}
	if n.Predefined() {
		return problem.New(problem.Denied, "%s is a pre-defined network and cannot be removed", n.Name)
	}
	if eps := h.Endpoints(n.ID); len(eps) > 0 {
		return problem.New(problem.Denied, "error while removing network: network %s id %s has active endpoints", n.Name, n.ID)
	}
	return h.forget(ctx, &n)
}
