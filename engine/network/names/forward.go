package names

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// The reference's bounds on asking others.
const (
	maxServers    = 3
	serverTimeout = 4 * time.Second
)

// forward asks the servers in turn until one has an answer; nil when none has.
func (s *Server) forward(ctx context.Context, c Client, query *dns.Msg, network string) *dns.Msg {
	servers, given := c.Servers, true
	if len(servers) == 0 {
		servers, given = s.cfg.Host(), false
	}
	var last *dns.Msg
	for _, server := range servers[:min(len(servers), maxServers)] {
		namespace := c.Namespace
		// What the host's own file names may be a server on its loopback, or of
		// a family that the container does not speak.
		if !given && (server.IsLoopback() || server.Is6()) {
			namespace = ""
		}
		answer, err := ask(ctx, namespace, server, query, network)
		if err != nil {
			s.log.Debug("name server does not answer", "container", c.Container, "server", server, "err", err)
			continue
		}
		if answer.Rcode != dns.RcodeServerFailure && answer.Rcode != dns.RcodeRefused {
			return answer
		}
		last = answer
	}
	return last
}

// ask sends a query to one server from the network namespace at path; "" is
// this process' own.
func ask(ctx context.Context, path string, server netip.Addr, query *dns.Msg, network string) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, serverTimeout)
	defer cancel()
	var c net.Conn
	dial := func() (err error) {
		// A literal address is dialled by the calling thread.
		c, err = (&net.Dialer{}).DialContext(ctx, network, netip.AddrPortFrom(server, 53).String())
		return err
	}
	var err error
	if path == "" {
		err = dial()
	} else {
		err = inNamespace(path, dial)
	}
	if err != nil {
		return nil, err
	}
	defer c.Close()
	// A number of our own: the client's may be easy to guess.
	question := query.Copy()
	question.Id = dns.Id()
	client := &dns.Client{Net: network, Timeout: serverTimeout}
	answer, _, err := client.ExchangeWithConnContext(ctx, question, &dns.Conn{Conn: c})
	if err != nil {
		return nil, err
	}
	answer.Id = query.Id
	answer.Compress = true
	return answer, nil
}
