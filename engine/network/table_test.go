package network

import (
	"flag"
	"net/netip"
	"os"
	"testing"

	"gantry/internal/nft"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite testdata")

// TestTable pins the rules of an instance with the two fixed networks, one of a
// user, and three publications.
func TestTable(t *testing.T) {
	networks := []*Network{
		{Name: Bridge, Driver: DriverBridge, Link: "gantry0", Subnet: netip.MustParsePrefix("172.17.0.0/16")},
		{Name: Pods, Driver: DriverBridge, Link: "gantry-pods", Subnet: netip.MustParsePrefix("10.42.0.0/24")},
		{Name: HostMode, Driver: DriverHost},
		{Name: "mine", Driver: DriverBridge, Link: "gt-01234567", Subnet: netip.MustParsePrefix("172.18.0.0/16")},
	}
	all := netip.IPv4Unspecified()
	pubs := []Publication{
		{Container: "web", Address: netip.MustParseAddr("172.17.0.2"), Ports: []PortBinding{
			{ContainerPort: 80, Protocol: TCP, HostIP: all, HostPort: 8080},
			{ContainerPort: 81, Protocol: TCP, HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 8081}}},
		{Container: "dns", Address: netip.MustParseAddr("172.18.0.2"), Ports: []PortBinding{{ContainerPort: 53, Protocol: UDP, HostIP: all, HostPort: 53}}},
		{Container: "pod", Address: netip.MustParseAddr("10.42.0.2"), Ports: []PortBinding{{ContainerPort: 38412, Protocol: SCTP, HostIP: all, HostPort: 38412}}},
	}
	way := detour{in: "gt-in", out: 7}
	got := dialect4.describe("gantry", networks, pubs, way).String()
	const path = "testdata/table.nft"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("rules (-want +got):\n%s", d)
	}
	if again := dialect4.describe("gantry", networks, []Publication{pubs[2], pubs[0], pubs[1]}, way).String(); again != got {
		t.Error("the rules depend on the order of publications")
	}
}

func TestDropsOfOthersAreFound(t *testing.T) {
	chains := []nft.BaseChain{
		{Family: 2, Table: "filter", Name: "FORWARD", Hook: 2, Drops: true},  // Docker's
		{Family: 2, Table: "filter", Name: "INPUT", Hook: 1, Drops: true},    // not our traffic
		{Family: 10, Table: "filter", Name: "FORWARD", Hook: 2, Drops: true}, // IPv6
		{Family: 2, Table: "gantry", Name: "forward", Hook: 2, Drops: true},  // ours
		{Family: 1, Table: "firewalld", Name: "fwd", Hook: 2, Drops: true},
		{Family: 1, Table: "open", Name: "fwd", Hook: 2},
	}
	var got []string
	for _, f := range dropFindings(chains, "gantry", "gantry0", "gantry-pods") {
		got = append(got, f.Problem)
	}
	const rest = ", of another program, drops forwarded packets by default: containers may reach neither each other nor the outside"
	if d := cmp.Diff([]string{"chain ip filter FORWARD" + rest, "chain inet firewalld fwd" + rest}, got); d != "" {
		t.Errorf("findings (-want +got):\n%s", d)
	}
}
