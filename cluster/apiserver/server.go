// Package apiserver is the Kubernetes-compatible API of the cluster: REST,
// watch, patch, apply, discovery, authentication, authorization and admission
// over cluster/store.
//
// The contract is upstream's own code used as a library: types, codecs,
// defaults, validation, columns, field management. What is written here is one
// generic machine driven by the table of kinds in cluster/resource, and a cache
// of all objects that one etcd watch feeds (feed.go, cache.go). A read is
// answered from the cache once that holds every acknowledged write. A write is
// one transaction on the revision that it was decided on. Readers and watchers
// share decoded objects and their encodings (entry.go); nothing may change an
// object that an entry holds.
//
// Files below Config.TLSDir (0700, files 0600): ca.crt ca.key serving.crt
// serving.key admin.crt admin.key sa.key.
//
// Goroutines: Run owns the listeners, the feed of the cache and the periodic
// work; each request has its own, a watch for as long as it lasts.
package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"gantry/cluster/resource"
	"gantry/cluster/store"
	"gantry/internal/problem"
)

// relaxEvery is how often memory that only speeds up busy times is given back.
const relaxEvery = time.Minute

// Config is what a server needs.
type Config struct {
	Store            *store.Store
	Listen           string        // host:port for TLS; port 0 picks one; empty serves Loopback alone
	ExtraListen      []string      // further addresses, the same port rules
	TLSDir           string        // certificates and keys; created if missing
	Kubeconfig       string        // where the administrator's kubeconfig is written; empty for none
	ServiceSubnet    netip.Prefix  // ClusterIPs come from it; its first address is the default/kubernetes Service
	AdvertiseAddress netip.Addr    // where pods reach the server; the zero value takes Listen's host
	Nodes            NodeConnector // nil: pods/log, exec, attach and portforward answer 503
	Logger           *slog.Logger  // nil discards
}

// NodeConnector finds the kubelet of a node.
type NodeConnector interface {
	// Handler returns the HTTP API of node's kubelet: /containerLogs/NS/POD/CONTAINER,
	// /exec/..., /attach/..., /portForward/.... Connections may be hijacked.
	Handler(ctx context.Context, node string) (http.Handler, error)
}

// Server is the API server. New makes it, Run serves until its context ends.
type Server struct {
	cfg      Config
	log      *slog.Logger
	store    *store.Store
	feed     *feed
	kinds    kinds
	virtual  []virtual
	managers managers
	docs     documents
	alloc    *allocator
	keys     atomic.Pointer[keys]
	ready    chan struct{}
	stopped  chan struct{}
	addr     atomic.Pointer[string]
}

// kinds are the rows of the table, and those that admission looks into.
type kinds struct {
	all                                        []*kind
	byPath                                     map[string]*kind // GROUP/VERSION/PLURAL
	namespaces, serviceAccounts, pods, secrets *kind
	services, endpointSlices, nodes            *kind
}

