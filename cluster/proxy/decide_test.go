package proxy

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gantry/internal/nft"
	"gantry/internal/testenv"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite testdata")

// scene is a golden file: a story, objects, and the part of the table that is
// theirs.
type scene struct {
	story    string
	services []*corev1.Service
	slices   []*discoveryv1.EndpointSlice
	want     string
}

const (
	objectsMark = "-- objects.yaml --\n"
	rulesMark   = "-- rules --\n"
)

func readScene(t *testing.T, path string) scene {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var s scene
	story, rest, ok := strings.Cut(string(data), objectsMark)
	objects, want, ok2 := strings.Cut(rest, rulesMark)
	if !ok || !ok2 {
		t.Fatalf("%s has not the two parts", path)
	}
	s.story, s.want = story, want
	for _, doc := range strings.Split(objects, "---\n") {
		var kind struct{ Kind string }
		if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		switch kind.Kind {
		case "Service":
			o := &corev1.Service{}
			if err := yaml.UnmarshalStrict([]byte(doc), o); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			s.services = append(s.services, o)
		case "EndpointSlice":
			o := &discoveryv1.EndpointSlice{}
			if err := yaml.UnmarshalStrict([]byte(doc), o); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			s.slices = append(s.slices, o)
		default:
			t.Fatalf("%s: kind %q", path, kind.Kind)
		}
	}
	return s
}

var testFacts = facts{node: node, serviceSubnet: serviceSubnet, podSubnet: podSubnet}

// rules renders what the scene's objects add to the table.
func (s scene) rules() string {
	groups := groupSlices(s.slices)
	var parts []*part
	for _, service := range s.services {
		parts = append(parts, decide(testFacts, service, groups[service.Namespace+"/"+service.Name]))
	}
	table := assemble(testFacts, "t", parts)
	for name := range fixedChains(testFacts) {
		delete(table.Chains, name)
	}
	maps.DeleteFunc(table.Sets, func(_ string, set nft.Set) bool { return set.Timeout == 0 && len(set.Elements) == 0 })
	return table.String()
}

