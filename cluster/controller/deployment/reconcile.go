package deployment

import (
	"context"
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"gantry/cluster/controller/internal/claim"
	"gantry/cluster/internal/pods"
)

func (c *Controller) reconcile(ctx context.Context, key cache.ObjectName) error {
	d, err := c.deploymentList.Deployments(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	v := view{deployment: d, running: map[types.UID]int{}, now: metav1.Now()}
	if !selectsAll(d) {
		if v.sets, err = c.claimSets(ctx, d); err != nil {
			return err
		}
	}
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		for _, rs := range v.sets {
			if v.running[rs.UID], err = c.runningPods(rs); err != nil {
				return err
			}
		}
	}
	p := decide(v)
	if err := c.apply(ctx, d, p); err != nil {
		return err
	}
	if p.recheck > 0 {
		c.loop.AddAfter(key, p.recheck)
	}
	return nil
}

func (c *Controller) runningPods(rs *appsv1.ReplicaSet) (int, error) {
	list, err := pods.ByOwner(c.pods.GetIndexer(), rs.Namespace, rs.UID)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, pod := range list {
		if !pods.Finished(pod) {
			n++
		}
	}
	return n, nil
}

// claimSets returns the Deployment's sets, after adopting and releasing.
func (c *Controller) claimSets(ctx context.Context, d *appsv1.Deployment) ([]*appsv1.ReplicaSet, error) {
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("selector: %w", err)
	}
	all, err := c.setList.ReplicaSets(d.Namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var owned []*appsv1.ReplicaSet
	for _, rs := range all {
		switch claim.Decide(d, selector, rs) {
		case claim.Ignore:
		case claim.Keep:
			owned = append(owned, rs)
		case claim.Release:
			patch, err := claim.ReleasePatch(d.UID, rs.UID)
			if err != nil {
				return nil, err
			}
			if _, err := c.patchSet(ctx, rs, patch); err != nil && !apierrors.IsNotFound(err) {
				return nil, fmt.Errorf("release replica set %s: %w", rs.Name, err)
			}
		case claim.Adopt:
			adopted, err := c.adopt(ctx, d, rs)
			if err != nil {
				return nil, err
			}
			owned = append(owned, adopted)
		}
	}
	return owned, nil
}

func (c *Controller) adopt(ctx context.Context, d *appsv1.Deployment, rs *appsv1.ReplicaSet) (*appsv1.ReplicaSet, error) {
	// Asked of the API, not of the cache: a dead Deployment must not adopt.
	live, err := c.client.AppsV1().Deployments(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("check before adoption: %w", err)
	}
	if live.UID != d.UID || live.DeletionTimestamp != nil {
		return nil, fmt.Errorf("check before adoption: deployment %s is gone", d.Name)
	}
	patch, err := claim.AdoptPatch(d, kind, rs.UID)
	if err != nil {
		return nil, err
	}
	adopted, err := c.patchSet(ctx, rs, patch)
	if err != nil {
		return nil, fmt.Errorf("adopt replica set %s: %w", rs.Name, err)
	}
	return adopted, nil
}

