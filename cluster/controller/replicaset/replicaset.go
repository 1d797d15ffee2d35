// Package replicaset keeps as many pods of each ReplicaSet as it asks for:
// creates what is missing, deletes what is too much (least valuable first),
// adopts matching orphans, releases pods that no longer match, and reports
// what it sees in the status.
//
// It starts no goroutines but those of its loop and, while one key is worked
// on, those that create or delete its pods in parallel.
package replicaset

import (
	"context"
	"log/slog"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"

	"gantry/cluster/controller/internal/expect"
	"gantry/cluster/internal/loop"
	"gantry/cluster/internal/pods"
)

var kind = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")

// Config holds what the controller needs.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory // started by the caller after New
	Logger    *slog.Logger                    // nil discards
}

// Controller reconciles ReplicaSets.
type Controller struct {
	client   kubernetes.Interface
	sets     cache.SharedIndexInformer
	setsList appslisters.ReplicaSetLister
	pods     cache.SharedIndexInformer
	loop     *loop.Loop[cache.ObjectName]
	pending  expect.Expectations
	recorder *loop.Recorder // set by Run
}

// New returns a controller that waits for Run.
func New(cfg Config) (*Controller, error) {
	sets := cfg.Informers.Apps().V1().ReplicaSets()
	c := &Controller{
		client:   cfg.Client,
		sets:     sets.Informer(),
		setsList: sets.Lister(),
		pods:     cfg.Informers.Core().V1().Pods().Informer(),
	}
	if err := pods.AddIndexes(c.pods); err != nil {
		return nil, err
	}
	c.loop = loop.New(loop.Config[cache.ObjectName]{
		Name: "replicaset", Reconcile: c.reconcile, Logger: cfg.Logger,
	})
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	recorder, stop := loop.NewRecorder(ctx, c.client, "replicaset-controller")
	defer stop()
	c.recorder = recorder
	return c.loop.Run(ctx,
		loop.Watch{Informer: c.sets, Handler: loop.Latest(func(rs *appsv1.ReplicaSet) {
			c.loop.Add(cache.MetaObjectToName(rs))
		})},
		loop.Watch{Informer: c.pods, Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { c.podAdded(obj.(*corev1.Pod)) },
			UpdateFunc: func(before, after any) { c.podChanged(before.(*corev1.Pod), after.(*corev1.Pod)) },
			DeleteFunc: func(obj any) {
				if pod, ok := loop.Object[*corev1.Pod](obj); ok {
					c.podGone(pod)
				}
			},
		}},
	)
}

func (c *Controller) podAdded(pod *corev1.Pod) {
	if pod.DeletionTimestamp != nil {
		c.podGone(pod)
		return
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		if ref.Kind == kind.Kind {
			c.pending.Created(ref.UID, 1)
			c.loop.Add(cache.NewObjectName(pod.Namespace, ref.Name))
		}
		return
	}
	c.queueAdopters(pod)
}

func (c *Controller) podChanged(before, after *corev1.Pod) {
	if before.ResourceVersion == after.ResourceVersion {
		return
	}
	if after.DeletionTimestamp != nil {
		// A pod that is being deleted no longer counts, though its containers
		// may take their grace period.
		c.podGone(after)
		return
	}
	old, now := metav1.GetControllerOfNoCopy(before), metav1.GetControllerOfNoCopy(after)
	if old != nil && old.Kind == kind.Kind && (now == nil || now.UID != old.UID) {
		c.loop.Add(cache.NewObjectName(before.Namespace, old.Name))
	}
	switch {
	case now == nil:
		c.queueAdopters(after)
	case now.Kind == kind.Kind:
		c.loop.Add(cache.NewObjectName(after.Namespace, now.Name))
	}
}

func (c *Controller) podGone(pod *corev1.Pod) {
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil && ref.Kind == kind.Kind {
		c.pending.Deleted(ref.UID, pod.UID)
		c.loop.Add(cache.NewObjectName(pod.Namespace, ref.Name))
	}
}

// queueAdopters queues the ReplicaSets whose selector matches an orphan.
func (c *Controller) queueAdopters(pod *corev1.Pod) {
	if len(pod.Labels) == 0 {
		return
	}
	sets, err := c.setsList.ReplicaSets(pod.Namespace).List(labels.Everything())
	if err != nil {
		return // the lister of a cache has no errors
	}
	for _, rs := range sets {
		selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
		if err == nil && !selector.Empty() && selector.Matches(labels.Set(pod.Labels)) {
			c.loop.Add(cache.MetaObjectToName(rs))
		}
	}
}

func now() metav1.Time { return metav1.NewTime(time.Now()) }
