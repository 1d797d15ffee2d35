package scheduler

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/client-go/tools/cache"

	"gantry/cluster/internal/loop"
	"gantry/cluster/internal/pods"
)

// event is a set of things that may make room for a pod that fitted nowhere.
type event uint16

const (
	nodeAdded event = 1 << iota
	nodeRemoved
	nodeResources // allocatable
	nodeLabels
	nodeTaints // or spec.unschedulable
	podPlaced
	podGone // deleted, or finished
	podRelabelled
	podShrunk // asks for less
	namespaceLabelled
)

const anyEvent = ^event(0)

// start registers the handlers, waits for the first lists and returns what
// undoes it.
func (s *Scheduler) start(ctx context.Context) (stop func(), err error) {
	recorder, stopRecorder := loop.NewRecorder(ctx, s.client, s.name)
	s.recorder = recorder
	unsubscribe, err := loop.Subscribe(ctx,
		loop.Watch{Informer: s.namespaces, Handler: s.namespaceHandler()},
		loop.Watch{Informer: s.nodes, Handler: s.nodeHandler()},
		loop.Watch{Informer: s.pods, Handler: s.podHandler()},
	)
	if err != nil {
		stopRecorder()
		return nil, err
	}
	return func() { unsubscribe(); stopRecorder() }, nil
}

func (s *Scheduler) namespaceHandler() cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(before, after any) {
			old, ns := before.(*corev1.Namespace), after.(*corev1.Namespace)
			if !apiequality.Semantic.DeepEqual(old.Labels, ns.Labels) {
				s.queue.happened(namespaceLabelled)
			}
		},
	}
}

func (s *Scheduler) nodeHandler() cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			s.withCluster(func(c *cluster) { c.setNode(obj.(*corev1.Node)) })
			s.queue.happened(nodeAdded)
		},
		UpdateFunc: func(before, after any) {
			node := after.(*corev1.Node)
			s.withCluster(func(c *cluster) { c.setNode(node) })
			if e := nodeChange(before.(*corev1.Node), node); e != 0 {
				s.queue.happened(e)
			}
		},
		DeleteFunc: func(obj any) {
			if node, ok := loop.Object[*corev1.Node](obj); ok {
				s.withCluster(func(c *cluster) { c.removeNode(node.Name) })
				s.queue.happened(nodeRemoved)
			}
		},
	}
}

// nodeChange returns what of a node changed that a pod's placing depends on.
func nodeChange(old, node *corev1.Node) (e event) {
	if !apiequality.Semantic.DeepEqual(old.Status.Allocatable, node.Status.Allocatable) {
		e |= nodeResources
	}
	if !apiequality.Semantic.DeepEqual(old.Labels, node.Labels) {
		e |= nodeLabels
	}
	if old.Spec.Unschedulable != node.Spec.Unschedulable || !apiequality.Semantic.DeepEqual(old.Spec.Taints, node.Spec.Taints) {
		e |= nodeTaints
	}
	return e
}

func (s *Scheduler) podHandler() cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { s.podShown(nil, obj.(*corev1.Pod)) },
		UpdateFunc: func(before, after any) { s.podShown(before.(*corev1.Pod), after.(*corev1.Pod)) },
		DeleteFunc: func(obj any) {
			if pod, ok := loop.Object[*corev1.Pod](obj); ok {
				s.podGone(pod)
			}
		},
	}
}

// podShown takes in a pod's new version; old is nil when it is new.
func (s *Scheduler) podShown(old, pod *corev1.Pod) {
	if old != nil && old.UID != pod.UID {
		// Deleted and made anew between two lists of the informer.
		s.podGone(old)
		old = nil
	}
	switch {
	case pods.Finished(pod):
		s.podGone(pod)
	case pod.Spec.NodeName != "":
		s.queue.remove(pod.UID)
		info := newPodInfo(pod)
		s.withCluster(func(c *cluster) { c.setPod(info, pod.Spec.NodeName) })
		if e := podChange(old, pod); e != 0 {
			s.queue.happened(e)
		}
	case pod.Spec.SchedulerName == s.name && pod.DeletionTimestamp == nil:
		s.queue.set(newPodInfo(pod), old == nil || placingChanged(old, pod))
	default:
		s.queue.remove(pod.UID)
	}
}

// podChange returns what a placed pod's change may mean for waiting ones.
func podChange(old, pod *corev1.Pod) (e event) {
	if old == nil || old.Spec.NodeName == "" {
		return podPlaced
	}
	if !apiequality.Semantic.DeepEqual(old.Labels, pod.Labels) {
		e |= podRelabelled
	}
	if old.DeletionTimestamp == nil && pod.DeletionTimestamp != nil {
		e |= podRelabelled // spreading no longer counts it
	}
	if !apiequality.Semantic.DeepEqual(old.Spec.Containers, pod.Spec.Containers) {
		e |= podShrunk
	}
	return e
}

// placingChanged reports whether a waiting pod changed in what it asks for;
// its status, which we write ourselves, does not count.
func placingChanged(old, pod *corev1.Pod) bool {
	return !apiequality.Semantic.DeepEqual(old.Labels, pod.Labels) || !apiequality.Semantic.DeepEqual(old.Spec, pod.Spec)
}

func (s *Scheduler) podGone(pod *corev1.Pod) {
	s.queue.remove(pod.UID)
	had := false
	s.withCluster(func(c *cluster) { had = c.removePod(pod.UID) })
	if had {
		s.queue.happened(podGone)
	}
}

func (s *Scheduler) withCluster(f func(*cluster)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s.cluster)
}
