package apiserver_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"gantry/cluster/apiserver/apitest"
)

func create(t *testing.T, s *apitest.Server, p *corev1.Pod) *corev1.Pod {
	t.Helper()
	out, err := s.Client.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func bind(t *testing.T, s *apitest.Server, name, node string) error {
	t.Helper()
	return s.Client.CoreV1().Pods("default").Bind(t.Context(), &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
}

func TestGeneratedNamesDiffer(t *testing.T) {
	s := apitest.Start(t)
	seen := map[string]bool{}
	for range 20 {
		p := pod("")
		p.GenerateName = "web-"
		got := create(t, s, p)
		if !strings.HasPrefix(got.Name, "web-") || len(got.Name) != len("web-")+5 || seen[got.Name] {
			t.Errorf("generated %q, after %v", got.Name, seen)
		}
		seen[got.Name] = true
	}
}

func TestBoundPodsAreDeletedGracefully(t *testing.T) {
	s := apitest.Start(t)
	ctx, pods := t.Context(), s.Client.CoreV1().Pods("default")
	create(t, s, pod("p"))
	if err := bind(t, s, "p", "n1"); err != nil {
		t.Fatal(err)
	}
	if err := bind(t, s, "p", "n2"); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `pod p is already assigned to node "n1"`) {
		t.Errorf("second binding: %v", err)
	}
	got, err := pods.Get(ctx, "p", metav1.GetOptions{})
	if err != nil || got.Spec.NodeName != "n1" || len(got.Status.Conditions) != 1 || got.Status.Conditions[0].Type != corev1.PodScheduled {
		t.Fatalf("bound pod: %v, %+v", err, got)
	}
	if err := pods.Delete(ctx, "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err = pods.Get(ctx, "p", metav1.GetOptions{})
	if err != nil || got.DeletionTimestamp == nil || *got.DeletionGracePeriodSeconds != 30 || got.Generation != 2 {
		t.Fatalf("deleted pod: %v, %+v", err, got.ObjectMeta)
	}
	if err := pods.Delete(ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](60)}); err != nil {
		t.Fatal(err)
	}
	if again, _ := pods.Get(ctx, "p", metav1.GetOptions{}); *again.DeletionGracePeriodSeconds != 30 {
		t.Errorf("grace was made longer: %d", *again.DeletionGracePeriodSeconds)
	}
	uid := types.UID("other")
	if err := pods.Delete(ctx, "p", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}); !apierrors.IsConflict(err) {
		t.Errorf("delete of another UID: %v", err)
	}
	if err := pods.Delete(ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(ctx, "p", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after the kubelet's delete: %v", err)
	}
}

