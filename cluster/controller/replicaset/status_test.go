package replicaset

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestStatusOf(t *testing.T) {
	at := metav1.NewTime(now0)
	failure := func(reason string) []appsv1.ReplicaSetCondition {
		return []appsv1.ReplicaSetCondition{{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, LastTransitionTime: at, Reason: reason, Message: "quota",
		}}
	}
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Generation: 3},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: new(int32(2)), MinReadySeconds: 60,
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web", "v": "1"}}},
		},
	}
	failing := rs.DeepCopy()
	failing.Status.Conditions = failure("FailedCreate")
	full := func(p *corev1.Pod) { p.Labels["v"] = "1" }
	cases := []struct {
		name   string
		rs     *appsv1.ReplicaSet
		active []*corev1.Pod
		dying  int
		err    error
		want   appsv1.ReplicaSetStatus
	}{
		{"no pods", rs, nil, 0, nil, appsv1.ReplicaSetStatus{ObservedGeneration: 3, TerminatingReplicas: new(int32(0))}},
		{"each pod counts as far as it has come", rs,
			[]*corev1.Pod{running("a", unready), running("b", readyFor(time.Second)), running("c", full)}, 2, nil,
			appsv1.ReplicaSetStatus{ObservedGeneration: 3, Replicas: 3, ReadyReplicas: 2, AvailableReplicas: 1, FullyLabeledReplicas: 1, TerminatingReplicas: new(int32(2))}},
		{"creation fails", rs, nil, 0, errors.New("quota"),
			appsv1.ReplicaSetStatus{ObservedGeneration: 3, TerminatingReplicas: new(int32(0)), Conditions: failure("FailedCreate")}},
		{"deletion fails", rs, []*corev1.Pod{running("a", unready), running("b", unready), running("c", unready)}, 0, errors.New("quota"),
			appsv1.ReplicaSetStatus{ObservedGeneration: 3, Replicas: 3, TerminatingReplicas: new(int32(0)), Conditions: failure("FailedDelete")}},
		{"a failure that is over goes", failing, nil, 0, nil, appsv1.ReplicaSetStatus{ObservedGeneration: 3, TerminatingReplicas: new(int32(0))}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, statusOf(c.rs, c.active, c.dying, c.err, at)); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNextAvailable(t *testing.T) {
	all := []*corev1.Pod{running("a"), running("b", readyFor(10*time.Second)), running("c", readyFor(20*time.Second)), running("d", unready)}
	if got := nextAvailable(all, 30, now0); got != 10*time.Second {
		t.Errorf("next is available in %v, want 10s", got)
	}
}
