package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gantry/internal/instance"
	"gantry/internal/nft"
	"gantry/internal/problem"
	"gantry/internal/testenv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// linkNames lists the interfaces of the test's namespace.
func linkNames(t testing.TB) map[string]bool {
	t.Helper()
	all, err := whole(netlink.LinkList)
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, l := range all {
		names[l.Attrs().Name] = true
	}
	return names
}

// eventually waits for what the kernel does in its own time.
func eventually(t testing.TB, what string, check func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !check() {
		if time.Now().After(deadline) {
			t.Fatalf("not so after 30 s: %s", what)
		}
		<-tick.C
	}
}

func TestRestartKeepsWhatLivesAndRemovesTheRest(t *testing.T) {
	b := newBed(t)
	if _, err := b.Create(t.Context(), CreateRequest{Name: "mine"}); err != nil {
		t.Fatal(err)
	}
	outside, host := b.outsider()
	web, kept, lost := b.container("web", Bridge), b.container("kept", "mine"), b.container("lost", Bridge)
	serve(t, web.Namespace, ":80")
	b.publish(web, PortBinding{ContainerPort: 80, HostPort: 8080})
	before := b.List()

	// lost ends while the daemon is away.
	b.live.Namespaces = []string{"web", "kept", "outside"}
	b.live.Endpoints = []Endpoint{web, kept}
	b.crash()
	wantAnswer(t, "while the daemon is away", outside, host.String()+":8080", "203.0.113.9")
	b.start()
	wantAnswer(t, "after the restart", outside, host.String()+":8080", "203.0.113.9")
	if after := b.List(); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("networks before:\n%+v\nafter:\n%+v", before, after)
	}
	if _, err := os.Stat(lost.Namespace); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("namespace of the lost container: %v", err)
	}
	eventually(t, "the lost container's interface is gone", func() bool { return !linkNames(t)[lost.HostLink] })
	if names := linkNames(t); !names[web.HostLink] || !names[kept.HostLink] {
		t.Errorf("a live container's interface is gone: %v", names)
	}
	next := b.container("next", Bridge)
	if next.Address.Addr() == web.Address.Addr() {
		t.Errorf("address %s is given twice", next.Address)
	}
	if _, err := b.Publish(t.Context(), Publication{Container: "next", Name: "next", Address: next.Address.Addr(),
		Ports: []PortBinding{{ContainerPort: 80, HostPort: 8080}}}); !errors.Is(err, problem.Conflict) {
		t.Errorf("publishing a port that outlived the daemon: %v", err)
	}
}

func TestPurgeLeavesNothing(t *testing.T) {
	before := linkNames(t)
	b := newBed(t)
	if _, err := b.Create(t.Context(), CreateRequest{Name: "mine"}); err != nil {
		t.Fatal(err)
	}
	web := b.container("web", "mine")
	b.publish(web, PortBinding{ContainerPort: 80, HostPort: 8080})
	b.crash()
	h, err := New(b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all interfaces are gone", func() bool { return fmt.Sprint(before) == fmt.Sprint(linkNames(t)) })
	chains, err := nft.BaseChains()
	if err != nil || len(chains) > 0 {
		t.Errorf("chains left: %v, %v", chains, err)
	}
	for _, dir := range []string{b.cfg.Instance.DataDir, b.cfg.Instance.RunDir} {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s holds %v, %v", dir, left, err)
		}
	}
}

func TestRulesHealAfterForeignChanges(t *testing.T) {
	command := testenv.NeedCommand(t, "nft")
	b := newBed(t)
	outside, host := b.outsider()
	web := b.container("web", Bridge)
	serve(t, web.Namespace, ":80")
	b.publish(web, PortBinding{ContainerPort: 80, HostPort: 8080})
	for _, change := range []string{"flush ruleset", "delete table ip gantry", "flush chain ip gantry published-ports"} {
		begin := time.Now()
		if out, err := exec.Command(command, strings.Fields(change)...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", change, err, out)
		}
		eventually(t, "the port answers after "+change, func() bool {
			answer, err := get(t, outside, host.String()+":8080")
			return err == nil && answer == "203.0.113.9"
		})
		t.Logf("%s: the port answers again after %s", change, time.Since(begin)) // 2 s at most where nothing else runs
	}
}