func TestFinalizersKeepAnObject(t *testing.T) {
	s := apitest.Start(t)
	ctx, cms := t.Context(), s.Client.CoreV1().ConfigMaps("default")
	cm := configMap()
	cm.Finalizers = []string{"example.org/hold"}
	if _, err := cms.Create(ctx, cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	foreground := metav1.DeletePropagationForeground
	if err := cms.Delete(ctx, cm.Name, metav1.DeleteOptions{PropagationPolicy: &foreground}); err != nil {
		t.Fatal(err)
	}
	got, err := cms.Get(ctx, cm.Name, metav1.GetOptions{})
	if err != nil || got.DeletionTimestamp == nil || len(got.Finalizers) != 2 || got.Finalizers[1] != metav1.FinalizerDeleteDependents {
		t.Fatalf("held object: %v, %+v", err, got.ObjectMeta)
	}
	got.Finalizers = append(got.Finalizers, "example.org/late")
	if _, err := cms.Update(ctx, got, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a new finalizer on a deleted object: %v", err)
	}
	got.Finalizers = nil
	if _, err := cms.Update(ctx, got, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := cms.Get(ctx, cm.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("without finalizers: %v", err)
	}
}

func TestNamespacesAreTerminatedByTheirFinalizer(t *testing.T) {
	s := apitest.Start(t)
	ctx, nss := t.Context(), s.Client.CoreV1().Namespaces()
	if _, err := nss.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "one"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := nss.Delete(ctx, "one", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	ns, err := nss.Get(ctx, "one", metav1.GetOptions{})
	if err != nil || ns.Status.Phase != corev1.NamespaceTerminating || ns.DeletionTimestamp == nil {
		t.Fatalf("deleted namespace: %v, %+v", err, ns)
	}
	_, err = s.Client.CoreV1().ConfigMaps("one").Create(ctx, configMap(), metav1.CreateOptions{})
	if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) ||
		!strings.Contains(err.Error(), "unable to create new content in namespace one because it is being terminated") {
		t.Errorf("create in a terminating namespace: %v", err)
	}
	ns.Spec.Finalizers = nil
	if _, err := nss.Finalize(ctx, ns, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := nss.Get(ctx, "one", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("finalized namespace: %v", err)
	}
}

func TestStatusAndSpecChangeApart(t *testing.T) {
	s := apitest.Start(t)
	ctx, pods := t.Context(), s.Client.CoreV1().Pods("default")
	p := pod("p")
	p.Status.Phase = corev1.PodRunning
	got := create(t, s, p)
	if got.Status.Phase != corev1.PodPending {
		t.Errorf("a client set the phase %s on creation", got.Status.Phase)
	}
	got.Spec.Containers[0].Image, got.Status.Phase = "other", corev1.PodRunning
	got, err := pods.UpdateStatus(ctx, got, metav1.UpdateOptions{})
	if err != nil || got.Status.Phase != corev1.PodRunning || got.Spec.Containers[0].Image != "hello:1" || got.Generation != 1 {
		t.Fatalf("status update: %v, %+v", err, got)
	}
	got.Spec.Containers[0].Image, got.Status.Phase = "hello:2", corev1.PodFailed
	got, err = pods.Update(ctx, got, metav1.UpdateOptions{})
	if err != nil || got.Status.Phase != corev1.PodRunning || got.Spec.Containers[0].Image != "hello:2" || got.Generation != 2 {
		t.Fatalf("update: %v, %+v", err, got)
	}
}

func TestEvictionDeletes(t *testing.T) {
	s := apitest.Start(t)
	create(t, s, pod("p"))
	err := s.Client.PolicyV1().Evictions("default").Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client.CoreV1().Pods("default").Get(t.Context(), "p", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after the eviction: %v", err)
	}
}

func TestRestartKeepsEverything(t *testing.T) {
	s := apitest.Start(t)
	ctx := t.Context()
	create(t, s, pod("p"))
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}},
	}}
	made, err := s.Client.CoreV1().Services("default").Create(ctx, svc, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before, err := s.Client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.Stop()
	s = apitest.StartWith(t, apitest.Options{Dir: s.Dir})
	after, err := s.Client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil || len(after.Items) != 1 || after.Items[0].ResourceVersion != before.Items[0].ResourceVersion {
		t.Fatalf("after the restart: %v, %+v", err, after)
	}
	taken := svc.DeepCopy()
	taken.Name, taken.Spec.ClusterIP = "two", made.Spec.ClusterIP
	if _, err := s.Client.CoreV1().Services("default").Create(ctx, taken, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "provided IP is already allocated") {
		t.Errorf("an address given out before the restart: %v", err)
	}
	taken.Spec.ClusterIP, taken.Spec.Ports[0].NodePort = "", made.Spec.Ports[0].NodePort
	if _, err := s.Client.CoreV1().Services("default").Create(ctx, taken, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "provided port is already allocated") {
		t.Errorf("a port given out before the restart: %v", err)
	}
	if err := s.Client.CoreV1().Services("default").Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client.CoreV1().Services("default").Create(ctx, taken, metav1.CreateOptions{}); err != nil {
		t.Errorf("a port that was given back: %v", err)
	}
}

func TestConcurrentPatchesAllCount(t *testing.T) {
	s := apitest.Start(t)
	cms := s.Client.CoreV1().ConfigMaps("default")
	cm := configMap()
	if _, err := cms.Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const writers = 20
	errs := make(chan error, writers) // one each
	for i := range writers {
		go func() {
			patch := fmt.Sprintf(`{"data":{"k%d":"v"}}`, i)
			_, err := cms.Patch(context.Background(), cm.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
			errs <- err
		}()
	}
	for range writers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	got, err := cms.Get(t.Context(), cm.Name, metav1.GetOptions{})
	if err != nil || len(got.Data) != writers+1 {
		t.Errorf("%v; %d keys, want %d", err, len(got.Data), writers+1)
	}
}
