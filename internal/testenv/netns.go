package testenv

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Machine is a network namespace on a bridge of the test's own, as a pod or a
// neighbouring host would be. Its default route leads to the bridge.
type Machine struct {
	Address netip.Addr
	file    *os.File
}

// NewBridge makes a bridge with an address, and removes it at the test's end.
// It needs root and Isolate.
func NewBridge(t testing.TB, name string, address netip.Prefix) {
	t.Helper()
	NeedRoot(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.LinkDel(bridge); err != nil {
			t.Error(err)
		}
	})
	if err := netlink.AddrAdd(bridge, &netlink.Addr{IPNet: ipNet(address)}); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		t.Fatal(err)
	}
	for setting, value := range map[string]string{
		"ip_forward": "1", "conf/" + name + "/route_localnet": "1", "conf/" + name + "/send_redirects": "0",
	} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+setting, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// NewMachine attaches a namespace to the bridge, without a route to the
// bridge's own subnet: all it sends passes the host.
func NewMachine(t testing.TB, bridge string, address netip.Prefix, gateway netip.Addr) *Machine {
	t.Helper()
	m := &Machine{Address: address.Addr()}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread dies in the new namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			m.file, err = os.Open("/proc/thread-self/ns/net")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.file.Close() })
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		t.Fatal(err)
	}
	b := address.Addr().As4()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = fmt.Sprintf("v%x", b)
	attrs.MasterIndex = master.Attrs().Index
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(m.file.Fd()))}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(pair) }) // it may be gone with its namespace
	if err := netlink.LinkSetHairpin(pair, true); err != nil {
		t.Fatal(err)
	}
	err = m.Do(func() error {
		for _, name := range []string{"lo", "eth0"} {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if name == "eth0" {
				if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(address), Flags: unix.IFA_F_NOPREFIXROUTE}); err != nil {
					return err
				}
			}
			if err := netlink.LinkSetUp(link); err != nil {
				return err
			}
			if name == "eth0" {
				route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
				if err := netlink.RouteAdd(route); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err == nil {
		err = netlink.LinkSetUp(pair)
	}
	if err != nil {
		t.Fatal(err)
	}
	// The kernel notices by a work queue that the port, and so the bridge, is up; since
	// Linux 6.8 a question for the link waits for it.
	for _, name := range []string{attrs.Name, bridge} {
		if _, err := netlink.LinkByName(name); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// Do runs do on a thread of the machine; of the host, when m is nil. Sockets
// that it opens stay the machine's.
func (m *Machine) Do(do func() error) error {
	if m == nil {
		return do()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread dies in the machine
		err := unix.Setns(int(m.file.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = do()
		}
		done <- err
	}()
	return <-done
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
