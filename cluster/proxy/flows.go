package proxy

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// flows are the UDP ways that the rules lay: destination to endpoints. UDP has
// no end that the kernel could see, so an entry of connection tracking lives for
// as long as the client keeps sending, even to an endpoint that is gone.
type flows struct {
	byAddress map[netip.AddrPort]map[netip.AddrPort]bool
	byPort    map[uint16]map[netip.AddrPort]bool // node ports
}

func flowsOf(parts []*part) *flows {
	f := &flows{make(map[netip.AddrPort]map[netip.AddrPort]bool), make(map[uint16]map[netip.AddrPort]bool)}
	for _, p := range parts {
		for _, u := range p.udp {
			to := make(map[netip.AddrPort]bool, len(u.endpoints))
			for _, e := range u.endpoints {
				to[e] = true
			}
			for _, a := range u.addresses {
				f.byAddress[a] = to
			}
			if u.nodePort != 0 {
				f.byPort[u.nodePort] = to
			}
		}
	}
	return f
}

// outdates tells whether entries laid under old may be wrong now: an endpoint
// went, or a destination that led nowhere leads somewhere. An old of nil is
// unknown.
func (f *flows) outdates(old *flows) bool {
	if old == nil {
		return len(f.byAddress)+len(f.byPort) > 0
	}
	return outdated(old.byAddress, f.byAddress) || outdated(old.byPort, f.byPort)
}

func outdated[K comparable](old, now map[K]map[netip.AddrPort]bool) bool {
	for destination, to := range now {
		if len(old[destination]) == 0 && len(to) > 0 {
			return true
		}
		for e := range old[destination] {
			if !to[e] {
				return true
			}
		}
	}
	return false
}

// MatchConntrackFlow tells whether an entry leads elsewhere than the rules do.
func (f *flows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	destination, ok1 := netip.AddrFromSlice(flow.Forward.DstIP)
	answers, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if !ok1 || !ok2 {
		return false
	}
	destination, answers = destination.Unmap(), answers.Unmap()
	from := netip.AddrPortFrom(answers, flow.Reverse.SrcPort)
	if to, known := f.byAddress[netip.AddrPortFrom(destination, flow.Forward.DstPort)]; known {
		return !to[from]
	}
	// A node port's entry is known by being translated: the same port of some
	// other host is not ours to judge.
	to, known := f.byPort[flow.Forward.DstPort]
	return known && answers != destination && !to[from]
}

// deleteStale deletes the entries that lead elsewhere.
func (f *flows) deleteStale() (uint, error) {
	n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.FAMILY_V4, f)
	if err != nil {
		return n, fmt.Errorf("delete connections: %w", err)
	}
	return n, nil
}