func TestTakenPortsAreNamed(t *testing.T) {
	b := newBed(t)
	one, two := b.container("one", Bridge), b.container("two", Bridge)
	b.publish(one, PortBinding{ContainerPort: 80, HostPort: 8080}, PortBinding{ContainerPort: 53, HostPort: 8053, Protocol: UDP})
	foreign, err := net.Listen("tcp4", "127.0.0.1:9090")
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	self := fmt.Sprintf("process %s (pid %d)", strings.TrimSpace(string(comm)), os.Getpid())
	loopback := netip.MustParseAddr("127.0.0.1")
	for _, test := range []struct {
		name string
		port PortBinding
		want string
	}{
		{"another container's", PortBinding{ContainerPort: 80, HostPort: 8080}, `Bind for 0.0.0.0:8080 failed: port is already allocated by container "one"`},
		{"another container's, on one address", PortBinding{ContainerPort: 80, HostPort: 8080, HostIP: loopback}, `Bind for 127.0.0.1:8080 failed: port is already allocated by container "one"`},
		{"a foreign listener's", PortBinding{ContainerPort: 80, HostPort: 9090}, "Bind for 0.0.0.0:9090 failed: port is already allocated by " + self},
		{"another protocol's is free", PortBinding{ContainerPort: 80, HostPort: 8080, Protocol: UDP}, ""},
		{"a range takes the first that is free", PortBinding{ContainerPort: 80, HostPort: 8080, HostPortEnd: 8082}, ""},
		{"a range that is full", PortBinding{ContainerPort: 80, HostPort: 8080, HostPortEnd: 8080}, `Bind for 0.0.0.0:8080 failed: port is already allocated by container "one"`},
		{"an IPv6 address", PortBinding{ContainerPort: 80, HostPort: 8080, HostIP: netip.IPv6Loopback()}, "cannot publish on [::1]: the container has no IPv6 address"},
		{"a protocol that is none", PortBinding{ContainerPort: 80, Protocol: "icmp"}, "invalid proto: icmp"},
	} {
		got, err := b.Publish(t.Context(), Publication{Container: "two", Name: "two", Address: two.Address.Addr(), Ports: []PortBinding{test.port}})
		if text := fmt.Sprint(err); test.want == "" && err != nil || test.want != "" && text != test.want {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
		if err == nil && test.port.HostPortEnd != 0 && got[0].HostPort != 8081 {
			t.Errorf("%s: got %+v", test.name, got)
		}
		if err := b.Unpublish(t.Context(), "two"); err != nil {
			t.Fatal(err)
		}
	}
	// While it is published, nobody else gets it; afterwards they do.
	if l, err := net.Listen("tcp4", ":8080"); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("listening on a published port: %v, %v", l, err)
	}
	if err := b.Unpublish(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", ":8080")
	if err != nil {
		t.Errorf("listening on a port that was published: %v", err)
	} else {
		_ = l.Close()
	}
}

func TestPublishedUDPIsTranslatedBothWays(t *testing.T) {
	b := newBed(t)
	outside, host := b.outsider()
	dns := b.container("dns", Bridge)
	client, err := dialUDP(t, outside, host.String()+":8053")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_ = echoOnce(client) // before anybody is there: the kernel remembers the way
	serveUDP(t, dns.Namespace, ":53")
	b.publish(dns, PortBinding{ContainerPort: 53, HostPort: 8053, Protocol: UDP})
	eventually(t, "the same socket reaches the container", func() bool { return echoOnce(client) == nil })
}

func dialUDP(t *testing.T, path, address string) (c net.Conn, err error) {
	err = inside(t, path, func() error {
		c, err = net.Dial("udp4", address)
		return err
	})
	return c, err
}

func echoOnce(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 8))
	return err
}

