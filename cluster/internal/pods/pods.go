// Package pods answers what controllers ask about pods: ready since when,
// still wanted, owned by whom, on which node. Nothing here does I/O.
package pods

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// Condition returns the pod's condition of type t, or nil.
func Condition(pod *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == t {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// SetCondition puts c into the pod, which must not be an informer's. It keeps
// the transition time of a status that stays, and reports whether anything
// changed.
func SetCondition(pod *corev1.Pod, c corev1.PodCondition, now metav1.Time) bool {
	old := Condition(pod, c.Type)
	if old == nil {
		c.LastTransitionTime = now
		pod.Status.Conditions = append(pod.Status.Conditions, c)
		return true
	}
	c.LastTransitionTime = old.LastTransitionTime
	if old.Status != c.Status {
		c.LastTransitionTime = now
	}
	if c.LastProbeTime.IsZero() {
		c.LastProbeTime = old.LastProbeTime
	}
	changed := *old != c
	*old = c
	return changed
}

// Ready reports whether the pod's Ready condition is true.
func Ready(pod *corev1.Pod) bool {
	c := Condition(pod, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// ReadySince returns when the pod became ready; zero when it is not.
func ReadySince(pod *corev1.Pod) time.Time {
	if c := Condition(pod, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

// AvailableIn returns how long the pod must stay ready until it counts as
// available: zero or less when it does. ok is false when it is not ready.
func AvailableIn(pod *corev1.Pod, minReadySeconds int32, now time.Time) (wait time.Duration, ok bool) {
	since := ReadySince(pod)
	if !Ready(pod) {
		return 0, false
	}
	if minReadySeconds == 0 {
		return 0, true
	}
	if since.IsZero() {
		return 0, false
	}
	return since.Add(time.Duration(minReadySeconds) * time.Second).Sub(now), true
}

// Available reports whether the pod has been ready for minReadySeconds.
func Available(pod *corev1.Pod, minReadySeconds int32, now time.Time) bool {
	wait, ok := AvailableIn(pod, minReadySeconds, now)
	return ok && wait <= 0
}

// Finished reports whether no container of the pod will run again.
func Finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// Active reports whether the pod counts as a replica: not finished and not
// being deleted.
func Active(pod *corev1.Pod) bool {
	return !Finished(pod) && pod.DeletionTimestamp == nil
}

// Names of the indexes that AddIndexes adds.
const (
	byOwner = "gantry/owner"
	byNode  = "gantry/node"
)

// AddIndexes makes ByOwner and ByNode work on the informer's store. Several
// components may call it on the same informer, one after the other.
func AddIndexes(informer cache.SharedIndexInformer) error {
	missing := cache.Indexers{}
	have := informer.GetIndexer().GetIndexers()
	for name, f := range map[string]cache.IndexFunc{byOwner: ownerKeys, byNode: nodeKeys} {
		if have[name] == nil {
			missing[name] = f
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := informer.AddIndexers(missing); err != nil {
		return fmt.Errorf("index pods: %w", err)
	}
	return nil
}

func ownerKeys(obj any) ([]string, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, nil
	}
	if owner := metav1.GetControllerOfNoCopy(pod); owner != nil {
		return []string{pod.Namespace + "/" + string(owner.UID)}, nil
	}
	return []string{pod.Namespace + "/"}, nil
}

func nodeKeys(obj any) ([]string, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" {
		return nil, nil
	}
	return []string{pod.Spec.NodeName}, nil
}

// ByOwner lists the pods of a namespace whose controller is owner; the empty
// owner gives those that have none. The pods are the informer's: read only.
func ByOwner(indexer cache.Indexer, namespace string, owner types.UID) ([]*corev1.Pod, error) {
	return list(indexer, byOwner, namespace+"/"+string(owner))
}

// ByNode lists the pods bound to a node. They are the informer's: read only.
func ByNode(indexer cache.Indexer, node string) ([]*corev1.Pod, error) {
	return list(indexer, byNode, node)
}

func list(indexer cache.Indexer, index, key string) ([]*corev1.Pod, error) {
	objs, err := indexer.ByIndex(index, key)
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	out := make([]*corev1.Pod, 0, len(objs))
	for _, obj := range objs {
		if pod, ok := obj.(*corev1.Pod); ok {
			out = append(out, pod)
		}
	}
	return out, nil
}
