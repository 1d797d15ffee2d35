package network

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"gantry/internal/problem"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// macvlanModes are the kernel's, by Docker's names.
var macvlanModes = map[string]netlink.MacvlanMode{
	"bridge": netlink.MACVLAN_MODE_BRIDGE, "private": netlink.MACVLAN_MODE_PRIVATE,
	"vepa": netlink.MACVLAN_MODE_VEPA, "passthru": netlink.MACVLAN_MODE_PASSTHRU,
}

// checkLink makes sure that n may have the link it names.
func (l *links) checkLink(n *Network, prefix string) error {
	switch {
	case n.Driver == DriverBridge && !n.namedByUser(prefix):
		return nil
	case n.Driver == DriverBridge:
		_, err := l.LinkByName(n.Link)
		if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
			return nil
		}
		if err == nil {
			err = problem.New(problem.Conflict, "interface %s exists already: a network cannot take it over", n.Link)
		}
		return err
	}
	_, err := l.LinkByName(n.Link)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); !missing {
		return err
	}
	if _, _, ok := vlanOf(n.Link); ok {
		n.SubLink = true
		return nil
	}
	return problem.New(problem.Invalid, "invalid subinterface vlan name %s, example formatting is eth0.10", n.Link)
}

// namedByUser tells a bridge that does not have a name of ours.
func (n *Network) namedByUser(prefix string) bool {
	return n.Link != prefix+"-"+n.ID[:8] && !n.Predefined()
}

// vlanOf reads PARENT.NUMBER.
func vlanOf(name string) (parent string, number int, ok bool) {
	dot := strings.LastIndexByte(name, '.')
	if dot <= 0 {
		return "", 0, false
	}
	number, err := strconv.Atoi(name[dot+1:])
	return name[:dot], number, err == nil && number > 0 && number < 4095
}

// raiseParent makes the VLAN interface that a network of ours stands on, if it
// is not there.
func (l *links) raiseParent(n *Network) error {
	link, err := l.LinkByName(n.Link)
	_, missing := errors.AsType[netlink.LinkNotFoundError](err)
	if err != nil && (!missing || !n.SubLink) {
		return fmt.Errorf("parent interface %s: %w", n.Link, err)
	}
	if err != nil {
		name, number, _ := vlanOf(n.Link)
		parent, err := l.LinkByName(name)
		if err != nil {
			return problem.New(problem.Invalid, "parent interface %s: %w", name, err)
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = n.Link, parent.Attrs().Index
		link = &netlink.Vlan{LinkAttrs: attrs, VlanId: number, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
		if err := l.LinkAdd(link); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("create interface %s: %w", n.Link, err)
		}
	}
	if err := l.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up %s: %w", n.Link, err)
	}
	return nil
}

// removeNamed removes the link of a network that the user named.
func (l *links) removeNamed(n *Network, prefix string) error {
	if n.SubLink || n.Driver == DriverBridge && n.namedByUser(prefix) {
		return l.remove(n.Link)
	}
	return nil
}

// addMacvlan makes an interface on the network's parent, in the namespace at once.
func (l *links) addMacvlan(ep *Endpoint, n Network, namespace int, mac net.HardwareAddr) error {
	parent, err := l.LinkByName(n.Link)
	if err != nil {
		return fmt.Errorf("parent interface %s: %w", n.Link, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.HardwareAddr, attrs.MTU = ep.Interface, parent.Attrs().Index, mac, n.MTU
	attrs.Namespace = netlink.NsFd(namespace)
	if err := l.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: macvlanModes[n.Mode]}); err != nil {
		return fmt.Errorf("create a macvlan interface on %s: %w", n.Link, err)
	}
	return nil
}
