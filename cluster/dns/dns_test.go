package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

const zone = "cluster.local."

func meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "default", Name: name}
}

func ptr[T any](v T) *T { return &v }

// scene is a namespace with one Service of each kind.
func scene() []runtime.Object {
	headless := &discoveryv1.EndpointSlice{ObjectMeta: meta("db-1"), AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: ptr("sql"), Port: ptr(int32(5432)), Protocol: ptr(corev1.ProtocolTCP)}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.42.0.5"}, Hostname: ptr("db-0")},
			{Addresses: []string{"10.42.0.6"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr(true)}},
			{Addresses: []string{"10.42.0.7"}, Hostname: ptr("db-2"), Conditions: discoveryv1.EndpointConditions{Ready: ptr(false)}},
		}}
	headless.Labels = map[string]string{discoveryv1.LabelServiceName: "db"}
	return []runtime.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}},
		&corev1.Service{ObjectMeta: meta("web"), Spec: corev1.ServiceSpec{ClusterIP: "10.43.0.7", ClusterIPs: []string{"10.43.0.7"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "stats", Port: 81, Protocol: corev1.ProtocolUDP}}}},
		&corev1.Service{ObjectMeta: meta("db"), Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{{Name: "sql", Port: 5432}}}},
		headless,
		&corev1.Service{ObjectMeta: meta("none"), Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}},
		&corev1.Service{ObjectMeta: meta("out"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.org"}},
		&corev1.Service{ObjectMeta: meta("alias"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "web.default.svc.cluster.local"}},
	}
}

// newServer is a Server whose informers are filled.
func newServer(t testing.TB, resolvConf string, objects ...runtime.Object) *Server {
	t.Helper()
	factory := informers.NewSharedInformerFactory(fake.NewClientset(objects...), 0)
	s, err := New(Config{Informers: factory, Listen: netip.MustParseAddrPort("127.0.0.1:5353"), ResolvConf: resolvConf})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	return s
}

func text(records []dns.RR) []string {
	var list []string
	for _, r := range records {
		list = append(list, strings.ReplaceAll(r.String(), "\t", " "))
	}
	slices.Sort(list)
	return list
}

