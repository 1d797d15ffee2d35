package replicaset_test

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"gantry/cluster/internal/clustertest"
)

func template() corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "image"}}},
	}
}

func create(t *testing.T, c *clustertest.Cluster, replicas int32) {
	t.Helper()
	_, err := c.Client.AppsV1().ReplicaSets("default").Create(t.Context(), &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       appsv1.ReplicaSetSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: template()},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func untilReady(t *testing.T, c *clustertest.Cluster, n int32) *appsv1.ReplicaSet {
	t.Helper()
	return clustertest.Until(t, c.Client.AppsV1().RESTClient(), "replicasets", "default", "web", func(rs *appsv1.ReplicaSet) bool {
		return rs.Status.ObservedGeneration == rs.Generation && rs.Status.Replicas == n && rs.Status.AvailableReplicas == n
	})
}

func pods(t *testing.T, c *clustertest.Cluster) []corev1.Pod {
	t.Helper()
	list, err := c.Client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func TestAdoptsOrphansAndReleasesStrangers(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{Nodes: 1})
	orphan := &corev1.Pod{ObjectMeta: template().ObjectMeta, Spec: template().Spec}
	orphan.Name = "orphan"
	if _, err := c.Client.CoreV1().Pods("default").Create(t.Context(), orphan, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	create(t, c, 2)
	rs := untilReady(t, c, 2)
	var other string
	both := pods(t, c)
	if len(both) != 2 {
		t.Errorf("%d pods, want the orphan and another", len(both))
	}
	for _, p := range both {
		if p.Name != "orphan" {
			other = p.Name
		}
	}
	adopted := clustertest.Until(t, c.Client.CoreV1().RESTClient(), "pods", "default", "orphan", func(p *corev1.Pod) bool {
		return metav1.IsControlledBy(p, rs)
	})
	patch := []byte(`{"metadata":{"labels":{"app":"other"}}}`)
	if _, err := c.Client.CoreV1().Pods("default").Patch(t.Context(), adopted.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	clustertest.Until(t, c.Client.CoreV1().RESTClient(), "pods", "default", "orphan", func(p *corev1.Pod) bool {
		return metav1.GetControllerOf(p) == nil
	})
	clustertest.UntilListed(t, c.Client.CoreV1().RESTClient(), "pods", "default", func(p *corev1.Pod) bool {
		return p.Name != "orphan" && p.Name != other && metav1.IsControlledBy(p, rs)
	})
	untilReady(t, c, 2)
	if all := pods(t, c); len(all) != 3 {
		t.Errorf("%d pods, want two and the released one", len(all))
	}
}

func TestReplacesWhatDiesAndScales(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{Nodes: 1})
	create(t, c, 3)
	untilReady(t, c, 3)
	victim := pods(t, c)[0]
	if err := c.Client.CoreV1().Pods("default").Delete(t.Context(), victim.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	clustertest.Gone(t, c.Client.CoreV1().RESTClient(), "pods", "default", victim.Name, &corev1.Pod{})
	untilReady(t, c, 3)
	for _, n := range []string{"70", "0"} {
		patch := []byte(`{"spec":{"replicas":` + n + `}}`)
		if _, err := c.Client.AppsV1().ReplicaSets("default").Patch(t.Context(), "web", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		if n == "70" {
			untilReady(t, c, 70)
			if all := pods(t, c); len(all) != 70 {
				t.Errorf("%d pods, want 70", len(all))
			}
		}
	}
	untilReady(t, c, 0)
}
