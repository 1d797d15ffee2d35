package endpointslice_test

import (
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"gantry/cluster/internal/clustertest"
)

func TestSlicesFollowPods(t *testing.T) {
	var healthy atomic.Bool
	healthy.Store(true)
	c := clustertest.Start(t, clustertest.Options{Nodes: 1, Ready: func(*corev1.Pod) bool { return healthy.Load() }})
	ctx := t.Context()
	labels := map[string]string{"app": "web"}
	_, err := c.Client.CoreV1().Services("default").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromString("http")}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	until := func(done func(*discoveryv1.EndpointSlice) bool) {
		t.Helper()
		clustertest.UntilListed(t, c.Client.DiscoveryV1().RESTClient(), "endpointslices", "default", func(s *discoveryv1.EndpointSlice) bool {
			return s.Labels[discoveryv1.LabelServiceName] == "web" && done(s)
		})
	}
	until(func(s *discoveryv1.EndpointSlice) bool { return len(s.Endpoints) == 0 })
	_, err = c.Client.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "one", Labels: labels},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "c", Image: "image", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
		}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	until(func(s *discoveryv1.EndpointSlice) bool {
		return len(s.Endpoints) == 1 && *s.Endpoints[0].Conditions.Ready && *s.Ports[0].Port == 8080 && *s.Endpoints[0].NodeName == "node-0"
	})
	healthy.Store(false)
	c.Kubelets.Probe()
	until(func(s *discoveryv1.EndpointSlice) bool {
		return len(s.Endpoints) == 1 && !*s.Endpoints[0].Conditions.Ready
	})
	if err := c.Client.CoreV1().Pods("default").Delete(ctx, "one", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until(func(s *discoveryv1.EndpointSlice) bool { return len(s.Endpoints) == 0 && len(s.Ports) == 0 })
	if err := c.Client.CoreV1().Services("default").Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	slices, err := c.Client.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=web"})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range slices.Items {
		clustertest.Gone(t, c.Client.DiscoveryV1().RESTClient(), "endpointslices", "default", s.Name, &discoveryv1.EndpointSlice{})
	}
}
