package nft

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"gantry/internal/testenv"

	"github.com/google/go-cmp/cmp"
)

func TestMain(m *testing.M) { os.Exit(testenv.Isolate(m)) }

// sample uses every kind of statement, set and element.
func sample() *Table {
	a, b := netip.MustParseAddrPort("10.42.0.5:8080"), netip.MustParseAddrPort("10.42.0.6:8080")
	return &Table{
		Family: IPv4,
		Name:   "gantry-test",
		Sets: map[string]Set{
			"services": {Key: []Type{Address, Protocol, Port}, Data: []Type{Verdict}, Elements: map[string]Value{
				EncodeKey(netip.MustParseAddr("10.43.0.7"), uint8(6), uint16(80)):  Goto("svc/default/web"),
				EncodeKey(netip.MustParseAddr("10.43.0.8"), uint8(17), uint16(53)): Goto("svc/default/sticky"),
			}},
			"published": {Key: []Type{Protocol, Port}, Data: []Type{Address, Port}, Elements: map[string]Value{
				EncodeKey(uint8(6), uint16(8080)): {Bytes: EncodeKey(a.Addr(), a.Port())},
			}},
			"hairpin": {Key: []Type{Address, Address}, Elements: map[string]Value{EncodeKey(a.Addr(), a.Addr()): {}}},
			"pairs":   {Key: []Type{Interface, Interface}, Elements: map[string]Value{EncodeKey("gantry0", "gantry0"): {}}},
			"own":     {Key: []Type{Interface}, Elements: map[string]Value{EncodeKey("gantry0"): {}}},
			"sticky":  {Key: []Type{Address}, Timeout: 3 * time.Hour},
		},
		Chains: map[string]Chain{
			"prerouting": {Hook: &NATPrerouting, Rules: []Rule{
				NewRule(VerdictOf("services", DestinationAddress, TransportProtocol, DestinationPort)),
				NewRule(ToLocal(), Subnet(DestinationAddress, IsNot, netip.MustParsePrefix("127.0.0.0/8")), DNATBy(IPv4, "published", TransportProtocol, DestinationPort)),
			}},
			"postrouting": {Hook: &NATPostrouting, Rules: []Rule{
				NewRule(Marked(0x4000), Masquerade()),
				NewRule(In("hairpin", SourceAddress, DestinationAddress), Masquerade()),
				NewRule(Subnet(SourceAddress, Is, netip.MustParsePrefix("172.17.0.0/16")), Link(OutputInterface, IsNot, "gantry0"), Masquerade()),
			}},
			"forward": {Hook: &Forward, Rules: []Rule{
				NewRule(Established(), Accept()),
				NewRule(In("pairs", InputInterface, OutputInterface), Accept()),
				NewRule(Link(OutputInterface, Is, "gantry0"), NotTranslated(), Drop()),
				NewRule(FromLocal(), Return()),
			}},
			"refuse": {Rules: []Rule{
				NewRule(New(), Proto(6), RejectTCP()),
				NewRule(RejectUnreachable()),
			}},
			"svc/default/web": {Rules: []Rule{
				NewRule(SetMark(0x4000)),
				NewRule(Proto(6), DNATAny([]netip.AddrPort{a, b})),
			}},
			"svc/default/sticky": {Rules: []Rule{
				NewRule(In("sticky", SourceAddress), GotoChain("ep/a")),
				NewRule(GotoAny([]string{"ep/a", "ep/b"})),
			}},
			"ep/a": {Rules: []Rule{NewRule(Remember("sticky", 3*time.Hour, SourceAddress)), NewRule(Proto(6), DNAT(a))}},
			"ep/b": {Rules: []Rule{NewRule(Translated(), Proto(6), DNAT(b))}},
		},
	}
}

func open(t testing.TB, name string) *Conn {
	t.Helper()
	testenv.NeedRoot(t)
	c, err := Open(IPv4, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Delete(context.Background()); err != nil {
			t.Error(err)
		}
		_ = c.Close()
	})
	return c
}

