package scheduler_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"gantry/cluster/internal/clustertest"
)

func pod(name, cpu string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "c", Image: "image", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}},
		}}},
	}
}

func create(t testing.TB, c *clustertest.Cluster, p *corev1.Pod) {
	t.Helper()
	if _, err := c.Client.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func until(t testing.TB, c *clustertest.Cluster, name string, done func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	return clustertest.Until(t, c.Client.CoreV1().RESTClient(), "pods", "default", name, done)
}

func bound(p *corev1.Pod) bool { return p.Spec.NodeName != "" }

func unschedulable(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			return true
		}
	}
	return false
}

func TestPodThatFitsNowhereSaysWhyAndWaits(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{Nodes: 1})
	create(t, c, pod("large", "6"))
	until(t, c, "large", bound)
	create(t, c, pod("waits", "5"))
	p := until(t, c, "waits", unschedulable)
	const want = "0/1 nodes are available: 1 Insufficient cpu."
	if got := p.Status.Conditions[0].Message; got != want {
		t.Errorf("condition says %q, want %q", got, want)
	}
	clustertest.UntilListed(t, c.Client.CoreV1().RESTClient(), "events", "default", func(e *corev1.Event) bool {
		return e.InvolvedObject.Name == "waits" && e.Reason == "FailedScheduling" && e.Message == want && e.Source.Component == "default-scheduler"
	})
	if err := c.Client.CoreV1().Pods("default").Delete(t.Context(), "large", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	p = until(t, c, "waits", bound)
	for _, cond := range p.Status.Conditions {
		if cond.Type == corev1.PodScheduled && cond.Status != corev1.ConditionTrue {
			t.Errorf("bound, with condition %+v", cond)
		}
	}
	clustertest.UntilListed(t, c.Client.CoreV1().RESTClient(), "events", "default", func(e *corev1.Event) bool {
		return e.Reason == "Scheduled" && e.Message == "Successfully assigned default/waits to node-0"
	})
}

func TestGatesAndOtherSchedulers(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{Nodes: 1})
	gated := pod("gated", "1")
	gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/wait"}}
	create(t, c, gated)
	foreign := pod("foreign", "1")
	foreign.Spec.SchedulerName = "another"
	create(t, c, foreign)
	create(t, c, pod("plain", "1"))
	until(t, c, "plain", bound)
	for _, name := range []string{"gated", "foreign"} {
		p, err := c.Client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || p.Spec.NodeName != "" || unschedulable(p) {
			t.Errorf("%s: node %q, conditions %v, %v", name, p.Spec.NodeName, p.Status.Conditions, err)
		}
	}
	_, err := c.Client.CoreV1().Pods("default").Patch(t.Context(), "gated", types.JSONPatchType, []byte(`[{"op":"remove","path":"/spec/schedulingGates"}]`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	until(t, c, "gated", bound)
}

func TestPodWaitsForTheFirstNode(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{})
	create(t, c, pod("early", "1"))
	p := until(t, c, "early", unschedulable)
	if got := p.Status.Conditions[0].Message; got != "no nodes available to schedule pods" {
		t.Errorf("condition says %q", got)
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "late"},
		Status: corev1.NodeStatus{
			Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourcePods: resource.MustParse("10")},
			Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()}},
		},
	}
	if _, err := c.Client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if p := until(t, c, "early", bound); p.Spec.NodeName != "late" {
		t.Errorf("bound to %s", p.Spec.NodeName)
	}
}

func TestNoNodeIsOvercommitted(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{Nodes: 3, Capacity: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourcePods: resource.MustParse("20"),
	}})
	for i := range 32 {
		create(t, c, pod(fmt.Sprint("p-", i), "100m"))
	}
	for i := range 32 {
		until(t, c, fmt.Sprint("p-", i), func(p *corev1.Pod) bool { return bound(p) || unschedulable(p) })
	}
	pods, err := c.Client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	per := map[string]int{}
	for _, p := range pods.Items {
		per[p.Spec.NodeName]++
	}
	if per["node-0"] != 10 || per["node-1"] != 10 || per["node-2"] != 10 || per[""] != 2 {
		t.Errorf("pods per node: %v", per)
	}
}