func (c *Controller) patchSet(ctx context.Context, rs *appsv1.ReplicaSet, patch []byte) (*appsv1.ReplicaSet, error) {
	return c.client.AppsV1().ReplicaSets(rs.Namespace).Patch(ctx, rs.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
}

func (c *Controller) apply(ctx context.Context, d *appsv1.Deployment, p plan) error {
	sets := c.client.AppsV1().ReplicaSets(d.Namespace)
	if p.create != nil {
		if err := c.create(ctx, d, p); err != nil {
			return err
		}
	}
	for _, r := range p.update {
		if _, err := sets.Update(ctx, r.set, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("update replica set %s: %w", r.set.Name, err)
		}
		c.saySize(d, r)
	}
	for _, rs := range p.remove {
		err := sets.Delete(ctx, rs.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(rs.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete replica set %s: %w", rs.Name, err)
		}
	}
	if p.rollback != nil {
		if _, err := c.client.AppsV1().Deployments(d.Namespace).Update(ctx, p.rollback, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("roll back: %w", err)
		}
	}
	for _, e := range p.events {
		c.recorder.Event(d, e.kind, e.reason, e.message)
	}
	if p.rollback != nil {
		return nil
	}
	return c.writeBack(ctx, d, p)
}

func (c *Controller) saySize(d *appsv1.Deployment, r resize) {
	direction := "up"
	switch to := *r.set.Spec.Replicas; {
	case to == r.from:
		return
	case to < r.from:
		direction = "down"
	}
	c.recorder.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d",
		direction, r.set.Name, r.from, *r.set.Spec.Replicas)
}

// create makes the set of the newest template. One that exists already under
// its name is ours from an earlier pass that the cache does not show yet, or
// has another template with the same hash: then the next pass hashes anew.
func (c *Controller) create(ctx context.Context, d *appsv1.Deployment, p plan) error {
	sets := c.client.AppsV1().ReplicaSets(d.Namespace)
	_, err := sets.Create(ctx, p.create, metav1.CreateOptions{})
	switch {
	case err == nil:
		if n := *p.create.Spec.Replicas; n > 0 {
			c.recorder.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", p.create.Name, n)
		}
		return nil
	case apierrors.IsAlreadyExists(err):
		return c.resolveCollision(ctx, d, p.create, err)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return err
	}
	message := fmt.Sprintf("Failed to create new replica set %q: %v", p.create.Name, err)
	c.recorder.Event(d, corev1.EventTypeWarning, "ReplicaSetCreateError", message)
	if hasProgressDeadline(d) {
		r := rollout{plan: &plan{status: *d.Status.DeepCopy()}, d: d, now: metav1.Now()}
		r.setCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, "ReplicaSetCreateError", message)
		// The creation's error is the one to report; this one only repeats it.
		_ = c.writeBack(ctx, d, *r.plan)
	}
	return fmt.Errorf("create replica set %s: %w", p.create.Name, err)
}

func (c *Controller) resolveCollision(ctx context.Context, d *appsv1.Deployment, want *appsv1.ReplicaSet, exists error) error {
	live, err := c.client.AppsV1().ReplicaSets(d.Namespace).Get(ctx, want.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("look at replica set %s: %w", want.Name, err)
	}
	if metav1.IsControlledBy(live, d) && sameTemplate(&live.Spec.Template, &d.Spec.Template) {
		return fmt.Errorf("wait for the cache to show replica set %s: %w", want.Name, exists)
	}
	status := *d.Status.DeepCopy()
	if status.CollisionCount == nil {
		status.CollisionCount = new(int32(0))
	}
	*status.CollisionCount++
	if err := c.writeBack(ctx, d, plan{status: status}); err != nil {
		return err
	}
	return fmt.Errorf("name of replica set %s is taken by another template: %w", want.Name, exists)
}

// writeBack writes the Deployment's revision annotation and status where they
// differ.
func (c *Controller) writeBack(ctx context.Context, d *appsv1.Deployment, p plan) error {
	deployments := c.client.AppsV1().Deployments(d.Namespace)
	base := d
	if p.revision != "" {
		// Tied to the version decided on: the status that is written next was
		// computed from that, and would overwrite a newer one.
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid": d.UID, "resourceVersion": d.ResourceVersion, "annotations": map[string]string{revisionAnnotation: p.revision},
		}})
		if err != nil {
			return fmt.Errorf("encode patch: %w", err)
		}
		base, err = deployments.Patch(ctx, d.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if apierrors.IsNotFound(err) {
			return nil // deleted meanwhile
		} else if err != nil {
			return fmt.Errorf("annotate with revision %s: %w", p.revision, err)
		}
	}
	if apiequality.Semantic.DeepEqual(base.Status, p.status) {
		return nil
	}
	next := base.DeepCopy()
	next.Status = p.status
	_, err := deployments.UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}
