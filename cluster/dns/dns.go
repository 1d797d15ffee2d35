// Package dns answers the cluster's names: Services, endpoints and pods, by the
// Kubernetes DNS specification 1.1.0, and forwards every other name to the
// host's resolvers.
//
// resolve decides the answer to one question from a source of objects; it is
// pure. The source is the informers' own indexes, so there is no second copy
// that could lag. Until they are filled, cluster names are answered SERVFAIL:
// NXDOMAIN would be believed.
//
// Cluster answers live 5 s. Forwarded ones are cached for their own time, at
// most 30 s. Only IPv4: AAAA of a cluster name that exists is answered with no
// data, which resolvers take for what it is.
//
// Run listens on one address by UDP and TCP; every query has a goroutine of the
// server's.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"gantry/internal/problem"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// Config is what a Server is made from.
type Config struct {
	Informers  informers.SharedInformerFactory // started by the caller, after New
	Listen     netip.AddrPort                  // UDP and TCP; port 0 means 53
	Domain     string                          // "" means cluster.local
	ResolvConf string                          // the host's resolvers; "" means /etc/resolv.conf
	Logger     *slog.Logger                    // nil discards
}

// Server answers queries.
type Server struct {
	cfg     Config
	log     *slog.Logger
	zone    string // fully qualified, lower case
	objects *objects
	forward *forwarder
	synced  []cache.InformerSynced
	ready   chan struct{}
}

const (
	defaultPort       = 53
	defaultDomain     = "cluster.local"
	defaultResolvConf = "/etc/resolv.conf"
)

// New registers with the informers; call it before they start.
func New(cfg Config) (*Server, error) {
	if cfg.Informers == nil || !cfg.Listen.Addr().IsValid() {
		return nil, problem.New(problem.Invalid, "dns: informers and an address to listen on are needed")
	}
	if cfg.Listen.Port() == 0 {
		cfg.Listen = netip.AddrPortFrom(cfg.Listen.Addr(), defaultPort)
	}
	if cfg.Domain == "" {
		cfg.Domain = defaultDomain
	}
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = defaultResolvConf
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	zone := strings.ToLower(dns.Fqdn(cfg.Domain))
	if _, ok := dns.IsDomainName(zone); !ok {
		return nil, problem.New(problem.Invalid, "dns: %q is not a domain name", cfg.Domain)
	}
	s := &Server{cfg: cfg, log: cfg.Logger, zone: zone, ready: make(chan struct{})}
	s.forward = newForwarder(cfg.ResolvConf, cfg.Listen)
	var err error
	if s.objects, s.synced, err = newObjects(cfg.Informers); err != nil {
		return nil, fmt.Errorf("dns: %w", err)
	}
	return s, nil
}

// Ready is closed once the server listens. Cluster names may still be unknown.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx is done.
func (s *Server) Run(ctx context.Context) error {
	udp, err := net.ListenPacket("udp4", s.cfg.Listen.String())
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	tcp, err := net.Listen("tcp4", s.cfg.Listen.String())
	if err != nil {
		return errors.Join(fmt.Errorf("dns: %w", err), udp.Close())
	}
	return s.serve(ctx, udp, tcp)
}

// Times of the servers. A query takes no longer than the forwarder's tries.
const (
	readTimeout  = 5 * time.Second
	writeTimeout = 5 * time.Second
	idleTimeout  = 10 * time.Second
	tcpQueries   = 1024 // on one connection
)