func serveUDP(t *testing.T, path, address string) {
	t.Helper()
	var c net.PacketConn
	err := inside(t, path, func() (err error) {
		c, err = net.ListenPacket("udp4", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(buf[:n], from)
		}
	}()
}

func TestNamespaceOfARestartedContainerIsNew(t *testing.T) {
	b := newBed(t)
	first := b.container("web", Bridge)
	if err := b.Detach(t.Context(), first, LeaveLink); err != nil {
		t.Fatal(err)
	}
	if err := b.RemoveNamespace(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	second := b.container("web", Bridge)
	if second.Address == first.Address {
		t.Errorf("address %s is used again at once", second.Address)
	}
	eventually(t, "the first interface is gone", func() bool { return !linkNames(t)[first.HostLink] })
	if !linkNames(t)[second.HostLink] {
		t.Error("the second interface is gone")
	}
	if _, err := b.NewNamespace(t.Context(), "web"); !errors.Is(err, problem.Exists) {
		t.Errorf("a namespace that exists: %v", err)
	}
	_, err := b.NewNamespace(t.Context(), "../web")
	if !errors.Is(err, problem.Invalid) {
		t.Errorf("a name with a slash: %v", err)
	}
}

func TestAttachIsUndoneOnError(t *testing.T) {
	b := newBed(t)
	one := b.container("one", Bridge)
	before := fmt.Sprint(b.Endpoints(one.Network), linkNames(t))
	_, err := b.Attach(t.Context(), AttachRequest{Namespace: one.Namespace, Container: "one", Network: Bridge, Interface: "eth0"})
	if err == nil {
		t.Error("a second eth0 was attached")
	}
	_, err = b.Attach(t.Context(), AttachRequest{Namespace: one.Namespace, Container: "two", Network: Bridge, Address: one.Address.Addr()})
	if !errors.Is(err, problem.Conflict) {
		t.Errorf("an address in use: %v", err)
	}
	_, err = b.Attach(t.Context(), AttachRequest{Namespace: "/nowhere", Container: "three", Network: Bridge})
	if err == nil {
		t.Error("a missing namespace was attached to")
	}
	if after := fmt.Sprint(b.Endpoints(one.Network), linkNames(t)); after != before {
		t.Errorf("before %s\nafter %s", before, after)
	}
	second, err := b.Attach(t.Context(), AttachRequest{Namespace: one.Namespace, Container: "one", Network: Bridge, MAC: "02:00:00:00:00:07", Secondary: true})
	if err != nil || second.Interface != "eth1" || second.MAC != "02:00:00:00:00:07" {
		t.Errorf("a second interface: %+v, %v", second, err)
	}
	if err := b.Detach(t.Context(), second, RemoveLink); err != nil {
		t.Error(err)
	}
	if after := fmt.Sprint(b.Endpoints(one.Network), linkNames(t)); after != before {
		t.Errorf("before %s\nafter detaching %s", before, after)
	}
}

func TestUserNetworks(t *testing.T) {
	b := newBed(t)
	subnet := netip.MustParsePrefix("10.9.0.0/24")
	n, err := b.Create(t.Context(), CreateRequest{Name: "mine", Subnet: subnet, Options: map[string]string{optionMTU: "1400"}})
	if err != nil || n.Gateway.String() != "10.9.0.1" {
		t.Fatalf("%+v, %v", n, err)
	}
	for _, test := range []struct {
		name string
		req  CreateRequest
		want problem.Kind
	}{
		{"name in use", CreateRequest{Name: "mine"}, problem.Exists},
		{"predefined name", CreateRequest{Name: Bridge}, problem.Exists},
		{"bad name", CreateRequest{Name: "a b"}, problem.Invalid},
		{"overlap with another network", CreateRequest{Name: "x", Subnet: netip.MustParsePrefix("10.9.0.0/16")}, problem.Denied},
		{"overlap with the Services", CreateRequest{Name: "x", Subnet: netip.MustParsePrefix("10.43.7.0/24")}, problem.Denied},
		{"host bits", CreateRequest{Name: "x", Subnet: netip.MustParsePrefix("10.8.0.1/24")}, problem.Invalid},
		{"gateway elsewhere", CreateRequest{Name: "x", Subnet: netip.MustParsePrefix("10.8.0.0/24"), Gateway: netip.MustParseAddr("10.7.0.1")}, problem.Invalid},
		{"range elsewhere", CreateRequest{Name: "x", Subnet: netip.MustParsePrefix("10.8.0.0/24"), Range: netip.MustParsePrefix("10.7.0.0/25")}, problem.Invalid},
		{"IPv6 gateway elsewhere", CreateRequest{Name: "x", IPv6: &Stack{Subnet: netip.MustParsePrefix("fd00::/64"), Gateway: netip.MustParseAddr("fd01::1")}}, problem.Invalid},
		{"auxiliary address elsewhere", CreateRequest{Name: "x", Subnet: netip.MustParsePrefix("10.8.0.0/24"), Reserved: map[string]netip.Addr{"a": netip.MustParseAddr("10.7.0.1")}}, problem.Invalid},
		{"driver", CreateRequest{Name: "x", Driver: "overlay"}, problem.Unsupported},
		{"macvlan without a parent", CreateRequest{Name: "x", Driver: "macvlan"}, problem.Unsupported},
		{"macvlan on what is not there", CreateRequest{Name: "x", Driver: "macvlan", Options: map[string]string{"parent": "nothing0"}}, problem.Invalid},
		{"option", CreateRequest{Name: "x", Options: map[string]string{"com.docker.network.bridge.inhibit_ipv4": "true"}}, problem.Unsupported},
		{"bridge of the host's", CreateRequest{Name: "x", Options: map[string]string{optionName: "lo"}}, problem.Conflict},
	} {
		if _, err := b.Create(t.Context(), test.req); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %s", test.name, err, test.want)
		}
	}
	one := b.container("one", n.ID[:12])
	if one.Address.String() != "10.9.0.2/24" {
		t.Errorf("endpoint %+v", one)
	}
	if err := b.Remove(t.Context(), "mine"); !errors.Is(err, problem.Denied) {
		t.Errorf("removing a network in use: %v", err)
	}
	if err := b.Remove(t.Context(), Bridge); !errors.Is(err, problem.Denied) {
		t.Errorf("removing a predefined network: %v", err)
	}
	if err := b.Detach(t.Context(), one, LeaveLink); err != nil {
		t.Fatal(err)
	}
	if err := b.Remove(t.Context(), "mine"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Inspect("mine"); !errors.Is(err, problem.NotFound) {
		t.Errorf("inspecting a removed network: %v", err)
	}
	if linkNames(t)[n.Link] {
		t.Error("its bridge is left")
	}
}

func TestSubnetsThatTheHostRoutesAreSkipped(t *testing.T) {
	testenv.NewBridge(t, "corp0", netip.MustParsePrefix("172.17.5.1/24"))
	testenv.NewBridge(t, "corp1", netip.MustParsePrefix("10.42.0.77/16"))
	b := newBed(t)
	bridge, _ := b.Inspect(Bridge)
	pods, _ := b.Inspect(Pods)
	if bridge.Subnet.String() != "172.18.0.0/16" {
		t.Errorf("bridge has %s", bridge.Subnet)
	}
	if pods.Subnet.Overlaps(netip.MustParsePrefix("10.42.0.0/16")) {
		t.Errorf("pods have %s", pods.Subnet)
	}
	findings, err := b.Diagnose(t.Context())
	if err != nil || len(findings) > 0 {
		t.Errorf("findings %v, %v", findings, err)
	}
	// A route that comes later is reported, and moves the network at a restart
	// unless somebody lives there.
	testenv.NewBridge(t, "corp2", netip.MustParsePrefix("172.18.5.1/24"))
	if findings, err := b.Diagnose(t.Context()); err != nil || len(findings) != 1 || !strings.Contains(findings[0].Problem, "network bridge has subnet 172.18.0.0/16") {
		t.Errorf("findings %v, %v", findings, err)
	}
	if warnings := b.Warnings(t.Context()); len(warnings) != 1 || !strings.Contains(warnings[0], "WARNING: network bridge has subnet") {
		t.Errorf("warnings %v", warnings)
	}
	eventually(t, "the log says so", func() bool { return strings.Contains(b.logged.String(), "network bridge has subnet 172.18.0.0/16") })
	one := b.container("one", Bridge)
	b.crash()
	b.start()
	if n, _ := b.Inspect(Bridge); n.Subnet != bridge.Subnet {
		t.Errorf("bridge moved to %s under a container", n.Subnet)
	}
	if err := b.Detach(t.Context(), one, LeaveLink); err != nil {
		t.Fatal(err)
	}
	b.live = Live{}
	b.crash()
	b.start()
	if n, _ := b.Inspect(Bridge); n.Subnet.String() != "172.19.0.0/16" {
		t.Errorf("bridge is at %s", n.Subnet)
	}
}

func TestInstancesDoNotDisturbEachOther(t *testing.T) {
	a := newBed(t)
	one := a.container("one", Bridge)
	serve(t, one.Namespace, ":80")
	other := &bed{t: t, cfg: Config{Instance: instance.Config{Name: "second", DataDir: t.TempDir(), RunDir: t.TempDir()}}}
	other.start()
	two := other.container("one", Bridge)
	serve(t, two.Namespace, ":80")
	if one.Address.Overlaps(two.Address) {
		t.Errorf("both instances use %s and %s", one.Address, two.Address)
	}
	a.crash()
	a.start()
	wantAnswer(t, "second instance, after the first restarted", "", two.Address.Addr().String()+":80", "")
	other.crash()
	h, err := New(other.cfg)
	if err == nil {
		err = h.Purge(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, "first instance, after the second was purged", "", one.Address.Addr().String()+":80", "")
}

func TestForeignDropPolicyIsReported(t *testing.T) {
	command := testenv.NeedCommand(t, "nft")
	b := newBed(t)
	cmd := exec.Command(command, "-f", "-")
	cmd.Stdin = strings.NewReader("table ip filter {\nchain FORWARD {\ntype filter hook forward priority filter; policy drop;\n}\n}\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command(command, "delete", "table", "ip", "filter").Run() })
	findings, err := b.Diagnose(t.Context())
	if err != nil || len(findings) != 1 || !strings.Contains(findings[0].Problem, "chain ip filter FORWARD, of another program, drops") {
		t.Fatalf("findings %v, %v", findings, err)
	}
	// The advice must work as it stands.
	advice := strings.TrimSuffix(strings.TrimPrefix(findings[0].Fix, "let ours pass: nft '"), "'")
	if out, err := exec.Command(command, advice).CombinedOutput(); err != nil {
		t.Errorf("%s: %v: %s", advice, err, out)
	}
	outside, _ := b.outsider()
	serve(t, outside, ":80")
	one := b.container("one", Bridge)
	wantAnswer(t, "with the advice followed", one.Namespace, "203.0.113.9:80", "203.0.113.1")
}

func TestWithoutBridgeNetfilter(t *testing.T) {
	if _, err := os.Stat("/proc/sys/net/bridge"); err != nil {
		t.Skip("this kernel has no bridge netfilter: the other tests are this one")
	}
	if err := setSysctl("bridge/bridge-nf-call-iptables", "0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = setSysctl("bridge/bridge-nf-call-iptables", "1") })
	t.Run("published", TestPublishedPortsAreReachedFromEverywhere)
	t.Run("isolated", TestNetworksAreIsolatedFromEachOther)
}

func TestBrokenRecordIsReported(t *testing.T) {
	testenv.NeedRoot(t)
	cfg := Config{Instance: instance.Config{Name: instance.Default, DataDir: t.TempDir(), RunDir: t.TempDir()}}
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(h.networksDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(h.networksDir(), "x.json")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.Restore(context.Background(), Live{}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Restore: %v, want it to name %s", err, path)
	}
	if err := errors.Join(h.Close(), h.Purge(context.Background())); err != nil {
		t.Error(err)
	}
}

func BenchmarkAttach(b *testing.B) {
	bd := newBed(b)
	i := 0
	for b.Loop() {
		i++
		id := fmt.Sprintf("c%d", i)
		path, err := bd.NewNamespace(b.Context(), id)
		if err != nil {
			b.Fatal(err)
		}
		ep, err := bd.Attach(b.Context(), AttachRequest{Namespace: path, Container: id, Network: Bridge})
		if err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(bd.Detach(b.Context(), ep, LeaveLink), bd.RemoveNamespace(b.Context(), id)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPublish(b *testing.B) {
	bd := newBed(b)
	ep := bd.container("web", Bridge)
	for b.Loop() {
		_, err := bd.Publish(b.Context(), Publication{Container: "web", Name: "web", Address: ep.Address.Addr(), Ports: []PortBinding{{ContainerPort: 80}}})
		if err != nil {
			b.Fatal(err)
		}
		if err := bd.Unpublish(b.Context(), "web"); err != nil {
			b.Fatal(err)
		}
	}
}
