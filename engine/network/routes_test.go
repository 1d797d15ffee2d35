package network

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"gantry/internal/testenv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestOutermostSubnets(t *testing.T) {
	var list []netip.Prefix
	for _, s := range []string{"10.1.2.3/32", "fd00:1::/48", "10.1.0.0/16", "10.1.0.0/16", "fd00::/8", "10.2.0.0/16"} {
		list = append(list, netip.MustParsePrefix(s))
	}
	var got []string
	for _, p := range outermost(list) {
		got = append(got, p.String())
	}
	if want := []string{"fd00::/8", "10.1.0.0/16", "10.2.0.0/16"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestRoutesOfEveryKindAreKeptFree(t *testing.T) {
	testenv.NewBridge(t, "vpn0", netip.MustParsePrefix("100.64.0.1/24"))
	vpn, err := netlink.LinkByName("vpn0")
	if err != nil {
		t.Fatal(err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	add := func(subnet string, r netlink.Route) {
		t.Helper()
		r.Dst = ipNet(netip.MustParsePrefix(subnet))
		if r.Type == 0 {
			r.LinkIndex, r.Scope = vpn.Attrs().Index, unix.RT_SCOPE_LINK
		}
		if err := netlink.RouteAdd(&r); err != nil {
			t.Fatalf("route to %s: %v", subnet, err)
		}
		t.Cleanup(func() { _ = netlink.RouteDel(&r) }) // gone with the bridge
	}
	// The halves of the default route, by which a VPN takes everything, leave room.
	add("0.0.0.0/1", netlink.Route{})
	add("128.0.0.0/1", netlink.Route{})
	add("172.17.0.0/16", netlink.Route{Table: 52}) // policy routing
	add("172.18.7.0/24", netlink.Route{Type: unix.RTN_BLACKHOLE})
	own := &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("172.19.0.9/32"))} // of the host alone
	if err := netlink.AddrAdd(lo, own); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.AddrDel(lo, own) })
	b := newBed(t)
	if n, _ := b.Inspect(Bridge); n.Subnet.String() != "172.20.0.0/16" {
		t.Errorf("bridge has %s", n.Subnet)
	}
	if n := b.create(CreateRequest{Name: "next"}); n.Subnet.String() != "172.21.0.0/16" {
		t.Errorf("the next network has %s", n.Subnet)
	}
	if findings, err := b.Diagnose(t.Context()); err != nil || len(findings) > 0 {
		t.Errorf("findings %v, %v", findings, err)
	}
	add("172.21.4.0/22", netlink.Route{Table: 51820})
	eventually(t, "the log tells of the route", func() bool {
		return strings.Contains(b.logged.String(), "network next has subnet 172.21.0.0/16, and the host routes 172.21.4.0/22 elsewhere")
	})
}
