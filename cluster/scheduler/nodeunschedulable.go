package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
)

// unschedulableFilter keeps pods off cordoned nodes, unless they tolerate the
// taint that stands for it.
func unschedulableFilter(_ *cluster, pod *podInfo) func(*nodeInfo) []string {
	taint := &corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	if schedulingv1.TolerationsTolerateTaint(klog.Background(), pod.pod.Spec.Tolerations, taint, true) {
		return nil
	}
	return func(n *nodeInfo) []string {
		if n.node.Spec.Unschedulable {
			return []string{"node(s) were unschedulable"}
		}
		return nil
	}
}
