// Package names is the DNS server that a container on a user-defined network
// sees at 127.0.0.11.
//
// It knows the containers of a network by a Directory, and forwards everything
// else to the servers that the container was given, from inside the container's
// network namespace, or to the host's own.
//
// Each container has a UDP and a TCP socket of this process in its namespace,
// bound to 127.0.0.11 and a port that no program wants; a stateless nftables
// rule there gives them port 53, so that a name server of the container's own
// may bind 0.0.0.0:53. A container that asks nothing costs the two sockets: one
// goroutine waits for all of them. When the process dies the sockets are gone,
// and what is asked meanwhile is dropped rather than refused, so that resolvers
// ask again; Open of the next process takes the same place.
//
// # Goroutines
//
// Run owns the one that waits, and one for each query and TCP connection at
// work.
package names

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
)

// Address is where containers find the server, at port 53.
var Address = netip.MustParseAddr("127.0.0.11")

// Directory knows the names of containers. Its methods may be called
// concurrently. Names are without a trailing dot, in any case.
type Directory interface {
	// Addresses returns those of name, as container sees it; known without any
	// means that there is such a name.
	Addresses(container, name string) (addresses []netip.Addr, known bool)
	// Name returns the name of an address on one of container's networks.
	Name(container string, address netip.Addr) (name string, known bool)
	// Outside tells whether container may ask others than us.
	Outside(container string) bool
}

// Client is one container that is served.
type Client struct {
	Container string
	Namespace string       // path of its network namespace
	Servers   []netip.Addr // asked from inside the namespace; empty: the host's
	Ndots     bool         // the user chose ndots: single labels are not forwarded
}

// Config is what a Server is made from. All but Logger are required.
type Config struct {
	Directory Directory
	Host      func() []netip.Addr // the host's servers now, loopback ones too
	Logger    *slog.Logger        // nil discards
}

// Server answers the containers. Its methods may be called concurrently.
type Server struct {
	cfg  Config
	log  *slog.Logger
	poll *poller
	busy chan struct{} // bounds the queries and connections at work

	mu      sync.Mutex
	clients map[string]*served // by container
	sockets map[int]*served    // by descriptor
}

// maxBusy is the reference's bound on concurrent queries.
const maxBusy = 1024

// New makes a server without clients.
func New(cfg Config) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	poll, err := newPoller()
	if err != nil {
		return nil, fmt.Errorf("name server: %w", err)
	}
	return &Server{cfg: cfg, log: cfg.Logger, poll: poll, busy: make(chan struct{}, maxBusy),
		clients: make(map[string]*served), sockets: make(map[int]*served)}, nil
}

// served is a client with its sockets.
type served struct {
	Client
	udp, tcp int

	mu     sync.Mutex // held while a descriptor is used
	closed bool
}

// Open serves a client; what it asked before Run waits. Opening it again
// replaces its settings.
func (s *Server) Open(c Client) error {
	s.mu.Lock()
	old := s.clients[c.Container]
	s.mu.Unlock()
	if old != nil && old.Namespace == c.Namespace {
		old.mu.Lock()
		old.Client = c
		old.mu.Unlock()
		return nil
	}
	s.Close(c.Container)
	v := &served{Client: c}
	if err := inNamespace(c.Namespace, v.listen); err != nil {
		return fmt.Errorf("name server of container %s: %w", c.Container, err)
	}
	s.mu.Lock()
	s.clients[c.Container], s.sockets[v.udp], s.sockets[v.tcp] = v, v, v
	s.mu.Unlock()
	if err := errors.Join(s.poll.add(v.udp), s.poll.add(v.tcp)); err != nil {
		s.Close(c.Container)
		return fmt.Errorf("name server of container %s: %w", c.Container, err)
	}
	return nil
}

// Close stops serving a container; it does nothing when that is not served.
func (s *Server) Close(container string) {
	s.mu.Lock()
	v := s.clients[container]
	if v != nil {
		delete(s.clients, container)
		delete(s.sockets, v.udp)
		delete(s.sockets, v.tcp)
	}
	s.mu.Unlock()
	if v != nil {
		v.close()
	}
}

// Shutdown closes all sockets. Run must have ended.
func (s *Server) Shutdown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.clients {
		v.close()
	}
	clear(s.clients)
	clear(s.sockets)
	s.poll.close()
}

func (v *served) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.closed {
		v.closed = true
		_, _ = unix.Close(v.udp), unix.Close(v.tcp) // which ends their polling
	}
}

// settings returns the client as it is now.
func (v *served) settings() Client {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.Client
}

// Run answers until ctx is done.
func (s *Server) Run(ctx context.Context) error {
	var work sync.WaitGroup
	defer work.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	buffer := make([]byte, 1<<16)
	return s.poll.wait(ctx, func(fd int) {
		s.mu.Lock()
		v := s.sockets[fd]
		s.mu.Unlock()
		switch {
		case v == nil: // closed since
		case fd == v.tcp:
			s.accept(ctx, v, &work)
		default:
			s.receive(ctx, v, buffer, &work)
		}
	})
}

// spawn runs do, unless too much is at work already.
func (s *Server) spawn(work *sync.WaitGroup, do func()) bool {
	select {
	case s.busy <- struct{}{}:
	default:
		return false
	}
	work.Go(func() {
		defer func() { <-s.busy }()
		do()
	})
	return true
}
