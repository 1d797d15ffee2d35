package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"gantry/engine/network/names"
	"gantry/internal/instance"
	"gantry/internal/nft"
	"gantry/internal/problem"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Config is what a Host is made from.
type Config struct {
	Instance instance.Config // with defaults filled; the names and directories derive from it
	Logger   *slog.Logger    // nil discards
}

// Host is the network of one instance on this host.
type Host struct {
	cfg Config
	log *slog.Logger

	// Set by Restore, constant afterwards.
	links         *links
	table, table6 *nft.Conn
	names         *names.Server
	routes        *nl.NetlinkSocket // changes of the host's routes
	detour        detour
	said          map[string]bool // collisions with the host's routes that were logged; by watchRoutes afterwards

	applying chan struct{} // holds one token; its holder may change the kernel's table
	changed  chan struct{} // has a token when the table wants to be looked at again
	doomed   chan struct{} // has a token when removals is not empty

	mu            sync.Mutex
	networks      map[string]*Network               // by ID
	pools, pools6 map[string]*pool                  // by network ID
	endpoints     map[string]*Endpoint              // by endpoint ID
	attached      map[string][]*Endpoint            // the same by container ID, in order
	named         map[string]map[string][]*Endpoint // those of user-defined networks by network ID and name
	publications  map[string]*published             // by container ID
	removals      map[string]*removal               // of namespaces, by path
	handles       map[string]*handle                // netlink sockets of fresh namespaces, by path
	leaving       map[string]bool                   // interfaces that the kernel is to remove with their namespace
	had6          bool                              // the IPv6 table was written
	wanted        uint64                            // counts changes of what the table derives from
	applied       uint64                            // the count that the kernel's table reflects
}

// New validates cfg. Nothing on the host changes before Restore.
func New(cfg Config) (*Host, error) {
	if cfg.Instance.Name == "" || cfg.Instance.DataDir == "" || cfg.Instance.RunDir == "" {
		return nil, problem.New(problem.Invalid, "network: the instance needs a name and directories")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Host{
		cfg: cfg, log: cfg.Logger,
		applying: make(chan struct{}, 1), changed: make(chan struct{}, 1), doomed: make(chan struct{}, 1),
		networks: make(map[string]*Network), pools: make(map[string]*pool), pools6: make(map[string]*pool),
		endpoints: make(map[string]*Endpoint), attached: make(map[string][]*Endpoint),
		leaving: make(map[string]bool), named: make(map[string]map[string][]*Endpoint), publications: make(map[string]*published),
		removals: make(map[string]*removal), handles: make(map[string]*handle), said: make(map[string]bool),
	}
	h.applying <- struct{}{}
	return h, nil
}

func (h *Host) networksDir() string   { return filepath.Join(h.cfg.Instance.DataDir, "networks") }
func (h *Host) namespacesDir() string { return filepath.Join(h.cfg.Instance.RunDir, "netns") }

// Restore brings the host to what live says: it creates or adopts the bridges
// and the table, takes the addresses and ports of what lives, and removes the
// namespaces, links and rules that belong to nobody. It is called once, before
// Run and every other method.
func (h *Host) Restore(ctx context.Context, live Live) error {
	if err := h.restore(ctx, live); err != nil {
		return fmt.Errorf("restore network: %w", err)
	}
	return nil
}

func (h *Host) restore(ctx context.Context, live Live) error {
	if err := errors.Join(os.MkdirAll(h.networksDir(), 0o700), os.MkdirAll(h.namespacesDir(), 0o711)); err != nil {
		return err
	}
	var err error
	if h.links, err = openLinks(); err != nil {
		return err
	}
	if h.routes, err = openRoutes(); err != nil {
		return err
	}
	if h.table, err = nft.Open(nft.IPv4, h.cfg.Instance.Table()); err != nil {
		return err
	}
	if h.table6, err = nft.Open(nft.IPv6, h.cfg.Instance.Table()); err != nil {
		return err
	}
	if h.names, err = names.New(names.Config{Directory: directory{h}, Host: hostServers, Logger: h.log}); err != nil {
		return err
	}
	if err := h.loadNetworks(); err != nil {
		return err
	}
	if err := h.raiseBridges(live); err != nil {
		return err
	}
	if err := forwardingOn(); err != nil {
		return err
	}
	if err := h.raiseDetour(ctx); err != nil {
		return err
	}
	if h.speaks6() {
		if err := h.begin6(); err != nil {
			return err
		}
	} else if err := h.table6.Delete(ctx); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return err
	}
	h.adopt(live)
	for _, client := range live.Names {
		if err := h.names.Open(client); err != nil {
			h.log.Warn("a container is without its name server", "container", client.Container, "err", err)
		}
	}
	if err := h.sweep(live); err != nil {
		return err
	}
	err = h.sync(ctx)
	if h.withoutDetour(err) {
		err = h.sync(ctx)
	}
	if err != nil {
		return err
	}
	findings, err := h.Diagnose(ctx)
	for _, f := range findings {
		h.log.Warn("the host impairs the network", "err", f.Problem, "fix", f.Fix)
		h.said[f.Problem] = true
	}
	return err
}

