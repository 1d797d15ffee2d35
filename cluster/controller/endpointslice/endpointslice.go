// Package endpointslice lists, for each Service with a selector, the pods
// behind it: EndpointSlices of at most 100 endpoints, one group of slices per
// address family and set of resolved ports. Proxy, DNS and ingress route by
// them.
//
// Slices are named by content (Service, family, ports, number), so that a
// repeated creation meets "already exists". It starts no goroutines but those
// of its loop. The annotation endpoints.kubernetes.io/last-change-trigger-time
// is not written.
package endpointslice

import (
	"context"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"gantry/cluster/internal/loop"
	"gantry/cluster/internal/pods"
)

// ManagedBy marks the slices that this controller writes.
const ManagedBy = "endpointslice-controller.k8s.io"

// Config holds what the controller needs.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory // started by the caller after New
	Logger    *slog.Logger                    // nil discards
}

// Controller reconciles Services.
type Controller struct {
	client      kubernetes.Interface
	services    cache.SharedIndexInformer
	serviceList corelisters.ServiceLister
	pods        cache.SharedIndexInformer
	podList     corelisters.PodLister
	slices      cache.SharedIndexInformer
	sliceList   discoverylisters.EndpointSliceLister
	nodes       cache.SharedIndexInformer
	nodeList    corelisters.NodeLister
	loop        *loop.Loop[cache.ObjectName]
}

// New returns a controller that waits for Run.
func New(cfg Config) (*Controller, error) {
	core := cfg.Informers.Core().V1()
	slices := cfg.Informers.Discovery().V1().EndpointSlices()
	c := &Controller{
		client:      cfg.Client,
		services:    core.Services().Informer(),
		serviceList: core.Services().Lister(),
		pods:        core.Pods().Informer(),
		podList:     core.Pods().Lister(),
		slices:      slices.Informer(),
		sliceList:   slices.Lister(),
		nodes:       core.Nodes().Informer(),
		nodeList:    core.Nodes().Lister(),
	}
	c.loop = loop.New(loop.Config[cache.ObjectName]{Name: "endpointslice", Reconcile: c.reconcile, Logger: cfg.Logger})
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	return c.loop.Run(ctx,
		loop.Watch{Informer: c.services, Handler: loop.Latest(func(s *corev1.Service) {
			c.loop.Add(cache.MetaObjectToName(s))
		})},
		loop.Watch{Informer: c.pods, Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { c.queueServices(obj.(*corev1.Pod)) },
			UpdateFunc: func(before, after any) { c.podChanged(before.(*corev1.Pod), after.(*corev1.Pod)) },
			DeleteFunc: func(obj any) {
				if pod, ok := loop.Object[*corev1.Pod](obj); ok {
					c.queueServices(pod)
				}
			},
		}},
		loop.Watch{Informer: c.slices, Handler: loop.Handle(func(s *discoveryv1.EndpointSlice) {
			if name := s.Labels[discoveryv1.LabelServiceName]; name != "" && s.Labels[discoveryv1.LabelManagedBy] == ManagedBy {
				c.loop.Add(cache.NewObjectName(s.Namespace, name))
			}
		})},
		loop.Watch{Informer: c.nodes, Handler: cache.ResourceEventHandlerFuncs{
			UpdateFunc: func(before, after any) {
				old, node := before.(*corev1.Node), after.(*corev1.Node)
				if old.Labels[corev1.LabelTopologyZone] != node.Labels[corev1.LabelTopologyZone] {
					c.queueAll()
				}
			},
		}},
	)
}

func (c *Controller) podChanged(before, after *corev1.Pod) {
	moved := !apiequality.Semantic.DeepEqual(before.Labels, after.Labels)
	if !moved && !changesEndpoint(before, after) {
		return
	}
	if moved {
		c.queueServices(before)
	}
	c.queueServices(after)
}

// changesEndpoint reports whether a pod's endpoint may differ between two
// versions of it. A pod's status changes far more often than that.
func changesEndpoint(a, b *corev1.Pod) bool {
	return pods.Ready(a) != pods.Ready(b) ||
		pods.Finished(a) != pods.Finished(b) ||
		(a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil) ||
		a.Spec.NodeName != b.Spec.NodeName ||
		a.Spec.Hostname != b.Spec.Hostname || a.Spec.Subdomain != b.Spec.Subdomain ||
		a.UID != b.UID ||
		!apiequality.Semantic.DeepEqual(a.Status.PodIPs, b.Status.PodIPs) || a.Status.PodIP != b.Status.PodIP
}

// queueServices queues the Services that select the pod.
func (c *Controller) queueServices(pod *corev1.Pod) {
	if len(pod.Labels) == 0 {
		return
	}
	services, err := c.serviceList.Services(pod.Namespace).List(labels.Everything())
	if err != nil {
		return // the lister of a cache has no errors
	}
	for _, s := range services {
		if len(s.Spec.Selector) > 0 && labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(pod.Labels)) {
			c.loop.Add(cache.MetaObjectToName(s))
		}
	}
}

func (c *Controller) queueAll() {
	services, err := c.serviceList.List(labels.Everything())
	if err != nil {
		return // the lister of a cache has no errors
	}
	for _, s := range services {
		c.loop.Add(cache.MetaObjectToName(s))
	}
}
