package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
)

// Bounds of forwarding.
const (
	tryTimeout  = 2 * time.Second
	rounds      = 2    // over all resolvers
	maxCached   = 4096 // answers
	maxAge      = 30 * time.Second
	minAge      = time.Second     // an answer of TTL 0 still serves who asks at the same time
	maxInFlight = 512             // questions; more are refused
	confAge     = 5 * time.Second // how long the list of resolvers is believed
)

// forwarder asks the host's resolvers, and remembers their answers.
type forwarder struct {
	resolvConf string
	self       netip.AddrPort // never asked: it would ask itself
	udp, tcp   *dns.Client
	flights    singleflight.Group
	tokens     chan struct{}

	mu      sync.Mutex
	servers []string // as of checked
	checked time.Time
	cached  map[cacheKey]cachedAnswer
}

type cacheKey struct {
	name string
	kind uint16
}

type cachedAnswer struct {
	message *dns.Msg // never changed
	begin   time.Time
	end     time.Time
}

func newForwarder(resolvConf string, self netip.AddrPort) *forwarder {
	return &forwarder{
		resolvConf: resolvConf, self: self,
		udp:    &dns.Client{Net: "udp", Timeout: tryTimeout, UDPSize: ednsSize},
		tcp:    &dns.Client{Net: "tcp", Timeout: tryTimeout},
		tokens: make(chan struct{}, maxInFlight),
		cached: make(map[cacheKey]cachedAnswer),
	}
}

// ask returns the resolvers' answer, which belongs to the caller.
func (f *forwarder) ask(ctx context.Context, q dns.Question, recursive bool) (*dns.Msg, error) {
	key := cacheKey{strings.ToLower(q.Name), q.Qtype}
	if m := f.remembered(key, time.Now()); m != nil {
		return m, nil
	}
	select {
	case f.tokens <- struct{}{}:
		defer func() { <-f.tokens }()
	default:
		return nil, errors.New("too many questions at once")
	}
	result, err, _ := f.flights.Do(fmt.Sprint(key), func() (any, error) {
		m, err := f.exchange(ctx, q, recursive)
		if err == nil {
			f.remember(key, m, time.Now())
		}
		return m, err
	})
	if err != nil {
		return nil, err
	}
	return result.(*dns.Msg).Copy(), nil
}

// exchange tries the resolvers in order, twice.
func (f *forwarder) exchange(ctx context.Context, q dns.Question, recursive bool) (*dns.Msg, error) {
	servers, err := f.resolvers(time.Now())
	if err != nil {
		return nil, err
	}
	query := new(dns.Msg)
	query.Question = []dns.Question{q}
	query.RecursionDesired = recursive
	query.SetEdns0(ednsSize, false)
	var last error
	for range rounds {
		for _, server := range servers {
			m, err := f.once(ctx, query, server)
			if err == nil && m.Rcode != dns.RcodeServerFailure && m.Rcode != dns.RcodeRefused {
				return m, nil
			}
			last = err
			if err == nil {
				last = fmt.Errorf("resolver %s answers %s", server, dns.RcodeToString[m.Rcode])
			}
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
		}
	}
	return nil, last
}

func (f *forwarder) once(ctx context.Context, query *dns.Msg, server string) (*dns.Msg, error) {
	query = query.Copy()
	query.Id = dns.Id()
	m, _, err := f.udp.ExchangeContext(ctx, query, server)
	if err == nil && m.Truncated {
		m, _, err = f.tcp.ExchangeContext(ctx, query, server)
	}
	return m, err
}

// resolvers returns the host's list, which may change while we run.
func (f *forwarder) resolvers(now time.Time) ([]string, error) {
	f.mu.Lock()
	servers, fresh := f.servers, now.Sub(f.checked) < confAge
	f.mu.Unlock()
	if fresh && len(servers) > 0 {
		return servers, nil
	}
	servers, err := readResolvers(f.resolvConf, f.self.Addr())
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.servers, f.checked = servers, now
	f.mu.Unlock()
	return servers, nil
}

func readResolvers(path string, except netip.Addr) ([]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	conf, err := dns.ClientConfigFromReader(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var servers []string
	for _, s := range conf.Servers {
		if a, err := netip.ParseAddr(s); err != nil || a != except {
			servers = append(servers, net.JoinHostPort(s, conf.Port))
		}
	}
	if len(servers) == 0 {
		return nil, fmt.Errorf("%s names no resolver to forward to", path)
	}
	return servers, nil
}

// remembered returns a copy of a cached answer with the time that is left.
func (f *forwarder) remembered(key cacheKey, now time.Time) *dns.Msg {
	f.mu.Lock()
	c, ok := f.cached[key]
	f.mu.Unlock()
	if !ok || !now.Before(c.end) {
		return nil
	}
	m := c.message.Copy()
	age := uint32(now.Sub(c.begin).Seconds())
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, r := range section {
			if r.Header().Rrtype != dns.TypeOPT {
				r.Header().Ttl -= min(age, r.Header().Ttl)
			}
		}
	}
	return m
}

func (f *forwarder) remember(key cacheKey, m *dns.Msg, now time.Time) {
	age := ageOf(m)
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.cached) >= maxCached {
		for old := range f.cached { // any: maps are walked in no order
			delete(f.cached, old)
			break
		}
	}
	f.cached[key] = cachedAnswer{message: m.Copy(), begin: now, end: now.Add(age)}
}

// ageOf is how long an answer may be kept: the least time of its records, or
// what the zone allows for "there is none" (RFC 2308).
func ageOf(m *dns.Msg) time.Duration {
	age := maxAge
	for _, r := range m.Answer {
		age = min(age, time.Duration(r.Header().Ttl)*time.Second)
	}
	if len(m.Answer) == 0 {
		age = minAge
		for _, r := range m.Ns {
			if s, ok := r.(*dns.SOA); ok {
				age = min(maxAge, time.Duration(min(s.Minttl, s.Hdr.Ttl))*time.Second)
			}
		}
	}
	return max(age, minAge)
}
