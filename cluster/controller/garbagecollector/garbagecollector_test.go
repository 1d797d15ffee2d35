package garbagecollector_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"gantry/cluster/internal/clustertest"
)

// configMap creates one owned by owner; nil: by none.
func configMap(t *testing.T, c *clustertest.Cluster, name string, owner *corev1.ConfigMap, finalizers ...string) *corev1.ConfigMap {
	t.Helper()
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: finalizers}}
	if owner != nil {
		m.OwnerReferences = []metav1.OwnerReference{{
			APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID, BlockOwnerDeletion: new(true),
		}}
	}
	m, err := c.Client.CoreV1().ConfigMaps("default").Create(t.Context(), m, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func remove(t *testing.T, c *clustertest.Cluster, name string, policy metav1.DeletionPropagation) {
	t.Helper()
	if err := c.Client.CoreV1().ConfigMaps("default").Delete(t.Context(), name, metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
		t.Fatal(err)
	}
}

func gone(t *testing.T, c *clustertest.Cluster, names ...string) {
	t.Helper()
	for _, n := range names {
		clustertest.Gone(t, c.Client.CoreV1().RESTClient(), "configmaps", "default", n, &corev1.ConfigMap{})
	}
}

func TestPolicies(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{})
	t.Run("background, down a chain", func(t *testing.T) {
		a := configMap(t, c, "bg-a", nil)
		b := configMap(t, c, "bg-b", a)
		configMap(t, c, "bg-c", b)
		remove(t, c, "bg-a", metav1.DeletePropagationBackground)
		gone(t, c, "bg-a", "bg-b", "bg-c")
	})
	t.Run("foreground waits for the blocked dependent", func(t *testing.T) {
		a := configMap(t, c, "fg-a", nil)
		configMap(t, c, "fg-b", a, "example.com/hold")
		remove(t, c, "fg-a", metav1.DeletePropagationForeground)
		clustertest.Until(t, c.Client.CoreV1().RESTClient(), "configmaps", "default", "fg-b", func(m *corev1.ConfigMap) bool { return m.DeletionTimestamp != nil })
		if _, err := c.Client.CoreV1().ConfigMaps("default").Get(t.Context(), "fg-a", metav1.GetOptions{}); err != nil {
			t.Errorf("the owner is gone before its dependent: %v", err)
		}
		_, err := c.Client.CoreV1().ConfigMaps("default").Patch(t.Context(), "fg-b", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		gone(t, c, "fg-b", "fg-a")
	})
	t.Run("orphan", func(t *testing.T) {
		a := configMap(t, c, "or-a", nil)
		configMap(t, c, "or-b", a)
		remove(t, c, "or-a", metav1.DeletePropagationOrphan)
		gone(t, c, "or-a")
		m, err := c.Client.CoreV1().ConfigMaps("default").Get(t.Context(), "or-b", metav1.GetOptions{})
		if err != nil || len(m.OwnerReferences) != 0 || m.DeletionTimestamp != nil {
			t.Errorf("orphan %+v, %v", m.ObjectMeta, err)
		}
	})
	t.Run("an owner that never was", func(t *testing.T) {
		configMap(t, c, "no-b", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "no-a", UID: "b1946ac9-0000-4000-8000-000000000000"}})
		gone(t, c, "no-b")
	})
	t.Run("one of two owners goes", func(t *testing.T) {
		a, b := configMap(t, c, "tw-a", nil), configMap(t, c, "tw-b", nil)
		d := configMap(t, c, "tw-c", a)
		ref := d.OwnerReferences[0]
		ref.Name, ref.UID = b.Name, b.UID
		d.OwnerReferences = append(d.OwnerReferences, ref)
		if _, err := c.Client.CoreV1().ConfigMaps("default").Update(t.Context(), d, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		remove(t, c, "tw-a", metav1.DeletePropagationBackground)
		clustertest.Until(t, c.Client.CoreV1().RESTClient(), "configmaps", "default", "tw-c", func(m *corev1.ConfigMap) bool {
			return len(m.OwnerReferences) == 1 && m.OwnerReferences[0].UID == b.UID
		})
	})
	t.Run("a circle in the foreground ends", func(t *testing.T) {
		a := configMap(t, c, "ci-a", nil)
		b := configMap(t, c, "ci-b", a)
		a.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: b.Name, UID: b.UID, BlockOwnerDeletion: new(true)}}
		if _, err := c.Client.CoreV1().ConfigMaps("default").Update(t.Context(), a, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		remove(t, c, "ci-a", metav1.DeletePropagationForeground)
		gone(t, c, "ci-a", "ci-b")
	})
}
