package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// detour is how the host's own input policy is asked about published ports. A
// connection's first packet from outside is not translated but left to the
// host's input chains, be they nftables' or of legacy iptables. What they accept
// is sent out by one end of a pair of interfaces, comes in by the other as a new
// packet, and is translated there. All that follows takes the way that connection
// tracking remembers, and no process takes part.
type detour struct {
	in  string // the end by which packets come again; "": published ports pass by the input chains
	out int    // index of the other end
}

// detourAddress is only there because the kernel's reverse path filter drops
// what comes in by an interface without any address.
var detourAddress = netip.MustParsePrefix("169.254.77.78/32")

// detourMTU is the longest: what was put together from fragments goes at once.
const detourMTU = 65535

// detourMAC is of both ends. They ask for no addresses, so each takes its own
// for the other's.
var detourMAC = []byte{0x02, 0x44, 0, 0, 0, 1}

func detourLinks(prefix string) (in, out string) { return prefix + "-in", prefix + "-out" }

// raiseDetour makes the pair, unless published ports are to pass by the host's
// input chains. Where the kernel cannot, they do, and that is said.
func (h *Host) raiseDetour(ctx context.Context) error {
	in, out := detourLinks(h.cfg.Instance.LinkPrefix())
	if h.cfg.Instance.BypassInput {
		return h.links.remove(out)
	}
	index, err := h.links.raiseDetour(ctx, in, out)
	if err != nil {
		h.sayBypass(err)
		return nil
	}
	h.detour = detour{in: in, out: index}
	return nil
}

func (h *Host) sayBypass(err error) {
	h.log.Warn("published ports pass by the host's input policy", "err", err)
}

// withoutDetour tells whether err, of the first transaction, means that this
// kernel cannot copy packets; then it is done without.
func (h *Host) withoutDetour(err error) bool {
	if h.detour.in == "" || !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return false
	}
	h.sayBypass(fmt.Errorf("no nftables expression \"dup\": %w", err))
	h.detour = detour{}
	return true
}

// AsksInput tells whether published ports are open to those alone whom the
// host's own input chains accept.
func (h *Host) AsksInput() bool { return h.detour.in != "" }

func (l *links) raiseDetour(ctx context.Context, in, out string) (index int, err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = out, detourMTU, detourMAC
	err = l.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: in, PeerHardwareAddr: detourMAC, PeerMTU: detourMTU})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return 0, fmt.Errorf("create interfaces %s and %s: %w", in, out, err)
	}
	for _, name := range []string{in, out} {
		link, err := l.LinkByName(name)
		if err != nil {
			return 0, fmt.Errorf("interface %s: %w", name, err)
		}
		if link.Type() != "veth" {
			return 0, fmt.Errorf("interface %s is a %s, not one of ours", name, link.Type())
		}
		index = link.Attrs().Index // in the end, of out
		if err := errors.Join(l.LinkSetARPOff(link), l.LinkSetUp(link)); err != nil {
			return 0, fmt.Errorf("bring up %s: %w", name, err)
		}
		if name == in {
			if err := l.AddrReplace(link, &netlink.Addr{IPNet: ipNet(detourAddress), Scope: unix.RT_SCOPE_HOST}); err != nil {
				return 0, fmt.Errorf("add address %s to %s: %w", detourAddress, name, err)
			}
		}
	}
	for _, name := range []string{in, out} {
		if _, err := l.waitUp(ctx, name); err != nil {
			return 0, err
		}
	}
	// Sources that this host reaches by other interfaces are meant to come in here.
	return index, errors.Join(setSysctl("ipv4/conf/"+in+"/rp_filter", "2"), setSysctl("ipv4/conf/"+in+"/forwarding", "1"))
}

// raiseDetour6 prepares the pair for IPv6.
func (h *Host) raiseDetour6() error {
	in, out := detourLinks(h.cfg.Instance.LinkPrefix())
	if h.detour.in == "" {
		return nil
	}
	for _, name := range []string{in, out} {
		if err := setSysctl("ipv6/conf/"+name+"/disable_ipv6", "0"); err != nil {
			return err
		}
	}
	link, err := h.links.LinkByName(out)
	if err != nil {
		return fmt.Errorf("interface %s: %w", out, err)
	}
	address := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(dialect6.detourTo.Prev(), 64)), Flags: unix.IFA_F_NODAD, Scope: unix.RT_SCOPE_LINK}
	if err := h.links.AddrReplace(link, address); err != nil {
		return fmt.Errorf("add address %s to %s: %w", address.IPNet, out, err)
	}
	return nil
}
