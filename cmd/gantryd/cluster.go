package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"gantry/cluster/apiserver"
	"gantry/cluster/controller"
	"gantry/cluster/dns"
	"gantry/cluster/ingress"
	"gantry/cluster/kubelet"
	"gantry/cluster/proxy"
	"gantry/cluster/scheduler"
	"gantry/cluster/store"
	"gantry/engine/network"
	"gantry/internal/instance"
	"gantry/internal/preflight"
	"gantry/internal/problem"
	"gantry/internal/version"
)

// clusterDomain is the suffix of the cluster's names.
const clusterDomain = "cluster.local"

// clusterWing is the cluster's wing of a server.
type clusterWing struct {
	s        *server
	host     *host
	node     string
	nodeIP   netip.Addr
	gateway  netip.Addr // the host's address on the pod bridge
	pods     netip.Prefix
	api      *apiserver.Server
	client   kubernetes.Interface
	metadata metadata.Interface
	shared   informers.SharedInformerFactory
	kubelet  atomic.Pointer[kubelet.Kubelet]
}

// openStore opens the cluster's state; it needs nothing of the host.
func (s *server) openStore(ctx context.Context) error {
	return s.progress.Step("etcd", func() error {
		st, err := store.Open(ctx, store.Config{Dir: filepath.Join(s.cfg.DataDir, "etcd"), Logger: s.log.With("part", "store")})
		s.mu.Lock()
		defer s.mu.Unlock()
		s.store = st
		return err
	})
}

// startCluster starts the control plane and the node as parts of g, and returns
// when the node is ready.
func (s *server) startCluster(ctx context.Context, g *errgroup.Group) error {
	c := &clusterWing{s: s, host: s.host, node: nodeName()}
	pods, err := c.host.networks.Inspect(network.Pods)
	if err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	c.gateway, c.pods = pods.Gateway, pods.Subnet
	c.nodeIP = hostAddress(c.gateway)
	if err := s.progress.Step("api server", func() error { return c.startAPI(ctx, g) }); err != nil {
		return err
	}
	if err := s.progress.Step("control loops", func() error { return c.startLoops(ctx, g) }); err != nil {
		return err
	}
	if err := s.progress.Step("node", func() error { return c.startNode(ctx, g) }); err != nil {
		return err
	}
	if err := s.progress.Step("services", func() error { return c.startServices(ctx, g) }); err != nil {
		return err
	}
	if err := s.progress.Step("node ready", func() error { return c.waitForNode(ctx) }); err != nil {
		return err
	}
	return c.waitForApps(ctx)
}

func (c *clusterWing) startAPI(ctx context.Context, g *errgroup.Group) error {
	_, port, err := net.SplitHostPort(c.s.cfg.APIListen)
	if err != nil {
		return &problem.UserError{Op: "listen", Object: c.s.cfg.APIListen, Err: err, Try: "name an address like 127.0.0.1:6443 with --api-listen"}
	}
	c.api, err = apiserver.New(apiserver.Config{
		Store:            c.s.store,
		Listen:           c.s.cfg.APIListen,
		ExtraListen:      []string{net.JoinHostPort(c.gateway.String(), port)}, // for the pods
		TLSDir:           filepath.Join(c.s.cfg.DataDir, "tls"),
		Kubeconfig:       c.s.cfg.Kubeconfig(),
		ServiceSubnet:    c.s.cfg.ServiceSubnet(),
		AdvertiseAddress: c.gateway,
		Nodes:            c,
		Logger:           c.s.log.With("part", "apiserver"),
	})
	if err != nil {
		return err
	}
	part(ctx, g, "api server", c.api.Run)
	if err := await(ctx, c.api.Ready()); err != nil {
		return c.taken(err)
	}
	c.s.setAPI(c.api.Addr())
	loopback := unlimited(c.api.Loopback())
	if c.client, err = kubernetes.NewForConfig(loopback); err != nil {
		return err
	}
	if c.metadata, err = metadata.NewForConfig(loopback); err != nil {
		return err
	}
	c.shared = informers.NewSharedInformerFactory(c.client, 0)
	return nil
}

// taken adds to an error whose cause is a port in use who has it.
func (c *clusterWing) taken(err error) error {
	_, port, _ := net.SplitHostPort(c.s.cfg.APIListen) // checked by startAPI
	if !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	return &problem.UserError{
		Op: "listen", Object: c.s.cfg.APIListen,
		Err: problem.New(problem.Conflict, "it is taken by %s: %w", preflight.PortOwner(port), err),
		Try: "stop it, or name another address with --api-listen",
	}
}

