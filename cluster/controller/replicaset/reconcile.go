package replicaset

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"gantry/cluster/controller/internal/claim"
	"gantry/cluster/internal/pods"
)

// burst bounds the pods created or deleted in one pass, inFlight those of them
// that are under way at once.
const (
	burst    = 500
	inFlight = 16
)

func (c *Controller) reconcile(ctx context.Context, key cache.ObjectName) error {
	rs, err := c.setsList.ReplicaSets(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return nil // validation keeps such objects out; no retry would help
	}
	settled := c.pending.Satisfied(rs.UID, time.Now())
	owned, err := c.claimPods(ctx, rs, selector)
	if err != nil {
		return err
	}
	var active []*corev1.Pod
	terminating := 0
	for _, pod := range owned {
		if pods.Active(pod) {
			active = append(active, pod)
		} else if pod.DeletionTimestamp != nil && !pods.Finished(pod) {
			terminating++
		}
	}
	var scaleErr error
	if settled && rs.DeletionTimestamp == nil {
		scaleErr = c.scale(ctx, rs, active)
	}
	at := now()
	status := statusOf(rs, active, terminating, scaleErr, at)
	if err := c.writeStatus(ctx, rs, status); err != nil {
		return errors.Join(scaleErr, err)
	}
	if scaleErr == nil && status.ReadyReplicas != status.AvailableReplicas {
		c.loop.AddAfter(key, nextAvailable(active, rs.Spec.MinReadySeconds, at.Time))
	}
	return scaleErr
}

// claimPods returns the pods that are the set's, after adopting and releasing.
func (c *Controller) claimPods(ctx context.Context, rs *appsv1.ReplicaSet, selector labels.Selector) ([]*corev1.Pod, error) {
	mine, err := pods.ByOwner(c.pods.GetIndexer(), rs.Namespace, rs.UID)
	if err != nil {
		return nil, err
	}
	orphans, err := pods.ByOwner(c.pods.GetIndexer(), rs.Namespace, "")
	if err != nil {
		return nil, err
	}
	var owned []*corev1.Pod
	checked := false
	for _, pod := range append(mine, orphans...) {
		switch claim.Decide(rs, selector, pod) {
		case claim.Ignore:
		case claim.Keep:
			owned = append(owned, pod)
		case claim.Release:
			patch, err := claim.ReleasePatch(rs.UID, pod.UID)
			if err != nil {
				return nil, err
			}
			if err := c.patch(ctx, pod, patch); err != nil {
				return nil, fmt.Errorf("release pod %s: %w", pod.Name, err)
			}
		case claim.Adopt:
			if pods.Finished(pod) {
				continue
			}
			if !checked {
				if err := c.checkAlive(ctx, rs); err != nil {
					return nil, err
				}
				checked = true
			}
			patch, err := claim.AdoptPatch(rs, kind, pod.UID)
			if err != nil {
				return nil, err
			}
			if err := c.patch(ctx, pod, patch); apierrors.IsNotFound(err) {
				continue
			} else if err != nil {
				return nil, fmt.Errorf("adopt pod %s: %w", pod.Name, err)
			}
			owned = append(owned, pod)
		}
	}
	return owned, nil
}

// checkAlive asks the API whether the set is still the one of the cache: a
// dead set must not adopt.
func (c *Controller) checkAlive(ctx context.Context, rs *appsv1.ReplicaSet) error {
	live, err := c.client.AppsV1().ReplicaSets(rs.Namespace).Get(ctx, rs.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("check before adoption: %w", err)
	}
	if live.UID != rs.UID || live.DeletionTimestamp != nil {
		return fmt.Errorf("check before adoption: replica set %s is gone", rs.Name)
	}
	return nil
}

func (c *Controller) patch(ctx context.Context, pod *corev1.Pod, patch []byte) error {
	_, err := c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}

// scale creates or deletes pods until there are as many as asked for.
func (c *Controller) scale(ctx context.Context, rs *appsv1.ReplicaSet, active []*corev1.Pod) error {
	diff := len(active) - int(*rs.Spec.Replicas)
	switch {
	case diff < 0:
		return c.create(ctx, rs, min(-diff, burst))
	case diff > 0:
		doomed := leastValuable(active, c.colocated(rs, active), min(diff, burst), time.Now())
		return c.remove(ctx, rs, doomed)
	}
	return nil
}

