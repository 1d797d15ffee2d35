package pods

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

var start = time.Unix(1_700_000_000, 0)

func readySince(status corev1.ConditionStatus, at time.Time) *corev1.Pod {
	return &corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{
		{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.NewTime(at)},
	}}}
}

func TestAvailable(t *testing.T) {
	cases := []struct {
		name string
		pod  *corev1.Pod
		min  int32
		wait time.Duration
		ok   bool
	}{
		{"no condition", &corev1.Pod{}, 0, 0, false},
		{"not ready", readySince(corev1.ConditionFalse, start), 0, 0, false},
		{"ready is enough", readySince(corev1.ConditionTrue, time.Time{}), 0, 0, true},
		{"ready since when is not told", readySince(corev1.ConditionTrue, time.Time{}), 10, 0, false},
		{"ready for too short", readySince(corev1.ConditionTrue, start.Add(-4*time.Second)), 10, 6 * time.Second, true},
		{"ready for long enough", readySince(corev1.ConditionTrue, start.Add(-10*time.Second)), 10, 0, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			wait, ok := AvailableIn(c.pod, c.min, start)
			if wait != c.wait || ok != c.ok {
				t.Errorf("AvailableIn = %v, %v; want %v, %v", wait, ok, c.wait, c.ok)
			}
			if got, want := Available(c.pod, c.min, start), c.ok && c.wait <= 0; got != want {
				t.Errorf("Available = %v, want %v", got, want)
			}
		})
	}
}

func TestActive(t *testing.T) {
	dying := &corev1.Pod{}
	dying.DeletionTimestamp = &metav1.Time{Time: start}
	cases := []struct {
		name string
		pod  *corev1.Pod
		want bool
	}{
		{"pending", &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending}}, true},
		{"succeeded", &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodSucceeded}}, false},
		{"failed", &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed}}, false},
		{"being deleted", dying, false},
	}
	for _, c := range cases {
		if got := Active(c.pod); got != c.want {
			t.Errorf("%s: Active = %v, want %v", c.name, got, c.want)
		}
	}
}

func TestIndexes(t *testing.T) {
	indexer := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{byOwner: ownerKeys, byNode: nodeKeys})
	owned := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "owned", OwnerReferences: []metav1.OwnerReference{{UID: "o", Controller: new(true)}}}}
	free := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "free", OwnerReferences: []metav1.OwnerReference{{UID: "o"}}}, Spec: corev1.PodSpec{NodeName: "n"}}
	far := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "far", Name: "far"}}
	for _, p := range []*corev1.Pod{owned, free, far} {
		if err := indexer.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, got []*corev1.Pod, err error, want string) {
		t.Helper()
		if err != nil || len(got) != 1 || got[0].Name != want {
			t.Errorf("%s: %d pods, %v", what, len(got), err)
		}
	}
	got, err := ByOwner(indexer, "ns", "o")
	check("of the owner", got, err, "owned")
	got, err = ByOwner(indexer, "ns", "")
	check("of nobody", got, err, "free")
	got, err = ByNode(indexer, "n")
	check("on the node", got, err, "free")
}
