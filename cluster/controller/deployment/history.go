package deployment

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"

	// Bounds the list of a set's former revisions, in bytes.
	maxHistory = 2000
)

// revision returns the set's revision; 0 when it has none or nonsense.
func revision(rs *appsv1.ReplicaSet) int64 {
	n, err := strconv.ParseInt(rs.Annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func maxRevision(sets []*appsv1.ReplicaSet) (newest int64) {
	for _, rs := range sets {
		newest = max(newest, revision(rs))
	}
	return newest
}

// ownAnnotation reports whether an annotation of this name belongs to one
// object and is not copied between a Deployment and its sets.
func ownAnnotation(name string) bool {
	switch name {
	case corev1.LastAppliedConfigAnnotation, revisionAnnotation, historyAnnotation,
		desiredAnnotation, maxAnnotation, appsv1.DeprecatedRollbackTo:
		return true
	}
	return false
}

// annotate copies the Deployment's annotations (kubernetes.io/change-cause
// among them) to the set, and moves it up to revision next if it is older,
// remembering the former one.
func annotate(rs *appsv1.ReplicaSet, d *appsv1.Deployment, next int64) {
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	for k, v := range d.Annotations {
		if !ownAnnotation(k) {
			rs.Annotations[k] = v
		}
	}
	old, had := rs.Annotations[revisionAnnotation]
	was, err := strconv.ParseInt(old, 10, 64)
	if err != nil && old != "" {
		return // written by hand: left alone
	}
	if was >= next {
		return
	}
	rs.Annotations[revisionAnnotation] = strconv.FormatInt(next, 10)
	if !had {
		return
	}
	former := old
	if list := rs.Annotations[historyAnnotation]; list != "" {
		former = list + "," + old
	}
	for len(former) > maxHistory {
		_, rest, more := strings.Cut(former, ",")
		if !more {
			return
		}
		former = rest
	}
	rs.Annotations[historyAnnotation] = former
}

// trimHistory plans the removal of the oldest sets over the limit that have
// no pods.
func (r *rollout) trimHistory() {
	limit := r.d.Spec.RevisionHistoryLimit
	if limit == nil || *limit == math.MaxInt32 {
		return
	}
	var kept []*appsv1.ReplicaSet
	for _, rs := range r.old {
		if rs.DeletionTimestamp == nil {
			kept = append(kept, rs)
		}
	}
	over := len(kept) - int(*limit)
	if over <= 0 {
		return
	}
	slices.SortStableFunc(kept, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Compare(revision(a), revision(b))
	})
	for _, rs := range kept[:over] {
		if rs.Status.Replicas == 0 && *rs.Spec.Replicas == 0 && rs.Status.ObservedGeneration >= rs.Generation {
			r.remove = append(r.remove, rs)
		}
	}
}

// rollbackTarget returns the revision that the annotation of the withdrawn
// rollback API asks for; 0 means the one before the current.
func rollbackTarget(d *appsv1.Deployment) (int64, bool) {
	n, err := strconv.ParseInt(d.Annotations[appsv1.DeprecatedRollbackTo], 10, 64)
	return n, err == nil
}

// rollBack plans the Deployment with the template of revision target.
func (r *rollout) rollBack(target int64) {
	sets := r.all()
	if target == 0 {
		target = secondRevision(sets)
	}
	d := r.d.DeepCopy()
	delete(d.Annotations, appsv1.DeprecatedRollbackTo)
	r.rollback = d
	i := slices.IndexFunc(sets, func(rs *appsv1.ReplicaSet) bool { return target != 0 && revision(rs) == target })
	switch {
	case target == 0:
		r.say(corev1.EventTypeWarning, "DeploymentRollbackRevisionNotFound", "Unable to find last revision.")
	case i < 0:
		r.say(corev1.EventTypeWarning, "DeploymentRollbackRevisionNotFound", "Unable to find the revision to rollback to.")
	case sameTemplate(&sets[i].Spec.Template, &d.Spec.Template):
		r.say(corev1.EventTypeWarning, "DeploymentRollbackTemplateUnchanged",
			fmt.Sprintf("The rollback revision contains the same template as current deployment %q", d.Name))
	default:
		restore(d, sets[i])
		r.say(corev1.EventTypeNormal, "DeploymentRollback",
			fmt.Sprintf("Rolled back deployment %q to revision %d", d.Name, target))
	}
}

// restore puts a set's template and annotations into the Deployment.
func restore(d *appsv1.Deployment, rs *appsv1.ReplicaSet) {
	d.Spec.Template = *withoutHash(&rs.Spec.Template).DeepCopy()
	annotations := map[string]string{}
	for k, v := range d.Annotations {
		if ownAnnotation(k) {
			annotations[k] = v
		}
	}
	for k, v := range rs.Annotations {
		if !ownAnnotation(k) {
			annotations[k] = v
		}
	}
	d.Annotations = annotations
}

// secondRevision returns the newest revision but one; 0 when there is none.
func secondRevision(sets []*appsv1.ReplicaSet) int64 {
	newest, second := int64(0), int64(0)
	for _, rs := range sets {
		switch n := revision(rs); {
		case n >= newest:
			newest, second = n, newest
		case n > second:
			second = n
		}
	}
	return second
}

func (r *rollout) say(kind, reason, message string) {
	r.events = append(r.events, event{kind, reason, message})
}
