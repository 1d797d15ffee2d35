package scheduler

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// bind writes the choice. If that fails the pod is tried again after a while.
func (s *Scheduler) bind(ctx context.Context, w *waiting, pod *corev1.Pod, node string) {
	err := s.client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
	if err == nil {
		s.queue.done(w)
		s.recorder.Eventf(pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %v/%v to %v", pod.Namespace, pod.Name, node)
		return
	}
	s.withCluster(func(c *cluster) { c.unassume(pod.UID) })
	s.queue.happened(podGone) // room for others, as it was never used
	if ctx.Err() != nil || apierrors.IsNotFound(err) {
		s.queue.done(w)
		return
	}
	s.log.Warn("binding failed, retrying", "pod", pod.Namespace+"/"+pod.Name, "node", node, "err", err)
	s.recorder.Eventf(pod, corev1.EventTypeWarning, "FailedScheduling", "binding rejected: %v", err)
	s.queue.failed(w)
	s.writeCondition(ctx, pod, corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulerError,
		Message: fmt.Sprintf("binding rejected: %v", err),
	})
}

// reject lets the pod wait for an event that may help it, and says why.
func (s *Scheduler) reject(ctx context.Context, w *waiting, pod *corev1.Pod, c choice) {
	message := c.message()
	s.queue.unschedulable(w, c.retry)
	s.recorder.Event(pod, corev1.EventTypeWarning, "FailedScheduling", message)
	s.writeCondition(ctx, pod, corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: message,
	})
}

// writeCondition writes the pod's PodScheduled condition unless it says the
// same already.
func (s *Scheduler) writeCondition(ctx context.Context, pod *corev1.Pod, c corev1.PodCondition) {
	c.LastTransitionTime = metav1.Now()
	c.ObservedGeneration = pod.Generation
	for _, have := range pod.Status.Conditions {
		if have.Type != c.Type {
			continue
		}
		if have.Status == c.Status && have.Reason == c.Reason && have.Message == c.Message {
			return
		}
		if have.Status == c.Status {
			c.LastTransitionTime = have.LastTransitionTime
		}
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status":   map[string]any{"conditions": []corev1.PodCondition{c}},
	})
	if err == nil {
		_, err = s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	}
	// The event says it too, and the next attempt writes it again.
	if err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		s.log.Warn("cannot write why a pod waits", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
}
