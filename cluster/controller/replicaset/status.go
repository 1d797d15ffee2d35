package replicaset

import (
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"gantry/cluster/internal/pods"
)

// podFor returns the pod to create from the set's template; the API server
// completes its name.
func podFor(rs *appsv1.ReplicaSet) *corev1.Pod {
	template := rs.Spec.Template
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       rs.Namespace,
			GenerateName:    rs.Name + "-",
			Labels:          maps.Clone(template.Labels),
			Annotations:     maps.Clone(template.Annotations),
			Finalizers:      slices.Clone(template.Finalizers),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(rs, kind)},
		},
	}
	template.Spec.DeepCopyInto(&pod.Spec)
	return pod
}

// statusOf returns the status that the set should show.
func statusOf(rs *appsv1.ReplicaSet, active []*corev1.Pod, terminating int, scaleErr error, at metav1.Time) appsv1.ReplicaSetStatus {
	status := appsv1.ReplicaSetStatus{
		Replicas:            int32(len(active)),
		TerminatingReplicas: new(int32(terminating)),
		ObservedGeneration:  rs.Generation,
		Conditions:          slices.Clone(rs.Status.Conditions),
	}
	full := labels.SelectorFromSet(rs.Spec.Template.Labels)
	for _, pod := range active {
		if full.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		if pods.Ready(pod) {
			status.ReadyReplicas++
			if pods.Available(pod, rs.Spec.MinReadySeconds, at.Time) {
				status.AvailableReplicas++
			}
		}
	}
	failing := slices.IndexFunc(status.Conditions, func(c appsv1.ReplicaSetCondition) bool {
		return c.Type == appsv1.ReplicaSetReplicaFailure
	})
	switch {
	case scaleErr == nil && failing >= 0:
		status.Conditions = slices.Delete(status.Conditions, failing, failing+1)
	case scaleErr != nil && failing < 0:
		reason := "FailedCreate"
		if len(active) > int(*rs.Spec.Replicas) {
			reason = "FailedDelete"
		}
		status.Conditions = append(status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue,
			LastTransitionTime: at, Reason: reason, Message: scaleErr.Error(),
		})
	}
	if len(status.Conditions) == 0 {
		status.Conditions = nil
	}
	return status
}

func sameStatus(a, b appsv1.ReplicaSetStatus) bool {
	return apiequality.Semantic.DeepEqual(a, b)
}

// nextAvailable returns when the next ready pod becomes available.
func nextAvailable(active []*corev1.Pod, minReadySeconds int32, at time.Time) time.Duration {
	next := time.Duration(minReadySeconds) * time.Second
	for _, pod := range active {
		if wait, ok := pods.AvailableIn(pod, minReadySeconds, at); ok && wait > 0 {
			next = min(next, wait)
		}
	}
	return next
}
