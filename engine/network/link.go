package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// links speaks rtnetlink in the host's namespace.
type links struct {
	*netlink.Handle
	request *requester
}

func openLinks() (*links, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	request, err := openRequester()
	if err != nil {
		h.Close()
		return nil, err
	}
	return &links{h, request}, nil
}

func (l *links) close() {
	l.Close()
	l.request.close()
}

// dumps bounds how often a list is asked for that changes while it is read.
const dumps = 100

// whole calls list until what it returns was not changed meanwhile: on a busy
// host links come and go all the time.
func whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range dumps {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// raiseBridge creates or adopts the bridge of n and brings it up with the
// gateway's address.
func (l *links) raiseBridge(instance string, n *Network) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = n.Link, n.MTU, bridgeAddr(instance, n.Name)
	err := l.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("create bridge %s: %w", n.Link, err)
	}
	link, err := l.LinkByName(n.Link)
	if err != nil {
		return fmt.Errorf("bridge %s: %w", n.Link, err)
	}
	if link.Type() != "bridge" {
		return fmt.Errorf("interface %s is a %s, not a bridge of ours", n.Link, link.Type())
	}
	if err := l.onlyAddress(link, netip.PrefixFrom(n.Gateway, n.Subnet.Bits())); err != nil {
		return err
	}
	if n.IPv6.Subnet.IsValid() {
		if err := setSysctl("ipv6/conf/"+n.Link+"/disable_ipv6", "0"); err != nil {
			return err
		}
		address := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(n.IPv6.Gateway, n.IPv6.Subnet.Bits())), Flags: unix.IFA_F_NODAD}
		if err := l.AddrReplace(link, address); err != nil {
			return fmt.Errorf("add address %s to %s: %w", address.IPNet, n.Link, err)
		}
	}
	if err := l.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up %s: %w", n.Link, err)
	}
	// A client on 127.0.0.1 reaches published ports through the bridge. The
	// table drops what containers themselves send to 127.0.0.0/8.
	if err := setSysctl("ipv4/conf/"+n.Link+"/route_localnet", "1"); err != nil {
		return err
	}
	// Pod to pod traffic turns round here on purpose.
	return setSysctl("ipv4/conf/"+n.Link+"/send_redirects", "0")
}

// onlyAddress makes want the link's one IPv4 address.
func (l *links) onlyAddress(link netlink.Link, want netip.Prefix) error {
	have, err := whole(func() ([]netlink.Addr, error) { return l.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("addresses of %s: %w", link.Attrs().Name, err)
	}
	found := false
	for _, a := range have {
		if a.IPNet.String() == want.String() {
			found = true
			continue
		}
		if err := l.AddrDel(link, &a); err != nil {
			return fmt.Errorf("remove address %s of %s: %w", a.IPNet, link.Attrs().Name, err)
		}
	}
	if found {
		return nil
	}
	if err := l.AddrAdd(link, &netlink.Addr{IPNet: ipNet(want)}); err != nil {
		return fmt.Errorf("add address %s to %s: %w", want, link.Attrs().Name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// pair is a virtual Ethernet pair between a bridge and a namespace.
type pair struct {
	host      string // interface names
	inside    string
	bridge    int // index
	namespace int // descriptor
	mtu       int
	mac       net.HardwareAddr // of the inside
}

// vethInfoPeer is VETH_INFO_PEER of linux/veth.h.
const vethInfoPeer = 1

// addPair makes the pair in one request: the outer end up and on the bridge,
// the inner one in its namespace under its name. Doing it step by step takes
// several round trips and waits for RCU.
func (l *links) addPair(p pair) error {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Flags, msg.Change = unix.IFF_UP, unix.IFF_UP
	parts := []nl.NetlinkRequestData{msg, nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(p.host)),
		nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(p.bridge)))}
	if p.mtu > 0 {
		parts = append(parts, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(p.mtu))))
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(vethInfoPeer, nil)
	peer.AddChild(nl.NewIfInfomsg(unix.AF_UNSPEC)) // cannot be up before it has its peer
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(p.inside))
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(p.namespace)))
	peer.AddRtAttr(unix.IFLA_ADDRESS, p.mac)
	if p.mtu > 0 {
		peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(p.mtu)))
	}
	var b batch
	b.add(fmt.Sprintf("create interface pair %s and %s", p.host, p.inside), unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, append(parts, info)...)
	return l.request.do(&b)
}

