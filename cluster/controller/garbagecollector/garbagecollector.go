// Package garbagecollector deletes objects whose owners are gone, and carries
// out the deletion policies: background (dependents after their owner),
// foreground (an owner waits for the dependents that block it) and orphan
// (dependents lose the reference and stay).
//
// It keeps a graph of owners and dependents over all kinds that can be listed,
// watched and deleted, but for Events. Kinds that other parts of the server
// cache anyway are read from the shared informers; of the others only the
// metadata is watched. The kinds are discovered once, when Run begins.
//
// An object is deleted only after asking the API, not the graph, whether it
// still names the owner and, where the owner's deletion was not watched,
// whether that is really absent.
//
// It starts the goroutines of its loop and of its metadata informers.
package garbagecollector

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"

	"gantry/cluster/internal/loop"
)

// Discovery fails only while the API server is not ready, which has no event.
const discoveryRetry = 500 * time.Millisecond

// shared are the kinds that are in the shared informers anyway, for the other
// controllers, the scheduler, the proxy and the ingress.
var shared = []schema.GroupVersionResource{
	corev1.SchemeGroupVersion.WithResource("pods"),
	corev1.SchemeGroupVersion.WithResource("services"),
	corev1.SchemeGroupVersion.WithResource("nodes"),
	corev1.SchemeGroupVersion.WithResource("namespaces"),
	corev1.SchemeGroupVersion.WithResource("serviceaccounts"),
	appsv1.SchemeGroupVersion.WithResource("deployments"),
	appsv1.SchemeGroupVersion.WithResource("replicasets"),
	discoveryv1.SchemeGroupVersion.WithResource("endpointslices"),
	coordinationv1.SchemeGroupVersion.WithResource("leases"),
	networkingv1.SchemeGroupVersion.WithResource("ingresses"),
}

// Config holds what the controller needs.
type Config struct {
	Client    kubernetes.Interface
	Metadata  metadata.Interface
	Informers informers.SharedInformerFactory // started by the caller after New
	Logger    *slog.Logger                    // nil discards
}

// Controller collects garbage.
type Controller struct {
	client   kubernetes.Interface
	metadata metadata.Interface
	shared   map[schema.GroupVersionResource]cache.SharedIndexInformer
	graph    *graph
	kinds    map[schema.GroupKind]resource // set by Run
	loop     *loop.Loop[types.UID]
	log      *slog.Logger
}

// resource is where the objects of a kind are found.
type resource struct {
	gvr        schema.GroupVersionResource
	namespaced bool
}

// New returns a controller that waits for Run.
func New(cfg Config) (*Controller, error) {
	c := &Controller{
		client:   cfg.Client,
		metadata: cfg.Metadata,
		shared:   map[schema.GroupVersionResource]cache.SharedIndexInformer{},
		graph:    newGraph(),
		log:      cfg.Logger,
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	for _, gvr := range shared {
		informer, err := cfg.Informers.ForResource(gvr)
		if err != nil {
			return nil, fmt.Errorf("informer of %s: %w", gvr.Resource, err)
		}
		c.shared[gvr] = informer.Informer()
	}
	c.loop = loop.New(loop.Config[types.UID]{Name: "garbagecollector", Workers: 8, Reconcile: c.reconcile, Logger: cfg.Logger})
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	kinds, err := c.discover(ctx)
	if err != nil {
		return nil // ctx ended while the API server was not ready
	}
	c.kinds = kinds
	var own sync.WaitGroup
	defer own.Wait()
	var watches []loop.Watch
	for gk, r := range kinds {
		informer := c.shared[r.gvr]
		if informer == nil {
			informer = metadatainformer.NewFilteredMetadataInformer(c.metadata, r.gvr, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
			own.Go(func() { informer.RunWithContext(ctx) })
		}
		watches = append(watches, loop.Watch{Informer: informer, Handler: c.handler(gk, r)})
	}
	return c.loop.Run(ctx, watches...)
}

// discover returns the kinds to watch over. The error is ctx's.
func (c *Controller) discover(ctx context.Context) (map[schema.GroupKind]resource, error) {
	kinds := map[schema.GroupKind]resource{}
	err := wait.PollUntilContextCancel(ctx, discoveryRetry, true, func(context.Context) (bool, error) {
		lists, err := c.client.Discovery().ServerPreferredResources()
		if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
			c.log.Debug("discovery failed, retrying", "err", err)
			return false, nil
		}
		collectKinds(lists, kinds)
		return len(kinds) > 0, nil
	})
	return kinds, err
}

func collectKinds(lists []*metav1.APIResourceList, kinds map[schema.GroupKind]resource) {
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue // not a kind that any object can name
		}
		for _, r := range list.APIResources {
			watchable := slices.Contains(r.Verbs, "list") && slices.Contains(r.Verbs, "watch")
			if r.Kind == "Event" || !watchable || !slices.Contains(r.Verbs, "delete") {
				continue
			}
			kinds[schema.GroupKind{Group: gv.Group, Kind: r.Kind}] = resource{gv.WithResource(r.Name), r.Namespaced}
		}
	}
}

func (c *Controller) handler(kind schema.GroupKind, r resource) cache.ResourceEventHandler {
	observe := func(obj any) {
		if m, err := meta.Accessor(obj); err == nil {
			c.queue(c.graph.observe(identity{kind, r.gvr, m.GetNamespace(), m.GetName(), m.GetUID()}, m))
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: observe,
		UpdateFunc: func(before, after any) {
			old, errOld := meta.Accessor(before)
			m, err := meta.Accessor(after)
			if errOld != nil || err != nil {
				return
			}
			if old.GetUID() != m.GetUID() {
				// Deleted and made anew between two lists of the informer.
				c.queue(c.graph.remove(old.GetUID()))
			}
			observe(after)
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if m, err := meta.Accessor(obj); err == nil {
				c.queue(c.graph.remove(m.GetUID()))
			}
		},
	}
}

func (c *Controller) queue(uids []types.UID) {
	for _, uid := range uids {
		c.loop.Add(uid)
	}
}
