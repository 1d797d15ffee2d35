package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"gantry/internal/testenv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

func TestMain(m *testing.M) { os.Exit(testenv.Isolate(m)) }

const (
	table  = "gantry-test-services"
	node   = "n1"
	bridge = "pods0"
)

var (
	podSubnet     = netip.MustParsePrefix("10.42.0.0/24")
	gateway       = netip.MustParseAddr("10.42.0.1")
	serviceSubnet = netip.MustParsePrefix("10.43.0.0/16")
)

// bed is a node with a running Proxy, fed by a fake API.
type bed struct {
	t      testing.TB
	client *fake.Clientset
	proxy  *Proxy
	stop   func()
}

func newBed(t testing.TB) *bed {
	t.Helper()
	testenv.NewBridge(t, bridge, netip.PrefixFrom(gateway, podSubnet.Bits()))
	b := &bed{t: t, client: fake.NewClientset()}
	t.Cleanup(func() {
		b.crash()
		if err := Purge(context.Background(), table, serviceSubnet, bridge); err != nil {
			t.Error(err)
		}
	})
	b.start()
	return b
}

func (b *bed) start() {
	b.t.Helper()
	factory := informers.NewSharedInformerFactory(b.client, 0)
	p, err := New(Config{Informers: factory, Table: table, NodeName: node, ServiceSubnet: serviceSubnet, PodSubnet: podSubnet, PodLink: bridge})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	select {
	case <-p.Ready():
	case err := <-done:
		b.t.Fatalf("Run: %v", err)
	}
	b.proxy = p
	b.stop = func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("Run: %v", err)
		}
		factory.Shutdown()
	}
}

// crash ends the Proxy; the rules stay.
func (b *bed) crash() {
	if b.stop != nil {
		b.stop()
		b.stop = nil
	}
}

func (b *bed) service(s *corev1.Service) {
	b.t.Helper()
	if _, err := b.client.CoreV1().Services(s.Namespace).Create(b.t.Context(), s, metav1.CreateOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

// endpoints makes the Service's one slice hold these.
func (b *bed) endpoints(service string, port corev1.ServicePort, eps ...discoveryv1.Endpoint) {
	b.t.Helper()
	slice := sliceOf(service, port, eps...)
	api := b.client.DiscoveryV1().EndpointSlices("default")
	_, err := api.Update(b.t.Context(), slice, metav1.UpdateOptions{})
	if err != nil {
		_, err = api.Create(b.t.Context(), slice, metav1.CreateOptions{})
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

func sliceOf(service string, port corev1.ServicePort, eps ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	number := port.TargetPort.IntVal
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &port.Name, Protocol: &port.Protocol, Port: &number}},
		Endpoints:   eps,
	}
}

func ready(a netip.Addr) discoveryv1.Endpoint {
	yes, n := true, node
	return discoveryv1.Endpoint{Addresses: []string{a.String()}, NodeName: &n, Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes}}
}

func (b *bed) pod(last byte) *testenv.Machine {
	b.t.Helper()
	return testenv.NewMachine(b.t, bridge, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 42, 0, last}), 24), gateway)
}

// echo serves TCP and UDP on port 8080 of m: each line is answered with the
// name, and the client's address as it is seen.
func echo(t testing.TB, m *testenv.Machine, name string) {
	t.Helper()
	var tcp net.Listener
	var udp net.PacketConn
	err := m.Do(func() (err error) {
		if tcp, err = net.Listen("tcp4", ":8080"); err == nil {
			udp, err = net.ListenPacket("udp4", ":8080")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tcp.Close(); _ = udp.Close() })
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				lines := bufio.NewScanner(c)
				for lines.Scan() {
					host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
					fmt.Fprintf(c, "%s %s\n", name, host)
				}
			}()
		}
	}()
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo([]byte(name+"\n"), from)
		}
	}()
}

// dial connects from m.
func dial(m *testenv.Machine, network, address string) (c net.Conn, err error) {
	err = m.Do(func() error {
		c, err = (&net.Dialer{Timeout: 2 * time.Second}).Dial(network, address)
		return err
	})
	return c, err
}

// ask sends a line on c and returns the answer's fields.
func ask(c net.Conn) ([]string, error) {
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := io.WriteString(c, "x\n"); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.Fields(line), err
}

