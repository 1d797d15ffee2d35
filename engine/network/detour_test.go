package network

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gantry/internal/testenv"
)

// hostFirewall is an input policy that lets in 8080 and 8053.
const hostFirewall = `table inet firewall {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		iifname "lo" accept
		meta l4proto { icmp, ipv6-icmp } accept
		tcp dport 8080 accept
		udp dport 8053 accept
		sctp dport 8132 accept
	}
}
`

func setFirewall(t *testing.T, rules string) {
	t.Helper()
	command := testenv.NeedCommand(t, "nft")
	cmd := exec.Command(command, "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command(command, "delete", "table", "inet", "firewall").Run() })
}

// echo sends what and waits for its like.
func echo(c net.Conn, what []byte) bool {
	_ = c.SetDeadline(time.Now().Add(time.Second))
	if _, err := c.Write(what); err != nil {
		return false
	}
	answer := make([]byte, len(what)+1)
	n, err := c.Read(answer)
	return err == nil && bytes.Equal(answer[:n], what)
}

func TestTheHostsInputPolicyIsAsked(t *testing.T) {
	setFirewall(t, hostFirewall)
	before, err := os.ReadFile(filepath.Join(sysctls, "ipv4/conf/all/rp_filter"))
	if err == nil {
		err = writeSysctl("ipv4/conf/all/rp_filter", "1") // strict, as on many hosts
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = writeSysctl("ipv4/conf/all/rp_filter", string(before)) })
	b := newBed(t)
	if !b.AsksInput() {
		t.Fatal("the host's input policy is not asked")
	}
	outside, host := b.outsider()
	b.create(CreateRequest{Name: "dual", IPv6: &Stack{}})
	web, near, far := b.container("web", "dual"), b.container("near", "dual"), b.container("far", Bridge)
	serve(t, web.Namespace, ":80")
	serveUDP(t, web.Namespace, ":53")
	port := func(number uint16) PortBinding { return PortBinding{ContainerPort: 80, HostPort: number} }
	datagrams := func(number uint16) PortBinding {
		return PortBinding{ContainerPort: 53, HostPort: number, Protocol: UDP}
	}
	one := PortBinding{ContainerPort: 80, HostPort: 8080, HostIP: host}
	b.publishBoth(web, port(8081), datagrams(8053), datagrams(8054), one, PortBinding{ContainerPort: 80, HostPort: 8080, HostIP: netip.MustParseAddr("fd99::1")})

	check := func(when string) {
		t.Helper()
		wantAnswer(t, when+": a port that is let in, source kept", outside, "203.0.113.1:8080", "203.0.113.9")
		wantAnswer(t, when+": the same by IPv6", outside, "[fd99::1]:8080", "fd99::9")
		wantNone(t, when+": a port that is not", outside, "203.0.113.1:8081")
		wantNone(t, when+": the same by IPv6", outside, "[fd99::1]:8081")
		wantAnswer(t, when+": the host itself", "", "203.0.113.1:8081", "")
		wantAnswer(t, when+": the host itself, by 127.0.0.1", "", "127.0.0.1:8081", "")
		wantAnswer(t, when+": a container of the same network", near.Namespace, "203.0.113.1:8081", "")
		wantAnswer(t, when+": a container of another network", far.Namespace, "203.0.113.1:8081", "")
		let, kept := dialled(t, outside, "203.0.113.1:8053"), dialled(t, outside, "203.0.113.1:8054")
		// Longer than any packet: it is put together for the input chains, and must
		// not stay so.
		eventually(t, when+": a datagram that is let in", func() bool { return echo(let, bytes.Repeat([]byte("x"), 4000)) })
		if echo(kept, []byte("x")) {
			t.Errorf("%s: a datagram came in that the host drops", when)
		}
	}
	check("at first")
	b.crash()
	check("without the daemon")
	b.start()
	wantAnswer(t, "after a restart", outside, "203.0.113.1:8080", "203.0.113.9")

	b.crash()
	b.cfg.Instance.BypassInput = true
	b.start()
	wantAnswer(t, "told otherwise", outside, "203.0.113.1:8081", "203.0.113.9")
	if in, out := detourLinks("gt"); b.AsksInput() || linkNames(t)[in] || linkNames(t)[out] {
		t.Errorf("told otherwise, the detour stays: %v", linkNames(t))
	}
}

func dialled(t *testing.T, path, address string) net.Conn {
	t.Helper()
	c, err := dialUDP(t, path, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
