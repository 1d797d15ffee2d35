package network

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gantry/internal/problem"
	"gantry/internal/testenv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// create makes a user-defined network.
func (b *bed) create(req CreateRequest) Network {
	b.t.Helper()
	n, err := b.Create(b.t.Context(), req)
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

// at is a port of an endpoint's IPv6 address.
func (ep Endpoint) at6(port uint16) string {
	return netip.AddrPortFrom(ep.Address6.Addr(), port).String()
}

func (ep Endpoint) at(port uint16) string {
	return netip.AddrPortFrom(ep.Address.Addr(), port).String()
}

func (b *bed) publishBoth(ep Endpoint, ports ...PortBinding) []PortBinding {
	b.t.Helper()
	p := Publication{Container: ep.Container, Name: ep.Container, Network: ep.Network, Address: ep.Address.Addr(), Address6: ep.Address6.Addr(), Ports: ports}
	got, err := b.Publish(b.t.Context(), p)
	if err != nil {
		b.t.Fatal(err)
	}
	p.Ports = got
	b.live.Publications = append(b.live.Publications, p)
	return got
}

func TestDualStack(t *testing.T) {
	b := newBed(t)
	outside, _ := b.outsider()
	b.create(CreateRequest{Name: "dual", IPv6: &Stack{}})
	b.create(CreateRequest{Name: "given", IPv6: &Stack{Subnet: netip.MustParsePrefix("fd42::/64"), Gateway: netip.MustParseAddr("fd42::ff"),
		Reserved: map[string]netip.Addr{"router": netip.MustParseAddr("fd42::1")}}})
	one, two, far := b.container("one", "dual"), b.container("two", "dual"), b.container("far", "given")
	if !one.Address6.IsValid() || one.Address6.Addr().As16()[0] != 0xfd || one.Gateway6 != one.Address6.Masked().Addr().Next() {
		t.Fatalf("first endpoint: %+v", one)
	}
	if far.Address6.String() != "fd42::2/64" || far.Gateway6.String() != "fd42::ff" {
		t.Errorf("endpoint of given addresses: %+v", far)
	}
	serve(t, one.Namespace, ":80")
	serve(t, far.Namespace, ":80")
	serve(t, outside, ":80")
	wantAnswer(t, "same network", two.Namespace, one.at6(80), two.Address6.Addr().String())
	wantAnswer(t, "host to container", "", one.at6(80), one.Gateway6.String())
	wantAnswer(t, "container to outside is masqueraded", one.Namespace, "[fd99::9]:80", "fd99::1")
	wantNone(t, "network to network", two.Namespace, far.at6(80))
	wantNone(t, "outside to a container's address", outside, one.at6(80))

	ports := b.publishBoth(one, PortBinding{ContainerPort: 80, HostPort: 8080}, PortBinding{ContainerPort: 80},
		PortBinding{ContainerPort: 80, HostPort: 8081, HostIP: netip.IPv6Loopback()}, PortBinding{ContainerPort: 80, HostPort: 8082, HostIP: netip.IPv4Unspecified()})
	if len(ports) != 6 || ports[2].HostPort != ports[3].HostPort || ports[2].HostPort == 0 {
		t.Fatalf("ports: %+v", ports)
	}
	wantAnswer(t, "published, source kept", outside, "[fd99::1]:8080", "fd99::9")
	wantAnswer(t, "published on IPv4 too", outside, "203.0.113.1:8080", "203.0.113.9")
	wantAnswer(t, "published, from another network", far.Namespace, "[fd99::1]:8080", "")
	wantAnswer(t, "published, from the same network", two.Namespace, "[fd99::1]:8080", "")
	wantAnswer(t, "published, from itself", one.Namespace, "[fd99::1]:8080", "")
	wantAnswer(t, "the host by its own address", "", "[fd99::1]:8080", "")
	wantAnswer(t, "the host by [::1]", "", "[::1]:8080", "")
	wantAnswer(t, "a port of [::1]", "", "[::1]:8081", "")
	wantNone(t, "a port of [::1], from outside", outside, "[fd99::1]:8081")
	wantNone(t, "a port of 0.0.0.0, by IPv6", outside, "[fd99::1]:8082")
	if l, err := net.Listen("tcp6", "[::]:8080"); err == nil {
		_ = l.Close()
		t.Error("a published port can be bound by another process")
	}

	b.crash()
	b.start()
	wantAnswer(t, "after a restart", outside, "[fd99::1]:8080", "fd99::9")
	next := b.container("next", "dual")
	if next.Address6 == one.Address6 || next.Address6 == two.Address6 {
		t.Errorf("address %s is given twice", next.Address6)
	}
}

func TestInternalNetworksLeadNowhere(t *testing.T) {
	b := newBed(t)
	outside, host := b.outsider()
	b.create(CreateRequest{Name: "inner", Internal: true, IPv6: &Stack{}})
	one, two, web := b.container("one", "inner"), b.container("two", "inner"), b.container("web", Bridge)
	serve(t, one.Namespace, ":80")
	serve(t, outside, ":80")
	serve(t, web.Namespace, ":80")
	b.publish(web, PortBinding{ContainerPort: 80, HostPort: 8080})
	if one.Gateway.IsValid() || one.Gateway6.IsValid() {
		t.Errorf("an endpoint with a gateway: %+v", one)
	}
	wantAnswer(t, "each other", two.Namespace, one.at(80), two.Address.Addr().String())
	wantAnswer(t, "each other, IPv6", two.Namespace, one.at6(80), two.Address6.Addr().String())
	wantAnswer(t, "the host to a container", "", one.at(80), "")
	wantNone(t, "outside", one.Namespace, "203.0.113.9:80")
	wantNone(t, "another network's port", one.Namespace, host.String()+":8080")
	// A route that a privileged program sets does not help.
	err := inside(t, one.Namespace, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		gateway := one.Address.Masked().Addr().Next()
		return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice(), Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0"))})
	})
	if err != nil {
		t.Fatal(err)
	}
	wantNone(t, "outside, by a route of its own", one.Namespace, "203.0.113.9:80")
	wantNone(t, "another network's port, by a route of its own", one.Namespace, host.String()+":8080")
	if (directory{b.Host}).Outside("one") || !(directory{b.Host}).Outside("web") {
		t.Error("names: who may ask outside")
	}
}

