package network

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/fnv"
	"net"
	"net/netip"

	"gantry/internal/problem"
)

// pool hands out the addresses of one network. An address that was given back
// is not handed out again before all others were: peers may still send to who
// had it.
type pool struct {
	subnet netip.Prefix
	span   netip.Prefix          // addresses come from here
	used   map[netip.Addr]string // by endpoint; the gateway is its own
	last   netip.Addr            // the one handed out most recently
}

// newPool makes the pool of one family of a network. reserved addresses are not
// handed out.
func newPool(subnet, span netip.Prefix, gateway netip.Addr, reserved map[string]netip.Addr) *pool {
	if !span.IsValid() {
		span = subnet
	}
	p := &pool{subnet: subnet, span: span, used: map[netip.Addr]string{gateway: "gateway"}, last: span.Masked().Addr().Prev()}
	for name, a := range reserved {
		p.used[a] = name
	}
	return p
}

// take marks a as used by owner, and reports whether it was free or theirs.
func (p *pool) take(a netip.Addr, owner string) bool {
	if who, taken := p.used[a]; taken {
		return who == owner
	}
	p.used[a] = owner
	if p.span.Contains(a) && p.last.Less(a) {
		p.last = a
	}
	return true
}

// wish takes a particular address for owner.
func (p *pool) wish(a netip.Addr, owner string) error {
	if !p.subnet.Contains(a) || !usable(p.subnet, a) {
		return problem.New(problem.Invalid, "no configured subnet or ip-range contain the IP address %s", a)
	}
	if _, taken := p.used[a]; taken {
		return problem.New(problem.Conflict, "Address already in use")
	}
	p.used[a] = owner
	return nil
}

// next takes the next free address for owner.
func (p *pool) next(owner string) (netip.Addr, error) {
	first := p.span.Masked().Addr()
	a := p.last
	// Each that is skipped is used, or one of the two that cannot be.
	for range len(p.used) + 3 {
		a = a.Next()
		if !a.IsValid() || !p.span.Contains(a) {
			a = first
		}
		if _, taken := p.used[a]; taken || !usable(p.subnet, a) {
			continue
		}
		p.used[a], p.last = owner, a
		return a, nil
	}
	return netip.Addr{}, problem.New(problem.NoSpace, "no available %s addresses on this network's address pools: %s", familyName(p.subnet.Addr()), p.span)
}

// give takes the address that is wished for, or the next one, for owner.
func (p *pool) give(wish netip.Addr, owner string) (netip.Prefix, error) {
	a, err := wish, error(nil)
	if wish.IsValid() {
		err = p.wish(wish, owner)
	} else {
		a, err = p.next(owner)
	}
	return netip.PrefixFrom(a, p.subnet.Bits()), err
}

func (p *pool) release(a netip.Addr, owner string) {
	if p.used[a] == owner {
		delete(p.used, a)
	}
}

func familyName(a netip.Addr) string {
	if a.Is6() {
		return "IPv6"
	}
	return "IPv4"
}

// usable leaves out the subnet's own address and, of IPv4, its broadcast address.
func usable(subnet netip.Prefix, a netip.Addr) bool {
	return a != subnet.Masked().Addr() && (a.Is6() || a != broadcast(subnet))
}

func broadcast(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	v := binary.BigEndian.Uint32(b[:]) | uint32(1<<(32-p.Bits())-1)
	binary.BigEndian.PutUint32(b[:], v)
	return netip.AddrFrom4(b)
}

// hardwareAddr derives the interface's address from its IP address, so that
// stale neighbour entries stay right; 02:42 is Docker's.
func hardwareAddr(a netip.Addr) net.HardwareAddr {
	b := a.AsSlice()
	b = b[len(b)-4:]
	return net.HardwareAddr{0x02, 0x42, b[0], b[1], b[2], b[3]}
}

// bridgeAddr is a fixed address for a bridge: without one it takes its lowest
// port's, and changes with every container.
func bridgeAddr(instance, network string) net.HardwareAddr {
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(instance + "/" + network)) // never fails
	b := binary.BigEndian.AppendUint32(nil, sum.Sum32())
	return net.HardwareAddr{0x02, 0x43, b[0], b[1], b[2], b[3]}
}

// candidates are the subnets that a network without one tries, in order:
// Docker's, begun elsewhere by each instance so that two of them seldom meet.
func candidates(offset uint32) []netip.Prefix {
	var list []netip.Prefix
	const large = 15 // 172.17.0.0/16 ... 172.31.0.0/16
	for i := range uint32(large) {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(17 + (i+offset)%large), 0, 0}), 16))
	}
	for i := range 16 {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i * 16), 0}), 20))
	}
	return list
}

// candidates6 are the IPv6 subnets that a network without one tries: those of a
// unique local prefix (RFC 4193) of this instance on this host.
func candidates6(seed string) []netip.Prefix {
	sum := sha256.Sum256([]byte(seed))
	b := [16]byte{0xfd, sum[0], sum[1], sum[2], sum[3], sum[4]}
	list := make([]netip.Prefix, 1<<12)
	for i := range list {
		b[6], b[7] = byte(i>>8), byte(i)
		list[i] = netip.PrefixFrom(netip.AddrFrom16(b), 64)
	}
	return list
}

// podCandidates are the preferred pod subnet, those after it in its /16, and
// those of the next ones.
func podCandidates(preferred netip.Prefix) []netip.Prefix {
	const sixteens = 16
	first := preferred.Addr().As4()
	var list []netip.Prefix
	for i := range sixteens {
		for j := range 256 {
			list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{first[0], first[1] + byte(i), first[2] + byte(j), 0}), 24))
		}
	}
	return list
}

// chooseSubnet returns the first candidate that overlaps none of taken.
func chooseSubnet(candidates, taken []netip.Prefix) (netip.Prefix, error) {
	for _, c := range candidates {
		if !overlapsAny(c, taken) {
			return c, nil
		}
	}
	return netip.Prefix{}, problem.New(problem.NoSpace, "all predefined address pools have been fully subnetted: the host routes %d subnets", len(taken))
}

func overlapsAny(p netip.Prefix, others []netip.Prefix) bool {
	for _, o := range others {
		if p.Overlaps(o) {
			return true
		}
	}
	return false
}

// checkSubnet validates what a user asks for.
func checkSubnet(subnet netip.Prefix, gateway netip.Addr, span netip.Prefix, reserved map[string]netip.Addr) error {
	longest, shortest := 30, 8
	if subnet.Addr().Is6() {
		longest, shortest = 126, 16
	}
	switch {
	case subnet.Bits() > longest || subnet.Bits() < shortest:
		return problem.New(problem.Invalid, "subnet %s: want a prefix length from %d to %d", subnet, shortest, longest)
	case subnet != subnet.Masked():
		return problem.New(problem.Invalid, "invalid subnet %s: it should be %s", subnet, subnet.Masked())
	case !subnet.Contains(gateway) || !usable(subnet, gateway):
		return problem.New(problem.Invalid, "invalid gateway %s: parent subnet is %s", gateway, subnet)
	case span.IsValid() && (!subnet.Contains(span.Addr()) || span.Bits() < subnet.Bits()):
		return problem.New(problem.Invalid, "invalid ip-range %s: parent subnet is %s", span, subnet)
	}
	for name, a := range reserved {
		if !subnet.Contains(a) {
			return problem.New(problem.Invalid, "invalid auxiliary address %s=%s: parent subnet is %s", name, a, subnet)
		}
	}
	return nil
}
