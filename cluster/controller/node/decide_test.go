package node

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var (
	start = metav1.NewTime(time.Unix(1_700_000_000, 0))
	later = metav1.NewTime(start.Add(time.Minute))
)

func node(conditions ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", CreationTimestamp: start}}
	for _, c := range conditions {
		kind, status, _ := strings.Cut(c, "=")
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{
			Type: corev1.NodeConditionType(kind), Status: corev1.ConditionStatus(status), LastTransitionTime: start,
		})
	}
	return n
}

func tainted(n *corev1.Node, taints ...string) *corev1.Node {
	for _, t := range taints {
		key, effect, _ := strings.Cut(t, ":")
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffect(effect), TimeAdded: &start})
	}
	return n
}

func TestWantedTaints(t *testing.T) {
	const (
		notReady    = "node.kubernetes.io/not-ready"
		unreachable = "node.kubernetes.io/unreachable"
	)
	cordoned := node("Ready=True")
	cordoned.Spec.Unschedulable = true
	cases := []struct {
		name  string
		node  *corev1.Node
		evict bool
		want  string // taints; * marks those added now
	}{
		{"ready", node("Ready=True"), true, ""},
		{"not ready", node("Ready=False"), true, notReady + ":NoSchedule* " + notReady + ":NoExecute*"},
		{"unreachable", node("Ready=Unknown"), true, unreachable + ":NoSchedule* " + unreachable + ":NoExecute*"},
		{"nothing is evicted while all are silent", node("Ready=Unknown"), false, unreachable + ":NoSchedule*"},
		{"never heard of", node(), true, notReady + ":NoSchedule*"},
		{"a registering node's taint goes when it is ready", tainted(node("Ready=True"), notReady+":NoSchedule"), true, ""},
		{"one taint follows the other", tainted(node("Ready=Unknown"), notReady+":NoSchedule", notReady+":NoExecute"), true, unreachable + ":NoSchedule* " + unreachable + ":NoExecute*"},
		{"a taint that stays keeps its time", tainted(node("Ready=Unknown"), unreachable+":NoSchedule", unreachable+":NoExecute"), true, unreachable + ":NoSchedule " + unreachable + ":NoExecute"},
		{"others' taints stay", tainted(node("Ready=True"), "own:NoExecute", notReady+":NoSchedule"), true, "own:NoExecute"},
		{"pressure", node("Ready=True", "MemoryPressure=True", "DiskPressure=True", "PIDPressure=False"), true, "node.kubernetes.io/memory-pressure:NoSchedule* node.kubernetes.io/disk-pressure:NoSchedule*"},
		{"cordoned", cordoned, true, "node.kubernetes.io/unschedulable:NoSchedule*"},
		{"uncordoned", tainted(node("Ready=True"), "node.kubernetes.io/unschedulable:NoSchedule"), true, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, taint := range wantedTaints(c.node, c.evict, later) {
				mark := ""
				if taint.TimeAdded.Equal(&later) {
					mark = "*"
				}
				got = append(got, fmt.Sprintf("%s:%s%s", taint.Key, taint.Effect, mark))
			}
			if diff := cmp.Diff(c.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("taints (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSilentConditions(t *testing.T) {
	cases := []struct {
		name    string
		node    *corev1.Node
		want    string
		changed bool
	}{
		{"what was reported becomes unknown", node("Ready=True", "MemoryPressure=False", "DiskPressure=False", "PIDPressure=False", "Own=True"),
			"Ready=Unknown/NodeStatusUnknown MemoryPressure=Unknown/NodeStatusUnknown DiskPressure=Unknown/NodeStatusUnknown PIDPressure=Unknown/NodeStatusUnknown Own=True/", true},
		{"what never was is said so", node("Ready=False"),
			"Ready=Unknown/NodeStatusUnknown MemoryPressure=Unknown/NodeStatusNeverUpdated DiskPressure=Unknown/NodeStatusNeverUpdated PIDPressure=Unknown/NodeStatusNeverUpdated", true},
		{"twice changes nothing", node("Ready=Unknown", "MemoryPressure=Unknown", "DiskPressure=Unknown", "PIDPressure=Unknown"),
			"Ready=Unknown/ MemoryPressure=Unknown/ DiskPressure=Unknown/ PIDPressure=Unknown/", false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			next, changed := silentConditions(c.node, later)
			var got []string
			for _, n := range next {
				got = append(got, fmt.Sprintf("%s=%s/%s", n.Type, n.Status, n.Reason))
			}
			if diff := cmp.Diff(c.want, strings.Join(got, " ")); diff != "" || changed != c.changed {
				t.Errorf("changed %v, conditions (-want +got):\n%s", changed, diff)
			}
		})
	}
}

func TestEvictionTime(t *testing.T) {
	tolerate := func(key string, seconds ...int64) corev1.Toleration {
		t := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
		if len(seconds) > 0 {
			t.TolerationSeconds = &seconds[0]
		}
		return t
	}
	seen := start.Add(-10 * time.Second)
	untimed := []corev1.Taint{{Key: "a", Effect: corev1.TaintEffectNoExecute}}
	cases := []struct {
		name        string
		tolerations []corev1.Toleration
		taints      []corev1.Taint
		want        time.Duration // after start
		never       bool
	}{
		{"no taint", nil, nil, 0, true},
		{"NoSchedule evicts nobody", nil, tainted(node(), "a:NoSchedule").Spec.Taints, 0, true},
		{"not tolerated", nil, tainted(node(), "a:NoExecute").Spec.Taints, 0, false},
		{"tolerated for good", []corev1.Toleration{tolerate("a")}, tainted(node(), "a:NoExecute").Spec.Taints, 0, true},
		{"tolerated for a while", []corev1.Toleration{tolerate("a", 300)}, tainted(node(), "a:NoExecute").Spec.Taints, 300 * time.Second, false},
		{"the shortest toleration counts", []corev1.Toleration{tolerate("a", 300), tolerate("", 60)}, tainted(node(), "a:NoExecute").Spec.Taints, time.Minute, false},
		{"negative seconds are none", []corev1.Toleration{tolerate("a", -5)}, tainted(node(), "a:NoExecute").Spec.Taints, 0, false},
		{"one of two taints not tolerated", []corev1.Toleration{tolerate("a")}, tainted(node(), "a:NoExecute", "b:NoExecute").Spec.Taints, 0, false},
		{"the earliest end counts", []corev1.Toleration{tolerate("a", 300), tolerate("b", 30)}, tainted(node(), "a:NoExecute", "b:NoExecute").Spec.Taints, 30 * time.Second, false},
		{"a taint without a time counts from when it was seen", []corev1.Toleration{tolerate("a", 60)}, untimed, 50 * time.Second, false},
		{"for longer than time goes", []corev1.Toleration{tolerate("a", 1<<62)}, untimed, 0, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{Tolerations: c.tolerations}}
			at, never := evictionTime(pod, c.taints, seen)
			if never != c.never || !never && at.Sub(start.Time) != c.want {
				t.Errorf("at +%v, never %v; want +%v, %v", at.Sub(start.Time), never, c.want, c.never)
			}
		})
	}
}
