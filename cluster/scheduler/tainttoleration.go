package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
)

// taintFilter keeps pods off nodes with NoSchedule and NoExecute taints that
// they do not tolerate.
func taintFilter(_ *cluster, pod *podInfo) func(*nodeInfo) []string {
	hard := func(t *corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	}
	return func(n *nodeInfo) []string {
		if len(n.node.Spec.Taints) == 0 {
			return nil
		}
		_, found := schedulingv1.FindMatchingUntoleratedTaint(klog.Background(), n.node.Spec.Taints, pod.pod.Spec.Tolerations, hard, true)
		if found {
			return []string{"node(s) had untolerated taint(s)"}
		}
		return nil
	}
}

// taintScore prefers nodes with fewer PreferNoSchedule taints that the pod does
// not tolerate.
func taintScore(_ *cluster, pod *podInfo, nodes []*nodeInfo) []int64 {
	var tolerations []corev1.Toleration
	for _, t := range pod.pod.Spec.Tolerations {
		if t.Effect == "" || t.Effect == corev1.TaintEffectPreferNoSchedule {
			tolerations = append(tolerations, t)
		}
	}
	scores := make([]int64, len(nodes))
	for i, n := range nodes {
		for j := range n.node.Spec.Taints {
			t := &n.node.Spec.Taints[j]
			if t.Effect == corev1.TaintEffectPreferNoSchedule &&
				!schedulingv1.TolerationsTolerateTaint(klog.Background(), tolerations, t, true) {
				scores[i]++
			}
		}
	}
	return normalize(scores, true)
}
