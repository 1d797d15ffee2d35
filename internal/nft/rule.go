package nft

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Rule is a list of statements, evaluated from left to right until one does
// not match.
type Rule struct {
	text  string
	stmts []Stmt
}

// String returns the rule in nft(8)'s syntax.
func (r Rule) String() string { return r.text }

// NewRule makes a rule. The texts of its statements must tell all there is to
// them: rules with equal texts are the same rule.
func NewRule(stmts ...Stmt) Rule {
	texts := make([]string, len(stmts))
	for i, s := range stmts {
		texts[i] = s.text
	}
	return Rule{text: strings.Join(texts, " "), stmts: stmts}
}

// Stmt is one match or action of a rule.
type Stmt struct {
	text  string
	exprs []expr.Any
	anon  *Set                           // anonymous map that the statement looks up in
	after func(lookup lookup) []expr.Any // makes exprs once anon has a number
}

// lookup names a set in a transaction.
type lookup struct {
	id   uint32
	name string
}

// Field is a value of the packet at hand, or of its connection.
type Field struct {
	text  string
	bytes int
	load  func(register uint32) []expr.Any
}

// Registers: keys are loaded from the first four-byte register upwards. The
// sixteen-byte register 1 is the first four of them.
const (
	regFirst  = 8 // NFT_REG32_00
	regResult = 1 // NFT_REG_1
)

// The fields in use.
var (
	SourceAddress       = Field{"ip saddr", 4, payload(expr.PayloadBaseNetworkHeader, 12, 4)}
	DestinationAddress  = Field{"ip daddr", 4, payload(expr.PayloadBaseNetworkHeader, 16, 4)}
	SourcePort          = Field{"th sport", 2, payload(expr.PayloadBaseTransportHeader, sourcePortAt, 2)}
	DestinationPort     = Field{"th dport", 2, payload(expr.PayloadBaseTransportHeader, destinationPortAt, 2)}
	SourceAddress6      = Field{"ip6 saddr", 16, payload(expr.PayloadBaseNetworkHeader, 8, 16)}
	DestinationAddress6 = Field{"ip6 daddr", 16, payload(expr.PayloadBaseNetworkHeader, 24, 16)}
	TransportProtocol   = Field{"meta l4proto", 1, meta(expr.MetaKeyL4PROTO)}
	InputInterface      = Field{"iifname", 16, meta(expr.MetaKeyIIFNAME)}
	OutputInterface     = Field{"oifname", 16, meta(expr.MetaKeyOIFNAME)}
)

// Where ports are in a TCP or UDP header.
const (
	sourcePortAt      = 0
	destinationPortAt = 2
)

func payload(base expr.PayloadBase, offset, length uint32) func(uint32) []expr.Any {
	return func(register uint32) []expr.Any {
		return []expr.Any{&expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: length}}
	}
}

func meta(key expr.MetaKey) func(uint32) []expr.Any {
	return func(register uint32) []expr.Any {
		return []expr.Any{&expr.Meta{Key: key, Register: register}}
	}
}

// Relation compares a field with a value.
type Relation bool

// The relations.
const (
	Is    Relation = true
	IsNot Relation = false
)

func (r Relation) op() expr.CmpOp {
	if r == Is {
		return expr.CmpOpEq
	}
	return expr.CmpOpNeq
}

func (r Relation) text() string {
	if r == Is {
		return " "
	}
	return " != "
}

// Subnet compares an address field with a prefix.
func Subnet(f Field, rel Relation, p netip.Prefix) Stmt {
	p = p.Masked()
	address := p.Addr().AsSlice()
	exprs := f.load(regResult)
	text := p.String()
	if p.IsSingleIP() {
		text = p.Addr().String()
	} else {
		mask := net.CIDRMask(p.Bits(), 8*len(address))
		exprs = append(exprs, &expr.Bitwise{SourceRegister: regResult, DestRegister: regResult, Len: uint32(len(address)), Mask: mask, Xor: make([]byte, len(address))})
	}
	exprs = append(exprs, &expr.Cmp{Op: rel.op(), Register: regResult, Data: address})
	return Stmt{text: f.text + rel.text() + text, exprs: exprs}
}

