package garbagecollector

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
)

func (c *Controller) reconcile(ctx context.Context, uid types.UID) error {
	it, ok := c.graph.item(uid)
	if !ok {
		return nil
	}
	switch {
	case it.deleting && it.orphan:
		return c.orphanDependents(ctx, it)
	case it.deleting && it.foreground:
		return c.finishForeground(ctx, it)
	case it.deleting || !it.doubtful:
		return nil
	}
	live, err := c.resource(it.identity).Get(ctx, it.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil // its deletion is on its way through the informer
	} else if err != nil {
		return fmt.Errorf("read %s %s: %w", it.gvr.Resource, it.name, err)
	}
	if live.UID != uid || live.DeletionTimestamp != nil {
		return nil
	}
	verdicts := make([]verdict, len(live.OwnerReferences))
	for i, ref := range live.OwnerReferences {
		if verdicts[i], err = c.judge(ctx, it.identity, ref); err != nil {
			return err
		}
	}
	return c.carryOut(ctx, it, live, decide(live, verdicts, it.dependents))
}

// judge tells what has become of an owner, by the graph or else by the API.
func (c *Controller) judge(ctx context.Context, id identity, ref metav1.OwnerReference) (verdict, error) {
	if v := c.graph.owner(id, ref); v != unknown {
		return v, nil
	}
	r, ok := c.kinds[kindOf(ref)]
	if !ok {
		return solid, nil // of a kind that is not served: it cannot be told
	}
	if r.namespaced && id.namespace == "" {
		return solid, nil // an owner that cannot be looked up does no harm
	}
	owner := identity{gvr: r.gvr, namespace: id.namespace, name: ref.Name}
	if !r.namespaced {
		owner.namespace = ""
	}
	live, err := c.resource(owner).Get(ctx, ref.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return dangling, nil
	case err != nil:
		return solid, fmt.Errorf("read owner %s %s: %w", r.gvr.Resource, ref.Name, err)
	case live.UID != ref.UID:
		return dangling, nil
	case live.DeletionTimestamp != nil && slices.Contains(live.Finalizers, metav1.FinalizerDeleteDependents):
		return waiting, nil
	}
	return solid, nil
}

// action is what to do with an object whose owners have been judged.
type action struct {
	owners []metav1.OwnerReference // to write; nil: leave them
	remove bool
	policy metav1.DeletionPropagation // of the removal
}

// decide is the collector's policy. An object with one owner left keeps that
// alone; with none it is deleted. While an owner waits for it and it has
// dependents itself, these go first.
func decide(object *metav1.PartialObjectMetadata, verdicts []verdict, dependents []dependent) action {
	var left []metav1.OwnerReference
	waited := false
	for i, ref := range object.OwnerReferences {
		switch verdicts[i] {
		case solid, unknown:
			left = append(left, ref)
		case waiting:
			waited = true
		case dangling:
		}
	}
	switch {
	case len(left) == len(object.OwnerReferences):
		return action{}
	case len(left) > 0:
		return action{owners: left}
	case waited && len(dependents) > 0:
		a := action{remove: true, policy: metav1.DeletePropagationForeground}
		if slices.ContainsFunc(dependents, func(d dependent) bool { return d.waits }) {
			// A circle of owners would wait for itself: this one steps out.
			for _, ref := range object.OwnerReferences {
				ref.BlockOwnerDeletion = new(false)
				a.owners = append(a.owners, ref)
			}
		}
		return a
	case slices.Contains(object.Finalizers, metav1.FinalizerOrphanDependents):
		return action{remove: true, policy: metav1.DeletePropagationOrphan}
	case slices.Contains(object.Finalizers, metav1.FinalizerDeleteDependents):
		return action{remove: true, policy: metav1.DeletePropagationForeground}
	}
	return action{remove: true, policy: metav1.DeletePropagationBackground}
}

