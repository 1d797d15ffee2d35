// Package proxy makes the kernel of one node balance the cluster's Services, by
// nftables: ClusterIPs, external addresses and node ports, for pods and for
// processes of the node itself.
//
// What the rules are is decided by pure functions: decide turns one Service and
// its EndpointSlices into a part, assemble turns all parts into one table,
// which internal/nft compares with the kernel's and changes by difference. So a
// restarted daemon finds its rules in place and leaves them there, and nothing
// is ever flushed. Parts of Services that did not change are reused.
//
// Verdict maps lead from an address, protocol and port to the Service's chain;
// there, a new connection goes to a random endpoint. Established connections
// are the kernel's connection tracking's business, and stay with the endpoint
// they have. Stale UDP entries, which would hold a client to an endpoint that
// is gone, are deleted after the rules changed.
//
// Addresses of the service subnet that lead nowhere are refused, as are Services
// without endpoints. The source address of a client is kept wherever the answer
// comes back through this node anyway: for endpoints in its own pod subnet,
// other than the client itself.
//
// Run is one goroutine that applies, and one that watches the table for foreign
// changes. Only IPv4; Services' trafficDistribution and topology hints are not
// looked at,and neither is loadBalancerSourceRanges.
package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"gantry/internal/nft"
	"gantry/internal/problem"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
)

// Config is what a Proxy is made from.
type Config struct {
	Informers     informers.SharedInformerFactory // started by the caller, after New
	Table         string                          // nftables table, of this Proxy alone
	NodeName      string
	ServiceSubnet netip.Prefix
	PodSubnet     netip.Prefix // pods of this node
	PodLink       string       // their bridge; "": the host's routes lead the service subnet somewhere already
	Logger        *slog.Logger // nil discards
}

// Proxy keeps one node's table.
type Proxy struct {
	cfg      Config
	log      *slog.Logger
	services corelisters.ServiceLister
	slices   discoverylisters.EndpointSliceLister
	synced   []cache.InformerSynced
	dirty    chan struct{} // has a token when there is something to apply

	ready     chan struct{} // closed after the first apply
	readyOnce sync.Once

	// Used by the applying goroutine alone.
	parts map[string]*cached // by namespace/name
	flows *flows             // UDP flows as of the last apply; nil before the first
}

// New registers with the informers; call it before they start.
func New(cfg Config) (*Proxy, error) {
	if cfg.Informers == nil || cfg.Table == "" || !cfg.ServiceSubnet.IsValid() || !cfg.PodSubnet.IsValid() {
		return nil, problem.New(problem.Invalid, "proxy: informers, table, service subnet and pod subnet are needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Proxy{cfg: cfg, log: cfg.Logger, dirty: make(chan struct{}, 1), ready: make(chan struct{}), parts: make(map[string]*cached)}
	services, slices := cfg.Informers.Core().V1().Services(), cfg.Informers.Discovery().V1().EndpointSlices()
	p.services, p.slices = services.Lister(), slices.Lister()
	wake := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { p.wake() },
		UpdateFunc: func(any, any) { p.wake() },
		DeleteFunc: func(any) { p.wake() },
	}
	for _, informer := range []cache.SharedIndexInformer{services.Informer(), slices.Informer()} {
		registration, err := informer.AddEventHandler(wake)
		if err != nil {
			return nil, fmt.Errorf("proxy: %w", err)
		}
		p.synced = append(p.synced, registration.HasSynced)
	}
	return p, nil
}

func (p *Proxy) wake() {
	select {
	case p.dirty <- struct{}{}:
	default:
	}
}

// Ready is closed once the kernel has the rules for what the informers listed
// at first.
func (p *Proxy) Ready() <-chan struct{} { return p.ready }

// Run keeps the table until ctx is done, and leaves it then: the node's traffic
// outlives the daemon.
func (p *Proxy) Run(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), p.synced...) {
		return nil // ctx is done
	}
	if err := p.route(); err != nil {
		return err
	}
	table, err := nft.Open(nft.IPv4, p.cfg.Table)
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	defer table.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return table.Watch(ctx, p.wake) })
	g.Go(func() error { return p.loop(ctx, table) })
	return g.Wait()
}

// retryPause is how long a failed apply waits for its next try.
const retryPause = time.Second