// once asks on a connection of its own.
func once(m *testenv.Machine, network, address string) (name, seen string, err error) {
	c, err := dial(m, network, address)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	f, err := ask(c)
	if err != nil {
		return "", "", err
	}
	return f[0], f[len(f)-1], nil
}

// eventually tries check until it succeeds: informers and the proxy take a moment.
func eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		<-tick.C
	}
}

func port(name string, protocol corev1.Protocol, nodePort int32) corev1.ServicePort {
	p := corev1.ServicePort{Name: name, Protocol: protocol, Port: 80, NodePort: nodePort}
	p.TargetPort.IntVal = 8080
	return p
}

func serviceOf(name, ip string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}, Ports: ports}}
}

func TestServiceIsBalancedForPodsAndTheNode(t *testing.T) {
	b := newBed(t)
	web := port("http", corev1.ProtocolTCP, 30080)
	client, one, two := b.pod(2), b.pod(3), b.pod(4)
	echo(t, one, "one")
	echo(t, two, "two")
	b.service(serviceOf("web", "10.43.0.7", web))
	b.endpoints("web", web, ready(one.Address), ready(two.Address))
	for _, from := range []struct {
		name    string
		machine *testenv.Machine
		address string
		seen    string
	}{
		{"pod by ClusterIP keeps its address", client, "10.43.0.7:80", "10.42.0.2"},
		{"node by ClusterIP", nil, "10.43.0.7:80", "10.42.0.1"},
		{"node by node port on 127.0.0.1", nil, "127.0.0.1:30080", "10.42.0.1"},
		{"node by node port on its address", nil, "10.42.0.1:30080", "10.42.0.1"},
		{"pod by node port", client, "10.42.0.1:30080", "10.42.0.2"},
	} {
		eventually(t, from.name, func() error {
			_, _, err := once(from.machine, "tcp4", from.address)
			return err
		})
		count := map[string]int{}
		for range 40 {
			name, seen, err := once(from.machine, "tcp4", from.address)
			if err != nil || seen != from.seen {
				t.Errorf("%s: answer by %q, which saw %s, %v; want it to see %s", from.name, name, seen, err, from.seen)
				break
			}
			count[name]++
		}
		if count["one"] < 8 || count["two"] < 8 {
			t.Errorf("%s: not balanced: %v of 40", from.name, count)
		}
	}
	// Hairpin: an endpoint that gets itself must not see its own address, as it
	// would then answer past the translation.
	for range 10 {
		if _, _, err := once(one, "tcp4", "10.43.0.7:80"); err != nil {
			t.Errorf("endpoint by its own Service: %v", err)
		}
	}
}

func TestWithoutEndpointsConnectionsAreRefused(t *testing.T) {
	b := newBed(t)
	web := port("http", corev1.ProtocolTCP, 30080)
	client := b.pod(2)
	b.service(serviceOf("web", "10.43.0.7", web))
	b.endpoints("web", web)
	for _, address := range []string{"10.43.0.7:80", "10.43.99.99:80", "10.42.0.1:30080"} {
		for name, m := range map[string]*testenv.Machine{"pod": client, "node": nil} {
			eventually(t, name+" to "+address, func() error {
				begin := time.Now()
				_, err := dial(m, "tcp4", address)
				if err == nil || !strings.Contains(err.Error(), "refused") || time.Since(begin) > time.Second {
					return fmt.Errorf("got %v after %s, want a quick refusal", err, time.Since(begin))
				}
				return nil
			})
		}
	}
}