// New validates cfg. It touches nothing outside the process.
func New(cfg Config) (*Server, error) {
	if cfg.Store == nil {
		return nil, problem.New(problem.Invalid, "API server: no store")
	}
	if !cfg.ServiceSubnet.IsValid() {
		return nil, problem.New(problem.Invalid, "API server: no range of Service addresses")
	}
	s := &Server{
		cfg:     cfg,
		log:     cfg.Logger,
		store:   cfg.Store,
		feed:    newFeed(cfg.Store, newCodec()),
		alloc:   newAllocator(cfg.ServiceSubnet),
		ready:   make(chan struct{}),
		stopped: make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.kinds.byPath = map[string]*kind{}
	for _, row := range resource.Kinds() {
		k := newKind(row, s.feed.cacheOf(row.Prefix))
		s.feed.codec.versions[row.Storage.WithKind(row.Kind).GroupKind()] = row.Storage
		s.kinds.all = append(s.kinds.all, k)
		s.kinds.byPath[k.Group+"/"+k.Version+"/"+k.Plural] = k
	}
	s.kinds.namespaces = s.kinds.byPath["/v1/namespaces"]
	s.kinds.serviceAccounts = s.kinds.byPath["/v1/serviceaccounts"]
	s.kinds.pods = s.kinds.byPath["/v1/pods"]
	s.kinds.services = s.kinds.byPath["/v1/services"]
	s.kinds.nodes = s.kinds.byPath["/v1/nodes"]
	s.kinds.secrets = s.kinds.byPath["/v1/secrets"]
	s.kinds.endpointSlices = s.kinds.byPath["discovery.k8s.io/v1/endpointslices"]
	s.virtual = s.virtualResources()
	return s, nil
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	defer close(s.stopped)
	if err := s.loadKeys(); err != nil {
		return fmt.Errorf("API server certificates: %w", err)
	}
	listeners, err := s.listen(ctx)
	if err != nil {
		return err
	}
	rev, err := s.feed.fill(ctx)
	if err != nil {
		return errors.Join(fmt.Errorf("API server: %w", err), closeAll(listeners))
	}
	for _, e := range s.kinds.services.entries() {
		if svc, ok := e.obj.(*corev1.Service); ok {
			s.alloc.restore(svc)
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.feed.run(gctx, rev) })
	g.Go(func() error { return s.relax(gctx) })
	g.Go(func() error { return s.serve(gctx, listeners) })
	g.Go(func() error {
		if err := s.bootstrap(gctx); err != nil {
			return fmt.Errorf("API server: default objects: %w", err)
		}
		close(s.ready)
		return nil
	})
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// entries are all objects of the kind now.
func (k *kind) entries() []*entry {
	tree, _ := k.cache.snapshot()
	var out []*entry
	walk(tree, k.cache.prefix, "", func(e *entry) bool {
		out = append(out, e)
		return true
	})
	return out
}

// relax gives memory back while nothing happens.
func (s *Server) relax(ctx context.Context) error {
	tick := time.NewTicker(relaxEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			for _, c := range s.feed.caches {
				c.relax(now)
			}
			if err := s.renewKeys(); err != nil {
				s.log.Error("certificates are about to expire and cannot be renewed", "err", err)
			}
		}
	}
}

// Ready is closed when requests are served and the default objects exist.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Addr is the address of the TLS listener with the port that was chosen, once
// the server is ready; empty without Config.Listen.
func (s *Server) Addr() string {
	if a := s.addr.Load(); a != nil {
		return *a
	}
	return ""
}

// CA is the certificate, in PEM, by which clients know this server. It is there
// once the server is ready.
func (s *Server) CA() []byte {
	if k := s.keys.Load(); k != nil {
		return k.ca.certPEM
	}
	return nil
}

// kindOf finds the row that a path names.
func (s *Server) kindOf(p path) *kind {
	return s.kinds.byPath[p.group+"/"+p.version+"/"+p.resource]
}

// subresources are those of k, in discovery's order.
func (s *Server) subresources(k *kind) []served {
	update := []string{"get", "patch", "update"}
	var out []served
	add := func(name string, r served, verbs ...string) {
		r.name, r.verbs = name, verbs
		out = append(out, r)
	}
	self := served{gvk: k.GroupVersionKind}
	if k.HasScale {
		add("scale", served{gvk: scaleGVK}, update...)
	}
	if k.HasStatus {
		add("status", self, update...)
	}
	switch k {
	case s.kinds.namespaces:
		add("finalize", self, "update")
	case s.kinds.serviceAccounts:
		add("token", served{gvk: tokenRequestGVK}, "create")
	case s.kinds.pods:
		connect := []string{"create", "get"}
		add("attach", served{gvk: corev1.SchemeGroupVersion.WithKind("PodAttachOptions")}, connect...)
		add("binding", served{gvk: corev1.SchemeGroupVersion.WithKind("Binding")}, "create")
		add("eviction", served{gvk: evictionGVK}, "create")
		add("exec", served{gvk: corev1.SchemeGroupVersion.WithKind("PodExecOptions")}, connect...)
		add("log", self, "get")
		add("portforward", served{gvk: corev1.SchemeGroupVersion.WithKind("PodPortForwardOptions")}, connect...)
	}
	slices.SortStableFunc(out, func(a, b served) int {
		switch {
		case a.name < b.name:
			return -1
		case a.name > b.name:
			return 1
		}
		return 0
	})
	return out
}