// loop applies at once when something changed, then rests for as long as that
// took: what comes in meanwhile is one change, and no flood of events takes
// more than half a processor.
func (p *Proxy) loop(ctx context.Context, table *nft.Conn) error {
	p.wake()
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-p.dirty:
		case <-ctx.Done():
			return nil
		}
		begin := time.Now()
		err := p.apply(ctx, table)
		pause := min(time.Since(begin), retryPause)
		if err != nil && ctx.Err() == nil {
			p.log.Error("cannot change the service rules", "table", p.cfg.Table, "err", err)
			p.wake()
			pause = retryPause
		}
		rest.Reset(pause)
		select {
		case <-rest.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// apply makes the kernel's rules those of the informers' objects.
func (p *Proxy) apply(ctx context.Context, table *nft.Conn) error {
	begin := time.Now()
	parts, err := p.update()
	if err != nil {
		return err
	}
	sent, err := table.Apply(ctx, assemble(p.cfg.facts(), p.cfg.Table, parts))
	if err != nil {
		return err
	}
	now := flowsOf(parts)
	if now.outdates(p.flows) {
		if n, err := now.deleteStale(); err != nil {
			p.log.Warn("cannot delete stale UDP connections", "err", err)
		} else if n > 0 {
			p.log.Debug("deleted stale UDP connections", "count", n)
		}
	}
	p.flows = now
	if sent > 0 {
		p.log.Debug("changed the service rules", "messages", sent, "services", len(parts), "dur", time.Since(begin))
	}
	p.readyOnce.Do(func() { close(p.ready) })
	return nil
}

// cached is a part and the objects it was decided from: what an informer gives
// is never changed in place, so equal pointers are equal objects.
type cached struct {
	service *corev1.Service
	slices  []*discoveryv1.EndpointSlice
	part    *part
}

// update decides the parts of all Services that changed.
func (p *Proxy) update() ([]*part, error) {
	services, err := p.services.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	all, err := p.slices.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	byService := groupSlices(all)
	next := make(map[string]*cached, len(services))
	parts := make([]*part, 0, len(services))
	for _, s := range services {
		key := s.Namespace + "/" + s.Name
		c := p.parts[key]
		if c == nil || c.service != s || !samePointers(c.slices, byService[key]) {
			c = &cached{s, byService[key], decide(p.cfg.facts(), s, byService[key])}
		}
		next[key] = c
		parts = append(parts, c.part)
	}
	p.parts = next
	return parts, nil
}

func (c Config) facts() facts {
	return facts{node: c.NodeName, serviceSubnet: c.ServiceSubnet, podSubnet: c.PodSubnet}
}

// route leads the service subnet to the pods' bridge: where the host has no
// default route, its processes could not even send to a ClusterIP. Nothing
// arrives there, as the rules translate or refuse every packet.
func (p *Proxy) route() error {
	if p.cfg.PodLink == "" {
		return nil
	}
	link, err := netlink.LinkByName(p.cfg.PodLink)
	if err != nil {
		return fmt.Errorf("proxy: interface %s: %w", p.cfg.PodLink, err)
	}
	subnet := p.cfg.ServiceSubnet.Masked()
	err = netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK,
		Dst: &net.IPNet{IP: subnet.Addr().AsSlice(), Mask: net.CIDRMask(subnet.Bits(), 32)}})
	if err != nil {
		return fmt.Errorf("proxy: route %s to %s: %w", subnet, p.cfg.PodLink, err)
	}
	return nil
}

// Purge removes the table, and the route to the service subnet if it is there.
func Purge(ctx context.Context, table string, serviceSubnet netip.Prefix, podLink string) error {
	c, err := nft.Open(nft.IPv4, table)
	if err != nil {
		return fmt.Errorf("purge proxy: %w", err)
	}
	defer c.Close()
	if err := c.Delete(ctx); err != nil {
		return fmt.Errorf("purge proxy: %w", err)
	}
	link, err := netlink.LinkByName(podLink)
	if err != nil {
		return nil // the route went with its interface
	}
	subnet := serviceSubnet.Masked()
	_ = netlink.RouteDel(&netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK,
		Dst: &net.IPNet{IP: subnet.Addr().AsSlice(), Mask: net.CIDRMask(subnet.Bits(), 32)}}) // it may not be there
	return nil
}
