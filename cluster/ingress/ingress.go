// Package ingress carries HTTP requests from one listener to the pods behind
// Services, by the rules of Ingress objects (networking.k8s.io/v1).
//
// build decides from all objects one immutable table of routes; the handler
// reads the current one. Requests go straight to ready endpoints in turn, so a
// change of endpoints counts from the next request on, without a kernel rule in
// between. A request that no endpoint took is tried on the next one: always when
// the connection was not even made, and otherwise when its method is idempotent
// and its body, if any, was not touched.
//
// Ingresses of class "gantry", and those without a class, are served. Upgrades
// (WebSocket, h2c), HTTP/2 without TLS and streaming pass through. Forwarding
// headers that a client sends are replaced, not believed.
//
// TLS is not served: an Ingress with spec.tls is served by plain HTTP, and says
// so in an event. Backends other than Services are not supported, and say so
// likewise; neither are Services of type ExternalName.
//
// Run serves, rebuilds the table, and writes status.loadBalancer.
package ingress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"gantry/internal/problem"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
)

// Class is the ingressClassName that is served, besides none.
const Class = "gantry"

// Config is what a Router is made from.
type Config struct {
	Client    kubernetes.Interface            // writes status and events
	Informers informers.SharedInformerFactory // started by the caller, after New
	Listener  net.Listener                    // Run closes it
	Address   string                          // IP or host name for status.loadBalancer; "" writes none
	Drain     time.Duration                   // how long requests may go on after Run's context ends; 0 means 10s
	Logger    *slog.Logger                    // nil discards
}

// Router serves one listener.
type Router struct {
	cfg       Config
	log       *slog.Logger
	ingresses networkinglisters.IngressLister
	services  corelisters.ServiceLister
	slices    discoverylisters.EndpointSliceLister
	synced    []cache.InformerSynced
	dirty     chan struct{} // has a token when the table wants to be built again
	table     atomic.Pointer[table]
	transport transports
	handlers  sync.WaitGroup
	ready     chan struct{} // closed when the first table is there
	readyOnce sync.Once
}

const defaultDrain = 10 * time.Second

// New registers with the informers; call it before they start.
func New(cfg Config) (*Router, error) {
	if cfg.Client == nil || cfg.Informers == nil || cfg.Listener == nil {
		return nil, problem.New(problem.Invalid, "ingress: a client, informers and a listener are needed")
	}
	if cfg.Drain == 0 {
		cfg.Drain = defaultDrain
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Router{cfg: cfg, log: cfg.Logger, dirty: make(chan struct{}, 1), ready: make(chan struct{}), transport: newTransports()}
	ingresses, services, slices := cfg.Informers.Networking().V1().Ingresses(), cfg.Informers.Core().V1().Services(), cfg.Informers.Discovery().V1().EndpointSlices()
	r.ingresses, r.services, r.slices = ingresses.Lister(), services.Lister(), slices.Lister()
	wake := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { r.wake() },
		UpdateFunc: func(any, any) { r.wake() },
		DeleteFunc: func(any) { r.wake() },
	}
	for _, informer := range []cache.SharedIndexInformer{ingresses.Informer(), services.Informer(), slices.Informer()} {
		registration, err := informer.AddEventHandler(wake)
		if err != nil {
			return nil, fmt.Errorf("ingress: %w", err)
		}
		r.synced = append(r.synced, registration.HasSynced)
	}
	return r, nil
}

// Ready is closed when requests are routed.
func (r *Router) Ready() <-chan struct{} { return r.ready }

func (r *Router) wake() {
	select {
	case r.dirty <- struct{}{}:
	default:
	}
}

// headerTimeout bounds how long a client may take to send a request's head.
const (
	headerTimeout = 30 * time.Second
	idleTimeout   = 2 * time.Minute
)

// Run serves until ctx is done, then lets requests finish for Config.Drain.
// Until the informers are filled every request gets 503.
func (r *Router) Run(ctx context.Context) error {
	connections, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler:           r,
		Protocols:         protocols,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		BaseContext:       func(net.Listener) context.Context { return connections },
		ErrorLog:          slog.NewLogLogger(r.log.Handler(), slog.LevelDebug),
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := server.Serve(r.cfg.Listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("ingress: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.Drain)
		defer cancel()
		_ = server.Shutdown(drain) // what did not finish in time is cut
		cut()
		_ = server.Close()
		r.handlers.Wait() // upgraded connections are not the server's any more
		r.transport.close()
		return nil
	})
	g.Go(func() error { return r.rebuild(ctx) })
	return g.Wait()
}

// rebuild keeps the table and the objects' status up to date.
func (r *Router) rebuild(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), r.synced...) {
		return nil // ctx is done
	}
	status := newStatus(r.cfg, r.log, r.wake)
	defer status.wait()
	r.wake()
	for {
		select {
		case <-r.dirty:
		case <-ctx.Done():
			return nil
		}
		ingresses, err := r.ingresses.List(labels.Everything())
		if err != nil {
			return fmt.Errorf("ingress: %w", err)
		}
		slices, err := r.slices.List(labels.Everything())
		if err != nil {
			return fmt.Errorf("ingress: %w", err)
		}
		ours := served(ingresses)
		r.table.Store(build(ours, r.services, slices, r.table.Load()))
		r.readyOnce.Do(func() { close(r.ready) })
		status.update(ctx, ours)
	}
}
