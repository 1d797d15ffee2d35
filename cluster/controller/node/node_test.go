package node_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gantry/cluster/controller"
	"gantry/cluster/controller/node"
	"gantry/cluster/internal/clustertest"
)

// nodesOnly starts the node controller with a short grace.
func nodesOnly(cfg controller.Config) ([]controller.Named, error) {
	c, err := node.New(node.Config{Client: cfg.Client, Informers: cfg.Informers, Grace: time.Second, Logger: cfg.Logger})
	if err != nil {
		return nil, err
	}
	return []controller.Named{{Name: "node", Run: c.Run}}, nil
}

func has(n *corev1.Node, key string, effect corev1.TaintEffect) bool {
	for _, t := range n.Spec.Taints {
		if t.Key == key && t.Effect == effect {
			return true
		}
	}
	return false
}

func ready(n *corev1.Node) corev1.ConditionStatus {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return ""
}

func bindTo(t *testing.T, c *clustertest.Cluster, name, node string, tolerate int64) {
	t.Helper()
	_, err := c.Client.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "image"}},
			Tolerations: []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &tolerate}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	clustertest.Until(t, c.Client.CoreV1().RESTClient(), "pods", "default", name, func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
}

func TestSilentNodeIsMarkedTaintedAndEmptied(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{Nodes: 2, Renew: 200 * time.Millisecond, Controllers: nodesOnly, NoScheduler: true})
	bindTo(t, c, "leaves", "node-1", 0)
	bindTo(t, c, "stays", "node-1", 600)
	bindTo(t, c, "elsewhere", "node-0", 0)
	c.Kubelets.Silence("node-1", true)
	nodes, pods := c.Client.CoreV1().RESTClient(), c.Client.CoreV1().RESTClient()
	clustertest.Until(t, nodes, "nodes", "", "node-1", func(n *corev1.Node) bool {
		return ready(n) == corev1.ConditionUnknown && has(n, corev1.TaintNodeUnreachable, corev1.TaintEffectNoSchedule) &&
			has(n, corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute)
	})
	clustertest.Until(t, pods, "pods", "default", "leaves", func(p *corev1.Pod) bool {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.DisruptionTarget && c.Reason == "DeletionByTaintManager" {
				return p.DeletionTimestamp != nil
			}
		}
		return false
	})
	clustertest.Until(t, pods, "pods", "default", "stays", func(p *corev1.Pod) bool {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady {
				return c.Status == corev1.ConditionFalse && p.DeletionTimestamp == nil
			}
		}
		return false
	})
	c.Kubelets.Silence("node-1", false)
	clustertest.Until(t, nodes, "nodes", "", "node-1", func(n *corev1.Node) bool {
		return ready(n) == corev1.ConditionTrue && len(n.Spec.Taints) == 0
	})
	p, err := c.Client.CoreV1().Pods("default").Get(t.Context(), "elsewhere", metav1.GetOptions{})
	if err != nil || p.DeletionTimestamp != nil {
		t.Errorf("pod of the living node: %v, deleted at %v", err, p.DeletionTimestamp)
	}
}

func TestNobodyIsEvictedWhileAllAreSilent(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{Nodes: 1, Renew: 200 * time.Millisecond, Controllers: nodesOnly, NoScheduler: true})
	bindTo(t, c, "stays", "node-0", 0)
	c.Kubelets.Silence("node-0", true)
	clustertest.Until(t, c.Client.CoreV1().RESTClient(), "nodes", "", "node-0", func(n *corev1.Node) bool {
		return has(n, corev1.TaintNodeUnreachable, corev1.TaintEffectNoSchedule)
	})
	n, err := c.Client.CoreV1().Nodes().Get(t.Context(), "node-0", metav1.GetOptions{})
	if err != nil || has(n, corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute) {
		t.Errorf("taints %v, %v", n.Spec.Taints, err)
	}
}
