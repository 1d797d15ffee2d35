package apiserver

import (
	"errors"
	"net/netip"
	"testing"
)

func TestAddressesComeFromTheRangeOnce(t *testing.T) {
	for _, prefix := range []string{"10.43.0.0/28", "10.43.0.0/24", "fd00::/124"} {
		a := newAllocator(netip.MustParsePrefix(prefix))
		seen := map[netip.Addr]bool{}
		for {
			ip, err := a.next()
			if errors.Is(err, errRangeFull) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if seen[ip] || !a.subnet.Contains(ip) || ip == a.subnet.Addr() || ip == lastAddr(a.subnet) {
				t.Fatalf("%s: gave out %s, after %d", prefix, ip, len(seen))
			}
			seen[ip] = true
		}
		if want := 1<<(a.subnet.Addr().BitLen()-a.subnet.Bits()) - 2; len(seen) != want {
			t.Errorf("%s: %d addresses, want %d", prefix, len(seen), want)
		}
	}
}

func TestFixedAddressesAreCheckedAndReturned(t *testing.T) {
	a := newAllocator(netip.MustParsePrefix("10.43.0.0/24"))
	ip := netip.MustParseAddr("10.43.0.7")
	if err := a.take(ip); err != nil {
		t.Fatal(err)
	}
	if err := a.take(ip); !errors.Is(err, errIPAllocated) {
		t.Errorf("taken twice: %v", err)
	}
	a.release(grant{ips: []netip.Addr{ip}})
	if err := a.take(ip); err != nil {
		t.Errorf("after its return: %v", err)
	}
	for _, outside := range []string{"10.43.0.0", "10.43.0.255", "10.44.0.1"} {
		if err := a.take(netip.MustParseAddr(outside)); err == nil {
			t.Errorf("%s was given out", outside)
		}
	}
	if err := a.takePort(80); err == nil || err.Error() != "provided port is not in the valid range. The range of valid ports is 30000-32767" {
		t.Errorf("port 80: %v", err)
	}
}

func TestPortsRunOutAndNoSooner(t *testing.T) {
	a := newAllocator(netip.MustParsePrefix("10.43.0.0/24"))
	for range lastNodePort - firstNodePort + 1 {
		if _, err := a.nextPort(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.nextPort(); !errors.Is(err, errRangeFull) {
		t.Errorf("one more: %v", err)
	}
}