// Link compares an interface field with a name.
func Link(f Field, rel Relation, name string) Stmt {
	return Stmt{
		text:  f.text + rel.text() + fmt.Sprintf("%q", name),
		exprs: append(f.load(regResult), &expr.Cmp{Op: rel.op(), Register: regResult, Data: interfaceName(name)}),
	}
}

// Proto matches packets of one transport protocol.
func Proto(p uint8) Stmt {
	return Stmt{
		text:  "meta l4proto " + protocolName(p),
		exprs: append(TransportProtocol.load(regResult), &expr.Cmp{Op: expr.CmpOpEq, Register: regResult, Data: []byte{p}}),
	}
}

// PortIs compares a port field with a number.
func PortIs(f Field, port uint16) Stmt {
	return Stmt{
		text:  fmt.Sprintf("%s %d", f.text, port),
		exprs: append(f.load(regResult), &expr.Cmp{Op: expr.CmpOpEq, Register: regResult, Data: binary.BigEndian.AppendUint16(nil, port)}),
	}
}

// SetPort rewrites a port in the header of a protocol, TCP or UDP, that the
// rule has matched. Nothing is remembered of it: the way back is another rule.
func SetPort(f Field, protocol uint8, port uint16) Stmt {
	at, checksum := uint32(sourcePortAt), uint32(6) // UDP's
	if f.text == DestinationPort.text {
		at = destinationPortAt
	}
	if protocol == unix.IPPROTO_TCP {
		checksum = 16
	}
	return Stmt{text: fmt.Sprintf("%s set %d", f.text, port), exprs: []expr.Any{
		&expr.Immediate{Register: regResult, Data: binary.BigEndian.AppendUint16(nil, port)},
		&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: regResult, Base: expr.PayloadBaseTransportHeader,
			Offset: at, Len: 2, CsumType: expr.CsumTypeInet, CsumOffset: checksum},
	}}
}

// DupTo sends a copy of the packet out by a link, as if gateway were a
// neighbour there. The copy belongs to no connection.
func DupTo(gateway netip.Addr, link int) Stmt {
	address := gateway.AsSlice()
	device := uint32(regFirst + len(address)/4)
	return Stmt{text: fmt.Sprintf("dup to %s device %d", gateway, link), exprs: []expr.Any{
		&expr.Immediate{Register: regFirst, Data: address},
		&expr.Immediate{Register: device, Data: native(uint32(link))},
		&expr.Dup{RegAddr: regFirst, RegDev: device, IsRegDevSet: true},
	}}
}

// LetFragment clears the flag by which an IPv4 packet forbids its fragmentation.
func LetFragment() Stmt {
	const flags, checksum = 6, 10 // in the header
	return Stmt{text: "ip frag-off set 0", exprs: []expr.Any{
		&expr.Immediate{Register: regResult, Data: []byte{0, 0}},
		&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: regResult, Base: expr.PayloadBaseNetworkHeader,
			Offset: flags, Len: 2, CsumType: expr.CsumTypeInet, CsumOffset: checksum},
	}}
}

// ToLocal matches packets whose destination is an address of this host.
func ToLocal() Stmt { return localAddress("fib daddr type local", &expr.Fib{FlagDADDR: true}) }

// FromLocal matches packets whose source is an address of this host.
func FromLocal() Stmt { return localAddress("fib saddr type local", &expr.Fib{FlagSADDR: true}) }

func localAddress(text string, fib *expr.Fib) Stmt {
	fib.Register, fib.ResultADDRTYPE = regResult, true
	return Stmt{text: text, exprs: []expr.Any{fib,
		&expr.Cmp{Op: expr.CmpOpEq, Register: regResult, Data: native(unix.RTN_LOCAL)}}}
}

// Bits of the connection's state and status (linux/netfilter/nf_conntrack_common.h).
const (
	stateEstablished = 1 << 1
	stateRelated     = 1 << 2
	stateNew         = 1 << 3
	statusDNAT       = 1 << 5
)

// Established matches packets of connections that have seen a reply, and what
// is related to them.
func Established() Stmt {
	return ctMask("ct state established,related", expr.CtKeySTATE, stateEstablished|stateRelated, expr.CmpOpNeq)
}

