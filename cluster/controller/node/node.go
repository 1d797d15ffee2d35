// Package node watches over the life of nodes. A node whose kubelet falls
// silent gets unknown conditions; conditions become taints; pods that do not
// tolerate a NoExecute taint, or no longer, are deleted from the node.
//
// Silence is measured by this process's clock, from when a heartbeat (the
// node's Lease in kube-node-lease, or its status) was last seen to change: so
// neither a node's wrong clock nor a restart of the server makes nodes appear
// dead.
//
// While every node is silent nothing is evicted: then it is this side that is
// cut off, or there is nowhere to go.
//
// It starts no goroutines but those of its two loops.
package node

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"golang.org/x/sync/errgroup"

	"gantry/cluster/internal/loop"
	"gantry/cluster/internal/pods"
)

const (
	// DefaultGrace is how long a node may be silent.
	DefaultGrace = 40 * time.Second
	// startupGrace is how long a new node may take to report for the first time.
	startupGrace = 60 * time.Second
)

// Config holds what the controller needs.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory // started by the caller after New
	Grace     time.Duration                   // how long a node may be silent; 0 means DefaultGrace
	Logger    *slog.Logger                    // nil discards
}

// Controller watches over nodes.
type Controller struct {
	client    kubernetes.Interface
	grace     time.Duration
	log       *slog.Logger
	nodes     cache.SharedIndexInformer
	nodeList  corelisters.NodeLister
	leases    cache.SharedIndexInformer
	pods      cache.SharedIndexInformer
	podList   corelisters.PodLister
	lifecycle *loop.Loop[string]
	eviction  *loop.Loop[cache.ObjectName]
	recorder  *loop.Recorder // set by Run

	mu    sync.Mutex
	heard map[string]heartbeat    // by node
	seen  map[types.UID]time.Time // pods to be evicted, since when their taints are known
}

// New returns a controller that waits for Run.
func New(cfg Config) (*Controller, error) {
	core := cfg.Informers.Core().V1()
	c := &Controller{
		client:   cfg.Client,
		grace:    cfg.Grace,
		log:      cfg.Logger,
		nodes:    core.Nodes().Informer(),
		nodeList: core.Nodes().Lister(),
		leases:   cfg.Informers.Coordination().V1().Leases().Informer(),
		pods:     core.Pods().Informer(),
		podList:  core.Pods().Lister(),
		heard:    map[string]heartbeat{},
		seen:     map[types.UID]time.Time{},
	}
	if c.grace == 0 {
		c.grace = DefaultGrace
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if err := pods.AddIndexes(c.pods); err != nil {
		return nil, err
	}
	c.lifecycle = loop.New(loop.Config[string]{Name: "node-lifecycle", Reconcile: c.reconcileNode, Logger: cfg.Logger})
	c.eviction = loop.New(loop.Config[cache.ObjectName]{Name: "taint-eviction", Reconcile: c.reconcilePod, Logger: cfg.Logger})
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	recorder, stop := loop.NewRecorder(ctx, c.client, "node-controller")
	defer stop()
	c.recorder = recorder
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.runLifecycle(ctx) })
	g.Go(func() error { return c.runEviction(ctx) })
	if err := g.Wait(); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	return nil
}

func (c *Controller) runLifecycle(ctx context.Context) error {
	return c.lifecycle.Run(ctx,
		loop.Watch{Informer: c.leases, Handler: loop.Latest(func(lease *coordinationv1.Lease) {
			if lease.Namespace == corev1.NamespaceNodeLease && lease.Spec.RenewTime != nil {
				c.hear(lease.Name, func(h *heartbeat) { h.lease = lease.Spec.RenewTime.Time })
			}
		})},
		loop.Watch{Informer: c.nodes, Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: func(obj any) {
				node := obj.(*corev1.Node)
				c.hearStatus(node)
				c.lifecycle.Add(node.Name)
			},
			UpdateFunc: func(before, after any) {
				old, node := before.(*corev1.Node), after.(*corev1.Node)
				c.hearStatus(node)
				c.lifecycle.Add(node.Name)
				if readiness(old) != readiness(node) {
					c.lookAtAll()
				}
			},
			DeleteFunc: func(obj any) {
				if node, ok := loop.Object[*corev1.Node](obj); ok {
					c.forget(node.Name)
					c.lookAtAll()
				}
			},
		}},
		// The pods of a silent node are marked, so they must be known.
		loop.Watch{Informer: c.pods},
	)
}

func (c *Controller) runEviction(ctx context.Context) error {
	return c.eviction.Run(ctx,
		loop.Watch{Informer: c.nodes, Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: func(obj any) { c.queuePods(obj.(*corev1.Node)) },
			UpdateFunc: func(before, after any) {
				old, node := before.(*corev1.Node), after.(*corev1.Node)
				if !apiequality.Semantic.DeepEqual(old.Spec.Taints, node.Spec.Taints) {
					c.queuePods(node)
				}
			},
		}},
		loop.Watch{Informer: c.pods, Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: func(obj any) { c.queuePod(obj.(*corev1.Pod)) },
			UpdateFunc: func(before, after any) {
				old, pod := before.(*corev1.Pod), after.(*corev1.Pod)
				if old.Spec.NodeName != pod.Spec.NodeName || !apiequality.Semantic.DeepEqual(old.Spec.Tolerations, pod.Spec.Tolerations) {
					c.queuePod(pod)
				}
			},
			DeleteFunc: func(obj any) {
				if pod, ok := loop.Object[*corev1.Pod](obj); ok {
					c.unsee(pod.UID)
				}
			},
		}},
	)
}

// lookAtAll queues every node: whether one's pods are evicted depends on
// whether others are alive.
func (c *Controller) lookAtAll() {
	all, err := c.nodeList.List(labels.Everything())
	if err != nil {
		return // the lister of a cache has no errors
	}
	for _, node := range all {
		c.lifecycle.Add(node.Name)
	}
}