func TestContainersOfOneNetworkKeptApart(t *testing.T) {
	b := newBed(t)
	outside, host := b.outsider()
	b.create(CreateRequest{Name: "apart", Options: map[string]string{optionICC: "false", optionName: "apart0", optionBinding: "127.0.0.1"}})
	one, two := b.container("one", "apart"), b.container("two", "apart")
	if !linkNames(t)["apart0"] {
		t.Error("the bridge does not have its name")
	}
	serve(t, one.Namespace, ":80")
	serve(t, outside, ":80")
	wantNone(t, "neighbour", two.Namespace, one.at(80))
	wantAnswer(t, "outside", two.Namespace, "203.0.113.9:80", host.String())
	ports := b.publish(one, PortBinding{ContainerPort: 80, HostPort: 8080})
	if ports[0].HostIP.String() != "127.0.0.1" {
		t.Errorf("published on %s", ports[0].HostIP)
	}
	wantAnswer(t, "the host", "", "127.0.0.1:8080", "")
	wantNone(t, "outside, by a port of 127.0.0.1", outside, host.String()+":8080")
}

func TestContainersOfTheDefaultNetworkKeptApart(t *testing.T) {
	b := newBed(t)
	one, two := b.container("one", Bridge), b.container("two", Bridge)
	serve(t, one.Namespace, ":80")
	wantAnswer(t, "neighbour, by default", two.Namespace, one.at(80), "")
	restart := func(icc *bool) {
		b.crash()
		b.cfg.Instance.ICC = icc
		b.start()
	}
	no := false
	restart(&no)
	three := b.container("three", Bridge)
	wantNone(t, "neighbour that was there before", two.Namespace, one.at(80))
	wantNone(t, "neighbour that came later", three.Namespace, one.at(80))
	wantAnswer(t, "the host", "", one.at(80), "")
	restart(nil)
	wantAnswer(t, "neighbours, as by default again", two.Namespace, one.at(80), "")
}

func TestUnmaskedNetworkKeepsAddresses(t *testing.T) {
	b := newBed(t)
	outside, _ := b.outsider()
	b.create(CreateRequest{Name: "plain", Options: map[string]string{optionMasquerade: "false"}})
	one := b.container("one", "plain")
	serve(t, outside, ":80") // its default route leads back to this host
	wantAnswer(t, "outside sees the container", one.Namespace, "203.0.113.9:80", one.Address.Addr().String())
}

