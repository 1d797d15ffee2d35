package deployment

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of the Progressing condition that later decisions read.
const (
	timedOut     = "ProgressDeadlineExceeded"
	newAvailable = "NewReplicaSetAvailable"
	paused       = "DeploymentPaused"
)

func hasProgressDeadline(d *appsv1.Deployment) bool {
	s := d.Spec.ProgressDeadlineSeconds
	return s != nil && *s != math.MaxInt32
}

// setStatus puts the counts and the Available condition into the plan.
func (r *rollout) setStatus() {
	sets := r.all()
	status := appsv1.DeploymentStatus{
		ObservedGeneration: r.d.Generation,
		CollisionCount:     r.status.CollisionCount,
		Conditions:         r.status.Conditions,
	}
	for _, rs := range sets {
		status.Replicas += rs.Status.Replicas
		status.ReadyReplicas += rs.Status.ReadyReplicas
		status.AvailableReplicas += rs.Status.AvailableReplicas
	}
	if r.current != nil {
		status.UpdatedReplicas = r.current.Status.Replicas
	}
	status.UnavailableReplicas = max(0, wanted(sets)-status.AvailableReplicas)
	status.TerminatingReplicas = terminating(sets)
	r.status = status

	_, unavailable := fenceposts(r.d)
	if status.AvailableReplicas >= *r.d.Spec.Replicas-unavailable {
		r.setCondition(appsv1.DeploymentAvailable, corev1.ConditionTrue,
			"MinimumReplicasAvailable", "Deployment has minimum availability.")
	} else {
		r.setCondition(appsv1.DeploymentAvailable, corev1.ConditionFalse,
			"MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
	}
}

// terminating adds up the sets' terminating pods; nil while one does not tell.
func terminating(sets []*appsv1.ReplicaSet) *int32 {
	total := int32(0)
	for _, rs := range sets {
		switch {
		case rs.Status.TerminatingReplicas != nil:
			total += *rs.Status.TerminatingReplicas
		case rs.Status.ObservedGeneration != 0:
			return nil
		}
	}
	return &total
}

// setProgress is setStatus, and says how the roll-out goes.
func (r *rollout) setProgress() {
	r.setStatus()
	if !hasProgressDeadline(r.d) {
		r.dropCondition(appsv1.DeploymentProgressing)
	} else {
		r.noteProgress()
	}
	if failure := r.replicaFailure(); failure != nil {
		r.putCondition(*failure)
	} else {
		r.dropCondition(appsv1.DeploymentReplicaFailure)
	}
	r.recheck = r.recheckAfter()
}

func (r *rollout) noteProgress() {
	was := condition(r.d.Status.Conditions, appsv1.DeploymentProgressing)
	if was != nil && was.Reason == newAvailable && r.status.Replicas == r.status.UpdatedReplicas {
		return // done; pods that die later are no roll-out
	}
	subject := fmt.Sprintf("Deployment %q", r.d.Name)
	if r.current != nil {
		subject = fmt.Sprintf("ReplicaSet %q", r.current.Name)
	}
	switch {
	case complete(r.d, &r.status):
		r.setCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, newAvailable,
			subject+" has successfully progressed.")
	case progressed(&r.d.Status, &r.status), was != nil && was.Reason == newAvailable:
		// The second: the next roll-out has begun, and the counts still compare
		// with the end of the last.
		c := r.newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "ReplicaSetUpdated",
			subject+" is progressing.")
		if was != nil && was.Status == corev1.ConditionTrue {
			c.LastTransitionTime = was.LastTransitionTime
		}
		// Dropped first, so that the update time moves on: the deadline counts
		// from the last progress.
		r.dropCondition(appsv1.DeploymentProgressing)
		r.putCondition(c)
	case r.overdue():
		r.setCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, timedOut,
			subject+" has timed out progressing.")
	}
}

// complete reports whether all pods are of the newest template and available.
func complete(d *appsv1.Deployment, s *appsv1.DeploymentStatus) bool {
	want := *d.Spec.Replicas
	return s.UpdatedReplicas == want && s.Replicas == want && s.AvailableReplicas == want &&
		s.ObservedGeneration >= d.Generation
}

