// Package deployment rolls each Deployment's pods from one template to the
// next, by ReplicaSets: one per template, named after the template's hash. The
// sets of former templates are kept at size 0 as the history that a rollback
// goes back to.
//
// What to do is decided in plan.go by a pure function over the Deployment and
// its ReplicaSets; reconcile.go carries the plan out. It starts no goroutines
// but those of its loop.
package deployment

import (
	"context"
	"log/slog"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"

	"gantry/cluster/internal/loop"
	"gantry/cluster/internal/pods"
)

var (
	kind    = appsv1.SchemeGroupVersion.WithKind("Deployment")
	setKind = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")
)

// Config holds what the controller needs.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory // started by the caller after New
	Logger    *slog.Logger                    // nil discards
}

// Controller reconciles Deployments.
type Controller struct {
	client         kubernetes.Interface
	deployments    cache.SharedIndexInformer
	deploymentList appslisters.DeploymentLister
	sets           cache.SharedIndexInformer
	setList        appslisters.ReplicaSetLister
	pods           cache.SharedIndexInformer
	loop           *loop.Loop[cache.ObjectName]
	recorder       *loop.Recorder // set by Run
}

// New returns a controller that waits for Run.
func New(cfg Config) (*Controller, error) {
	apps := cfg.Informers.Apps().V1()
	c := &Controller{
		client:         cfg.Client,
		deployments:    apps.Deployments().Informer(),
		deploymentList: apps.Deployments().Lister(),
		sets:           apps.ReplicaSets().Informer(),
		setList:        apps.ReplicaSets().Lister(),
		pods:           cfg.Informers.Core().V1().Pods().Informer(),
	}
	if err := pods.AddIndexes(c.pods); err != nil {
		return nil, err
	}
	c.loop = loop.New(loop.Config[cache.ObjectName]{
		Name: "deployment", Reconcile: c.reconcile, Logger: cfg.Logger,
	})
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	recorder, stop := loop.NewRecorder(ctx, c.client, "deployment-controller")
	defer stop()
	c.recorder = recorder
	return c.loop.Run(ctx,
		loop.Watch{Informer: c.deployments, Handler: loop.Latest(func(d *appsv1.Deployment) {
			c.loop.Add(cache.MetaObjectToName(d))
		})},
		loop.Watch{Informer: c.sets, Handler: loop.Handle(c.queueOwner)},
		loop.Watch{Informer: c.pods, Handler: cache.ResourceEventHandlerFuncs{
			UpdateFunc: func(before, after any) {
				if pods.Finished(after.(*corev1.Pod)) && !pods.Finished(before.(*corev1.Pod)) {
					c.queueRecreate(after.(*corev1.Pod))
				}
			},
			DeleteFunc: func(obj any) {
				if pod, ok := loop.Object[*corev1.Pod](obj); ok {
					c.queueRecreate(pod)
				}
			},
		}},
	)
}

// queueOwner queues the Deployment of a ReplicaSet, or those that would adopt
// it.
func (c *Controller) queueOwner(rs *appsv1.ReplicaSet) {
	if ref := metav1.GetControllerOfNoCopy(rs); ref != nil {
		if ref.Kind == kind.Kind {
			c.loop.Add(cache.NewObjectName(rs.Namespace, ref.Name))
		}
		return
	}
	deployments, err := c.deploymentList.Deployments(rs.Namespace).List(labels.Everything())
	if err != nil || len(rs.Labels) == 0 {
		return // the lister of a cache has no errors
	}
	for _, d := range deployments {
		selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
		if err == nil && !selector.Empty() && selector.Matches(labels.Set(rs.Labels)) {
			c.loop.Add(cache.MetaObjectToName(d))
		}
	}
}

// queueRecreate queues the pod's Deployment if it waits for the last old pod
// to end before it starts a new one.
func (c *Controller) queueRecreate(pod *corev1.Pod) {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != setKind.Kind {
		return
	}
	rs, err := c.setList.ReplicaSets(pod.Namespace).Get(ref.Name)
	if err != nil || rs.UID != ref.UID {
		return // the set is gone: its own event has queued the Deployment
	}
	owner := metav1.GetControllerOfNoCopy(rs)
	if owner == nil || owner.Kind != kind.Kind {
		return
	}
	d, err := c.deploymentList.Deployments(pod.Namespace).Get(owner.Name)
	if err == nil && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		c.loop.Add(cache.MetaObjectToName(d))
	}
}
