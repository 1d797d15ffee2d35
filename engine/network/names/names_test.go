package names

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"gantry/internal/testenv"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { os.Exit(testenv.Isolate(m)) }

// directory is what the tests' containers know.
type directory struct {
	names  map[string][]netip.Addr
	closed bool
}

func (d directory) Addresses(_, name string) ([]netip.Addr, bool) {
	list, ok := d.names[strings.ToLower(name)]
	return list, ok
}

func (d directory) Name(_ string, address netip.Addr) (string, bool) {
	for name, list := range d.names {
		if list[0] == address { // the further ones are of shared names
			return name + ".net", true
		}
	}
	return "", false
}

func (d directory) Outside(string) bool { return !d.closed }

var known = directory{names: map[string][]netip.Addr{
	"web":  {netip.MustParseAddr("172.18.0.2")},
	"both": {netip.MustParseAddr("172.18.0.3"), netip.MustParseAddr("fd00::3")},
	"all":  {netip.MustParseAddr("172.18.0.2"), netip.MustParseAddr("172.18.0.3"), netip.MustParseAddr("172.18.0.4")},
	"big":  many(),
}}

func many() (list []netip.Addr) {
	for i := range 60 {
		list = append(list, netip.AddrFrom4([4]byte{172, 18, 1, byte(i)}))
	}
	return list
}

// namespace pins a fresh network namespace with lo up.
func namespace(t *testing.T) string {
	t.Helper()
	testenv.NeedRoot(t)
	path := filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread dies in the namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo", Index: 1}})
		}
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	return path
}

// start runs a server; stop ends it as a crash of the daemon would.
func start(t *testing.T, d Directory, host []netip.Addr, clients ...Client) (stop func()) {
	t.Helper()
	s, err := New(Config{Directory: d, Host: func() []netip.Addr { return host }})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range clients {
		if err := s.Open(c); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		s.Shutdown()
	}
	t.Cleanup(stop)
	return stop
}

// query asks 127.0.0.11 from the namespace, again and again until it answers.
func query(t *testing.T, path, network, name string, kind uint16) *dns.Msg {
	t.Helper()
	var answer *dns.Msg
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		err = inNamespace(path, func() error {
			c, err := (&net.Dialer{Timeout: 5 * time.Second}).Dial(network, "127.0.0.11:53")
			if err != nil {
				return err
			}
			defer c.Close()
			client := &dns.Client{Net: network, Timeout: 5 * time.Second}
			answer, _, err = client.ExchangeWithConn(new(dns.Msg).SetQuestion(dns.Fqdn(name), kind), &dns.Conn{Conn: c})
			return err
		})
		if err == nil {
			return answer
		}
	}
	t.Fatalf("%s %s: %v", network, name, err)
	return nil
}

// summary is an answer's code and sorted data.
func summary(m *dns.Msg) string {
	var data []string
	for _, rr := range m.Answer {
		data = append(data, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(data)
	return fmt.Sprint(dns.RcodeToString[m.Rcode], data)
}

func TestKnownNamesAreAnswered(t *testing.T) {
	path := namespace(t)
	start(t, known, nil, Client{Container: "c", Namespace: path, Ndots: true})
	for _, test := range []struct {
		rule, name string
		kind       uint16
		want       string
	}{
		{"a name", "web", dns.TypeA, "NOERROR[172.18.0.2]"},
		{"case does not matter", "WeB", dns.TypeA, "NOERROR[172.18.0.2]"},
		{"no such family is no error", "web", dns.TypeAAAA, "NOERROR[]"},
		{"another kind of a known name is no error", "web", dns.TypeMX, "NOERROR[]"},
		{"each family its own", "both", dns.TypeA, "NOERROR[172.18.0.3]"},
		{"each family its own (IPv6)", "both", dns.TypeAAAA, "NOERROR[fd00::3]"},
		{"all addresses of a shared name", "all", dns.TypeA, "NOERROR[172.18.0.2 172.18.0.3 172.18.0.4]"},
		{"address to name", "3.0.18.172.in-addr.arpa", dns.TypePTR, "NOERROR[both.net.]"},
		{"a single label with ndots set stays here", "nobody", dns.TypeA, "NOERROR[]"},
		{"without any server the rest fails", "example.org", dns.TypeA, "SERVFAIL[]"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			if got := summary(query(t, path, network, test.name, test.kind)); test.rule != "all addresses of a shared name" && got != test.want || len(got) != len(test.want) {
				t.Errorf("%s (%s): %s, want %s", test.rule, network, got, test.want)
			}
		}
	}
	if m := query(t, path, "udp", "big", dns.TypeA); !m.Truncated || len(m.Answer) == 0 {
		t.Errorf("a long answer by UDP: truncated %v, %d records", m.Truncated, len(m.Answer))
	}
	if m := query(t, path, "tcp", "big", dns.TypeA); m.Truncated || len(m.Answer) != 60 {
		t.Errorf("a long answer by TCP: truncated %v, %d records", m.Truncated, len(m.Answer))
	}
	firsts := map[string]bool{}
	for range 200 {
		firsts[query(t, path, "udp", "all", dns.TypeA).Answer[0].String()] = true
	}
	if len(firsts) != 3 {
		t.Errorf("the first of three addresses was always one of %v", firsts)
	}
}

// upstream is a name server in a namespace, or the host's, that answers with its
// own tag.
func upstream(t *testing.T, path, address, tag string, code int) {
	t.Helper()
	var p net.PacketConn
	var l net.Listener
	in := inNamespace
	if path == "" {
		in = func(_ string, do func() error) error { return do() }
	}
	err := in(path, func() (err error) {
		if p, err = net.ListenPacket("udp4", address+":53"); err != nil {
			return err
		}
		l, err = net.Listen("tcp4", address+":53")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetRcode(q, code)
		if code == dns.RcodeSuccess {
			m.Answer = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{tag}}}
		}
		_ = w.WriteMsg(m)
	})
	for _, s := range []*dns.Server{{PacketConn: p, Handler: handler}, {Listener: l, Handler: handler}} {
		go func() { _ = s.ActivateAndServe() }()
		t.Cleanup(func() { _ = s.Shutdown() })
	}
}

