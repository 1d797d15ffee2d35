package deployment

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

type sets = []*appsv1.ReplicaSet

func TestDecideRolling(t *testing.T) {
	n := intstr.FromInt32
	cases := []struct {
		name string
		d    *appsv1.Deployment
		sets sets
		want []string
	}{
		{"a new deployment gets its set at full size", web(3), nil, []string{"create 3"}},
		{"of size 0 an empty one", web(0), nil, []string{"create 0"}},
		{"all is well", web(3), sets{set(2, 3, 3, 3, 4)}, nil},
		{"a new template begins with the surge", web(4), sets{set(1, 4, 4, 4, 5)}, []string{"create 1", "web-1 4->3"}},
		{"without surge it begins by taking away", web(4, fences(n(0), n(1))), sets{set(1, 4, 4, 4, 4)}, []string{"create 0", "web-1 4->3"}},
		{"without surge and with room it fills up", web(4, fences(n(0), n(1))), sets{set(1, 3, 3, 4, 4), set(2, 0, 0, 4, 4)}, []string{"web-2 0->1"}},
		{"nothing is taken while the new ones start", web(4, fences(n(1), n(0))), sets{set(1, 4, 4, 4, 5), set(2, 1, 0, 4, 5)}, nil},
		{"an available new one frees an old one", web(4, fences(n(1), n(0))), sets{set(1, 4, 4, 4, 5), set(2, 1, 1, 4, 5)}, []string{"web-1 4->3"}},
		{"up before down", web(4, fences(n(1), n(0))), sets{set(1, 3, 3, 4, 5), set(2, 1, 1, 4, 5)}, []string{"web-2 1->2"}},
		{"broken old pods go first, from the oldest set on", web(4, fences(n(1), n(1))),
			sets{set(0, 1, 0, 4, 5), set(1, 3, 2, 4, 5), set(2, 1, 0, 4, 5)}, []string{"web-0 1->0"}},
		{"percentages round in favour of availability", web(3), sets{set(1, 3, 3, 3, 4)}, []string{"create 1"}},
		{"both fences at 0 still move", web(1, fences(intstr.FromString("0%"), intstr.FromString("10%"))), sets{set(1, 1, 1, 1, 1)},
			[]string{"create 0", "web-1 1->0"}},
		{"100% surge replaces all at once", web(3, fences(intstr.FromString("100%"), n(0))), sets{set(1, 3, 3, 3, 6)}, []string{"create 3"}},
		{"a set larger than wanted shrinks", web(3), sets{set(2, 5, 5, 3, 4)}, []string{"web-2 5->3"}},
		{"several old sets shrink from the oldest on", web(4, fences(n(4), n(0))), sets{set(0, 2, 2, 4, 8), set(1, 2, 2, 4, 8), set(2, 4, 3, 4, 8)}, []string{"web-0 2->0", "web-1 2->1"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := outline(decide(view{deployment: c.d, sets: c.sets, now: start}))
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecideRecreate(t *testing.T) {
	cases := []struct {
		name    string
		d       *appsv1.Deployment
		sets    sets
		running map[types.UID]int
		want    []string
	}{
		{"the first set comes at full size", web(3, recreate), nil, nil, []string{"create 3"}},
		{"old pods are ended first", web(3, recreate), sets{set(1, 3, 3, 3, 3)}, nil, []string{"web-1 3->0"}},
		{"nothing starts while old ones count", web(3, recreate), sets{drained(set(1, 0, 0, 3, 3), 1)}, nil, nil},
		{"nor while one still terminates", web(3, recreate), sets{set(1, 0, 0, 3, 3)}, map[types.UID]int{"uid-1": 1}, nil},
		{"then all new ones start", web(3, recreate), sets{set(1, 0, 0, 3, 3)}, map[types.UID]int{"uid-1": 0}, []string{"create 3"}},
		{"pods of the new set do not count", web(3, recreate), sets{set(1, 0, 0, 3, 3), set(2, 1, 1, 3, 3)}, map[types.UID]int{"uid-2": 1}, []string{"web-2 1->3"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := outline(decide(view{deployment: c.d, sets: c.sets, running: c.running, now: start}))
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

// drained is a set whose status lags behind its size.
func drained(rs *appsv1.ReplicaSet, left int32) *appsv1.ReplicaSet {
	rs.Status.Replicas = left
	return rs
}

func TestDecideScaling(t *testing.T) {
	n := intstr.FromInt32
	cases := []struct {
		name string
		d    *appsv1.Deployment
		sets sets
		want []string
	}{
		{"one active set takes it all", web(10), sets{set(1, 0, 0, 5, 7), set(2, 5, 5, 5, 7)}, []string{"web-2 5->10"}},
		{"scaling to 0", web(0), sets{set(2, 5, 5, 5, 7)}, []string{"web-2 5->0"}},
		{"in mid roll-out both grow in proportion", web(20, fences(n(0), n(0))), sets{set(1, 5, 5, 10, 10), set(2, 5, 5, 10, 10)}, []string{"web-1 5->10", "web-2 5->10"}},
		{"and shrink in proportion", web(5, fences(n(0), n(0))), sets{set(1, 5, 5, 10, 10), set(2, 5, 5, 10, 10)}, []string{"web-1 5->2", "web-2 5->3"}},
		{"the largest gets what rounding leaves", web(6, fences(n(0), n(0))), sets{set(0, 1, 1, 4, 4), set(1, 1, 1, 4, 4), set(2, 2, 2, 4, 4)}, []string{"web-1 1->2", "web-2 2->3", "web-0 annotated"}},
		{"a saturated current set ends the old ones", web(5), sets{set(1, 2, 2, 4, 6), set(2, 5, 5, 5, 7)}, []string{"web-1 2->0"}},
		{"paused deployments are scaled too", web(8, pausedNow), sets{set(2, 5, 5, 5, 7)}, []string{"web-2 5->8"}},
		{"but a new template waits", web(5, pausedNow), sets{set(1, 5, 5, 5, 7)}, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := outline(decide(view{deployment: c.d, sets: c.sets, now: start}))
			less := cmp.Transformer("sorted", func(s []string) map[string]bool {
				m := map[string]bool{}
				for _, v := range s {
					m[v] = true
				}
				return m
			})
			if diff := cmp.Diff(c.want, got, less); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecideRevisions(t *testing.T) {
	t.Run("the first revision is 1", func(t *testing.T) {
		p := decide(view{deployment: web(1), now: start})
		if got := p.create.Annotations[revisionAnnotation]; got != "1" || p.revision != "1" {
			t.Errorf("set has revision %q, deployment %q", got, p.revision)
		}
	})
	t.Run("an old template that comes back gets a new revision and remembers the old", func(t *testing.T) {
		d := web(1, func(d *appsv1.Deployment) { d.Spec.Template = template("image:1") })
		p := decide(view{deployment: d, sets: sets{set(1, 0, 0, 1, 2), set(2, 1, 1, 1, 2)}, now: start})
		if len(p.update) == 0 {
			t.Fatal("no set is updated")
		}
		a := p.update[0].set.Annotations
		if a[revisionAnnotation] != "3" || a[historyAnnotation] != "1" || p.revision != "3" {
			t.Errorf("annotations %v, deployment's revision %q", a, p.revision)
		}
	})
	t.Run("the deployment's annotations are copied but for its own", func(t *testing.T) {
		d := web(1, func(d *appsv1.Deployment) {
			d.Annotations = map[string]string{"kubernetes.io/change-cause": "why", corev1.LastAppliedConfigAnnotation: "{}"}
		})
		p := decide(view{deployment: d, now: start})
		if a := p.create.Annotations; a["kubernetes.io/change-cause"] != "why" || a[corev1.LastAppliedConfigAnnotation] != "" {
			t.Errorf("annotations %v", a)
		}
	})
	t.Run("a set over the history's limit goes when the roll-out is complete", func(t *testing.T) {
		d := web(1, func(d *appsv1.Deployment) {
			d.Spec.RevisionHistoryLimit = new(int32(1))
			d.Status = appsv1.DeploymentStatus{ObservedGeneration: 1, Replicas: 1, UpdatedReplicas: 1, AvailableReplicas: 1}
		})
		p := decide(view{deployment: d, sets: sets{set(0, 0, 0, 1, 2), set(1, 0, 0, 1, 2), set(2, 1, 1, 1, 2)}, now: start})
		if diff := cmp.Diff([]string{"remove web-0"}, outline(p)); diff != "" {
			t.Errorf("plan (-want +got):\n%s", diff)
		}
	})
}

func TestDecideRollback(t *testing.T) {
	to := func(revision string) func(*appsv1.Deployment) {
		return func(d *appsv1.Deployment) {
			d.Annotations = map[string]string{appsv1.DeprecatedRollbackTo: revision, revisionAnnotation: "2"}
		}
	}
	both := sets{set(1, 0, 0, 1, 2), set(2, 1, 1, 1, 2)}
	cases := []struct {
		name, revision string
		want           []string
	}{
		{"0 is the one before", "0", []string{"roll back to image:1", "DeploymentRollback"}},
		{"by number", "1", []string{"roll back to image:1", "DeploymentRollback"}},
		{"to what it is", "2", []string{"roll back to image:2", "DeploymentRollbackTemplateUnchanged"}},
		{"to what is not there", "7", []string{"roll back to image:2", "DeploymentRollbackRevisionNotFound"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := decide(view{deployment: web(1, to(c.revision)), sets: both, now: start})
			if diff := cmp.Diff(c.want, outline(p)); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
			if _, left := p.rollback.Annotations[appsv1.DeprecatedRollbackTo]; left {
				t.Error("the request is still there")
			}
			if _, left := p.rollback.Spec.Template.Labels[hashLabel]; left {
				t.Error("the set's hash got into the deployment's template")
			}
		})
	}
}

func TestDecideChangesNothingItIsGiven(t *testing.T) {
	d, all := web(4), sets{set(1, 4, 4, 4, 5), set(0, 1, 0, 4, 5)}
	before := []any{d.DeepCopy(), all[0].DeepCopy(), all[1].DeepCopy()}
	decide(view{deployment: d, sets: all, now: start})
	if diff := cmp.Diff(before, []any{d, all[0], all[1]}); diff != "" {
		t.Errorf("changed:\n%s", diff)
	}
}

// A roll-out played to its end, with pods that become available one step
// later, never leaves the fences.
func TestRollOutStaysInsideFences(t *testing.T) {
	for _, f := range [][2]intstr.IntOrString{
		{intstr.FromInt32(1), intstr.FromInt32(0)}, {intstr.FromInt32(0), intstr.FromInt32(1)},
		{intstr.FromString("25%"), intstr.FromString("25%")}, {intstr.FromInt32(3), intstr.FromInt32(2)},
		{intstr.FromString("100%"), intstr.FromString("0%")},
	} {
		t.Run(f[0].String()+"/"+f[1].String(), func(t *testing.T) {
			d := web(7, fences(f[0], f[1]))
			surge, unavailable := fenceposts(d)
			have := sets{set(1, 7, 7, 7, 7+surge)}
			for step := 0; ; step++ {
				p := decide(view{deployment: d, sets: have, now: start})
				if step > 0 && p.create == nil && len(p.update) == 0 && p.status.UpdatedReplicas == 7 && p.status.Replicas == 7 {
					break
				}
				if step > 50 {
					t.Fatalf("does not end: %v", outline(p))
				}
				if p.create != nil {
					p.create.UID = "new"
					p.create.CreationTimestamp = start
					have = append(have, p.create)
				}
				for _, r := range p.update {
					for i := range have {
						if have[i].UID == r.set.UID {
							have[i] = r.set
						}
					}
				}
				for _, rs := range have {
					// Dying pods are not available at once; new ones only after
					// another pass over the plan.
					rs.Status.AvailableReplicas = min(rs.Status.Replicas, *rs.Spec.Replicas)
					rs.Status.Replicas = *rs.Spec.Replicas
				}
				if total := wanted(have); total > 7+surge {
					t.Fatalf("step %d: %d pods, allowed %d", step, total, 7+surge)
				}
				if up := available(have); up < 7-unavailable {
					t.Fatalf("step %d: %d available, needed %d", step, up, 7-unavailable)
				}
				d.Status = p.status
			}
		})
	}
}

func TestProgress(t *testing.T) {
	progressing := func(reason string, status corev1.ConditionStatus, since time.Duration) func(*appsv1.Deployment) {
		return func(d *appsv1.Deployment) {
			at := metav1.NewTime(start.Add(-since))
			d.Status.Conditions = []appsv1.DeploymentCondition{{
				Type: appsv1.DeploymentProgressing, Status: status, Reason: reason, LastUpdateTime: at, LastTransitionTime: at,
			}}
			d.Status.Replicas, d.Status.UpdatedReplicas = 1, 1
		}
	}
	cases := []struct {
		name     string
		d        *appsv1.Deployment
		sets     sets
		reason   string
		message  string
		unticked bool // no recheck is due
	}{
		{"a new set", web(1), nil, "NewReplicaSetCreated", `Created new replica set "web-55dc559db"`, false},
		{"a set that was there", web(2), sets{set(2, 2, 0, 2, 3)}, "ReplicaSetUpdated", `ReplicaSet "web-2" is progressing.`, false},
		{"all available", web(1), sets{set(2, 1, 1, 1, 2)}, "NewReplicaSetAvailable", `ReplicaSet "web-2" has successfully progressed.`, true},
		{"nothing moves, in time", web(1, progressing("ReplicaSetUpdated", corev1.ConditionTrue, 500*time.Second)), sets{set(2, 1, 0, 1, 2)}, "ReplicaSetUpdated", "", false},
		{"nothing moves, too late", web(1, progressing("ReplicaSetUpdated", corev1.ConditionTrue, 601*time.Second)), sets{set(2, 1, 0, 1, 2)},
			"ProgressDeadlineExceeded", `ReplicaSet "web-2" has timed out progressing.`, true},
		{"complete once, a pod that dies later is no roll-out", web(1, progressing("NewReplicaSetAvailable", corev1.ConditionTrue, 700*time.Second)),
			sets{set(2, 1, 0, 1, 2)}, "NewReplicaSetAvailable", "", false},
		{"the next roll-out begins, though its first status was lost", web(2, progressing("NewReplicaSetAvailable", corev1.ConditionTrue, 700*time.Second), func(d *appsv1.Deployment) {
			d.Status.Replicas, d.Status.UpdatedReplicas = 2, 2
		}), sets{set(1, 2, 2, 2, 3), set(2, 1, 0, 2, 3)}, "ReplicaSetUpdated", `ReplicaSet "web-2" is progressing.`, false},
		{"paused", web(1, pausedNow), sets{set(2, 1, 1, 1, 2)}, "DeploymentPaused", "Deployment is paused", true},
		{"resumed", web(1, progressing("DeploymentPaused", corev1.ConditionUnknown, 0)), sets{set(2, 1, 0, 1, 2)}, "DeploymentResumed", "Deployment is resumed", false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := decide(view{deployment: c.d, sets: c.sets, now: start})
			got := condition(p.status.Conditions, appsv1.DeploymentProgressing)
			if got == nil || got.Reason != c.reason || got.Message != c.message {
				t.Errorf("progressing is %+v, want reason %q, message %q", got, c.reason, c.message)
			}
			if (p.recheck == 0) != c.unticked {
				t.Errorf("recheck after %v", p.recheck)
			}
		})
	}
}

func TestStatusCounts(t *testing.T) {
	p := decide(view{deployment: web(4), sets: sets{set(1, 3, 3, 4, 5), set(2, 2, 1, 4, 5)}, now: start})
	want := appsv1.DeploymentStatus{
		ObservedGeneration: 1, Replicas: 5, UpdatedReplicas: 2, ReadyReplicas: 4, AvailableReplicas: 4,
		TerminatingReplicas: new(int32(0)),
		Conditions: []appsv1.DeploymentCondition{
			{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionTrue, LastUpdateTime: start, LastTransitionTime: start,
				Reason: "MinimumReplicasAvailable", Message: "Deployment has minimum availability."},
			{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, LastUpdateTime: start, LastTransitionTime: start,
				Reason: "ReplicaSetUpdated", Message: `ReplicaSet "web-2" is progressing.`},
		},
	}
	if diff := cmp.Diff(want, p.status); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}
