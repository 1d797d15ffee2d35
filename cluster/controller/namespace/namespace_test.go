package namespace_test

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"gantry/cluster/internal/clustertest"
)

func TestDeletedNamespaceIsEmptiedAndGoes(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{Nodes: 1})
	ctx := t.Context()
	if _, err := c.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{"app": "web"}
	if _, err := c.Client.AppsV1().Deployments("team").Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(3)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "image"}}},
			},
		},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Client.CoreV1().ConfigMaps("team").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"example.com/hold"}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	clustertest.Until(t, c.Client.AppsV1().RESTClient(), "deployments", "team", "web", func(d *appsv1.Deployment) bool { return d.Status.ReadyReplicas == 3 })
	clustertest.Until(t, c.Client.CoreV1().RESTClient(), "serviceaccounts", "team", "default", func(*corev1.ServiceAccount) bool { return true })
	bundle := clustertest.Until(t, c.Client.CoreV1().RESTClient(), "configmaps", "team", "kube-root-ca.crt", func(*corev1.ConfigMap) bool { return true })
	if bundle.Data["ca.crt"] != "test CA" {
		t.Errorf("CA bundle %v", bundle.Data)
	}

	if err := c.Client.CoreV1().Namespaces().Delete(ctx, "team", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	clustertest.Until(t, c.Client.CoreV1().RESTClient(), "namespaces", "", "team", func(ns *corev1.Namespace) bool {
		for _, cond := range ns.Status.Conditions {
			if cond.Type == corev1.NamespaceFinalizersRemaining && cond.Status == corev1.ConditionTrue {
				return ns.Status.Phase == corev1.NamespaceTerminating
			}
		}
		return false
	})
	if _, err := c.Client.CoreV1().ConfigMaps("team").Patch(ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	clustertest.Gone(t, c.Client.CoreV1().RESTClient(), "namespaces", "", "team", &corev1.Namespace{})
	pods, err := c.Client.CoreV1().Pods("team").List(ctx, metav1.ListOptions{})
	if err != nil || len(pods.Items) != 0 {
		t.Errorf("%d pods left, %v", len(pods.Items), err)
	}
}