// create makes n pods in batches that double while all goes well, so that what
// fails for each of them (a quota, say) is not tried n times.
func (c *Controller) create(ctx context.Context, rs *appsv1.ReplicaSet, n int) error {
	c.pending.Create(rs.UID, n, time.Now())
	left := n
	for batch := 1; left > 0; batch = min(2*batch, left) {
		failed, err := parallel(batch, func(int) error { return c.createPod(ctx, rs) })
		left -= batch
		if err != nil {
			// The informer will show neither the failed nor the skipped ones.
			c.pending.Created(rs.UID, failed+left)
			return err
		}
	}
	return nil
}

func (c *Controller) createPod(ctx context.Context, rs *appsv1.ReplicaSet) error {
	created, err := c.client.CoreV1().Pods(rs.Namespace).Create(ctx, podFor(rs), metav1.CreateOptions{})
	switch {
	case err == nil:
		c.recorder.Eventf(rs, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", created.Name)
		return nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		c.pending.Created(rs.UID, 1)
		return nil // nothing can be created in it any more
	}
	c.recorder.Eventf(rs, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
	return err
}

func (c *Controller) remove(ctx context.Context, rs *appsv1.ReplicaSet, doomed []*corev1.Pod) error {
	for _, pod := range doomed {
		c.pending.Delete(rs.UID, pod.UID, time.Now())
	}
	_, err := parallel(len(doomed), func(i int) error {
		pod := doomed[i]
		err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name,
			metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
		if err == nil {
			c.recorder.Eventf(rs, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", pod.Name)
			return nil
		}
		c.pending.Deleted(rs.UID, pod.UID)
		if apierrors.IsNotFound(err) {
			return nil
		}
		c.recorder.Eventf(rs, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		return fmt.Errorf("delete pod %s: %w", pod.Name, err)
	})
	return err
}

// colocated counts, per node, the active pods of all sets that share the set's
// controller: of two pods on one node the first to go is the doubled one.
func (c *Controller) colocated(rs *appsv1.ReplicaSet, active []*corev1.Pod) map[string]int {
	related := active
	if owner := metav1.GetControllerOfNoCopy(rs); owner != nil {
		related = nil
		sets, err := c.setsList.ReplicaSets(rs.Namespace).List(labels.Everything())
		if err != nil {
			return nil // the lister of a cache has no errors
		}
		for _, other := range sets {
			if ref := metav1.GetControllerOfNoCopy(other); ref != nil && ref.UID == owner.UID {
				siblings, err := pods.ByOwner(c.pods.GetIndexer(), other.Namespace, other.UID)
				if err == nil {
					related = append(related, siblings...)
				}
			}
		}
	}
	perNode := map[string]int{}
	for _, pod := range related {
		if pods.Active(pod) {
			perNode[pod.Spec.NodeName]++
		}
	}
	return perNode
}

// writeStatus writes status unless it is what the set has, once more against
// the newest version after a conflict.
func (c *Controller) writeStatus(ctx context.Context, rs *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) error {
	if sameStatus(rs.Status, status) {
		return nil
	}
	sets := c.client.AppsV1().ReplicaSets(rs.Namespace)
	next := rs.DeepCopy()
	next.Status = status
	_, err := sets.UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) {
		live, getErr := sets.Get(ctx, rs.Name, metav1.GetOptions{})
		if getErr != nil {
			return ignoreGone(getErr)
		}
		if live.UID != rs.UID {
			return nil
		}
		live.Status = status
		_, err = sets.UpdateStatus(ctx, live, metav1.UpdateOptions{})
	}
	return ignoreGone(err)
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// parallel calls f for 0..n-1, a bounded number at once, and returns how many
// failed, with the first error.
func parallel(n int, f func(int) error) (failed int, first error) {
	if n == 1 {
		if err := f(0); err != nil {
			return 1, err
		}
		return 0, nil
	}
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		slot = make(chan struct{}, inFlight) // counts those under way
	)
	for i := range n {
		slot <- struct{}{}
		wg.Go(func() {
			defer func() { <-slot }()
			if err := f(i); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed++
				if first == nil {
					first = err
				}
			}
		})
	}
	wg.Wait()
	return failed, first
}
