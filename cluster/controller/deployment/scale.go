package deployment

import (
	"math"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
)

// Annotations on ReplicaSets: the Deployment's size, and that plus its surge,
// when the set was last resized.
const (
	desiredAnnotation = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation     = "deployment.kubernetes.io/max-replicas"
)

func setSizeAnnotations(rs *appsv1.ReplicaSet, d *appsv1.Deployment) {
	surge, _ := fenceposts(d)
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	rs.Annotations[desiredAnnotation] = strconv.Itoa(int(*d.Spec.Replicas))
	rs.Annotations[maxAnnotation] = strconv.Itoa(int(*d.Spec.Replicas + surge))
}

// wasScaled reports whether the Deployment's size changed since its active
// sets were last resized: then they are scaled before the roll-out goes on.
func (r *rollout) wasScaled() bool {
	for _, rs := range active(r.all()) {
		desired, ok := count(rs, desiredAnnotation)
		if ok && desired != *r.d.Spec.Replicas {
			return true
		}
	}
	return false
}

// scale brings the sets to the Deployment's size without going on with the
// roll-out: in the middle of one, each set in proportion to its size.
func (r *rollout) scale() {
	desired := *r.d.Spec.Replicas
	if rs := r.activeOrLatest(); rs != nil {
		r.resize(rs, desired)
		return
	}
	if r.saturated() {
		for _, rs := range active(r.old) {
			r.resize(rs, 0)
		}
		return
	}
	if r.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return
	}
	surge, _ := fenceposts(r.d)
	allowed := int32(0)
	if desired > 0 {
		allowed = desired + surge
	}
	sets := active(r.all())
	add := allowed - wanted(sets)
	slices.SortFunc(sets, func(a, b *appsv1.ReplicaSet) int {
		if *a.Spec.Replicas != *b.Spec.Replicas {
			return int(*b.Spec.Replicas - *a.Spec.Replicas)
		}
		if add > 0 {
			return byAge(b, a)
		}
		return byAge(a, b)
	})
	sizes := proportions(r.d, sets, add)
	for i, rs := range sets {
		*rs.Spec.Replicas = sizes[i]
		setSizeAnnotations(rs, r.d)
	}
}

// activeOrLatest returns the only set with pods; with none, the current or
// else the youngest. It is nil when several have pods.
func (r *rollout) activeOrLatest() *appsv1.ReplicaSet {
	switch sets := active(r.all()); {
	case len(sets) == 1:
		return sets[0]
	case len(sets) > 1:
		return nil
	case r.current != nil:
		return r.current
	case len(r.old) > 0:
		return r.old[len(r.old)-1]
	}
	return nil
}

// saturated reports whether the current set has all the pods, available.
func (r *rollout) saturated() bool {
	if r.current == nil {
		return false
	}
	desired, ok := count(r.current, desiredAnnotation)
	want := *r.d.Spec.Replicas
	return ok && desired == want && *r.current.Spec.Replicas == want && r.current.Status.AvailableReplicas == want
}

// proportions returns the new size of each set when add pods (fewer than 0:
// to take away) are shared out by size; the first set gets what rounding
// leaves over.
func proportions(d *appsv1.Deployment, sets []*appsv1.ReplicaSet, add int32) []int32 {
	sizes := make([]int32, len(sets))
	added := int32(0)
	for i, rs := range sets {
		share := int32(0)
		if left := add - added; left != 0 {
			share = fraction(d, rs)
			if add > 0 {
				share = min(share, left)
			} else {
				share = max(share, left)
			}
		}
		sizes[i] = *rs.Spec.Replicas + share
		added += share
	}
	if len(sizes) > 0 {
		sizes[0] = max(0, sizes[0]+add-added)
	}
	return sizes
}

// fraction returns by how much a set alone would grow with the Deployment.
func fraction(d *appsv1.Deployment, rs *appsv1.ReplicaSet) int32 {
	size := *rs.Spec.Replicas
	if *d.Spec.Replicas == 0 {
		return -size
	}
	surge, _ := fenceposts(d)
	before, ok := count(rs, maxAnnotation)
	if !ok || before == 0 {
		before = d.Status.Replicas // the annotation was taken off by hand
	}
	if before == 0 {
		return 0
	}
	grown := float64(size) * float64(*d.Spec.Replicas+surge) / float64(before)
	return int32(math.Round(grown)) - size
}

func count(rs *appsv1.ReplicaSet, annotation string) (int32, bool) {
	n, err := strconv.ParseInt(rs.Annotations[annotation], 10, 32)
	return int32(n), err == nil && n >= 0
}

func active(sets []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	var out []*appsv1.ReplicaSet
	for _, rs := range sets {
		if *rs.Spec.Replicas > 0 {
			out = append(out, rs)
		}
	}
	return out
}
