package namespace

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestConditions(t *testing.T) {
	old := metav1.NewTime(time.Unix(1, 0))
	now := metav1.NewTime(time.Unix(100, 0))
	busy := &contents{
		remaining:  map[schema.GroupResource]int{{Resource: "pods"}: 3, {Group: "apps", Resource: "deployments"}: 1},
		finalizers: map[string]int{"example.com/hold": 2},
	}
	was := []corev1.NamespaceCondition{
		{Type: corev1.NamespaceContentRemaining, Status: corev1.ConditionTrue, LastTransitionTime: old},
		{Type: "Own", Status: corev1.ConditionTrue},
	}
	cases := []struct {
		name  string
		was   []corev1.NamespaceCondition
		found *contents
		want  []string
	}{
		{"emptied at once: none", nil, &contents{}, nil},
		{"something is left", nil, busy, []string{
			"NamespaceDeletionDiscoveryFailure=False ResourcesDiscovered: All resources successfully discovered",
			"NamespaceDeletionContentFailure=False ContentDeleted: All content successfully deleted, may be waiting on finalization",
			"NamespaceContentRemaining=True SomeResourcesRemain: Some resources are remaining: deployments.apps has 1 resource instances, pods. has 3 resource instances",
			"NamespaceFinalizersRemaining=True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: example.com/hold in 2 resource instances",
		}},
		{"something cannot be deleted", nil, &contents{discovery: errors.New("no apps"), deletion: []error{errors.New("delete x: no")}}, []string{
			"NamespaceDeletionDiscoveryFailure=True DiscoveryFailed: Discovery failed for some groups, no apps",
			"NamespaceDeletionContentFailure=True ContentDeletionFailed: Failed to delete all resource types, 1 remaining: delete x: no",
			"NamespaceContentRemaining=False ContentRemoved: All content successfully removed",
			"NamespaceFinalizersRemaining=False ContentHasNoFinalizers: All content-preserving finalizers finished",
		}},
		{"what was said is taken back, the rest is left", was, &contents{}, []string{
			"NamespaceContentRemaining=False ContentRemoved: All content successfully removed",
			"Own=True : ",
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, n := range conditions(c.was, c.found, now) {
				got = append(got, fmt.Sprintf("%s=%s %s: %s", n.Type, n.Status, n.Reason, n.Message))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("conditions (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("a status that stays keeps its time", func(t *testing.T) {
		if got := conditions(was, busy, now)[0].LastTransitionTime; !got.Equal(&old) {
			t.Errorf("time %v, want %v", got, old)
		}
	})
}