func TestResolve(t *testing.T) {
	s := newServer(t, "", scene()...)
	const web, db = "web.default.svc.cluster.local.", "db.default.svc.cluster.local."
	for _, test := range []struct {
		rule  string
		name  string
		kind  uint16
		rcode int
		want  []string
		extra []string
	}{
		{"ClusterIP Service has an A record (2.3.1)", web, dns.TypeA, 0, []string{web + " 5 IN A 10.43.0.7"}, nil},
		{"AAAA of an IPv4 Service is no data", web, dns.TypeAAAA, 0, nil, nil},
		{"unknown Service does not exist", "nope.default.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, nil, nil},
		{"unknown namespace does not exist", "web.other.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, nil, nil},
		{"namespace is a name without data", "default.svc.cluster.local.", dns.TypeA, 0, nil, nil},
		{"missing namespace does not exist", "other.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, nil, nil},
		{"name searched by ndots does not exist", "example.org.default.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, nil, nil},
		{"name searched in the zone does not exist", "example.org.cluster.local.", dns.TypeA, dns.RcodeNameError, nil, nil},
		{"SRV of a named port (2.3.2)", "_http._tcp." + web, dns.TypeSRV, 0,
			[]string{"_http._tcp." + web + " 5 IN SRV 0 100 80 " + web}, []string{web + " 5 IN A 10.43.0.7"}},
		{"SRV asks for the protocol too", "_http._udp." + web, dns.TypeSRV, dns.RcodeNameError, nil, nil},
		{"SRV name has no A", "_stats._udp." + web, dns.TypeA, 0, nil, nil},
		{"protocol is a name without data", "_tcp." + web, dns.TypeSRV, 0, nil, nil},
		{"host below a ClusterIP Service does not exist", "x." + web, dns.TypeA, dns.RcodeNameError, nil, nil},
		{"headless Service has its ready endpoints (2.4.1)", db, dns.TypeA, 0, []string{db + " 5 IN A 10.42.0.5", db + " 5 IN A 10.42.0.6"}, nil},
		{"endpoint by its hostname", "db-0." + db, dns.TypeA, 0, []string{"db-0." + db + " 5 IN A 10.42.0.5"}, nil},
		{"endpoint by its address", "10-42-0-6." + db, dns.TypeA, 0, []string{"10-42-0-6." + db + " 5 IN A 10.42.0.6"}, nil},
		{"endpoint that is not ready does not exist", "db-2." + db, dns.TypeA, dns.RcodeNameError, nil, nil},
		{"endpoint has no AAAA", "db-0." + db, dns.TypeAAAA, 0, nil, nil},
		{"SRV of a headless Service (2.4.2)", "_sql._tcp." + db, dns.TypeSRV, 0,
			[]string{"_sql._tcp." + db + " 5 IN SRV 0 50 5432 10-42-0-6." + db, "_sql._tcp." + db + " 5 IN SRV 0 50 5432 db-0." + db},
			[]string{"10-42-0-6." + db + " 5 IN A 10.42.0.6", "db-0." + db + " 5 IN A 10.42.0.5"}},
		{"headless Service without endpoints is no data", "none.default.svc.cluster.local.", dns.TypeA, 0, nil, nil},
		{"ExternalName is a CNAME (2.5)", "out.default.svc.cluster.local.", dns.TypeCNAME, 0, []string{"out.default.svc.cluster.local. 5 IN CNAME example.org."}, nil},
		{"nothing is below an ExternalName", "x.out.default.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, nil, nil},
		{"reverse of a ClusterIP", "7.0.43.10.in-addr.arpa.", dns.TypePTR, 0, []string{"7.0.43.10.in-addr.arpa. 5 IN PTR " + web}, nil},
		{"reverse of a headless endpoint", "5.0.42.10.in-addr.arpa.", dns.TypePTR, 0, []string{"5.0.42.10.in-addr.arpa. 5 IN PTR db-0." + db}, nil},
		{"pod by its address", "10-42-0-9.default.pod.cluster.local.", dns.TypeA, 0, []string{"10-42-0-9.default.pod.cluster.local. 5 IN A 10.42.0.9"}, nil},
		{"pod name that is no address", "web.default.pod.cluster.local.", dns.TypeA, dns.RcodeNameError, nil, nil},
		{"pod in a missing namespace", "10-42-0-9.other.pod.cluster.local.", dns.TypeA, dns.RcodeNameError, nil, nil},
		{"version of the specification (2.2)", "dns-version.cluster.local.", dns.TypeTXT, 0, []string{`dns-version.cluster.local. 5 IN TXT "1.1.0"`}, nil},
		{"zone has an SOA", zone, dns.TypeSOA, 0, []string{soa(zone).(*dns.SOA).Hdr.Name + " 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"}, nil},
	} {
		got := resolve(s.objects, zone, test.name, test.kind)
		if got.rcode != test.rcode || got.foreign {
			t.Errorf("%s: %s %s: rcode %s, foreign %v", test.rule, test.name, dns.TypeToString[test.kind], dns.RcodeToString[got.rcode], got.foreign)
		}
		if d := cmp.Diff(test.want, text(got.records)); d != "" {
			t.Errorf("%s: answer (-want +got):\n%s", test.rule, d)
		}
		if d := cmp.Diff(test.extra, text(got.extra)); d != "" {
			t.Errorf("%s: additional (-want +got):\n%s", test.rule, d)
		}
	}
	for _, name := range []string{"9.9.9.9.in-addr.arpa.", "9.9.in-addr.arpa.", "6.0.42.10.x.in-addr.arpa."} {
		if got := resolve(s.objects, zone, name, dns.TypePTR); !got.foreign {
			t.Errorf("%s is answered %+v, want it forwarded", name, got)
		}
	}
}

// upstream is a resolver of the host's; it counts what it is asked.
func upstream(t *testing.T, answer func(*dns.Msg, bool) *dns.Msg) (resolvConf string, asked *atomic.Int32) {
	t.Helper()
	asked = new(atomic.Int32)
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp4", udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{PacketConn: udp}, {Listener: tcp}} {
		overTCP := s.Listener != nil
		s.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			asked.Add(1)
			if m := answer(q, overTCP); m != nil {
				_ = w.WriteMsg(m)
			}
		})
		go func() { _ = s.ActivateAndServe() }()
	}
	t.Cleanup(func() { _ = udp.Close(); _ = tcp.Close() })
	return udp.LocalAddr().String(), asked
}

// withUpstream points a Server at addresses, which resolv.conf could not, as
// their ports are not 53.
func withUpstream(t *testing.T, s *Server, addresses ...string) {
	s.forward.servers, s.forward.checked = addresses, time.Now().Add(time.Hour)
}

// run serves and returns the address.
func run(t *testing.T, s *Server) string {
	t.Helper()
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp4", udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.serve(ctx, udp, tcp) }()
	<-s.Ready()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return udp.LocalAddr().String()
}

func query(t *testing.T, network, server, name string, kind uint16) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, kind)
	c := &dns.Client{Net: network, Timeout: 10 * time.Second}
	got, _, err := c.Exchange(m, server)
	if err != nil {
		t.Fatalf("%s %s: %v", network, name, err)
	}
	return got
}