// New matches the first packet of a connection.
func New() Stmt { return ctMask("ct state new", expr.CtKeySTATE, stateNew, expr.CmpOpNeq) }

// Translated matches packets of connections whose destination was rewritten.
func Translated() Stmt {
	return ctMask("ct status dnat", expr.CtKeySTATUS, statusDNAT, expr.CmpOpNeq)
}

// NotTranslated is the opposite of Translated.
func NotTranslated() Stmt {
	return ctMask("ct status ! dnat", expr.CtKeySTATUS, statusDNAT, expr.CmpOpEq)
}

func ctMask(text string, key expr.CtKey, bits uint32, op expr.CmpOp) Stmt {
	return Stmt{text: text, exprs: []expr.Any{
		&expr.Ct{Key: key, Register: regResult},
		&expr.Bitwise{SourceRegister: regResult, DestRegister: regResult, Len: 4, Mask: native(bits), Xor: native(0)},
		&expr.Cmp{Op: op, Register: regResult, Data: native(0)},
	}}
}

// Marked matches packets that carry all of these mark bits.
func Marked(bits uint32) Stmt {
	return Stmt{text: fmt.Sprintf("meta mark & %#x == %#x", bits, bits), exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: regResult},
		&expr.Bitwise{SourceRegister: regResult, DestRegister: regResult, Len: 4, Mask: native(bits), Xor: native(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regResult, Data: native(bits)},
	}}
}

// SetMark sets these bits of the packet's mark and leaves the others.
func SetMark(bits uint32) Stmt {
	return Stmt{text: fmt.Sprintf("meta mark set meta mark | %#x", bits), exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: regResult},
		&expr.Bitwise{SourceRegister: regResult, DestRegister: regResult, Len: 4, Mask: native(^bits), Xor: native(bits)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: regResult, SourceRegister: true},
	}}
}

// In matches when the fields together are an element of the set.
func In(set string, fields ...Field) Stmt { return inSet(set, Is, fields) }

// NotIn matches when they are not.
func NotIn(set string, fields ...Field) Stmt { return inSet(set, IsNot, fields) }

func inSet(set string, rel Relation, fields []Field) Stmt {
	text, exprs := loadKey(fields)
	return Stmt{text: text + rel.text() + "@" + set,
		exprs: append(exprs, &expr.Lookup{SourceRegister: regResult, SetName: set, Invert: rel == IsNot})}
}

// VerdictOf takes the verdict that the map has for the fields, if it has one.
func VerdictOf(verdicts string, fields ...Field) Stmt {
	text, exprs := loadKey(fields)
	return Stmt{text: text + " vmap @" + verdicts,
		exprs: append(exprs, &expr.Lookup{SourceRegister: regResult, DestRegister: 0, IsDestRegSet: true, SetName: verdicts})}
}

// DNATBy rewrites the destination to the address and port that the map has
// for the fields, if it has one.
func DNATBy(family Family, destinations string, fields ...Field) Stmt {
	text, exprs := loadKey(fields)
	exprs = append(exprs, &expr.Lookup{SourceRegister: regResult, DestRegister: regResult, IsDestRegSet: true, SetName: destinations})
	return Stmt{text: "dnat " + family.String() + " to " + text + " map @" + destinations, exprs: append(exprs, dnat(family))}
}

func loadKey(fields []Field) (string, []expr.Any) {
	var exprs []expr.Any
	texts := make([]string, len(fields))
	register := uint32(regFirst)
	for i, f := range fields {
		texts[i] = f.text
		exprs = append(exprs, f.load(register)...)
		register += uint32(f.bytes+3) / 4
	}
	return strings.Join(texts, " . "), exprs
}

// dnat takes the address from the first registers and the port from the next.
func dnat(family Family) expr.Any {
	port := uint32(regFirst + 1)
	if family == IPv6 {
		port = regFirst + 4
	}
	return &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(family), RegAddrMin: regFirst, RegProtoMin: port}
}

// DNAT rewrites the destination of IPv4 packets.
func DNAT(to netip.AddrPort) Stmt {
	address := to.Addr().As4()
	return Stmt{text: "dnat ip to " + to.String(), exprs: []expr.Any{
		&expr.Immediate{Register: regFirst, Data: address[:]},
		&expr.Immediate{Register: regFirst + 1, Data: binary.BigEndian.AppendUint16(nil, to.Port())},
		dnat(IPv4),
	}}
}