func progressed(was, is *appsv1.DeploymentStatus) bool {
	return is.UpdatedReplicas > was.UpdatedReplicas ||
		is.Replicas-is.UpdatedReplicas < was.Replicas-was.UpdatedReplicas ||
		is.ReadyReplicas > was.ReadyReplicas ||
		is.AvailableReplicas > was.AvailableReplicas
}

// deadline returns when the roll-out is overdue unless it progresses.
func (r *rollout) deadline(c *appsv1.DeploymentCondition) time.Time {
	return c.LastUpdateTime.Add(time.Duration(*r.d.Spec.ProgressDeadlineSeconds) * time.Second)
}

func (r *rollout) overdue() bool {
	c := condition(r.status.Conditions, appsv1.DeploymentProgressing)
	switch {
	case c == nil || c.Reason == newAvailable:
		return false
	case c.Reason == timedOut:
		return true
	}
	return r.deadline(c).Before(r.now.Time)
}

// recheckAfter returns when to look again for progress that did not happen.
func (r *rollout) recheckAfter() time.Duration {
	c := condition(r.status.Conditions, appsv1.DeploymentProgressing)
	if c == nil || !hasProgressDeadline(r.d) || c.Reason == timedOut || complete(r.d, &r.status) {
		return 0
	}
	// One second more: the API keeps times to the second.
	return max(0, r.deadline(c).Sub(r.now.Time)) + time.Second
}

// notePause keeps the deadline from running while the Deployment is paused.
func (r *rollout) notePause() {
	if !hasProgressDeadline(r.d) {
		return
	}
	c := condition(r.status.Conditions, appsv1.DeploymentProgressing)
	if c != nil && c.Reason == timedOut {
		return
	}
	shown := c != nil && c.Reason == paused
	switch {
	case r.d.Spec.Paused && !shown:
		r.setCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, paused, "Deployment is paused")
	case !r.d.Spec.Paused && shown:
		r.setCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, "DeploymentResumed", "Deployment is resumed")
		r.d.Status.Conditions = r.status.Conditions
	}
}

// replicaFailure returns what keeps a set, the current one first, from
// creating or deleting pods.
func (r *rollout) replicaFailure() *appsv1.DeploymentCondition {
	sets := r.all()
	slices.Reverse(sets)
	for _, rs := range sets {
		for _, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				return &appsv1.DeploymentCondition{
					Type: appsv1.DeploymentReplicaFailure, Status: c.Status,
					LastUpdateTime: c.LastTransitionTime, LastTransitionTime: c.LastTransitionTime,
					Reason: c.Reason, Message: c.Message,
				}
			}
		}
	}
	return nil
}

func condition(conditions []appsv1.DeploymentCondition, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range conditions {
		if conditions[i].Type == t {
			return &conditions[i]
		}
	}
	return nil
}

func (r *rollout) newCondition(t appsv1.DeploymentConditionType, s corev1.ConditionStatus, reason, message string) appsv1.DeploymentCondition {
	return appsv1.DeploymentCondition{
		Type: t, Status: s, Reason: reason, Message: message,
		LastUpdateTime: metav1.Time(r.now), LastTransitionTime: metav1.Time(r.now),
	}
}

func (r *rollout) setCondition(t appsv1.DeploymentConditionType, s corev1.ConditionStatus, reason, message string) {
	r.putCondition(r.newCondition(t, s, reason, message))
}

// putCondition adds or replaces; one that says the same already stays as it is.
func (r *rollout) putCondition(c appsv1.DeploymentCondition) {
	if was := condition(r.status.Conditions, c.Type); was != nil {
		if was.Status == c.Status && was.Reason == c.Reason {
			return
		}
		if was.Status == c.Status {
			c.LastTransitionTime = was.LastTransitionTime
		}
	}
	r.dropCondition(c.Type)
	r.status.Conditions = append(r.status.Conditions, c)
}

func (r *rollout) dropCondition(t appsv1.DeploymentConditionType) {
	r.status.Conditions = slices.DeleteFunc(slices.Clone(r.status.Conditions), func(c appsv1.DeploymentCondition) bool {
		return c.Type == t
	})
}
