package endpointslice

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"
)

func (c *Controller) reconcile(ctx context.Context, key cache.ObjectName) error {
	service, err := c.serviceList.Services(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		// Its slices have it as their owner: the garbage collector's business.
		return nil
	} else if err != nil {
		return err
	}
	if len(service.Spec.Selector) == 0 || service.Spec.Type == corev1.ServiceTypeExternalName || service.DeletionTimestamp != nil {
		return nil
	}
	behind, err := c.podList.Pods(key.Namespace).List(labels.SelectorFromSet(service.Spec.Selector))
	if err != nil {
		return err
	}
	have, err := c.sliceList.EndpointSlices(key.Namespace).List(labels.SelectorFromSet(labels.Set{
		discoveryv1.LabelServiceName: key.Name, discoveryv1.LabelManagedBy: ManagedBy,
	}))
	if err != nil {
		return err
	}
	p := decide(service, behind, have, c.zone)
	return c.apply(ctx, key.Namespace, p)
}

// zone returns the zone of a node; empty when it has none or is not known.
func (c *Controller) zone(node string) string {
	n, err := c.nodeList.Get(node)
	if err != nil {
		return ""
	}
	return n.Labels[corev1.LabelTopologyZone]
}

// apply creates before it removes: an endpoint that moves between slices is
// rather in both for a moment than in none.
func (c *Controller) apply(ctx context.Context, namespace string, p plan) error {
	client := c.client.DiscoveryV1().EndpointSlices(namespace)
	for _, s := range p.create {
		_, err := client.Create(ctx, s, metav1.CreateOptions{})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		} else if err != nil {
			return fmt.Errorf("create slice %s: %w", s.Name, err)
		}
	}
	for _, s := range p.update {
		if _, err := client.Update(ctx, s, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("update slice %s: %w", s.Name, err)
		}
	}
	for _, s := range p.remove {
		err := client.Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(s.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete slice %s: %w", s.Name, err)
		}
	}
	return nil
}
