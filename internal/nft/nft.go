// Package nft makes one nftables table be what its owner wants.
//
// The owner describes the whole table as a value: chains of rules, sets and
// maps. Conn.Apply compares it with what the kernel has, which it reads once
// and then remembers, and sends the difference as one transaction: a packet
// meets either the old rules or the new ones. Unchanged chains are not touched;
// sets and maps change by element. A changed chain is emptied and filled again
// within the transaction, so owners keep chains short and lists in maps.
//
// Rules are made of statements (see Rule) that carry their text in nft(8)'s
// syntax. The text is a rule's identity: a hash of it is kept in the rule's
// comment, by which a later process recognises the rules of an earlier one
// without interpreting what the kernel gives back.
//
// Watch tells when somebody else changed the table. It runs no goroutine of
// its own. Messages are encoded here rather than by google/nftables' Conn, whose
// requests echo every rule, dump rules chain by chain and bound an anonymous
// map to one attribute; its expr package encodes the expressions.
package nft

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Family is the kind of packets that a table sees.
type Family uint8

// The families in use.
const (
	IPv4 Family = unix.NFPROTO_IPV4
	IPv6 Family = unix.NFPROTO_IPV6
)

// String returns the family's name in nft(8)'s syntax.
func (f Family) String() string {
	if f == IPv6 {
		return "ip6"
	}
	return "ip"
}

// Table is the whole of what its owner wants. Map keys are names.
type Table struct {
	Family Family
	Name   string
	Chains map[string]Chain
	Sets   map[string]Set
}

// Chain is a list of rules; with a Hook, a base chain.
type Chain struct {
	Hook  *Hook
	Rules []Rule
}

// Hook says where the kernel calls a base chain. The policy is accept.
type Hook struct {
	Type     string // "filter", "nat"
	Number   uint32 // unix.NF_INET_PRE_ROUTING ...
	Priority int32
}

// The hooks in use, with nft(8)'s priorities.
var (
	NATPrerouting  = Hook{"nat", unix.NF_INET_PRE_ROUTING, -100}
	NATOutput      = Hook{"nat", unix.NF_INET_LOCAL_OUT, -100}
	NATPostrouting = Hook{"nat", unix.NF_INET_POST_ROUTING, 100}
	RawPrerouting  = Hook{"filter", unix.NF_INET_PRE_ROUTING, -300}
	RawOutput      = Hook{"filter", unix.NF_INET_LOCAL_OUT, -300}
	Forward        = Hook{"filter", unix.NF_INET_FORWARD, 0}
	LastInput      = Hook{"filter", unix.NF_INET_LOCAL_IN, 400} // behind everybody's
)

// Set is a set, or with Data a map; with Data being Verdict, a verdict map.
type Set struct {
	Key      []Type
	Data     []Type
	Timeout  time.Duration    // not 0: rules add elements, which live this long; Elements is not compared
	Elements map[string]Value // by EncodeKey's result; Value is empty in a set
}

// Type is a component of a set's key or data.
type Type struct {
	name  string
	magic uint32 // nft(8)'s number of the type
	bytes int
}

// The types in use.
var (
	Address   = Type{"ipv4_addr", 7, 4}
	Address6  = Type{"ipv6_addr", 8, 16}
	Protocol  = Type{"inet_proto", 12, 1}
	Port      = Type{"inet_service", 13, 2}
	Interface = Type{"ifname", 41, 16}
	integer   = Type{"integer", 4, 4}
	Verdict   = Type{"verdict", 0xffffff00, 16}
)

// Value is the data of a map's element: encoded bytes, or a verdict.
type Value struct {
	Bytes string // as EncodeKey makes it
	Code  int32  // verdict, when not 0
	Chain string // its target
}

// Goto is the verdict that continues in chain and does not come back.
func Goto(chain string) Value { return Value{Code: unix.NFT_GOTO, Chain: chain} }

// EncodeKey encodes one element's key or data: netip.Addr, a protocol
// number (uint8), a port (uint16) or an interface name (string), in the order
// of the set's types. Other types panic: they are a mistake in the caller.
func EncodeKey(parts ...any) string {
	var b []byte
	for _, part := range parts {
		switch v := part.(type) {
		case netip.Addr:
			b = append(b, v.Unmap().AsSlice()...)
		case uint8:
			b = append(b, v, 0, 0, 0)
		case uint16:
			b = append(binary.BigEndian.AppendUint16(b, v), 0, 0)
		case string:
			b = append(b, interfaceName(v)...)
		default:
			panic(fmt.Sprintf("nft: no encoding for a %T", part))
		}
	}
	return string(b)
}