func apply(t testing.TB, c *Conn, table *Table) int {
	t.Helper()
	n, err := c.Apply(t.Context(), table)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestKernelHoldsWhatTheTextSays compares the texts of all statements with
// what nft(8), an independent reader, makes of the kernel's rules.
func TestKernelHoldsWhatTheTextSays(t *testing.T) {
	nft := testenv.NeedCommand(t, "nft")
	c := open(t, "gantry-test")
	want := sample()
	apply(t, c, want)
	ours := normalize(listTable(t, nft))

	out, err := exec.Command(nft, "delete", "table", "ip", "gantry-test").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(nft, "-f", "-")
	cmd.Stdin = strings.NewReader(want.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft does not read our text: %v: %s\n%s", err, out, want)
	}
	if diff := cmp.Diff(normalize(listTable(t, nft)), ours); diff != "" {
		t.Errorf("kernel rules made from the text (-) and by Apply (+) differ:\n%s", diff)
	}
}

func listTable(t *testing.T, nft string) []any {
	t.Helper()
	out, err := exec.Command(nft, "-j", "list", "table", "ip", "gantry-test").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var doc struct{ Nftables []any }
	if err := json.Unmarshal(out, &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Nftables
}

// normalize leaves out handles and comments.
func normalize(objects []any) map[string]any {
	result := make(map[string]any)
	counts := make(map[string]int)
	for _, o := range objects {
		for kind, body := range o.(map[string]any) {
			m := body.(map[string]any)
			delete(m, "handle")
			delete(m, "comment")
			key := fmt.Sprint(kind, " ", m["chain"], " ", m["name"])
			counts[key]++
			if kind != "metainfo" {
				result[fmt.Sprint(key, " ", counts[key])] = m
			}
		}
	}
	return result
}

func TestSecondApplyFindsNoDifference(t *testing.T) {
	c := open(t, "gantry-test")
	if n := apply(t, c, sample()); n == 0 {
		t.Fatal("the first Apply sent nothing")
	}
	if n := apply(t, c, sample()); n != 0 {
		t.Errorf("Apply of the same table sent %d messages", n)
	}
	again := open(t, "gantry-test") // as after a restart: it must read the kernel
	if n := apply(t, again, sample()); n != 0 {
		t.Errorf("another process's Apply of the same table sent %d messages", n)
	}
}

func TestChangesAreMadeByDifference(t *testing.T) {
	first, second := sample(), sample()
	delete(second.Chains, "ep/b")
	second.Chains["svc/default/sticky"] = Chain{Rules: []Rule{NewRule(GotoChain("ep/a"))}}
	second.Sets["published"] = Set{Key: []Type{Protocol, Port}, Data: []Type{Address, Port}, Elements: map[string]Value{
		EncodeKey(uint8(6), uint16(8080)): {Bytes: EncodeKey(netip.MustParseAddr("10.42.0.9"), uint16(1))},
		EncodeKey(uint8(6), uint16(8081)): {Bytes: EncodeKey(netip.MustParseAddr("10.42.0.9"), uint16(2))},
	}}
	delete(second.Sets, "hairpin")
	post := second.Chains["postrouting"]
	post.Rules = []Rule{post.Rules[0], post.Rules[2]}
	second.Chains["postrouting"] = post

	p := diff(stateOf(first), second)
	want := &plan{
		empty:     []string{"postrouting", "svc/default/sticky", "ep/b"},
		fill:      []string{"postrouting", "svc/default/sticky"},
		dropElems: []elementChange{{"published", []string{EncodeKey(uint8(6), uint16(8080))}}},
		addElems:  []elementChange{{"published", []string{EncodeKey(uint8(6), uint16(8080)), EncodeKey(uint8(6), uint16(8081))}}},
		oldSets:   []string{"hairpin"},
		oldChains: []string{"ep/b"},
	}
	if d := cmp.Diff(want, p, cmp.AllowUnexported(plan{}, elementChange{})); d != "" {
		t.Errorf("plan (-want +got):\n%s", d)
	}

	c := open(t, "gantry-test")
	for i, table := range []*Table{first, second, first} {
		apply(t, c, table)
		have, err := c.load()
		if err != nil {
			t.Fatal(err)
		}
		if left := diff(have, table); !left.isEmpty() {
			t.Errorf("step %d: the kernel still differs: %+v", i, left)
		}
	}
}

func TestABaseChainThatMovesMakesTheTableNew(t *testing.T) {
	c := open(t, "gantry-test")
	apply(t, c, sample())
	moved := sample()
	moved.Chains["forward"] = Chain{Hook: &RawPrerouting, Rules: nil}
	apply(t, c, moved)
	have, err := c.load()
	if err != nil {
		t.Fatal(err)
	}
	if left := diff(have, moved); !left.isEmpty() {
		t.Errorf("the kernel still differs: %+v", left)
	}
}

func TestForeignChangesAreSeenAndHealed(t *testing.T) {
	nft := testenv.NeedCommand(t, "nft")
	c := open(t, "gantry-test")
	apply(t, c, sample())
	changed := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Watch(ctx, func() { changed <- struct{}{} }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	wait := func(what string) {
		t.Helper()
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s was not seen", what)
		}
	}
	wait("the watch's beginning")
	for _, command := range []string{
		"flush ruleset",
		"add rule ip gantry-test forward drop",
		"delete element ip gantry-test published { tcp . 8080 }",
		"delete table ip gantry-test",
	} {
		if out, err := exec.Command(nft, command).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
		// One command may be told of in several parts, the last of which arrive
		// after the Apply that healed it: what counts is that this one's arrives.
		for wait(command); apply(t, c, sample()) == 0; wait(command) {
		}
		have, err := c.load()
		if err != nil {
			t.Fatal(err)
		}
		if left := diff(have, sample()); !left.isEmpty() {
			t.Errorf("after %q the kernel still differs: %+v", command, left)
		}
	}
}

func TestApplyRecoversWhenTheTableVanishes(t *testing.T) {
	nft := testenv.NeedCommand(t, "nft")
	c := open(t, "gantry-test")
	apply(t, c, sample())
	if out, err := exec.Command(nft, "flush", "ruleset").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	changed := sample()
	changed.Chains["ep/b"] = Chain{Rules: []Rule{NewRule(Drop())}}
	apply(t, c, changed)
	have, err := c.load()
	if err != nil {
		t.Fatal(err)
	}
	if left := diff(have, changed); !left.isEmpty() {
		t.Errorf("the kernel still differs: %+v", left)
	}
}

func TestDeleteIsIdempotent(t *testing.T) {
	c := open(t, "gantry-test")
	apply(t, c, sample())
	for range 2 {
		if err := c.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// services is a table of n Services with three endpoints each.
func services(n int) *Table {
	t := &Table{Family: IPv4, Name: "gantry-test", Chains: map[string]Chain{
		"prerouting": {Hook: &NATPrerouting, Rules: []Rule{NewRule(VerdictOf("services", DestinationAddress, TransportProtocol, DestinationPort))}},
	}, Sets: map[string]Set{}}
	elements := make(map[string]Value)
	for i := range n {
		address := netip.AddrFrom4([4]byte{10, 43, byte(i >> 8), byte(i)})
		var to []netip.AddrPort
		for e := range 3 {
			to = append(to, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(50 + e), byte(i >> 8), byte(i)}), 8080))
		}
		chain := fmt.Sprintf("svc/default/s%d", i)
		t.Chains[chain] = Chain{Rules: []Rule{NewRule(DNATAny(to))}}
		elements[EncodeKey(address, uint8(6), uint16(80))] = Goto(chain)
	}
	t.Sets["services"] = Set{Key: []Type{Address, Protocol, Port}, Data: []Type{Verdict}, Elements: elements}
	return t
}

func BenchmarkFirstApplyOf1000Services(b *testing.B) {
	c := open(b, "gantry-test")
	table := services(1000)
	for b.Loop() {
		apply(b, c, table)
		b.StopTimer()
		if err := c.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkLoadOf1000Services(b *testing.B) {
	c := open(b, "gantry-test")
	apply(b, c, services(1000))
	for b.Loop() {
		if _, err := c.load(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkChangeOfOneAmong1000Services(b *testing.B) {
	c := open(b, "gantry-test")
	tables := [2]*Table{services(1000), services(1000)}
	tables[1].Chains["svc/default/s7"] = Chain{Rules: []Rule{NewRule(DNAT(netip.MustParseAddrPort("10.42.0.5:8080")))}}
	apply(b, c, tables[0])
	for i := 0; b.Loop(); i++ {
		apply(b, c, tables[(i+1)%2])
	}
}

func FuzzAttributes(f *testing.F) {
	f.Add([]byte(attrs{}.text(1, "gantry").nest(2, attrs{}.u32(1, 7))))
	f.Add([]byte{4, 0, 1, 0})
	f.Add([]byte{255, 255, 1, 0, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := parseAttributes(data)
		if err != nil {
			return
		}
		s := &state{chains: map[string]chainState{"": {}}, sets: map[string]setState{}}
		_ = s.addChain(a)
		_ = s.addRule(a)
		_ = s.addSet(a)
		_ = setState{elements: map[string]Value{}}.addElements(a)
		_ = comment(data)
	})
}
