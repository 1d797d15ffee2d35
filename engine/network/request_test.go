package network

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"gantry/internal/testenv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestRequestsInOneMessage(t *testing.T) {
	testenv.NeedRoot(t)
	r, err := openRequester()
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	lo, running, err := r.index("lo")
	if err != nil || lo != 1 || !running {
		t.Errorf("lo has index %d, runs: %v, %v", lo, running, err)
	}
	if _, _, err := r.index("nothing0"); !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "nothing0") {
		t.Errorf("an interface that is not there: %v", err)
	}
	if err := r.do(&batch{}); err != nil {
		t.Errorf("no request: %v", err)
	}
	var b batch
	b.address(9999, netip.MustParsePrefix("192.0.2.1/24"), 0, unix.RT_SCOPE_UNIVERSE)
	b.address(lo, netip.MustParsePrefix("192.0.2.2/32"), 0, unix.RT_SCOPE_HOST)
	b.linkUp("lo", lo)
	err = r.do(&b)
	if !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "add address 192.0.2.1/24") || strings.Contains(err.Error(), "192.0.2.2") {
		t.Errorf("one of three fails: %v", err)
	}
	link, err := netlink.LinkByIndex(lo)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("192.0.2.2/32"))}); err != nil {
		t.Errorf("the one behind it was not done: %v", err)
	}
	// The socket is as before: the answers of the first message are not the second's.
	again := batch{}
	again.linkUp("lo", lo)
	if err := r.do(&again); err != nil {
		t.Errorf("the next: %v", err)
	}
	// The last one's failure is its answer.
	last := batch{}
	last.linkUp("lo", lo)
	last.defaultRoute(9999, netip.MustParseAddr("192.0.2.1"))
	if err := r.do(&last); !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "default route by 192.0.2.1") {
		t.Errorf("the last of two fails: %v", err)
	}
}