func interfaceName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b[:unix.IFNAMSIZ-1], name)
	return b
}

// width is the length of a key or of data of these types: every component
// begins at a multiple of four.
func width(types []Type) int {
	n := 0
	for _, t := range types {
		n += (t.bytes + 3) &^ 3
	}
	return n
}

func magic(types []Type) uint32 {
	if len(types) == 1 {
		return types[0].magic
	}
	var m uint32
	for _, t := range types {
		m = m<<6 | t.magic
	}
	return m
}

// String renders the table in nft(8)'s syntax, sorted by name.
func (t *Table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s %s {\n", t.Family, t.Name)
	for _, name := range slices.Sorted(maps.Keys(t.Sets)) {
		t.Sets[name].render(&b, name)
	}
	for _, name := range slices.Sorted(maps.Keys(t.Chains)) {
		c := t.Chains[name]
		fmt.Fprintf(&b, "\tchain %s {\n", name)
		if c.Hook != nil {
			fmt.Fprintf(&b, "\t\t%s\n", c.Hook)
		}
		for _, r := range c.Rules {
			fmt.Fprintf(&b, "\t\t%s\n", r.text)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// String renders the hook as a chain's first line.
func (h Hook) String() string {
	names := map[uint32]string{unix.NF_INET_PRE_ROUTING: "prerouting", unix.NF_INET_LOCAL_IN: "input",
		unix.NF_INET_FORWARD: "forward", unix.NF_INET_LOCAL_OUT: "output", unix.NF_INET_POST_ROUTING: "postrouting"}
	return fmt.Sprintf("type %s hook %s priority %d; policy accept;", h.Type, names[h.Number], h.Priority)
}

func (s Set) render(b *strings.Builder, name string) {
	kind, arrow := "set", ""
	if len(s.Data) > 0 {
		kind, arrow = "map", " : "+typeNames(s.Data)
	}
	fmt.Fprintf(b, "\t%s %s {\n\t\ttype %s%s\n", kind, name, typeNames(s.Key), arrow)
	if s.Timeout > 0 {
		fmt.Fprintf(b, "\t\tflags dynamic,timeout\n\t\ttimeout %s\n", s.Timeout)
	}
	if len(s.Elements) > 0 {
		var lines []string
		for key, value := range s.Elements {
			line := renderKey(s.Key, key)
			if len(s.Data) > 0 {
				line += " : " + value.render(s.Data)
			}
			lines = append(lines, line)
		}
		slices.Sort(lines)
		fmt.Fprintf(b, "\t\telements = { %s }\n", strings.Join(lines, ",\n\t\t\t     "))
	}
	b.WriteString("\t}\n")
}

func typeNames(types []Type) string {
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t.name
	}
	return strings.Join(names, " . ")
}

func (v Value) render(types []Type) string {
	if v.Code != 0 {
		return verdictName(v.Code, v.Chain)
	}
	return renderKey(types, v.Bytes)
}

func renderKey(types []Type, key string) string {
	var parts []string
	for _, t := range types {
		n := (t.bytes + 3) &^ 3
		if len(key) < n {
			return hex.EncodeToString([]byte(key))
		}
		raw := []byte(key[:n])
		key = key[n:]
		switch t {
		case Address:
			parts = append(parts, netip.AddrFrom4([4]byte(raw)).String())
		case Address6:
			parts = append(parts, netip.AddrFrom16([16]byte(raw)).String())
		case Protocol:
			parts = append(parts, protocolName(raw[0]))
		case Port:
			parts = append(parts, fmt.Sprint(binary.BigEndian.Uint16(raw)))
		case Interface:
			parts = append(parts, strings.TrimRight(string(raw), "\x00"))
		default:
			parts = append(parts, fmt.Sprint(binary.NativeEndian.Uint32(raw)))
		}
	}
	return strings.Join(parts, " . ")
}

func protocolName(p uint8) string {
	switch p {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_SCTP:
		return "sctp"
	}
	return fmt.Sprint(p)
}

func verdictName(code int32, chain string) string {
	if code == unix.NFT_GOTO {
		return "goto " + chain
	}
	return fmt.Sprintf("verdict %d %s", code, chain)
}

// fingerprint is what a rule's comment holds of its text.
func fingerprint(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}