func TestTheRestIsForwarded(t *testing.T) {
	path, host := namespace(t), ""
	loopback := netip.MustParseAddr("127.0.0.1")
	refusing, good := netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")
	upstream(t, host, "127.0.0.1", "host", dns.RcodeSuccess)
	upstream(t, path, "127.0.0.2", "", dns.RcodeRefused)
	upstream(t, path, "127.0.0.3", "inside", dns.RcodeSuccess)
	stop := start(t, known, []netip.Addr{loopback}, Client{Container: "c", Namespace: path})
	for _, network := range []string{"udp", "tcp"} {
		if got := summary(query(t, path, network, "example.org", dns.TypeTXT)); got != `NOERROR["host"]` {
			t.Errorf("%s, the host's loopback server: %s", network, got)
		}
	}
	stop()
	stop = start(t, known, []netip.Addr{loopback}, Client{Container: "c", Namespace: path, Servers: []netip.Addr{refusing, good}})
	for _, network := range []string{"udp", "tcp"} {
		if got := summary(query(t, path, network, "example.org", dns.TypeTXT)); got != `NOERROR["inside"]` {
			t.Errorf("%s, the container's own servers, the first refuses: %s", network, got)
		}
	}
	stop()
	closed := known
	closed.closed = true
	start(t, closed, []netip.Addr{loopback}, Client{Container: "c", Namespace: path})
	if got := summary(query(t, path, "udp", "example.org", dns.TypeTXT)); got != "SERVFAIL[]" {
		t.Errorf("on an internal network: %s", got)
	}
}

func TestTheNextProcessTakesThePlace(t *testing.T) {
	path := namespace(t)
	client := Client{Container: "c", Namespace: path}
	stop := start(t, known, nil, client)
	query(t, path, "udp", "web", dns.TypeA)
	stop()
	// Nobody answers now, but nobody refuses either: the answer comes once
	// there is somebody.
	var c net.Conn
	err := inNamespace(path, func() (err error) {
		c, err = net.Dial("udp4", "127.0.0.11:53")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stream := &dns.Conn{Conn: c}
	question := new(dns.Msg).SetQuestion("web.", dns.TypeA)
	if err := stream.WriteMsg(question); err != nil {
		t.Fatal(err)
	}
	start(t, known, nil, client)
	if err := stream.WriteMsg(question); err != nil {
		t.Fatalf("asked again: %v", err)
	}
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	if answer, err := stream.ReadMsg(); err != nil || summary(answer) != "NOERROR[172.18.0.2]" {
		t.Errorf("%v, %v", answer, err)
	}
}

func TestPort53StaysFreeForTheContainer(t *testing.T) {
	path := namespace(t)
	start(t, known, nil, Client{Container: "c", Namespace: path})
	upstream(t, path, "0.0.0.0", "mine", dns.RcodeSuccess)
	if got := summary(query(t, path, "udp", "web", dns.TypeA)); got != "NOERROR[172.18.0.2]" {
		t.Errorf("127.0.0.11, beside a name server of the container's own: %s", got)
	}
	var answer *dns.Msg
	err := inNamespace(path, func() error {
		c, err := net.Dial("udp4", "127.0.0.1:53")
		if err != nil {
			return err
		}
		defer c.Close()
		answer, _, err = (&dns.Client{Timeout: 30 * time.Second}).ExchangeWithConn(new(dns.Msg).SetQuestion("web.", dns.TypeTXT), &dns.Conn{Conn: c})
		return err
	})
	if err != nil || summary(answer) != `NOERROR["mine"]` {
		t.Errorf("the container's own: %v, %v", answer, err)
	}
}

func FuzzReverse(f *testing.F) {
	for _, a := range []string{"172.18.0.3", "fd00::1:2"} {
		name, _ := dns.ReverseAddr(a)
		f.Add(name)
	}
	f.Add("x.in-addr.arpa.")
	f.Fuzz(func(t *testing.T, name string) {
		a, ok := reverse(name)
		if !ok {
			return
		}
		again, err := dns.ReverseAddr(a.String())
		if b, ok := reverse(again); err != nil || !ok || b != a && !a.Is4In6() {
			t.Errorf("%s is %s, which is %s: %v", name, a, again, err)
		}
	})
}
