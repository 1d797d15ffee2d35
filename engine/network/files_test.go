package network

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseResolver(t *testing.T) {
	for _, test := range []struct {
		rule, text string
		want       Resolver
	}{
		{"servers in order", "nameserver 192.0.2.1\nnameserver 2001:db8::1\n", Resolver{Servers: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}}},
		{"last search counts", "search a b\ndomain c\n", Resolver{Search: []string{"c"}}},
		{"options add up", "options ndots:2\noptions rotate timeout:1\n", Resolver{Options: []string{"ndots:2", "rotate", "timeout:1"}}},
		{"comments and rubbish are left out", "# nameserver 192.0.2.1\n;x y\nnameserver\nnameserver x\nsortlist 1\n", Resolver{}},
		{"last line without end", "nameserver 192.0.2.1", Resolver{Servers: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}},
	} {
		if d := cmp.Diff(test.want, ParseResolver(test.text), cmpopts.EquateComparable(netip.Addr{})); d != "" {
			t.Errorf("%s (-want +got):\n%s", test.rule, d)
		}
	}
}

func TestLoopbackResolversAreLeftOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("nameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.1\nsearch x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := readResolver(path)
	if err != nil || string(ResolvConf(r)) != "nameserver 192.0.2.1\nsearch x\n" {
		t.Errorf("%q, %v", ResolvConf(r), err)
	}
	if r, err := readResolver(path + ".missing"); err != nil || len(r.Servers) != 0 {
		t.Errorf("missing file: %+v, %v", r, err)
	}
}

func TestHostsFile(t *testing.T) {
	got := string(HostsFile([]HostEntry{{netip.MustParseAddr("172.17.0.2"), []string{"web", "w"}}}))
	if !strings.HasPrefix(got, "127.0.0.1\tlocalhost\n") || !strings.HasSuffix(got, "172.17.0.2\tweb w\n") {
		t.Errorf("%q", got)
	}
}

func TestPoolGivesAnAddressAgainLast(t *testing.T) {
	n := &Network{Subnet: netip.MustParsePrefix("10.0.0.0/29"), Gateway: netip.MustParseAddr("10.0.0.1")}
	p := newPool(n.Subnet, n.Range, n.Gateway, nil)
	var got []string
	for i := range 8 {
		a, err := p.next("x")
		if err != nil {
			got = append(got, "full")
			break
		}
		got = append(got, a.String())
		if i == 1 || i == 6 {
			p.release(netip.MustParseAddr("10.0.0.2"), "x")
		}
	}
	want := []string{"10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2", "full"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("addresses (-want +got):\n%s", d)
	}
	for _, wish := range []string{"10.0.0.0", "10.0.0.7", "10.0.1.2", "10.0.0.1", "10.0.0.3"} {
		if err := p.wish(netip.MustParseAddr(wish), "y"); err == nil {
			t.Errorf("got the wish for %s", wish)
		}
	}
	if p.take(netip.MustParseAddr("10.0.0.3"), "y") {
		t.Error("an address was taken twice")
	}
}

func TestRangeBoundsThePool(t *testing.T) {
	p := newPool(netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("10.0.0.128/30"), netip.MustParseAddr("10.0.0.1"), nil)
	var got []string
	for range 5 {
		a, err := p.next("x")
		if err == nil {
			got = append(got, a.String())
		}
	}
	if d := cmp.Diff([]string{"10.0.0.128", "10.0.0.129", "10.0.0.130", "10.0.0.131"}, got); d != "" {
		t.Errorf("addresses (-want +got):\n%s", d)
	}
}

func TestOwnLinksOfInstances(t *testing.T) {
	for _, test := range []struct {
		prefix, link string
		want         bool
	}{
		{"gt", "gt01234567", true}, {"gt", "gt-01234567", true}, {"gt", "gtabcd01234567", false}, {"gt", "gtabcd-01234567", false},
		{"gt", "gt0", false}, {"gt", "gtabcd-pods", false}, {"gtabcd", "gtabcd01234567", true}, {"gtabcd", "gt01234567", false},
	} {
		if got := ownLink(test.prefix).MatchString(test.link); got != test.want {
			t.Errorf("instance with prefix %s owns %s: %v", test.prefix, test.link, got)
		}
	}
}

const procTCP = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0
   1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 4712 1
   x: rubbish
`

func TestParseSockets(t *testing.T) {
	want := []socket{{netip.MustParseAddr("127.0.0.1"), 8080, 10, "4711"}, {netip.IPv6Loopback(), 80, 1, "4712"}}
	got := parseSockets(strings.NewReader(procTCP))
	if d := cmp.Diff(want, got, cmp.AllowUnexported(socket{}), cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Errorf("sockets (-want +got):\n%s", d)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(procTCP)
	f.Add("nameserver 192.0.2.1\nsearch a b\noptions ndots:2\n")
	f.Fuzz(func(t *testing.T, text string) {
		parseSockets(strings.NewReader(text))
		r := ParseResolver(text)
		again := ParseResolver(string(ResolvConf(r)))
		if d := cmp.Diff(r, again, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{})); d != "" {
			t.Errorf("written and read again (-want +got):\n%s", d)
		}
	})
}