// DNATAny rewrites the destination to one of these, chosen at random with
// equal chances for each new connection. There must be one at least.
func DNATAny(to []netip.AddrPort) Stmt {
	if len(to) == 1 {
		return DNAT(to[0])
	}
	elements := make(map[string]Value, len(to))
	texts := make([]string, len(to))
	for i, a := range to {
		elements[string(native(uint32(i)))] = Value{Bytes: EncodeKey(a.Addr(), a.Port())}
		texts[i] = fmt.Sprintf("%d : %s . %d", i, a.Addr(), a.Port())
	}
	return Stmt{
		text: fmt.Sprintf("dnat ip to numgen random mod %d map { %s }", len(to), strings.Join(texts, ", ")),
		anon: &Set{Key: []Type{integer}, Data: []Type{Address, Port}, Elements: elements},
		after: func(l lookup) []expr.Any {
			return []expr.Any{random(len(to)), &expr.Lookup{SourceRegister: regResult, DestRegister: regResult, IsDestRegSet: true, SetID: l.id, SetName: l.name}, dnat(IPv4)}
		},
	}
}

// GotoAny continues in one of these chains, chosen like DNATAny.
func GotoAny(chains []string) Stmt {
	if len(chains) == 1 {
		return GotoChain(chains[0])
	}
	elements := make(map[string]Value, len(chains))
	texts := make([]string, len(chains))
	for i, c := range chains {
		elements[string(native(uint32(i)))] = Goto(c)
		texts[i] = fmt.Sprintf("%d : goto %s", i, c)
	}
	return Stmt{
		text: fmt.Sprintf("numgen random mod %d vmap { %s }", len(chains), strings.Join(texts, ", ")),
		anon: &Set{Key: []Type{integer}, Data: []Type{Verdict}, Elements: elements},
		after: func(l lookup) []expr.Any {
			return []expr.Any{random(len(chains)), &expr.Lookup{SourceRegister: regResult, IsDestRegSet: true, SetID: l.id, SetName: l.name}}
		},
	}
}

func random(n int) expr.Any {
	return &expr.Numgen{Register: regResult, Modulus: uint32(n), Type: unix.NFT_NG_RANDOM}
}

// Remember adds the fields to a set with a timeout, or restarts it there.
func Remember(set string, timeout time.Duration, fields ...Field) Stmt {
	text, exprs := loadKey(fields)
	return Stmt{text: fmt.Sprintf("update @%s { %s timeout %s }", set, text, timeout),
		exprs: append(exprs, &expr.Dynset{SrcRegKey: regResult, SetName: set, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: timeout})}
}

// Masquerade rewrites the source to the outgoing interface's address.
func Masquerade() Stmt { return Stmt{text: "masquerade", exprs: []expr.Any{&expr.Masq{}}} }

// Accept ends this hook for the packet, for this table.
func Accept() Stmt { return verdict("accept", expr.VerdictAccept, "") }

// Drop ends the packet.
func Drop() Stmt { return verdict("drop", expr.VerdictDrop, "") }

// Return goes back to the calling chain.
func Return() Stmt { return verdict("return", expr.VerdictReturn, "") }

// Jump continues in another chain and comes back.
func Jump(chain string) Stmt { return verdict("jump "+chain, expr.VerdictJump, chain) }

// GotoChain continues in another chain and does not come back.
func GotoChain(chain string) Stmt { return verdict("goto "+chain, expr.VerdictGoto, chain) }

func verdict(text string, kind expr.VerdictKind, chain string) Stmt {
	return Stmt{text: text, exprs: []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}}
}

// RejectTCP answers with a reset. It belongs behind Proto(TCP).
func RejectTCP() Stmt {
	return Stmt{text: "reject with tcp reset", exprs: []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}}
}

// RejectUnreachable answers with an ICMP "port unreachable".
func RejectUnreachable() Stmt {
	return Stmt{text: "reject with icmp port-unreachable", exprs: []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpPortUnreachable}}}
}

const icmpPortUnreachable = 3

// native encodes what the kernel keeps in the host's byte order.
func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
