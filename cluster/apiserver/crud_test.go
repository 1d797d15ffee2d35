package apiserver_test

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"

	"gantry/cluster/apiserver/apitest"
)

func deployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       podSpec(),
			},
		},
	}
}

func podSpec() corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "hello:1"}}}
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: podSpec()}
}

func TestObjectsLiveThroughTheirChanges(t *testing.T) {
	begin := time.Now()
	s := apitest.Start(t)
	t.Logf("ready after %v", time.Since(begin))
	ctx := t.Context()
	d := s.Client.AppsV1().Deployments("default")
	created, err := d.Create(ctx, deployment("web"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if *created.Spec.Replicas != 1 || created.Generation != 1 || created.UID == "" || created.ResourceVersion == "" {
		t.Errorf("created: %+v", created)
	}
	if _, err := d.Create(ctx, deployment("web"), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) || err.Error() != `deployments.apps "web" already exists` {
		t.Errorf("second create: %v", err)
	}
	three := int32(3)
	changed := created.DeepCopy()
	changed.Spec.Replicas = &three
	updated, err := d.Update(ctx, changed, metav1.UpdateOptions{})
	if err != nil || updated.Generation != 2 {
		t.Fatalf("update: %v, generation %d", err, updated.Generation)
	}
	const conflict = `Operation cannot be fulfilled on deployments.apps "web": the object has been modified; please apply your changes to the latest version and try again`
	if _, err := d.Update(ctx, changed, metav1.UpdateOptions{}); !apierrors.IsConflict(err) || err.Error() != conflict {
		t.Errorf("update of an old revision: %v", err)
	}
	updated.Status.Replicas = 2
	status, err := d.UpdateStatus(ctx, updated, metav1.UpdateOptions{})
	if err != nil || status.Status.Replicas != 2 || status.Generation != 2 {
		t.Errorf("status: %v, %+v", err, status)
	}
	list, err := d.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || list.ResourceVersion == "" {
		t.Errorf("list: %v, %d items at %q", err, len(list.Items), list.ResourceVersion)
	}
	if err := d.Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Get(ctx, "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) || err.Error() != `deployments.apps "web" not found` {
		t.Errorf("get of what was deleted: %v", err)
	}
}

func TestInformersSeeEverything(t *testing.T) {
	s := apitest.Start(t)
	ctx := t.Context()
	if _, err := s.Client.CoreV1().Pods("default").Create(ctx, pod("before"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	f := informers.NewSharedInformerFactory(s.Client, 0)
	pods := f.Core().V1().Pods()
	seen := make(chan string, 16) // more than this test makes
	if _, err := pods.Informer().AddEventHandler(handler(seen)); err != nil {
		t.Fatal(err)
	}
	f.Start(ctx.Done())
	f.WaitForCacheSync(ctx.Done())
	if _, err := s.Client.CoreV1().Pods("default").Create(ctx, pod("after"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Client.CoreV1().Pods("default").Delete(ctx, "before", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"+before", "+after", "-before"} {
		select {
		case got := <-seen:
			if got != want {
				t.Errorf("saw %s, want %s", got, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("no event %s", want)
		}
	}
}
