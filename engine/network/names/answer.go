package names

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// ttl is the reference's, in seconds.
const ttl = 600

// serve answers one query, or returns nil for what deserves none.
func (s *Server) serve(ctx context.Context, c Client, query *dns.Msg, network string) *dns.Msg {
	if query.Response || len(query.Question) == 0 {
		return nil
	}
	if query.Opcode != dns.OpcodeQuery || len(query.Question) != 1 {
		return failure(query, dns.RcodeNotImplemented)
	}
	answer := s.local(c, query)
	if answer == nil && s.cfg.Directory.Outside(c.Container) {
		answer = s.forward(ctx, c, query, network)
	}
	if answer == nil {
		answer = failure(query, dns.RcodeServerFailure)
	}
	return answer
}

func failure(query *dns.Msg, code int) *dns.Msg {
	m := new(dns.Msg).SetRcode(query, code)
	m.RecursionAvailable = true
	return m
}

// local answers what is known here; nil leaves it to others.
func (s *Server) local(c Client, query *dns.Msg) *dns.Msg {
	q := query.Question[0]
	if q.Qclass != dns.ClassINET {
		return nil
	}
	if q.Qtype == dns.TypePTR {
		address, ok := reverse(q.Name)
		if !ok {
			return nil
		}
		name, known := s.cfg.Directory.Name(c.Container, address)
		if !known {
			return nil
		}
		return reply(query, &dns.PTR{Hdr: header(q), Ptr: dns.Fqdn(name)})
	}
	name := strings.TrimSuffix(q.Name, ".")
	addresses, known := s.cfg.Directory.Addresses(c.Container, name)
	if !known {
		if c.Ndots && !strings.Contains(name, ".") && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA) {
			return reply(query) // the client goes on with its search domains
		}
		return nil
	}
	var records []dns.RR
	for _, a := range addresses {
		switch {
		case q.Qtype == dns.TypeA && a.Is4():
			records = append(records, &dns.A{Hdr: header(q), A: a.AsSlice()})
		case q.Qtype == dns.TypeAAAA && a.Is6():
			records = append(records, &dns.AAAA{Hdr: header(q), AAAA: a.AsSlice()})
		}
	}
	// Many clients take the first: each shall have its turn.
	rand.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
	return reply(query, records...)
}

func header(q dns.Question) dns.RR_Header {
	return dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: ttl}
}

func reply(query *dns.Msg, records ...dns.RR) *dns.Msg {
	m := new(dns.Msg).SetReply(query)
	m.RecursionAvailable = true
	m.Compress = true
	m.Answer = records
	if opt := query.IsEdns0(); opt != nil {
		m.SetEdns0(opt.UDPSize(), false)
	}
	return m
}

// reverse reads the address out of a name below in-addr.arpa or ip6.arpa.
func reverse(name string) (netip.Addr, bool) {
	name = strings.ToLower(dns.Fqdn(name))
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		labels := strings.Split(rest, ".")
		if len(labels) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(labels[3] + "." + labels[2] + "." + labels[1] + "." + labels[0])
		return a, err == nil
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa.")
	labels := strings.Split(rest, ".")
	if !ok || len(labels) != 32 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i, label := range labels {
		nibble, err := strconv.ParseUint(label, 16, 4)
		if err != nil || len(label) != 1 {
			return netip.Addr{}, false
		}
		at := 31 - i
		b[at/2] |= byte(nibble) << (4 * (1 - at%2))
	}
	return netip.AddrFrom16(b), true
}
