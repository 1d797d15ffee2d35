package node

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// reported are the conditions that a kubelet keeps up to date.
var reported = []corev1.NodeConditionType{
	corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure,
}

func condition(node *corev1.Node, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == t {
			return &node.Status.Conditions[i]
		}
	}
	return nil
}

// readiness returns the status of the Ready condition; empty when the node has
// none yet.
func readiness(node *corev1.Node) corev1.ConditionStatus {
	if c := condition(node, corev1.NodeReady); c != nil {
		return c.Status
	}
	return ""
}

// silentConditions returns the node's conditions with those that its kubelet
// no longer keeps up to date marked as unknown; changed is false when they
// were so already.
func silentConditions(node *corev1.Node, now metav1.Time) (next []corev1.NodeCondition, changed bool) {
	next = slices.Clone(node.Status.Conditions)
	for _, t := range reported {
		i := slices.IndexFunc(next, func(c corev1.NodeCondition) bool { return c.Type == t })
		switch {
		case i < 0:
			next = append(next, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: now,
				Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
			})
			changed = true
		case next[i].Status != corev1.ConditionUnknown:
			next[i].Status = corev1.ConditionUnknown
			next[i].LastTransitionTime = now
			next[i].Reason = "NodeStatusUnknown"
			next[i].Message = "Kubelet stopped posting node status."
			changed = true
		}
	}
	return next, changed
}

// conditionTaints maps a condition's status to the NoSchedule taint it brings.
var conditionTaints = []struct {
	condition corev1.NodeConditionType
	status    corev1.ConditionStatus
	taint     string
}{
	{corev1.NodeReady, corev1.ConditionFalse, corev1.TaintNodeNotReady},
	{corev1.NodeReady, corev1.ConditionUnknown, corev1.TaintNodeUnreachable},
	{corev1.NodeMemoryPressure, corev1.ConditionTrue, corev1.TaintNodeMemoryPressure},
	{corev1.NodeDiskPressure, corev1.ConditionTrue, corev1.TaintNodeDiskPressure},
	{corev1.NodePIDPressure, corev1.ConditionTrue, corev1.TaintNodePIDPressure},
	{corev1.NodeNetworkUnavailable, corev1.ConditionTrue, corev1.TaintNodeNetworkUnavailable},
}

// managed reports whether a taint is this controller's to put and to take off.
func managed(t corev1.Taint) bool {
	if t.Key == corev1.TaintNodeUnschedulable {
		return t.Effect == corev1.TaintEffectNoSchedule
	}
	for _, m := range conditionTaints {
		if t.Key == m.taint {
			return t.Effect == corev1.TaintEffectNoSchedule ||
				t.Effect == corev1.TaintEffectNoExecute && m.condition == corev1.NodeReady
		}
	}
	return false
}

// wantedTaints returns the node's taints as its conditions ask for them: those
// of others in their order, then ours. evict adds the NoExecute ones. A taint
// that stays keeps the time it was put there.
func wantedTaints(node *corev1.Node, evict bool, now metav1.Time) []corev1.Taint {
	var want []corev1.Taint
	if node.Spec.Unschedulable {
		want = append(want, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
	}
	ready := readiness(node)
	for _, m := range conditionTaints {
		c := condition(node, m.condition)
		// A node that never reported is as good as not ready.
		unheard := m.taint == corev1.TaintNodeNotReady && ready == ""
		if !unheard && (c == nil || c.Status != m.status) {
			continue
		}
		want = append(want, corev1.Taint{Key: m.taint, Effect: corev1.TaintEffectNoSchedule})
		if evict && m.condition == corev1.NodeReady && !unheard {
			want = append(want, corev1.Taint{Key: m.taint, Effect: corev1.TaintEffectNoExecute})
		}
	}
	var next []corev1.Taint
	for _, t := range node.Spec.Taints {
		if !managed(t) {
			next = append(next, t)
			continue
		}
		i := slices.IndexFunc(want, func(w corev1.Taint) bool { return w.Key == t.Key && w.Effect == t.Effect })
		if i >= 0 {
			next = append(next, t)
			want = slices.Delete(want, i, i+1)
		}
	}
	for _, t := range want {
		t.TimeAdded = &now
		next = append(next, t)
	}
	return next
}

// evictionTime returns when a pod must leave a node with these taints: the
// earliest end of what it tolerates, counted from when a taint was put there,
// or, where that is not told, from since. never is true when it may stay.
func evictionTime(pod *corev1.Pod, taints []corev1.Taint, since time.Time) (at time.Time, never bool) {
	never = true
	for i := range taints {
		t := &taints[i]
		if t.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		from := since
		if t.TimeAdded != nil {
			from = t.TimeAdded.Time
		}
		bearable, forever := tolerated(pod.Spec.Tolerations, t)
		if forever {
			continue
		}
		if end := from.Add(bearable); never || end.Before(at) {
			at, never = end, false
		}
	}
	return at, never
}
