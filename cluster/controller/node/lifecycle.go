package node

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"gantry/cluster/internal/pods"
)

// heartbeat is the last sign of life of a node's kubelet.
type heartbeat struct {
	lease, status time.Time // as the kubelet wrote them: only compared with each other
	at            time.Time // when one of them was seen to change, by our clock
}

func (c *Controller) hear(node string, note func(*heartbeat)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.heard[node]
	was := h
	note(&h)
	if h != was || h.at.IsZero() {
		h.at = time.Now()
	}
	c.heard[node] = h
}

func (c *Controller) hearStatus(node *corev1.Node) {
	c.hear(node.Name, func(h *heartbeat) {
		// The time of an unknown condition is the last one that was known.
		if ready := condition(node, corev1.NodeReady); ready != nil {
			h.status = ready.LastHeartbeatTime.Time
		}
	})
}

func (c *Controller) forget(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.heard, node)
}

// silence returns how long ago the node was last heard.
func (c *Controller) silence(node string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, ok := c.heard[node]
	if !ok {
		h = heartbeat{at: time.Now()}
		c.heard[node] = h
	}
	return time.Since(h.at)
}

func (c *Controller) reconcileNode(ctx context.Context, name string) error {
	node, err := c.nodeList.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	grace := c.grace
	if readiness(node) == "" {
		grace = max(grace, startupGrace)
	}
	left := grace - c.silence(name)
	if left <= 0 {
		if node, err = c.markSilent(ctx, node); err != nil {
			return err
		}
	} else {
		c.lifecycle.AddAfter(name, left)
	}
	if readiness(node) == corev1.ConditionUnknown {
		if err := c.markPods(ctx, node); err != nil {
			return err
		}
	}
	return c.writeTaints(ctx, node)
}

func (c *Controller) markSilent(ctx context.Context, node *corev1.Node) (*corev1.Node, error) {
	next, changed := silentConditions(node, metav1.Now())
	if !changed {
		return node, nil
	}
	update := node.DeepCopy()
	update.Status.Conditions = next
	written, err := c.client.CoreV1().Nodes().UpdateStatus(ctx, update, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return node, nil
	} else if err != nil {
		return nil, fmt.Errorf("write status: %w", err)
	}
	c.log.Warn("node is silent", "node", node.Name, "dur", c.grace)
	c.recorder.Eventf(node, corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: NodeNotReady", node.Name)
	return written, nil
}

// markPods takes the pods of a silent node out of service: no kubelet will.
func (c *Controller) markPods(ctx context.Context, node *corev1.Node) error {
	bound, err := pods.ByNode(c.pods.GetIndexer(), node.Name)
	if err != nil {
		return err
	}
	for _, pod := range bound {
		if !pods.Ready(pod) {
			continue
		}
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"uid": pod.UID},
			"status": map[string]any{"conditions": []any{map[string]any{
				"type": corev1.PodReady, "status": corev1.ConditionFalse, "lastTransitionTime": metav1.Now(),
			}}},
		})
		if err != nil {
			return fmt.Errorf("encode patch: %w", err)
		}
		_, err = c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("mark pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
		c.recorder.Event(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
	}
	return nil
}

func (c *Controller) writeTaints(ctx context.Context, node *corev1.Node) error {
	want := wantedTaints(node, c.someoneAlive(), metav1.Now())
	if apiequality.Semantic.DeepEqual(want, node.Spec.Taints) {
		return nil
	}
	update := node.DeepCopy()
	update.Spec.Taints = want
	_, err := c.client.CoreV1().Nodes().Update(ctx, update, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write taints: %w", err)
	}
	return nil
}

// someoneAlive reports whether any node is ready.
func (c *Controller) someoneAlive() bool {
	all, err := c.nodeList.List(labels.Everything())
	if err != nil {
		return false // the lister of a cache has no errors
	}
	for _, node := range all {
		if readiness(node) == corev1.ConditionTrue {
			return true
		}
	}
	return false
}