func TestMacvlan(t *testing.T) {
	b := newBed(t)
	testenv.NewBridge(t, "lan0", netip.MustParsePrefix("198.51.100.1/24"))
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "lan1"
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: "lan1p"}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(pair) })
	bridge, err := netlink.LinkByName("lan0")
	if err != nil {
		t.Fatal(err)
	}
	peer, err := netlink.LinkByName("lan1p")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{netlink.LinkSetMaster(peer, bridge), netlink.LinkSetUp(peer), netlink.LinkSetUp(pair)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	// The subnet is the host's own: that is what macvlan is for.
	req := CreateRequest{Name: "lan", Driver: DriverMacvlan, Subnet: netip.MustParsePrefix("198.51.100.0/24"), Gateway: netip.MustParseAddr("198.51.100.1"),
		Range: netip.MustParsePrefix("198.51.100.64/28"), Options: map[string]string{optionParent: "lan1"}}
	b.create(req)
	one, two := b.container("one", "lan"), b.container("two", "lan")
	serve(t, one.Namespace, ":80")
	if one.Address.String() != "198.51.100.64/24" || one.HostLink != "" {
		t.Errorf("endpoint: %+v", one)
	}
	// Whether the cable is in is known to the kernel a moment later.
	for begin := time.Now(); ; {
		got, err := get(t, two.Namespace, one.at(80))
		if err == nil && got == two.Address.Addr().String() {
			break
		}
		if time.Since(begin) > 30*time.Second {
			t.Fatalf("each other: %q, %v", got, err)
		}
	}
	wantAnswer(t, "from beyond the parent", "", one.at(80), "198.51.100.1")
	b.crash()
	b.start()
	if err := b.Detach(t.Context(), two, RemoveLink); err != nil {
		t.Error(err)
	}
	err = inside(t, two.Namespace, func() error {
		_, err := netlink.LinkByName("eth0")
		return err
	})
	if err == nil {
		t.Error("a detached interface is still there")
	}

	vlan := CreateRequest{Name: "vlan", Driver: DriverMacvlan, Subnet: netip.MustParsePrefix("198.18.0.0/24"),
		Options: map[string]string{optionParent: "lan1.30", optionMode: "private"}}
	if _, err := b.Create(t.Context(), vlan); errors.Is(err, unix.EOPNOTSUPP) { // a kernel without VLANs
		if _, err := b.Inspect("vlan"); !errors.Is(err, problem.NotFound) {
			t.Errorf("a network that could not be made: %v", err)
		}
		vlan.Options[optionParent] = "lan1"
		b.create(vlan)
	} else if err != nil || !linkNames(t)["lan1.30"] {
		t.Fatalf("a network on a VLAN: %v", err)
	}
	three, four := b.container("three", "vlan"), b.container("four", "vlan")
	serve(t, three.Namespace, ":80")
	wantNone(t, "private mode", four.Namespace, three.at(80))
	b.live = Live{}
	for _, ep := range []Endpoint{three, four} {
		if err := b.Detach(t.Context(), ep, LeaveLink); err != nil {
			t.Error(err)
		}
	}
	if err := b.Remove(t.Context(), "vlan"); err != nil {
		t.Error(err)
	}
	if linkNames(t)["lan1.30"] {
		t.Error("the VLAN's sub-interface is left")
	}
	if _, err := b.Create(t.Context(), CreateRequest{Name: "x", Driver: DriverMacvlan, Options: map[string]string{optionParent: "lan1", optionMode: "sideways"}}); err == nil || !strings.Contains(err.Error(), "'sideways' is not valid") {
		t.Errorf("a mode that is none: %v", err)
	}
}

func TestEndpointWishes(t *testing.T) {
	b := newBed(t)
	b.create(CreateRequest{Name: "mine", Subnet: netip.MustParsePrefix("10.9.0.0/24"), IPv6: &Stack{Subnet: netip.MustParsePrefix("fd42::/64")}})
	path, err := b.NewNamespace(t.Context(), "c")
	if err != nil {
		t.Fatal(err)
	}
	ep, err := b.Attach(t.Context(), AttachRequest{Namespace: path, Container: "c", Network: "mine", Interface: "lan7",
		Address6: netip.MustParseAddr("fd42::77"), LinkLocal: []netip.Addr{netip.MustParseAddr("169.254.9.9"), netip.MustParseAddr("fe80::99")},
		Sysctls: map[string]string{"ipv4/conf/IFNAME/log_martians": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	if ep.Interface != "lan7" || ep.Address6.String() != "fd42::77/64" {
		t.Errorf("endpoint %+v", ep)
	}
	err = inside(t, path, func() error {
		link, err := netlink.LinkByName("lan7")
		if err != nil {
			return err
		}
		addresses, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
		var list []string
		for _, a := range addresses {
			list = append(list, a.IPNet.String())
		}
		for _, want := range []string{"10.9.0.2/24", "fd42::77/64", "169.254.9.9/16", "fe80::99/64"} {
			if !strings.Contains(strings.Join(list, " "), want) {
				t.Errorf("addresses %v lack %s", list, want)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	_, err = b.Attach(t.Context(), AttachRequest{Namespace: path, Container: "c", Network: "mine", Sysctls: map[string]string{"ipv4/conf/IFNAME/nothing": "1"}})
	if err == nil {
		t.Error("a setting that does not exist was accepted")
	}
}
