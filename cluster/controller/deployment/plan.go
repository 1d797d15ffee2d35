package deployment

import (
	"cmp"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// view is what one decision is made on.
type view struct {
	deployment *appsv1.Deployment
	sets       []*appsv1.ReplicaSet // the Deployment's own
	running    map[types.UID]int    // pods of each set that have not finished, dying ones too
	now        metav1.Time
}

// plan is what is to be done, in this order. Whatever fails ends the pass; the
// next one decides anew.
type plan struct {
	create   *appsv1.ReplicaSet
	update   []resize
	remove   []*appsv1.ReplicaSet
	rollback *appsv1.Deployment // the Deployment to write, its template changed back; nothing else is done
	revision string             // that the Deployment's annotation must show; empty: leave it
	status   appsv1.DeploymentStatus
	events   []event
	recheck  time.Duration // when progress is to be looked at again; 0: on the next event
}

// resize is a changed ReplicaSet, with the size that it had.
type resize struct {
	set  *appsv1.ReplicaSet
	from int32
}

type event struct{ kind, reason, message string }

// rollout is one decision while it is made: copies of the sets, changed as if
// the plan had been carried out already.
type rollout struct {
	*plan
	d       *appsv1.Deployment
	current *appsv1.ReplicaSet   // of the Deployment's template; nil: none yet
	old     []*appsv1.ReplicaSet // oldest first
	running map[types.UID]int
	now     metav1.Time
}

// decide returns what to do for a Deployment. It changes nothing it is given.
func decide(v view) plan {
	p := plan{}
	r := &rollout{plan: &p, d: v.deployment.DeepCopy(), running: v.running, now: v.now}
	r.current, r.old = partition(r.d, v.sets)
	p.status = *r.d.Status.DeepCopy()

	switch {
	case r.d.DeletionTimestamp != nil:
		r.setStatus()
		return p
	case selectsAll(r.d):
		p.events = append(p.events, event{corev1.EventTypeWarning, "SelectingAll",
			"This deployment is selecting all pods. A non-empty selector is required."})
		p.status.ObservedGeneration = r.d.Generation
		return p
	}
	r.notePause()
	target, wantsRollback := rollbackTarget(r.d)
	switch {
	case r.d.Spec.Paused:
		r.annotateCurrent()
		r.scale()
		if !wantsRollback {
			r.trimHistory()
		}
		r.setStatus()
	case wantsRollback:
		r.ensureCurrent()
		r.rollBack(target)
	case r.wasScaled():
		r.annotateCurrent()
		r.scale()
		r.setStatus()
	case r.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		r.recreate()
		r.setProgress()
	default:
		r.roll()
		r.setProgress()
	}
	r.collect(v.sets)
	return p
}

// collect puts the sets that were changed into the plan.
func (r *rollout) collect(before []*appsv1.ReplicaSet) {
	if r.current != nil && r.current.UID == "" {
		r.create = r.current
	}
	for _, was := range before {
		for _, is := range r.all() {
			if is.UID == was.UID && !apiequality.Semantic.DeepEqual(is, was) {
				r.update = append(r.update, resize{set: is, from: *was.Spec.Replicas})
			}
		}
	}
}

func (r *rollout) all() []*appsv1.ReplicaSet {
	if r.current == nil {
		return r.old
	}
	return append(slices.Clone(r.old), r.current)
}

func selectsAll(d *appsv1.Deployment) bool {
	s := d.Spec.Selector
	return s != nil && len(s.MatchLabels) == 0 && len(s.MatchExpressions) == 0
}

// partition returns copies: the oldest set with the Deployment's template, and
// the others, oldest first.
func partition(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) (current *appsv1.ReplicaSet, old []*appsv1.ReplicaSet) {
	sets = slices.Clone(sets)
	slices.SortFunc(sets, byAge)
	for _, rs := range sets {
		if current == nil && sameTemplate(&rs.Spec.Template, &d.Spec.Template) {
			current = rs.DeepCopy()
			continue
		}
		old = append(old, rs.DeepCopy())
	}
	return current, old
}

// byAge orders older sets first.
func byAge(a, b *appsv1.ReplicaSet) int {
	if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
		return c
	}
	return cmp.Compare(a.Name, b.Name)
}

// annotateCurrent brings the current set, if there is one, up to date with
// what the Deployment says about it, and notes the revision.
func (r *rollout) annotateCurrent() {
	if r.current == nil {
		return
	}
	next := maxRevision(r.old) + 1
	annotate(r.current, r.d, next)
	r.current.Spec.MinReadySeconds = r.d.Spec.MinReadySeconds
	r.noteRevision(r.current.Annotations[revisionAnnotation])
	if hasProgressDeadline(r.d) && condition(r.status.Conditions, appsv1.DeploymentProgressing) == nil {
		r.setCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "FoundNewReplicaSet",
			"Found new replica set \""+r.current.Name+"\"")
	}
}

// ensureCurrent is annotateCurrent, and plans the set if there is none.
func (r *rollout) ensureCurrent() {
	if r.current != nil {
		r.annotateCurrent()
		return
	}
	rs := newSet(r.d)
	next := maxRevision(r.old) + 1
	annotate(rs, r.d, next)
	setSizeAnnotations(rs, r.d)
	r.current = rs
	*rs.Spec.Replicas = r.currentSize()
	r.noteRevision(rs.Annotations[revisionAnnotation])
	if hasProgressDeadline(r.d) {
		r.setCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetCreated",
			"Created new replica set \""+rs.Name+"\"")
	}
}

func (r *rollout) noteRevision(revision string) {
	if r.d.Annotations[revisionAnnotation] != revision {
		r.revision = revision
	}
}
