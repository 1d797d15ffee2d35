package replicaset

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var now0 = time.Unix(1_700_000_000, 0)

func ago(d time.Duration) metav1.Time { return metav1.NewTime(now0.Add(-d)) }

// running is a pod on node-1, ready for an hour, an hour old.
func running(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: ago(time.Hour), Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: "node-1"},
		Status: corev1.PodStatus{
			Phase:      corev1.PodRunning,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: ago(time.Hour)}},
		},
	}
	for _, c := range change {
		c(pod)
	}
	return pod
}

func unready(p *corev1.Pod)    { p.Status.Conditions[0].Status = corev1.ConditionFalse }
func unassigned(p *corev1.Pod) { p.Spec.NodeName = ""; unready(p) }
func phase(ph corev1.PodPhase) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.Phase = ph }
}
func onNode(n string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = n } }
func costs(n string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: n} }
}
func readyFor(d time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = ago(d) }
}
func created(d time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.CreationTimestamp = ago(d) }
}
func restarted(n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: n}} }
}

func TestLeastValuable(t *testing.T) {
	perNode := map[string]int{"node-1": 1, "node-2": 2}
	cases := []struct {
		name string
		pods []*corev1.Pod
		want string // names in the order in which they go
	}{
		{"not bound before bound", []*corev1.Pod{running("b", phase(corev1.PodPending), unready), running("a", phase(corev1.PodPending), unassigned)}, "a b"},
		{"pending before unknown before running", []*corev1.Pod{running("c", unready), running("b", phase(corev1.PodUnknown), unready), running("a", phase(corev1.PodPending), unready)}, "a b c"},
		{"not ready before ready", []*corev1.Pod{running("b"), running("a", unready)}, "a b"},
		{"readiness before cost", []*corev1.Pod{running("b", costs("-10")), running("a", unready, costs("10"))}, "a b"},
		{"lower cost first", []*corev1.Pod{running("c", costs("10")), running("b"), running("a", costs("-10"))}, "a b c"},
		{"a cost that is no number is 0", []*corev1.Pod{running("b", costs("1")), running("a", costs("many"))}, "a b"},
		{"doubled on a node first", []*corev1.Pod{running("b"), running("a", onNode("node-2"))}, "a b"},
		{"doubling counts among the unready too", []*corev1.Pod{running("b", unready), running("a", unready, onNode("node-2"))}, "a b"},
		{"ready for a shorter time", []*corev1.Pod{running("b"), running("a", readyFor(time.Minute))}, "a b"},
		{"times alike are ordered by UID", []*corev1.Pod{running("b", readyFor(60*time.Minute)), running("a", readyFor(61*time.Minute))}, "a b"},
		{"more restarts", []*corev1.Pod{running("b", restarted(1)), running("a", restarted(3))}, "a b"},
		{"younger", []*corev1.Pod{running("b"), running("a", created(time.Minute))}, "a b"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			// One more, that is the last to go in any order.
			all := append(c.pods, running("z", costs("2147483647")))
			var names []string
			for _, p := range leastValuable(all, perNode, len(c.pods), now0) {
				names = append(names, p.Name)
			}
			if got := strings.Join(names, " "); got != c.want {
				t.Errorf("order %q, want %q", got, c.want)
			}
		})
	}
}
