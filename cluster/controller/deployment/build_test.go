package deployment

import (
	"fmt"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var start = metav1.NewTime(time.Unix(1_700_000_000, 0).UTC())

// web is a Deployment of that size whose pods run image:2.
func web(replicas int32, change ...func(*appsv1.Deployment)) *appsv1.Deployment {
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: "web-uid", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: template("image:2"),
			Strategy: appsv1.DeploymentStrategy{
				Type: appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{
					MaxSurge: new(intstr.FromString("25%")), MaxUnavailable: new(intstr.FromString("25%")),
				},
			},
			RevisionHistoryLimit:    new(int32(10)),
			ProgressDeadlineSeconds: new(int32(600)),
		},
	}
	for _, c := range change {
		c(d)
	}
	return d
}

func template(image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
	}
}

func fences(surge, unavailable intstr.IntOrString) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) {
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable}
	}
}

func recreate(d *appsv1.Deployment) {
	d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
}

func pausedNow(d *appsv1.Deployment) { d.Spec.Paused = true }

// set is web's ReplicaSet of revision n, of that size, with so many available
// pods; it runs image:n. Its annotations are those of a Deployment of size
// desired and its surge.
func set(n, size, available, desired, most int32) *appsv1.ReplicaSet {
	t := template("image:" + strconv.Itoa(int(n)))
	t.Labels[hashLabel] = fmt.Sprint("hash", n)
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprint("web-", n), Namespace: "ns", UID: types.UID(fmt.Sprint("uid-", n)), Generation: 1,
			CreationTimestamp: metav1.NewTime(start.Add(time.Duration(n) * time.Minute)),
			Annotations: map[string]string{
				revisionAnnotation: strconv.Itoa(int(n)),
				desiredAnnotation:  strconv.Itoa(int(desired)),
				maxAnnotation:      strconv.Itoa(int(most)),
			},
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: &size, Template: t},
		Status: appsv1.ReplicaSetStatus{
			Replicas: size, ReadyReplicas: available, AvailableReplicas: available, ObservedGeneration: 1,
			TerminatingReplicas: new(int32(0)),
		},
	}
}

// outline says in short what a plan does.
func outline(p plan) []string {
	var out []string
	if p.create != nil {
		out = append(out, fmt.Sprintf("create %d", *p.create.Spec.Replicas))
	}
	for _, r := range p.update {
		if to := *r.set.Spec.Replicas; to != r.from {
			out = append(out, fmt.Sprintf("%s %d->%d", r.set.Name, r.from, to))
		} else {
			out = append(out, r.set.Name+" annotated")
		}
	}
	for _, rs := range p.remove {
		out = append(out, "remove "+rs.Name)
	}
	if p.rollback != nil {
		out = append(out, "roll back to "+p.rollback.Spec.Template.Spec.Containers[0].Image)
	}
	for _, e := range p.events {
		out = append(out, e.reason)
	}
	return out
}
