// Package podgc removes pods that nobody else will: those bound to a node that
// is gone, those deleted before they were bound, and the oldest finished ones
// when there are too many.
//
// It starts no goroutines but those of its loop.
package podgc

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"gantry/cluster/internal/loop"
	"gantry/cluster/internal/pods"
)

const (
	// A node that disappears may be about to register again.
	quarantine = 40 * time.Second
	// DefaultMaxFinished is the reference's --terminated-pod-gc-threshold.
	DefaultMaxFinished = 12500
)

// Config holds what the controller needs.
type Config struct {
	Client      kubernetes.Interface
	Informers   informers.SharedInformerFactory // started by the caller after New
	MaxFinished int                             // finished pods that are kept; 0 means DefaultMaxFinished
	Logger      *slog.Logger                    // nil discards
}

// task is a key: a node that is gone, a pod to look at, or, with neither, the
// count of finished pods.
type task struct {
	node string
	pod  cache.ObjectName
}

// Controller removes pods.
type Controller struct {
	client      kubernetes.Interface
	maxFinished int
	pods        cache.SharedIndexInformer
	podList     corelisters.PodLister
	nodes       cache.SharedIndexInformer
	nodeList    corelisters.NodeLister
	loop        *loop.Loop[task]
	log         *slog.Logger
}

// New returns a controller that waits for Run.
func New(cfg Config) (*Controller, error) {
	core := cfg.Informers.Core().V1()
	c := &Controller{
		client:      cfg.Client,
		maxFinished: cfg.MaxFinished,
		pods:        core.Pods().Informer(),
		podList:     core.Pods().Lister(),
		nodes:       core.Nodes().Informer(),
		nodeList:    core.Nodes().Lister(),
		log:         cfg.Logger,
	}
	if c.maxFinished == 0 {
		c.maxFinished = DefaultMaxFinished
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if err := pods.AddIndexes(c.pods); err != nil {
		return nil, err
	}
	c.loop = loop.New(loop.Config[task]{Name: "podgc", Workers: 1, Reconcile: c.reconcile, Logger: cfg.Logger})
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	// The nodes come first: a pod's event asks whether its node is there.
	stop, err := loop.Subscribe(ctx, loop.Watch{Informer: c.nodes})
	if err != nil {
		return err
	}
	defer stop()
	return c.loop.Run(ctx,
		loop.Watch{Informer: c.nodes, Handler: cache.ResourceEventHandlerFuncs{
			DeleteFunc: func(obj any) {
				if node, ok := loop.Object[*corev1.Node](obj); ok {
					c.loop.AddAfter(task{node: node.Name}, quarantine)
				}
			},
		}},
		loop.Watch{Informer: c.pods, Handler: loop.Latest(c.look)},
	)
}

func (c *Controller) look(pod *corev1.Pod) {
	switch {
	case pod.Spec.NodeName == "" && pod.DeletionTimestamp != nil:
		c.loop.Add(task{pod: cache.MetaObjectToName(pod)})
	case pod.Spec.NodeName != "":
		if _, err := c.nodeList.Get(pod.Spec.NodeName); apierrors.IsNotFound(err) {
			c.loop.AddAfter(task{node: pod.Spec.NodeName}, quarantine)
		}
	}
	if pods.Finished(pod) {
		c.loop.Add(task{})
	}
}

func (c *Controller) reconcile(ctx context.Context, t task) error {
	switch {
	case t.node != "":
		return c.clearNode(ctx, t.node)
	case t.pod.Name != "":
		pod, err := c.podList.Pods(t.pod.Namespace).Get(t.pod.Name)
		if apierrors.IsNotFound(err) || err == nil && (pod.Spec.NodeName != "" || pod.DeletionTimestamp == nil) {
			return nil
		} else if err != nil {
			return err
		}
		return c.remove(ctx, pod, "")
	}
	var finished []*corev1.Pod
	for _, obj := range c.pods.GetIndexer().List() {
		if pod, ok := obj.(*corev1.Pod); ok && pods.Finished(pod) {
			finished = append(finished, pod)
		}
	}
	for _, pod := range surplus(finished, c.maxFinished) {
		if err := c.remove(ctx, pod, ""); err != nil {
			return err
		}
	}
	return nil
}

// surplus returns the oldest pods over the limit, evicted ones first.
func surplus(finished []*corev1.Pod, limit int) []*corev1.Pod {
	over := len(finished) - limit
	if over <= 0 {
		return nil
	}
	slices.SortFunc(finished, func(a, b *corev1.Pod) int {
		if x, y := a.Status.Reason == "Evicted", b.Status.Reason == "Evicted"; x != y {
			if x {
				return -1
			}
			return 1
		}
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return cmp.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	return finished[:over]
}

// clearNode removes the pods of a node that the API does not know any more.
func (c *Controller) clearNode(ctx context.Context, name string) error {
	bound, err := pods.ByNode(c.pods.GetIndexer(), name)
	if err != nil || len(bound) == 0 {
		return err
	}
	// Asked of the API, not of the cache: what follows loses running pods.
	_, err = c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err == nil {
		return nil
	}
	if !apierrors.IsNotFound(err) {
		return fmt.Errorf("check node %s: %w", name, err)
	}
	c.log.Info("node is gone, removing its pods", "node", name, "pods", len(bound))
	for _, pod := range bound {
		if err := c.remove(ctx, pod, "PodGC: node no longer exists"); err != nil {
			return err
		}
	}
	return nil
}

// remove deletes a pod at once, without waiting for a kubelet. A disruption is
// noted in its status first, for whoever counts failures.
func (c *Controller) remove(ctx context.Context, pod *corev1.Pod, disruption string) error {
	client := c.client.CoreV1().Pods(pod.Namespace)
	if disruption != "" && !pods.Finished(pod) {
		patch, err := failedPatch(pod, disruption, metav1.Now())
		if err != nil {
			return err
		}
		_, err = client.Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		if apierrors.IsNotFound(err) {
			return nil
		} else if err != nil {
			return fmt.Errorf("mark pod %s as failed: %w", pod.Name, err)
		}
	}
	err := client.Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64(0)),
		Preconditions:      metav1.NewUIDPreconditions(string(pod.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete pod %s: %w", pod.Name, err)
	}
	return nil
}

func failedPatch(pod *corev1.Pod, why string, now metav1.Time) ([]byte, error) {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status": map[string]any{
			"phase": corev1.PodFailed,
			"conditions": []corev1.PodCondition{{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
				Reason: "DeletionByPodGC", Message: why, LastTransitionTime: now,
			}},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("encode patch: %w", err)
	}
	return patch, nil
}
