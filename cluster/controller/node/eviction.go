package node

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"gantry/cluster/internal/pods"
)

// tolerated returns for how long a pod with these tolerations bears a taint.
func tolerated(tolerations []corev1.Toleration, taint *corev1.Taint) (d time.Duration, forever bool) {
	shortest := int64(math.MaxInt64)
	found := false
	for i := range tolerations {
		if !tolerations[i].ToleratesTaint(klog.Background(), taint, true) {
			continue
		}
		found = true
		if s := tolerations[i].TolerationSeconds; s != nil {
			shortest = min(shortest, max(0, *s))
		}
	}
	switch {
	case !found:
		return 0, false
	case shortest > math.MaxInt64/int64(time.Second):
		return 0, true
	}
	return time.Duration(shortest) * time.Second, false
}

func hasNoExecute(node *corev1.Node) bool {
	for _, t := range node.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			return true
		}
	}
	return false
}

func (c *Controller) queuePods(node *corev1.Node) {
	bound, err := pods.ByNode(c.pods.GetIndexer(), node.Name)
	if err != nil {
		return // the index exists: New added it
	}
	for _, pod := range bound {
		c.eviction.Add(cache.MetaObjectToName(pod))
	}
}

func (c *Controller) queuePod(pod *corev1.Pod) {
	if pod.Spec.NodeName == "" {
		return
	}
	if node, err := c.nodeList.Get(pod.Spec.NodeName); err == nil && hasNoExecute(node) {
		c.eviction.Add(cache.MetaObjectToName(pod))
	}
}

// firstSeen returns since when the pod is known to be under its taints.
func (c *Controller) firstSeen(pod types.UID) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.seen[pod]; !ok {
		c.seen[pod] = time.Now()
	}
	return c.seen[pod]
}

func (c *Controller) unsee(pod types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.seen, pod)
}

func (c *Controller) reconcilePod(ctx context.Context, key cache.ObjectName) error {
	pod, err := c.podList.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && (pod.DeletionTimestamp != nil || pods.Finished(pod)) {
		return nil
	} else if err != nil {
		return err
	}
	node, err := c.nodeList.Get(pod.Spec.NodeName)
	if apierrors.IsNotFound(err) {
		return nil // podgc's business
	} else if err != nil {
		return err
	}
	if !hasNoExecute(node) {
		c.unsee(pod.UID)
		return nil
	}
	at, never := evictionTime(pod, node.Spec.Taints, c.firstSeen(pod.UID))
	if never {
		return nil
	}
	if wait := time.Until(at); wait > 0 {
		c.eviction.AddAfter(key, wait)
		return nil
	}
	return c.evict(ctx, pod)
}

func (c *Controller) evict(ctx context.Context, pod *corev1.Pod) error {
	client := c.client.CoreV1().Pods(pod.Namespace)
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status": map[string]any{"conditions": []corev1.PodCondition{{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
			Reason: "DeletionByTaintManager", Message: "Taint manager: deleting due to NoExecute taint",
		}}},
	})
	if err != nil {
		return fmt.Errorf("encode patch: %w", err)
	}
	_, err = client.Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("mark pod: %w", err)
	}
	c.recorder.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s/%s", pod.Namespace, pod.Name)
	err = client.Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete pod: %w", err)
	}
	return nil
}