// begin6 is what the first network with IPv6 needs of the host.
func (h *Host) begin6() error {
	return errors.Join(forwarding6On(), h.raiseDetour6(), h.watchRoutes6())
}

// adopt takes the addresses and ports of what lives. What no longer fits is
// logged and left: a running container is not stopped for it.
func (h *Host) adopt(live Live) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ep := range live.Endpoints {
		p, ok := h.pools[ep.Network]
		if !ok {
			h.log.Warn("endpoint of an unknown network", "container", ep.Container, "network", ep.Name)
			continue
		}
		if !p.take(ep.Address.Addr(), ep.ID) {
			h.log.Warn("address is used twice", "container", ep.Container, "address", ep.Address)
		}
		if p6 := h.pools6[ep.Network]; p6 != nil && ep.Address6.IsValid() {
			p6.take(ep.Address6.Addr(), ep.ID)
		}
		h.addEndpointLocked(&ep)
	}
	for _, pub := range live.Publications {
		h.publications[pub.Container] = h.hold(pub)
	}
	h.wanted++
}

// Run heals the table after foreign changes and removes namespaces, until ctx
// is done. What is attached and published stays.
func (h *Host) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.table.Watch(ctx, h.noteForeignChange) })
	g.Go(func() error { return h.table6.Watch(ctx, h.noteForeignChange) })
	g.Go(func() error { return h.watchRoutes(ctx) })
	g.Go(func() error { return h.heal(ctx) })
	g.Go(func() error { return h.names.Run(ctx) })
	g.Go(func() error { return h.removeDoomed(ctx) })
	return g.Wait()
}

func (h *Host) noteForeignChange() {
	h.mu.Lock()
	h.wanted++
	h.mu.Unlock()
	signal(h.changed)
}

// healPause bounds how often the table is put right when somebody else keeps
// changing it.
const healPause = 100 * time.Millisecond

func (h *Host) heal(ctx context.Context) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-h.changed:
		case <-ctx.Done():
			return nil
		}
		if err := h.sync(ctx); err != nil && ctx.Err() == nil {
			h.log.Error("cannot restore the nftables table", "table", h.cfg.Instance.Table(), "err", err)
			signal(h.changed)
		}
		pause.Reset(healPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// sync makes the kernel's table what the state wants. Callers that come while
// another is at it share the next transaction.
func (h *Host) sync(ctx context.Context) error {
	h.mu.Lock()
	mine := h.wanted
	h.mu.Unlock()
	select {
	case <-h.applying:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { h.applying <- struct{}{} }()
	h.mu.Lock()
	if h.applied >= mine {
		h.mu.Unlock()
		return nil
	}
	version, want := h.wanted, h.describeLocked(dialect4)
	var want6 *nft.Table // stays when the last network that speaks IPv6 goes
	if h.speaks6Locked() || h.had6 {
		want6, h.had6 = h.describeLocked(dialect6), true
	}
	h.mu.Unlock()
	if _, err := h.table.Apply(ctx, want); err != nil {
		return err
	}
	if want6 != nil {
		if _, err := h.table6.Apply(ctx, want6); err != nil {
			return err
		}
	}
	h.mu.Lock()
	h.applied = version
	h.mu.Unlock()
	return nil
}

func (h *Host) speaks6() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.speaks6Locked()
}

// speaks6Locked tells whether any network has IPv6 addresses.
func (h *Host) speaks6Locked() bool { return len(h.pools6) > 0 }

// signal puts a token into a channel of size one, unless there is one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
