package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// waitForNode returns when the node takes pods.
func (c *clusterWing) waitForNode(ctx context.Context) error {
	only := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", c.node).String()}
	for {
		watch, err := c.client.CoreV1().Nodes().Watch(ctx, only)
		if err != nil {
			return err
		}
		for event := range watch.ResultChan() {
			if node, ok := event.Object.(*corev1.Node); ok && isReady(node) {
				watch.Stop()
				return nil
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

func isReady(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// appsTime is how long a start waits for the apps that ran before.
const appsTime = 10 * time.Second

// waitForApps returns when the pods that were ready when the server was last
// seen run and are ready again. Those that are not so after a while are noted:
// they do not keep the server from starting.
func (c *clusterWing) waitForApps(ctx context.Context) error {
	ours := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", c.node).String()}
	list, err := c.client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, ours)
	if err != nil {
		return err
	}
	missing := make(map[types.UID]string)
	for i := range list.Items {
		if pod := &list.Items[i]; podReady(pod) && !c.runs(ctx, pod) {
			missing[pod.UID] = pod.Name
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return c.s.progress.Step("apps", func() error {
		ours.ResourceVersion = list.ResourceVersion
		waiting, cancel := context.WithTimeout(ctx, appsTime)
		defer cancel()
		err := c.watchApps(waiting, ours, missing)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		for _, name := range missing {
			c.s.note("pod " + name + " is not ready yet")
		}
		return nil
	})
}

// watchApps takes off missing what has come back or is gone, until nothing is
// missing or ctx ends.
func (c *clusterWing) watchApps(ctx context.Context, ours metav1.ListOptions, missing map[types.UID]string) error {
	w, err := c.client.CoreV1().Pods(metav1.NamespaceAll).Watch(ctx, ours)
	if err != nil {
		return err
	}
	defer w.Stop()
	for len(missing) > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case event, open := <-w.ResultChan():
			if !open {
				return fmt.Errorf("watch pods: the API server has ended it")
			}
			pod, ok := event.Object.(*corev1.Pod)
			if ok && (event.Type == watch.Deleted || pod.DeletionTimestamp != nil || c.runs(ctx, pod)) {
				delete(missing, pod.UID)
			}
		}
	}
	return nil
}

func podReady(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp != nil {
		return false
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// runs reports whether a pod is ready by a status that is not of the past: the
// containers that it names run.
func (c *clusterWing) runs(ctx context.Context, pod *corev1.Pod) bool {
	if !podReady(pod) {
		return false
	}
	for _, status := range pod.Status.ContainerStatuses {
		_, id, _ := strings.Cut(status.ContainerID, "://")
		if found, err := c.host.engine.Container(ctx, id); err != nil || found.Pid == 0 {
			return false
		}
	}
	return true
}
