package replicaset

import (
	"cmp"
	"math/bits"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"gantry/cluster/internal/pods"
)

// leastValuable returns the n pods to delete first. perNode counts the related
// pods of each node. The order is the reference's:
//
//  1. not bound before bound
//  2. pending before unknown before running
//  3. not ready before ready
//  4. lower controller.kubernetes.io/pod-deletion-cost
//  5. on a node with more related pods
//  6. ready for a shorter time, by powers of two
//  7. more restarts
//  8. younger, by powers of two
//
// Powers of two, so that not always the youngest goes: that would undo the
// spreading of the older ones over the nodes.
func leastValuable(active []*corev1.Pod, perNode map[string]int, n int, now time.Time) []*corev1.Pod {
	if n >= len(active) {
		return active
	}
	order := slices.Clone(active)
	slices.SortStableFunc(order, func(a, b *corev1.Pod) int { return compare(a, b, perNode, now) })
	return order[:n]
}

func compare(a, b *corev1.Pod, perNode map[string]int, now time.Time) int {
	if c := first(a.Spec.NodeName == "", b.Spec.NodeName == ""); c != 0 {
		return c
	}
	if c := cmp.Compare(phaseOrder(a), phaseOrder(b)); c != 0 {
		return c
	}
	ready := pods.Ready(a)
	if c := first(!ready, !pods.Ready(b)); c != 0 {
		return c
	}
	if c := cmp.Compare(deletionCost(a), deletionCost(b)); c != 0 {
		return c
	}
	if c := cmp.Compare(perNode[b.Spec.NodeName], perNode[a.Spec.NodeName]); c != 0 {
		return c
	}
	if ready {
		if c := younger(pods.ReadySince(a), pods.ReadySince(b), a, b, now); c != 0 {
			return c
		}
	}
	if c := cmp.Compare(restarts(b, false), restarts(a, false)); c != 0 {
		return c
	}
	if c := cmp.Compare(restarts(b, true), restarts(a, true)); c != 0 {
		return c
	}
	return younger(a.CreationTimestamp.Time, b.CreationTimestamp.Time, a, b, now)
}

// first orders what has a property before what has not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// younger orders the later time before the earlier, and an unknown one before
// all. Times whose ages have the same power of two are ordered by UID.
func younger(ta, tb time.Time, a, b *corev1.Pod, now time.Time) int {
	if ta.Equal(tb) {
		return 0
	}
	if ta.IsZero() || tb.IsZero() {
		return first(ta.IsZero(), tb.IsZero())
	}
	if c := cmp.Compare(magnitude(now.Sub(ta)), magnitude(now.Sub(tb))); c != 0 {
		return c
	}
	return cmp.Compare(a.UID, b.UID)
}

func magnitude(age time.Duration) int {
	if age <= 0 {
		return -1
	}
	return bits.Len64(uint64(age)) - 1
}

func phaseOrder(pod *corev1.Pod) int {
	switch pod.Status.Phase {
	case corev1.PodPending:
		return 0
	case corev1.PodUnknown:
		return 1
	default:
		return 2
	}
}

func deletionCost(pod *corev1.Pod) int32 {
	n, err := strconv.ParseInt(pod.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0 // unset, or nonsense, which the reference counts as 0 too
	}
	return int32(n)
}

// restarts returns the highest restart count of the regular containers, or of
// the sidecars (init containers that restart always).
func restarts(pod *corev1.Pod, sidecars bool) int32 {
	most := int32(0)
	if !sidecars {
		for _, s := range pod.Status.ContainerStatuses {
			most = max(most, s.RestartCount)
		}
		return most
	}
	always := map[string]bool{}
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			always[c.Name] = true
		}
	}
	for _, s := range pod.Status.InitContainerStatuses {
		if always[s.Name] {
			most = max(most, s.RestartCount)
		}
	}
	return most
}