// upTimeout bounds how long the kernel may take to notice that both ends of a
// pair are up; it takes a millisecond where it is not very busy.
const upTimeout = 5 * time.Second

// waitUp returns when the bridge passes packets through a port whose other end
// was just brought up. The kernel finds out by a work queue, and drops what is
// sent before: a first SYN, whose repetition comes a second later.
func (l *links) waitUp(ctx context.Context, name string) (netlink.Link, error) {
	ctx, cancel := context.WithTimeout(ctx, upTimeout)
	defer cancel()
	link, err := l.LinkByName(name) // since Linux 6.8 this waits for the work queue itself
	if err == nil && link.Attrs().OperState == netlink.OperUp {
		return link, nil
	}
	updates := make(chan netlink.LinkUpdate)
	if err := netlink.LinkSubscribe(updates, ctx.Done()); err != nil {
		return nil, fmt.Errorf("watch %s: %w", name, err)
	}
	defer func() {
		cancel()
		for range updates { // until the subscription has ended
		}
	}()
	for {
		link, err := l.LinkByName(name)
		if err != nil {
			return nil, fmt.Errorf("interface %s: %w", name, err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return link, nil
		}
		if _, ok := <-updates; !ok {
			return nil, fmt.Errorf("interface %s does not come up: %w", name, context.Cause(ctx))
		}
	}
}

// hairpin lets a bridge port send back what came in through it: a container
// that reaches itself by a translated address.
func (l *links) hairpin(link netlink.Link) error {
	if err := l.LinkSetHairpin(link, true); err != nil {
		return fmt.Errorf("hairpin mode of %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// hairpinByName does so for ports that exist; one may be gone with its
// container.
func (l *links) hairpinByName(names []string) error {
	for _, name := range names {
		link, err := l.LinkByName(name)
		if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
			continue
		}
		if err == nil {
			err = l.hairpin(link)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// remove deletes a link; it succeeds when there is none.
func (l *links) remove(name string) error {
	link, err := l.LinkByName(name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil
	}
	if err == nil {
		err = l.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	return nil
}

// ownLink matches the interfaces that this instance makes besides its two
// fixed bridges: eight digits, after a hyphen for a bridge. The digits' count
// keeps instances apart whose prefixes begin alike.
func ownLink(prefix string) *regexp.Regexp {
	return regexp.MustCompile("^" + regexp.QuoteMeta(prefix) + "-?[0-9a-f]{8}$")
}

// setSysctl makes a setting of the calling thread's network namespace be value.
func setSysctl(name, value string) error {
	old, err := os.ReadFile(filepath.Join(sysctls, name))
	if err == nil && strings.TrimSpace(string(old)) == value {
		return nil
	}
	return writeSysctl(name, value)
}

const sysctls = "/proc/sys/net"

func writeSysctl(name, value string) error {
	f, err := os.OpenFile(filepath.Join(sysctls, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("set %s to %s: %w", f.Name(), value, err)
	}
	return nil
}

// forwarding6On does so for IPv6. A host that learns its own routes from a
// router's advertisements goes on to: forwarding alone would end that.
func forwarding6On() error {
	if on, err := os.ReadFile(filepath.Join(sysctls, "ipv6/conf/all/forwarding")); err == nil && strings.TrimSpace(string(on)) == "1" {
		return nil
	}
	settings, err := filepath.Glob(filepath.Join(sysctls, "ipv6/conf/*/accept_ra"))
	if err != nil {
		return err
	}
	for _, path := range settings {
		name, err := filepath.Rel(sysctls, path)
		if err != nil {
			return err
		}
		if now, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(now)) == "1" {
			if err := ignoreMissing(writeSysctl(name, "2")); err != nil {
				return err
			}
		}
	}
	return setSysctl("ipv6/conf/all/forwarding", "1")
}

// forwardingOn lets the host route between its interfaces.
func forwardingOn() error { return setSysctl("ipv4/ip_forward", "1") }