func reply(q *dns.Msg, records ...string) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil {
			panic(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	return m
}

func TestServesByUDPAndTCP(t *testing.T) {
	s := newServer(t, "", scene()...)
	server := run(t, s)
	for _, network := range []string{"udp", "tcp"} {
		m := query(t, network, server, "WEB.default.svc.cluster.LOCAL.", dns.TypeA)
		if !m.Authoritative || len(m.Answer) != 1 || m.Answer[0].Header().Name != "WEB.default.svc.cluster.LOCAL." {
			t.Errorf("%s: %s", network, m)
		}
		m = query(t, network, server, "nope.default.svc.cluster.local.", dns.TypeA)
		if m.Rcode != dns.RcodeNameError || len(m.Ns) != 1 || m.Ns[0].Header().Rrtype != dns.TypeSOA {
			t.Errorf("%s: NXDOMAIN needs the SOA (RFC 2308): %s", network, m)
		}
	}
}

func TestLargeAnswerIsTruncatedForUDP(t *testing.T) {
	objects := scene()
	slice := &discoveryv1.EndpointSlice{ObjectMeta: meta("none-1"), AddressType: discoveryv1.AddressTypeIPv4}
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: "none"}
	for i := range 200 {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.42.1.%d", i)}})
	}
	server := run(t, newServer(t, "", append(objects, slice)...))
	const name = "none.default.svc.cluster.local."
	if m := query(t, "udp", server, name, dns.TypeA); !m.Truncated || len(m.Answer) == 0 {
		t.Errorf("by UDP: truncated %v, %d answers", m.Truncated, len(m.Answer))
	}
	if m := query(t, "tcp", server, name, dns.TypeA); m.Truncated || len(m.Answer) != 200 {
		t.Errorf("by TCP: truncated %v, %d answers", m.Truncated, len(m.Answer))
	}
}

func TestForeignNamesAreForwardedAndCached(t *testing.T) {
	address, asked := upstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
		return reply(q, q.Question[0].Name+" 20 IN A 192.0.2.7")
	})
	s := newServer(t, "", scene()...)
	withUpstream(t, s, address)
	server := run(t, s)
	for range 5 {
		m := query(t, "udp", server, "example.org.", dns.TypeA)
		if m.Authoritative || !m.RecursionAvailable || len(m.Answer) != 1 {
			t.Fatalf("forwarded: %s", m)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("upstream was asked %d times, want 1", n)
	}
	m := query(t, "udp", server, "out.default.svc.cluster.local.", dns.TypeA)
	want := []string{"example.org. 20 IN A 192.0.2.7", "out.default.svc.cluster.local. 5 IN CNAME example.org."}
	if d := cmp.Diff(want, text(m.Answer)); d != "" {
		t.Errorf("ExternalName (-want +got):\n%s", d)
	}
	m = query(t, "udp", server, "alias.default.svc.cluster.local.", dns.TypeA)
	want = []string{"alias.default.svc.cluster.local. 5 IN CNAME web.default.svc.cluster.local.", "web.default.svc.cluster.local. 5 IN A 10.43.0.7"}
	if d := cmp.Diff(want, text(m.Answer)); d != "" {
		t.Errorf("ExternalName within the cluster (-want +got):\n%s", d)
	}
}

