package podgc

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

func pod(name, node string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)},
		Spec:       corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func finished(second int64, reason string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Phase, p.Status.Reason = corev1.PodFailed, reason
		p.CreationTimestamp = metav1.NewTime(time.Unix(second, 0))
	}
}

func TestSurplus(t *testing.T) {
	all := []*corev1.Pod{
		pod("young", "n", finished(30, "")), pod("old", "n", finished(10, "")),
		pod("b", "n", finished(20, "")), pod("a", "n", finished(20, "")), pod("evicted", "n", finished(40, "Evicted")),
	}
	for limit, want := range map[int]string{5: "", 4: "evicted", 3: "evicted old", 1: "evicted old a b"} {
		var names []string
		for _, p := range surplus(all, limit) {
			names = append(names, p.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("over %d: %q, want %q", limit, got, want)
		}
	}
}

// The quarantine of a node that is gone takes 40 s, so the controller runs in
// a bubble, and the API is client-go's fake: an etcd does not run in one.
func TestPodsThatNobodyElseRemoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dying := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Now()} }
		client := fake.NewClientset(
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here"}},
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "goes"}},
			pod("stays", "here"), pod("lost", "never"), pod("later", "goes"), pod("unbound", ""),
			pod("unbound-dying", "", dying), pod("bound-dying", "here", dying),
			pod("done-1", "here", finished(1, "")), pod("done-2", "here", finished(2, "")),
		)
		ctx, cancel := context.WithCancel(t.Context())
		factory := informers.NewSharedInformerFactory(client, 0)
		c, err := New(Config{Client: client, Informers: factory, MaxFinished: 1})
		if err != nil {
			t.Fatal(err)
		}
		factory.StartWithContext(ctx)
		ended := make(chan error)
		go func() { ended <- c.Run(ctx) }()
		check := func(when, want string) {
			t.Helper()
			synctest.Wait()
			list, err := client.CoreV1().Pods("ns").List(ctx, metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, p := range list.Items {
				names = append(names, p.Name)
			}
			if got := strings.Join(names, " "); got != want {
				t.Errorf("%s: %q, want %q", when, got, want)
			}
		}
		time.Sleep(quarantine / 2)
		check("soon", "bound-dying done-2 later lost stays unbound")
		if err := client.CoreV1().Nodes().Delete(ctx, "goes", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(quarantine/2 + time.Second)
		check("after the first quarantine", "bound-dying done-2 later stays unbound")
		time.Sleep(quarantine / 2)
		check("after the second", "bound-dying done-2 stays unbound")
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		factory.Shutdown()
	})
}

func TestFailedPatch(t *testing.T) {
	patch, err := failedPatch(pod("p", "n"), "why", metav1.NewTime(time.Unix(0, 0)))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"uid":"p"`, `"phase":"Failed"`, `"type":"DisruptionTarget"`, `"reason":"DeletionByPodGC"`, `"message":"why"`} {
		if !strings.Contains(string(patch), want) {
			t.Errorf("patch %s lacks %s", patch, want)
		}
	}
}
