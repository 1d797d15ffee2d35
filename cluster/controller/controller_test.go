package controller_test

import (
	"context"
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gantry/cluster/internal/clustertest"
)

func deployment(name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "image:1"}}},
			},
		},
	}
}

func untilReady(t testing.TB, c *clustertest.Cluster, name string) *appsv1.Deployment {
	t.Helper()
	return clustertest.Until(t, c.Client.AppsV1().RESTClient(), "deployments", "default", name, func(d *appsv1.Deployment) bool {
		want := *d.Spec.Replicas
		return d.Status.ObservedGeneration >= d.Generation && d.Status.ReadyReplicas == want &&
			d.Status.UpdatedReplicas == want && d.Status.Replicas == want && d.Status.AvailableReplicas == want
	})
}

func TestDeploymentRunsPodsAndEndsWithoutTrace(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{Nodes: 2})
	ctx := t.Context()
	deployments := c.Client.AppsV1().Deployments("default")
	if _, err := deployments.Create(ctx, deployment("web", 3), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	d := untilReady(t, c, "web")
	if got := d.Annotations["deployment.kubernetes.io/revision"]; got != "1" {
		t.Errorf("revision %q, want 1", got)
	}
	sets, err := c.Client.AppsV1().ReplicaSets("default").List(ctx, metav1.ListOptions{})
	if err != nil || len(sets.Items) != 1 {
		t.Fatalf("%d replica sets, %v", len(sets.Items), err)
	}
	if err := deployments.Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	clustertest.Gone(t, c.Client.AppsV1().RESTClient(), "replicasets", "default", sets.Items[0].Name, &appsv1.ReplicaSet{})
	pods, err := c.Client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods.Items {
		clustertest.Gone(t, c.Client.CoreV1().RESTClient(), "pods", "default", pod.Name, &corev1.Pod{})
	}
}

func BenchmarkDeployment50(b *testing.B) {
	c := clustertest.Start(b, clustertest.Options{Nodes: 1})
	ctx := context.Background()
	for i := range b.N {
		name := fmt.Sprint("web-", i)
		if _, err := c.Client.AppsV1().Deployments("default").Create(ctx, deployment(name, 50), metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		untilReady(b, c, name)
		b.StopTimer()
		if err := c.Client.AppsV1().Deployments("default").Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationForeground)}); err != nil {
			b.Fatal(err)
		}
		clustertest.Gone(b, c.Client.AppsV1().RESTClient(), "deployments", "default", name, &appsv1.Deployment{})
		b.StartTimer()
	}
}

// From a Deployment's creation until its one pod is bound, seen by a watch:
// four writes and five looks by as many parts.
func BenchmarkDeploymentBound(b *testing.B) {
	c := clustertest.Start(b, clustertest.Options{Nodes: 1})
	ctx := context.Background()
	for i := range b.N {
		name := fmt.Sprint("web-", i)
		w, err := c.Client.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{LabelSelector: "app=" + name})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Client.AppsV1().Deployments("default").Create(ctx, deployment(name, 1), metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		for e := range w.ResultChan() {
			if pod, ok := e.Object.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
				break
			}
		}
		w.Stop()
		b.StopTimer()
		if err := c.Client.AppsV1().Deployments("default").Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationForeground)}); err != nil {
			b.Fatal(err)
		}
		clustertest.Gone(b, c.Client.AppsV1().RESTClient(), "deployments", "default", name, &appsv1.Deployment{})
		b.StartTimer()
	}
}