func TestForwardingFallsBackToTCPAndToTheNextResolver(t *testing.T) {
	broken, _ := upstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
		m := reply(q)
		m.Rcode = dns.RcodeServerFailure
		return m
	})
	truncating, _ := upstream(t, func(q *dns.Msg, overTCP bool) *dns.Msg {
		if overTCP {
			return reply(q, q.Question[0].Name+" 20 IN A 192.0.2.7")
		}
		m := reply(q)
		m.Truncated = true
		return m
	})
	s := newServer(t, "", scene()...)
	withUpstream(t, s, broken, truncating)
	if m := query(t, "udp", run(t, s), "example.org.", dns.TypeA); len(m.Answer) != 1 {
		t.Errorf("answer: %s", m)
	}
}

func TestNoResolverIsAServerFailure(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(empty, []byte("search example.org\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newServer(t, empty, scene()...)
	if m := query(t, "udp", run(t, s), "example.org.", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("rcode %s, want SERVFAIL", dns.RcodeToString[m.Rcode])
	}
}

func TestUnfilledCachesAreAServerFailure(t *testing.T) {
	factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0) // never started
	s, err := New(Config{Informers: factory, Listen: netip.MustParseAddrPort("127.0.0.1:5353")})
	if err != nil {
		t.Fatal(err)
	}
	q := new(dns.Msg)
	q.SetQuestion("web.default.svc.cluster.local.", dns.TypeA)
	if m := s.reply(t.Context(), q); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("rcode %s, want SERVFAIL", dns.RcodeToString[m.Rcode])
	}
}

func TestCachedTimesRunDown(t *testing.T) {
	f := newForwarder("", netip.AddrPort{})
	q := new(dns.Msg)
	q.SetQuestion("example.org.", dns.TypeA)
	now := time.Now()
	key := cacheKey{"example.org.", dns.TypeA}
	f.remember(key, reply(q, "example.org. 20 IN A 192.0.2.7"), now)
	m := f.remembered(key, now.Add(15*time.Second))
	if m == nil || m.Answer[0].Header().Ttl != 5 {
		t.Errorf("after 15 s: %v, want a time of 5", m)
	}
	if m := f.remembered(key, now.Add(20*time.Second)); m != nil {
		t.Errorf("after 20 s: %v, want nothing", m)
	}
}

func FuzzReply(f *testing.F) {
	factory := informers.NewSharedInformerFactory(fake.NewClientset(scene()...), 0)
	s, err := New(Config{Informers: factory, Listen: netip.MustParseAddrPort("127.0.0.1:5353"), ResolvConf: "/dev/null"})
	if err != nil {
		f.Fatal(err)
	}
	stop := make(chan struct{})
	factory.Start(stop)
	factory.WaitForCacheSync(stop)
	f.Cleanup(func() { close(stop); factory.Shutdown() })
	for _, name := range []string{"web.default.svc.cluster.local.", "_sql._tcp.db.default.svc.cluster.local.", "7.0.43.10.in-addr.arpa.", "10-42-0-9.default.pod.cluster.local.", "cluster.local.", "."} {
		for _, kind := range []uint16{dns.TypeA, dns.TypeSRV, dns.TypePTR, dns.TypeANY, dns.TypeAXFR} {
			m := new(dns.Msg)
			m.SetQuestion(name, kind)
			m.SetEdns0(4096, true)
			data, err := m.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		q := new(dns.Msg)
		if q.Unpack(data) != nil {
			return
		}
		m := s.reply(t.Context(), q)
		fit(m, q, true)
		packed, err := m.Pack()
		if err != nil {
			t.Fatalf("answer to %v does not pack: %v", q, err)
		}
		if len(packed) > ednsSize {
			t.Errorf("answer of %d bytes by UDP", len(packed))
		}
	})
}