func TestScenes(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenes: %v", err)
	}
	for _, path := range files {
		s := readScene(t, path)
		got := s.rules()
		if *update {
			data, _ := os.ReadFile(path)
			head, _, _ := strings.Cut(string(data), rulesMark)
			if err := os.WriteFile(path, []byte(head+rulesMark+got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if d := cmp.Diff(s.want, got); d != "" {
			t.Errorf("%s: %srules (-want +got):\n%s", path, s.story, d)
		}
	}
}

// TestFixedRules pins the chains that do not depend on Services.
func TestFixedRules(t *testing.T) {
	const path = "testdata/fixed.nft"
	got := assemble(testFacts, "t", nil).String()
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
}

// TestTheKernelTakesEveryScene applies them all, one after the other.
func TestTheKernelTakesEveryScene(t *testing.T) {
	testenv.NeedRoot(t)
	c, err := nft.Open(nft.IPv4, table)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Delete(t.Context()); _ = c.Close() })
	files, _ := filepath.Glob("testdata/*.txtar")
	for _, path := range files {
		s := readScene(t, path)
		groups := groupSlices(s.slices)
		var parts []*part
		for _, service := range s.services {
			parts = append(parts, decide(testFacts, service, groups[service.Namespace+"/"+service.Name]))
		}
		if _, err := c.Apply(t.Context(), assemble(testFacts, table, parts)); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		again, err := nft.Open(nft.IPv4, table)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := again.Apply(t.Context(), assemble(testFacts, table, parts)); n != 0 || err != nil {
			t.Errorf("%s: applied by another process: %d messages, %v", path, n, err)
		}
		_ = again.Close()
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestFlowsAreOutdatedByWhatTheyLedTo(t *testing.T) {
	a, b := netip.MustParseAddrPort("10.42.0.5:53"), netip.MustParseAddrPort("10.42.0.6:53")
	with := func(eps ...netip.AddrPort) *flows {
		return flowsOf([]*part{{udp: []udpPort{{addresses: []netip.AddrPort{netip.MustParseAddrPort("10.43.0.8:53")}, nodePort: 30053, endpoints: eps}}}})
	}
	none := flowsOf(nil)
	for _, test := range []struct {
		rule     string
		old, now *flows
		want     bool
	}{
		{"first apply knows nothing", nil, with(a), true},
		{"first apply without UDP", nil, none, false},
		{"nothing changed", with(a), with(a), false},
		{"endpoint more", with(a), with(a, b), false},
		{"endpoint less", with(a, b), with(a), true},
		{"first endpoint", with(), with(a), true},
		{"new Service", none, with(a), true},
		{"last endpoint", with(a), with(), true},
	} {
		if got := test.now.outdates(test.old); got != test.want {
			t.Errorf("%s: %v", test.rule, got)
		}
	}
	flow := func(protocol uint8, to string, answers string) *netlink.ConntrackFlow {
		d, s := netip.MustParseAddrPort(to), netip.MustParseAddrPort(answers)
		f := &netlink.ConntrackFlow{}
		f.Forward.Protocol, f.Forward.DstIP, f.Forward.DstPort = protocol, d.Addr().AsSlice(), d.Port()
		f.Reverse.SrcIP, f.Reverse.SrcPort = s.Addr().AsSlice(), s.Port()
		return f
	}
	for _, test := range []struct {
		rule string
		flow *netlink.ConntrackFlow
		want bool
	}{
		{"to an endpoint", flow(unix.IPPROTO_UDP, "10.43.0.8:53", "10.42.0.5:53"), false},
		{"to an endpoint that is gone", flow(unix.IPPROTO_UDP, "10.43.0.8:53", "10.42.0.6:53"), true},
		{"untranslated", flow(unix.IPPROTO_UDP, "10.43.0.8:53", "10.43.0.8:53"), true},
		{"TCP", flow(unix.IPPROTO_TCP, "10.43.0.8:53", "10.42.0.6:53"), false},
		{"another Service", flow(unix.IPPROTO_UDP, "10.43.0.9:53", "10.42.0.6:53"), false},
		{"node port to an endpoint that is gone", flow(unix.IPPROTO_UDP, "192.0.2.1:30053", "10.42.0.6:53"), true},
		{"another host's port of that number", flow(unix.IPPROTO_UDP, "192.0.2.9:30053", "192.0.2.9:30053"), false},
	} {
		if got := with(a).MatchConntrackFlow(test.flow); got != test.want {
			t.Errorf("%s: deleted %v", test.rule, got)
		}
	}
}

// randomObjects are n Services with three endpoints each.
func randomObjects(n int) ([]*corev1.Service, []*discoveryv1.EndpointSlice) {
	var services []*corev1.Service
	var endpoints []*discoveryv1.EndpointSlice
	for i := range n {
		p := port("http", corev1.ProtocolTCP, 0)
		name := fmt.Sprintf("s%d", i)
		services = append(services, serviceOf(name, fmt.Sprintf("10.43.%d.%d", i>>8, i&255), p))
		var eps []discoveryv1.Endpoint
		for e := range 3 {
			eps = append(eps, ready(netip.AddrFrom4([4]byte{10, byte(50 + e), byte(i >> 8), byte(i)})))
		}
		endpoints = append(endpoints, sliceOf(name, p, eps...))
	}
	rand.Shuffle(len(endpoints), func(i, j int) { endpoints[i], endpoints[j] = endpoints[j], endpoints[i] })
	return services, endpoints
}

func TestDecisionsDoNotDependOnOrder(t *testing.T) {
	services, endpoints := randomObjects(50)
	first := scene{services: services, slices: endpoints}.rules()
	slices.Reverse(endpoints)
	slices.Reverse(services)
	if d := cmp.Diff(first, (scene{services: services, slices: endpoints}).rules()); d != "" {
		t.Errorf("rules of the same objects in another order differ:\n%s", d)
	}
}

func BenchmarkDecide1000Services(b *testing.B) {
	services, endpoints := randomObjects(1000)
	b.ReportAllocs()
	for b.Loop() {
		groups := groupSlices(endpoints)
		var parts []*part
		for _, s := range services {
			parts = append(parts, decide(testFacts, s, groups[s.Namespace+"/"+s.Name]))
		}
		assemble(testFacts, "t", parts)
	}
}