func (c *Controller) carryOut(ctx context.Context, it item, live *metav1.PartialObjectMetadata, a action) error {
	version := live.ResourceVersion
	if a.owners != nil {
		written, err := c.writeOwners(ctx, it.identity, version, a.owners)
		if err != nil || written == nil {
			return err
		}
		version = written.ResourceVersion
	}
	if !a.remove {
		return nil
	}
	c.log.Debug("delete object without owner", "key", it.namespace+"/"+it.name, "kind", it.kind.String())
	err := c.resource(it.identity).Delete(ctx, it.name, metav1.DeleteOptions{
		PropagationPolicy: &a.policy,
		Preconditions:     &metav1.Preconditions{UID: &it.uid, ResourceVersion: &version},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s %s: %w", it.gvr.Resource, it.name, err)
	}
	return nil
}

// finishForeground lets an object go when no dependent blocks it any more.
func (c *Controller) finishForeground(ctx context.Context, it item) error {
	blocked := false
	for _, d := range it.dependents {
		if !d.blocks {
			continue
		}
		blocked = true
		if !d.deleting {
			c.loop.Add(d.uid)
		}
	}
	if blocked {
		return nil
	}
	return c.dropFinalizer(ctx, it.identity, metav1.FinalizerDeleteDependents)
}

// orphanDependents takes the object's reference off its dependents, then lets
// it go.
func (c *Controller) orphanDependents(ctx context.Context, it item) error {
	for _, d := range it.dependents {
		live, err := c.resource(d.identity).Get(ctx, d.name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && live.UID != d.uid {
			continue
		} else if err != nil {
			return fmt.Errorf("read dependent %s: %w", d.name, err)
		}
		left := slices.DeleteFunc(slices.Clone(live.OwnerReferences), func(ref metav1.OwnerReference) bool { return ref.UID == it.uid })
		if len(left) == len(live.OwnerReferences) {
			continue
		}
		if _, err := c.writeOwners(ctx, d.identity, live.ResourceVersion, left); err != nil {
			return err
		}
	}
	return c.dropFinalizer(ctx, it.identity, metav1.FinalizerOrphanDependents)
}

func (c *Controller) dropFinalizer(ctx context.Context, id identity, finalizer string) error {
	live, err := c.resource(id).Get(ctx, id.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && live.UID != id.uid {
		return nil
	} else if err != nil {
		return fmt.Errorf("read %s %s: %w", id.gvr.Resource, id.name, err)
	}
	left := slices.DeleteFunc(slices.Clone(live.Finalizers), func(f string) bool { return f == finalizer })
	if len(left) == len(live.Finalizers) {
		return nil
	}
	_, err = c.patch(ctx, id, map[string]any{"uid": id.uid, "resourceVersion": live.ResourceVersion, "finalizers": left})
	return err
}

// writeOwners replaces the owner references of that version of an object. It
// returns nil when the object is gone.
func (c *Controller) writeOwners(ctx context.Context, id identity, version string, owners []metav1.OwnerReference) (*metav1.PartialObjectMetadata, error) {
	return c.patch(ctx, id, map[string]any{"uid": id.uid, "resourceVersion": version, "ownerReferences": owners})
}

// patch merges fields into an object's metadata.
func (c *Controller) patch(ctx context.Context, id identity, fields map[string]any) (*metav1.PartialObjectMetadata, error) {
	b, err := json.Marshal(map[string]any{"metadata": fields})
	if err != nil {
		return nil, fmt.Errorf("encode patch: %w", err)
	}
	written, err := c.resource(id).Patch(ctx, id.name, types.MergePatchType, b, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("patch %s %s: %w", id.gvr.Resource, id.name, err)
	}
	return written, nil
}

func (c *Controller) resource(id identity) metadata.ResourceInterface {
	r := c.metadata.Resource(id.gvr)
	if id.namespace == "" {
		return r
	}
	return r.Namespace(id.namespace)
}
