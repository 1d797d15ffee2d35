// Package namespace empties namespaces that are being deleted, of objects of
// every kind that the API serves, and lets go of a namespace when nothing is
// left in it. Why one takes long is told in its conditions.
//
// It starts no goroutines but those of its loop.
package namespace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"gantry/cluster/internal/loop"
)

// The last of the contents go with their pods' containers, which have no event
// of their own here but the pods' deletion; what has a foreign finalizer is
// looked at again this often.
const recheck = 2 * time.Second

// Config holds what the controller needs.
type Config struct {
	Client    kubernetes.Interface
	Metadata  metadata.Interface
	Informers informers.SharedInformerFactory // started by the caller after New
	Logger    *slog.Logger                    // nil discards
}

// Controller reconciles namespaces.
type Controller struct {
	client     kubernetes.Interface
	metadata   metadata.Interface
	namespaces cache.SharedIndexInformer
	nsList     corelisters.NamespaceLister
	pods       cache.SharedIndexInformer
	loop       *loop.Loop[string]
}

// New returns a controller that waits for Run.
func New(cfg Config) (*Controller, error) {
	core := cfg.Informers.Core().V1()
	c := &Controller{
		client:     cfg.Client,
		metadata:   cfg.Metadata,
		namespaces: core.Namespaces().Informer(),
		nsList:     core.Namespaces().Lister(),
		pods:       core.Pods().Informer(),
	}
	c.loop = loop.New(loop.Config[string]{Name: "namespace", Reconcile: c.reconcile, Logger: cfg.Logger})
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	return c.loop.Run(ctx,
		loop.Watch{Informer: c.namespaces, Handler: loop.Latest(func(ns *corev1.Namespace) {
			if ns.DeletionTimestamp != nil {
				c.loop.Add(ns.Name)
			}
		})},
		loop.Watch{Informer: c.pods, Handler: cache.ResourceEventHandlerFuncs{
			DeleteFunc: func(obj any) {
				pod, ok := loop.Object[*corev1.Pod](obj)
				if !ok {
					return
				}
				if ns, err := c.nsList.Get(pod.Namespace); err == nil && ns.DeletionTimestamp != nil {
					c.loop.Add(ns.Name)
				}
			},
		}},
	)
}

func (c *Controller) reconcile(ctx context.Context, name string) error {
	ns, err := c.nsList.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	if ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return nil
	}
	// The informer may lag behind a namespace that was deleted and made anew.
	ns, err = c.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read namespace: %w", err)
	}
	if ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return nil
	}
	found := c.empty(ctx, name)
	if ns, err = c.writeConditions(ctx, ns, found); err != nil {
		return err
	}
	if err := found.err(); err != nil {
		return err
	}
	if len(found.remaining) > 0 {
		c.loop.AddAfter(name, recheck)
		return nil
	}
	ns = ns.DeepCopy()
	ns.Spec.Finalizers = slices.DeleteFunc(ns.Spec.Finalizers, func(f corev1.FinalizerName) bool {
		return f == corev1.FinalizerKubernetes
	})
	_, err = c.client.CoreV1().Namespaces().Finalize(ctx, ns, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("finalize: %w", err)
	}
	return nil
}

// contents is what one pass over a namespace found.
type contents struct {
	discovery  error
	deletion   []error
	remaining  map[schema.GroupResource]int
	finalizers map[string]int
}

func (c *contents) err() error { return errors.Join(append(c.deletion, c.discovery)...) }

// empty deletes all that is in the namespace and counts what is still there.
func (c *Controller) empty(ctx context.Context, name string) *contents {
	found := &contents{remaining: map[schema.GroupResource]int{}, finalizers: map[string]int{}}
	kinds, err := c.deletable()
	found.discovery = err
	for _, kind := range kinds {
		left, err := c.emptyKind(ctx, kind, name)
		if err != nil {
			found.deletion = append(found.deletion, fmt.Errorf("delete %s: %w", kind.gvr.GroupResource(), err))
			continue
		}
		if len(left) > 0 {
			found.remaining[kind.gvr.GroupResource()] = len(left)
		}
		for _, object := range left {
			for _, f := range object.Finalizers {
				found.finalizers[f]++
			}
		}
		if kind.gvr.Resource == "pods" && kind.gvr.Group == "" && len(left) > 0 {
			// Pods end before what they use: their secrets, their services.
			return found
		}
	}
	return found
}

type resource struct {
	gvr        schema.GroupVersionResource
	collection bool // can be deleted in one call
}

// deletable lists the kinds in namespaces whose objects can be deleted, pods
// first. What could be discovered is returned along with an error.
func (c *Controller) deletable() ([]resource, error) {
	lists, err := c.client.Discovery().ServerPreferredNamespacedResources()
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return nil, fmt.Errorf("discover kinds: %w", err)
	}
	var kinds []resource
	for _, list := range lists {
		gv, parseErr := schema.ParseGroupVersion(list.GroupVersion)
		if parseErr != nil {
			return nil, fmt.Errorf("discover kinds: %w", parseErr)
		}
		for _, r := range list.APIResources {
			if slices.Contains(r.Verbs, "delete") && slices.Contains(r.Verbs, "list") {
				kinds = append(kinds, resource{gv.WithResource(r.Name), slices.Contains(r.Verbs, "deletecollection")})
			}
		}
	}
	slices.SortStableFunc(kinds, func(a, b resource) int {
		return order(a.gvr) - order(b.gvr)
	})
	return kinds, err
}

// order puts pods first, and events last: the deletions write some.
func order(gvr schema.GroupVersionResource) int {
	switch gvr.Resource {
	case "pods":
		return -1
	case "events":
		return 1
	}
	return 0
}

// emptyKind deletes the objects of one kind and returns those that are left.
func (c *Controller) emptyKind(ctx context.Context, kind resource, namespace string) ([]metav1.PartialObjectMetadata, error) {
	client := c.metadata.Resource(kind.gvr).Namespace(namespace)
	background := metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)}
	list, err := client.List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if len(list.Items) == 0 {
		return nil, nil
	}
	if kind.collection {
		if err := client.DeleteCollection(ctx, background, metav1.ListOptions{}); err != nil {
			return nil, err
		}
	} else {
		for _, object := range list.Items {
			if err := client.Delete(ctx, object.Name, background); err != nil && !apierrors.IsNotFound(err) {
				return nil, err
			}
		}
	}
	if list, err = client.List(ctx, metav1.ListOptions{}); err != nil {
		return nil, err
	}
	return list.Items, nil
}

func (c *Controller) writeConditions(ctx context.Context, ns *corev1.Namespace, found *contents) (*corev1.Namespace, error) {
	next := ns.DeepCopy()
	next.Status.Phase = corev1.NamespaceTerminating
	next.Status.Conditions = conditions(ns.Status.Conditions, found, metav1.Now())
	if apiequality.Semantic.DeepEqual(ns.Status, next.Status) {
		return ns, nil
	}
	written, err := c.client.CoreV1().Namespaces().UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("write status: %w", err)
	}
	return written, nil
}