// await returns nil when ready is closed, and else why ctx has ended.
func await(ctx context.Context, ready <-chan struct{}) error {
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// unlimited takes client-go's limit of requests off: inside one process the
// server's own fairness is enough.
func unlimited(cfg *rest.Config) *rest.Config {
	cfg.QPS = -1
	return cfg
}

// Handler implements apiserver.NodeConnector: the one node's kubelet is in
// this process.
func (c *clusterWing) Handler(_ context.Context, node string) (http.Handler, error) {
	k := c.kubelet.Load()
	if node != c.node || k == nil {
		return nil, problem.New(problem.Unavailable, "the kubelet of node %s does not answer", node)
	}
	return k.Handler(), nil
}

func (c *clusterWing) startLoops(ctx context.Context, g *errgroup.Group) error {
	ca, err := os.ReadFile(filepath.Join(c.s.cfg.DataDir, "tls", "ca.crt"))
	if err != nil {
		return err
	}
	loops, err := controller.All(controller.Config{
		Client: c.client, Metadata: c.metadata, Informers: c.shared, CA: ca, Logger: c.s.log.With("part", "controller"),
	})
	if err != nil {
		return err
	}
	for _, l := range loops {
		part(ctx, g, "controller "+l.Name, l.Run)
	}
	sched, err := scheduler.New(scheduler.Config{Client: c.client, Informers: c.shared, Logger: c.s.log.With("part", "scheduler")})
	if err != nil {
		return err
	}
	part(ctx, g, "scheduler", sched.Run)
	return nil
}

func (c *clusterWing) startNode(ctx context.Context, g *errgroup.Group) error {
	client, err := kubernetes.NewForConfig(unlimited(c.api.LoopbackAs("system:node:"+c.node, "system:nodes")))
	if err != nil {
		return err
	}
	runtime, err := c.s.openCRI(ctx, g)
	if err != nil {
		return err
	}
	dnsAddress := netip.Addr{}
	if !c.s.cfg.Disabled("dns") {
		dnsAddress = c.gateway
	}
	k, err := kubelet.New(kubelet.Config{
		Client:        client,
		Informers:     c.shared,
		Runtime:       runtime,
		Images:        runtime,
		Streams:       runtime.Streams(),
		NodeName:      c.node,
		NodeIP:        c.nodeIP,
		PodCIDR:       c.pods,
		RootDir:       filepath.Join(c.s.cfg.DataDir, "kubelet"),
		RunDir:        filepath.Join(c.s.cfg.RunDir, "kubelet"),
		LogDir:        filepath.Join(c.s.cfg.DataDir, "kubelet", "logs"),
		ClusterDNS:    dnsAddress,
		ClusterDomain: clusterDomain,
		Version:       version.Version,
		Logger:        c.s.log.With("part", "kubelet"),
	})
	if err != nil {
		return err
	}
	c.kubelet.Store(k)
	part(ctx, g, "kubelet", k.Run)
	return nil
}

// servicesTable is the nftables table of the proxy; the network's is named after
// the instance alone.
func servicesTable(cfg instance.Config) string { return cfg.Table() + "-services" }

// startServices starts what brings traffic to pods, and returns when it does.
func (c *clusterWing) startServices(ctx context.Context, g *errgroup.Group) error {
	cfg := c.s.cfg
	var ready []<-chan struct{}
	if !cfg.Disabled("proxy") {
		p, err := proxy.New(proxy.Config{
			Informers: c.shared, Table: servicesTable(cfg), NodeName: c.node, ServiceSubnet: cfg.ServiceSubnet(),
			PodSubnet: c.pods, PodLink: cfg.PodBridge(), Logger: c.s.log.With("part", "proxy"),
		})
		if err != nil {
			return err
		}
		part(ctx, g, "proxy", p.Run)
		ready = append(ready, p.Ready())
	}
	if !cfg.Disabled("dns") {
		d, err := dns.New(dns.Config{Informers: c.shared, Listen: netip.AddrPortFrom(c.gateway, 0), Domain: clusterDomain, Logger: c.s.log.With("part", "dns")})
		if err != nil {
			return err
		}
		part(ctx, g, "dns", d.Run)
		ready = append(ready, d.Ready())
	}
	if !cfg.Disabled("ingress") {
		i, err := c.openIngress()
		if err != nil {
			return err
		}
		part(ctx, g, "ingress", i.Run)
		ready = append(ready, i.Ready())
	}
	c.shared.Start(ctx.Done())
	for _, r := range ready {
		if err := await(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

func (c *clusterWing) openIngress() (*ingress.Router, error) {
	l, note, err := listenHTTP(c.s.cfg.HTTPListen)
	if err != nil {
		return nil, err
	}
	c.s.setHTTP(l.Addr().String(), note)
	i, err := ingress.New(ingress.Config{Client: c.client, Informers: c.shared, Listener: l, Address: c.nodeIP.String(), Logger: c.s.log.With("part", "ingress")})
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return i, nil
}

// nodeName is the host's name as a node may have it.
func nodeName() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "node"
	}
	return strings.ToLower(name)
}

// hostAddress is the address by which the host reaches the world; a host
// without a way there has fallback.
func hostAddress(fallback netip.Addr) netip.Addr {
	conn, err := net.Dial("udp", "192.0.2.1:9") // a route is looked up, nothing is sent
	if err != nil {
		return fallback
	}
	defer conn.Close()
	local, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return fallback
	}
	return local.Addr()
}
