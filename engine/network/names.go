package network

import (
	"net/netip"
	"slices"
	"strings"

	"gantry/engine/network/names"
)

// NameClient is a container that the name service answers.
type NameClient = names.Client

// NameServer is where containers on user-defined networks ask for names.
var NameServer = names.Address

// ServeNames answers the container at 127.0.0.11 in its namespace, until that
// is removed. It may be repeated, with other settings.
func (h *Host) ServeNames(c NameClient) error { return h.names.Open(c) }

// UpdateEndpoint makes the names of an attached endpoint those of ep.
func (h *Host) UpdateEndpoint(ep Endpoint) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.endpoints[ep.ID]; old != nil {
		h.dropNamesLocked(old)
		old.Aliases, old.Links = ep.Aliases, ep.Links
		h.addNamesLocked(old)
	}
}

// addEndpointLocked registers an endpoint and its names.
func (h *Host) addEndpointLocked(ep *Endpoint) {
	h.endpoints[ep.ID] = ep
	h.attached[ep.Container] = append(h.attached[ep.Container], ep)
	h.addNamesLocked(ep)
}

func (h *Host) addNamesLocked(ep *Endpoint) {
	if n := h.networks[ep.Network]; n == nil || n.Predefined() {
		return
	}
	if h.named[ep.Network] == nil {
		h.named[ep.Network] = make(map[string][]*Endpoint)
	}
	for _, name := range ep.keys() {
		h.named[ep.Network][name] = append(h.named[ep.Network][name], ep)
	}
}

func (h *Host) dropEndpointLocked(id string) {
	ep := h.endpoints[id]
	if ep == nil {
		return
	}
	delete(h.endpoints, id)
	is := func(other *Endpoint) bool { return other == ep }
	if h.attached[ep.Container] = slices.DeleteFunc(h.attached[ep.Container], is); len(h.attached[ep.Container]) == 0 {
		delete(h.attached, ep.Container)
	}
	h.dropNamesLocked(ep)
}

func (h *Host) dropNamesLocked(ep *Endpoint) {
	is := func(other *Endpoint) bool { return other == ep }
	byName := h.named[ep.Network]
	if byName == nil {
		return // a predefined network
	}
	for _, name := range ep.keys() {
		if byName[name] = slices.DeleteFunc(byName[name], is); len(byName[name]) == 0 {
			delete(byName, name)
		}
	}
	if len(byName) == 0 {
		delete(h.named, ep.Network)
	}
}

// keys are the endpoint's names as the index has them, each once.
func (ep *Endpoint) keys() []string {
	list := make([]string, len(ep.Aliases))
	for i, name := range ep.Aliases {
		list[i] = strings.ToLower(name)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// directory is what the name service knows of a Host.
type directory struct{ h *Host }

// Addresses looks a name up in the networks of container, in the order of its
// interfaces; the first that has it counts. NAME.NETWORK means one network's.
func (d directory) Addresses(container, name string) ([]netip.Addr, bool) {
	name = strings.ToLower(name)
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	for label, network := name, ""; ; {
		for _, own := range d.h.attached[container] {
			if network != "" && strings.ToLower(own.Name) != network {
				continue
			}
			if found := d.h.findNameLocked(own, label); len(found) > 0 {
				return found, true
			}
		}
		dot := strings.LastIndexByte(label, '.')
		if dot <= 0 {
			return nil, false
		}
		label, network = name[:dot], name[dot+1:]
	}
}

// findNameLocked looks a name up as one endpoint sees it, which may have names
// of its own for others.
func (h *Host) findNameLocked(own *Endpoint, name string) []netip.Addr {
	if target, linked := own.Links[name]; linked {
		name = strings.ToLower(target)
	}
	var list []netip.Addr
	for _, ep := range h.named[own.Network][name] {
		list = append(list, ep.Addresses()...)
	}
	return list
}

// Name returns the first name of who has the address, with its network's.
func (d directory) Name(container string, address netip.Addr) (string, bool) {
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	for _, own := range d.h.attached[container] {
		n := d.h.networks[own.Network]
		if n == nil || n.Predefined() || !n.Subnet.Contains(address) && !n.IPv6.Subnet.Contains(address) {
			continue
		}
		for _, ep := range d.h.endpoints {
			if ep.Network == own.Network && slices.Contains(ep.Addresses(), address) && len(ep.Aliases) > 0 {
				return ep.Aliases[0] + "." + ep.Name, true
			}
		}
	}
	return "", false
}

// Outside tells whether container is on any network that leads outside.
func (d directory) Outside(container string) bool {
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	return slices.ContainsFunc(d.h.attached[container], func(ep *Endpoint) bool { return ep.Gateway.IsValid() })
}
