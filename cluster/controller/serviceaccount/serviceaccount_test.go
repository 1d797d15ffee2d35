package serviceaccount_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gantry/cluster/internal/clustertest"
)

func TestDefaultsComeBack(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{})
	core := c.Client.CoreV1()
	for _, ns := range []string{"default", "kube-system"} {
		sa := clustertest.Until(t, core.RESTClient(), "serviceaccounts", ns, "default", func(*corev1.ServiceAccount) bool { return true })
		if err := core.ServiceAccounts(ns).Delete(t.Context(), "default", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		clustertest.Until(t, core.RESTClient(), "serviceaccounts", ns, "default", func(n *corev1.ServiceAccount) bool { return n.UID != sa.UID })

		good := func(m *corev1.ConfigMap) bool {
			return len(m.Data) == 1 && m.Data["ca.crt"] == "test CA" && m.Annotations["kubernetes.io/description"] != ""
		}
		m := clustertest.Until(t, core.RESTClient(), "configmaps", ns, "kube-root-ca.crt", good)
		m.Data, m.Annotations = map[string]string{"ca.crt": "false", "more": "x"}, nil
		if _, err := core.ConfigMaps(ns).Update(t.Context(), m, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		clustertest.Until(t, core.RESTClient(), "configmaps", ns, "kube-root-ca.crt", good)
		if err := core.ConfigMaps(ns).Delete(t.Context(), "kube-root-ca.crt", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		clustertest.Until(t, core.RESTClient(), "configmaps", ns, "kube-root-ca.crt", func(n *corev1.ConfigMap) bool { return n.UID != m.UID && good(n) })
	}
}
