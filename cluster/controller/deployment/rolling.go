package deployment

import (
	"math"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// fenceposts returns how many pods more than desired may exist, and how many
// fewer may be available, while pods are replaced.
func fenceposts(d *appsv1.Deployment) (surge, unavailable int32) {
	rolling := d.Spec.Strategy.RollingUpdate
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || rolling == nil {
		return 0, 0
	}
	desired := *d.Spec.Replicas
	surge = scaled(rolling.MaxSurge, desired, true)
	unavailable = scaled(rolling.MaxUnavailable, desired, false)
	if surge == 0 && unavailable == 0 {
		// Validation refuses both at 0, but a percentage may round down to it:
		// without this nothing could ever be replaced.
		unavailable = 1
	}
	return surge, min(unavailable, desired)
}

func scaled(v *intstr.IntOrString, desired int32, up bool) int32 {
	n, err := intstr.GetScaledValueFromIntOrPercent(
		intstr.ValueOrDefault(v, intstr.FromInt32(0)), int(desired), up)
	if err != nil || n < 0 || n > math.MaxInt32 {
		return 0 // validation keeps such values out
	}
	return int32(n)
}

// currentSize returns the size that the current set may have now.
func (r *rollout) currentSize() int32 {
	desired := *r.d.Spec.Replicas
	if r.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return desired
	}
	size := *r.current.Spec.Replicas
	if size > desired {
		return desired
	}
	surge, _ := fenceposts(r.d)
	room := desired + surge - wanted(r.all())
	if room <= 0 {
		return size
	}
	return size + min(room, desired-size)
}

// roll moves one step from the old sets to the current one: up first, then
// down as far as availability allows.
func (r *rollout) roll() {
	r.ensureCurrent()
	if size := r.currentSize(); size != *r.current.Spec.Replicas {
		r.resize(r.current, size)
		return
	}
	if r.shrinkOld() {
		return
	}
	if complete(r.d, &r.d.Status) {
		r.trimHistory()
	}
}

// shrinkOld takes pods from the old sets and reports whether it took any:
// those that are not available first, as they serve nobody.
func (r *rollout) shrinkOld() bool {
	if wanted(r.old) == 0 {
		return false
	}
	_, unavailable := fenceposts(r.d)
	minAvailable := *r.d.Spec.Replicas - unavailable
	starting := *r.current.Spec.Replicas - r.current.Status.AvailableReplicas
	spare := wanted(r.all()) - minAvailable - starting
	if spare <= 0 {
		return false
	}
	taken := int32(0)
	for _, rs := range r.old {
		broken := *rs.Spec.Replicas - rs.Status.AvailableReplicas
		if n := min(spare-taken, *rs.Spec.Replicas, broken); n > 0 {
			r.resize(rs, *rs.Spec.Replicas-n)
			taken += n
		}
	}
	// Counted by availability, not by size: what was just taken was not
	// available.
	free := available(r.all()) - minAvailable
	for _, rs := range r.old {
		if n := min(free, *rs.Spec.Replicas); n > 0 {
			r.resize(rs, *rs.Spec.Replicas-n)
			free -= n
			taken += n
		}
	}
	return taken > 0
}

// recreate ends all old pods before the first new one starts.
func (r *rollout) recreate() {
	r.annotateCurrent()
	if len(active(r.old)) > 0 {
		for _, rs := range r.old {
			r.resize(rs, 0)
		}
		return
	}
	if r.oldPodsLeft() {
		return
	}
	r.ensureCurrent()
	r.resize(r.current, *r.d.Spec.Replicas)
	if complete(r.d, &r.d.Status) {
		r.trimHistory()
	}
}

func (r *rollout) oldPodsLeft() bool {
	for _, rs := range r.old {
		if rs.Status.Replicas > 0 || r.running[rs.UID] > 0 {
			return true
		}
	}
	return false
}

// resize changes the size of a copy; what it must show about the Deployment's
// size goes along.
func (r *rollout) resize(rs *appsv1.ReplicaSet, size int32) {
	if *rs.Spec.Replicas == size {
		return
	}
	*rs.Spec.Replicas = size
	setSizeAnnotations(rs, r.d)
}

// wanted adds up the sizes asked for.
func wanted(sets []*appsv1.ReplicaSet) (n int32) {
	for _, rs := range sets {
		n += *rs.Spec.Replicas
	}
	return n
}

func available(sets []*appsv1.ReplicaSet) (n int32) {
	for _, rs := range sets {
		n += rs.Status.AvailableReplicas
	}
	return n
}