func (s *Server) serve(ctx context.Context, udp net.PacketConn, tcp net.Listener) error {
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) { s.handle(ctx, w, query) })
	servers := []*dns.Server{
		{PacketConn: udp, Handler: handler, UDPSize: dns.DefaultMsgSize, ReadTimeout: readTimeout, WriteTimeout: writeTimeout},
		{Listener: tcp, Handler: handler, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
			IdleTimeout: func() time.Duration { return idleTimeout }, MaxTCPQueries: tcpQueries},
	}
	g, ctx := errgroup.WithContext(ctx)
	started := make(chan struct{}, len(servers))
	for _, server := range servers {
		server.NotifyStartedFunc = func() { started <- struct{}{} }
		g.Go(server.ActivateAndServe)
	}
	g.Go(func() error {
		for range servers {
			select {
			case <-started:
			case <-ctx.Done():
				return errors.Join(udp.Close(), tcp.Close())
			}
		}
		close(s.ready)
		<-ctx.Done()
		shutdown, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		for _, server := range servers {
			_ = server.ShutdownContext(shutdown) // it may have ended by itself
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	return nil
}

// handle answers one query.
func (s *Server) handle(ctx context.Context, w dns.ResponseWriter, query *dns.Msg) {
	_, overUDP := w.RemoteAddr().(*net.UDPAddr)
	reply := s.reply(ctx, query)
	fit(reply, query, overUDP)
	if err := w.WriteMsg(reply); err != nil {
		s.log.Debug("cannot answer", "client", w.RemoteAddr(), "err", err)
	}
}

// fit cuts the reply to what the client takes (RFC 6891), with the mark that
// makes it come again by TCP.
func fit(reply, query *dns.Msg, overUDP bool) {
	size := dns.MaxMsgSize
	if overUDP {
		size = dns.MinMsgSize
	}
	if edns := query.IsEdns0(); edns != nil {
		if overUDP {
			size = min(max(size, int(edns.UDPSize())), ednsSize)
		}
		reply.Extra = withoutOPT(reply.Extra)
		reply.SetEdns0(ednsSize, edns.Do())
	}
	reply.Truncate(size)
}

// ednsSize avoids fragments on any link (DNS flag day 2020).
const ednsSize = 1232

func withoutOPT(records []dns.RR) []dns.RR {
	var kept []dns.RR
	for _, r := range records {
		if r.Header().Rrtype != dns.TypeOPT {
			kept = append(kept, r)
		}
	}
	return kept
}

// reply makes the answer, before its size is looked at.
func (s *Server) reply(ctx context.Context, query *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(query)
	m.RecursionAvailable = true
	switch {
	case query.Opcode != dns.OpcodeQuery:
		m.Rcode = dns.RcodeNotImplemented
		return m
	case len(query.Question) != 1:
		m.Rcode = dns.RcodeFormatError
		return m
	case query.Question[0].Qclass != dns.ClassINET:
		m.Rcode = dns.RcodeRefused
		return m
	}
	q := query.Question[0]
	name := strings.ToLower(q.Name)
	if !dns.IsSubDomain(s.zone, name) && !strings.HasSuffix(name, ".in-addr.arpa.") {
		return s.forwarded(ctx, query, m)
	}
	if !s.filled() {
		m.Rcode = dns.RcodeServerFailure
		return m
	}
	a := resolve(s.objects, s.zone, name, q.Qtype)
	if a.foreign {
		return s.forwarded(ctx, query, m)
	}
	m.Authoritative = true
	m.Rcode, m.Answer, m.Extra = a.rcode, a.records, a.extra
	for _, r := range m.Answer {
		if r.Header().Name == name {
			r.Header().Name = q.Name // as the client spelt it
		}
	}
	if a.target != "" && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA) {
		s.follow(ctx, m, a.target, q.Qtype)
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{soa(s.zone)}
	}
	return m
}

func (s *Server) filled() bool {
	for _, synced := range s.synced {
		if !synced() {
			return false
		}
	}
	return true
}

// forwarded answers with what the host's resolvers say.
func (s *Server) forwarded(ctx context.Context, query, m *dns.Msg) *dns.Msg {
	answer, err := s.forward.ask(ctx, query.Question[0], query.RecursionDesired)
	if err != nil {
		s.log.Debug("cannot forward", "name", query.Question[0].Name, "err", err)
		m.Rcode = dns.RcodeServerFailure
		return m
	}
	m.Rcode, m.Answer, m.Ns, m.Extra = answer.Rcode, answer.Answer, answer.Ns, withoutOPT(answer.Extra)
	return m
}

// follow adds the addresses of an alias' target. Without them clients ask
// themselves, but not all stub resolvers do.
func (s *Server) follow(ctx context.Context, m *dns.Msg, target string, kind uint16) {
	if dns.IsSubDomain(s.zone, target) {
		a := resolve(s.objects, s.zone, strings.ToLower(target), kind)
		if a.target == "" { // one step only: aliases of aliases may be a circle
			m.Answer = append(m.Answer, a.records...)
		}
		return
	}
	answer, err := s.forward.ask(ctx, dns.Question{Name: target, Qtype: kind, Qclass: dns.ClassINET}, true)
	if err == nil {
		m.Answer = append(m.Answer, answer.Answer...)
	}
}