func TestEndpointsComeAndGo(t *testing.T) {
	b := newBed(t)
	web, dns := port("http", corev1.ProtocolTCP, 0), port("dns", corev1.ProtocolUDP, 0)
	client, one, two := b.pod(2), b.pod(3), b.pod(4)
	echo(t, one, "one")
	echo(t, two, "two")
	b.service(serviceOf("web", "10.43.0.7", web))
	b.service(serviceOf("dns", "10.43.0.8", dns))
	b.endpoints("web", web, ready(one.Address))

	// A client that sends before there is an endpoint, and goes on with the
	// same socket.
	c, err := dial(client, "udp4", "10.43.0.8:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = ask(c)
	b.endpoints("dns", dns, ready(one.Address))
	expect := func(name string) {
		t.Helper()
		eventually(t, "UDP client with one socket", func() error {
			f, err := ask(c)
			if err != nil || f[0] != name {
				return fmt.Errorf("answered by %v, %v; want %s", f, err, name)
			}
			return nil
		})
	}
	expect("one")
	b.endpoints("dns", dns, ready(two.Address))
	expect("two")

	eventually(t, "TCP", func() error { _, _, err := once(client, "tcp4", "10.43.0.7:80"); return err })
	kept, err := dial(client, "tcp4", "10.43.0.7:80")
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	b.endpoints("web", web, ready(two.Address))
	eventually(t, "new connections go to the new endpoint", func() error {
		name, _, err := once(client, "tcp4", "10.43.0.7:80")
		if err != nil || name != "two" {
			return fmt.Errorf("answered by %s, %v", name, err)
		}
		return nil
	})
	if f, err := ask(kept); err != nil || f[0] != "one" {
		t.Errorf("the established connection answers %v, %v; want one", f, err)
	}
}

func TestClientIPAffinity(t *testing.T) {
	b := newBed(t)
	web := port("http", corev1.ProtocolTCP, 0)
	clients := []*testenv.Machine{b.pod(2), b.pod(5), b.pod(6), b.pod(7)}
	one, two := b.pod(3), b.pod(4)
	echo(t, one, "one")
	echo(t, two, "two")
	s := serviceOf("web", "10.43.0.7", web)
	s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	b.service(s)
	b.endpoints("web", web, ready(one.Address), ready(two.Address))
	for _, client := range clients {
		var first string
		eventually(t, "first connection", func() (err error) { first, _, err = once(client, "tcp4", "10.43.0.7:80"); return err })
		for range 10 {
			if name, _, err := once(client, "tcp4", "10.43.0.7:80"); err != nil || name != first {
				t.Errorf("client %s: %s, %v after %s", client.Address, name, err, first)
			}
		}
	}
}

func TestRestartLosesNothing(t *testing.T) {
	b := newBed(t)
	web := port("http", corev1.ProtocolTCP, 0)
	client, one := b.pod(2), b.pod(3)
	echo(t, one, "one")
	b.service(serviceOf("web", "10.43.0.7", web))
	b.endpoints("web", web, ready(one.Address))
	eventually(t, "before", func() error { _, _, err := once(client, "tcp4", "10.43.0.7:80"); return err })

	asked, stop, lost := 0, make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(lost)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, _, err := once(client, "tcp4", "10.43.0.7:80"); err != nil {
				lost <- err
				return
			}
			asked++
		}
	}()
	for range 3 {
		b.crash()
		b.start()
	}
	close(stop)
	if err := <-lost; err != nil {
		t.Errorf("after %d answers: %v", asked, err)
	}
	if asked == 0 {
		t.Error("nothing was asked meanwhile")
	}
}

func TestRulesHealAfterAFlush(t *testing.T) {
	command := testenv.NeedCommand(t, "nft")
	b := newBed(t)
	web := port("http", corev1.ProtocolTCP, 0)
	client, one := b.pod(2), b.pod(3)
	echo(t, one, "one")
	b.service(serviceOf("web", "10.43.0.7", web))
	b.endpoints("web", web, ready(one.Address))
	eventually(t, "before", func() error { _, _, err := once(client, "tcp4", "10.43.0.7:80"); return err })
	begin := time.Now()
	if out, err := exec.Command(command, "flush", "ruleset").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	eventually(t, "after", func() error { _, _, err := once(client, "tcp4", "10.43.0.7:80"); return err })
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("healed after %s", took)
	}
}

// BenchmarkEndpointToRule measures from the slice's change until a connection
// reaches the new endpoint.
func BenchmarkEndpointToRule(b *testing.B) {
	bd := newBed(b)
	web := port("http", corev1.ProtocolTCP, 0)
	machines := []*testenv.Machine{bd.pod(3), bd.pod(4)}
	names := []string{"one", "two"}
	for i, m := range machines {
		echo(b, m, names[i])
	}
	bd.service(serviceOf("web", "10.43.0.7", web))
	for i := 0; b.Loop(); i++ {
		bd.endpoints("web", web, ready(machines[i%2].Address))
		for got := ""; got != names[i%2]; {
			got, _, _ = once(nil, "tcp4", "10.43.0.7:80")
		}
	}
}
