package loop

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
)

// run runs a loop until the test's end, which in a bubble also checks that it
// leaves no goroutine behind.
func run[K comparable](t *testing.T, l *Loop[K], watches ...Watch) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- l.Run(ctx, watches...) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
}

func TestFailuresComeBackWithBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		begun := time.Now()
		l := New(Config[string]{Name: "test", Reconcile: func(context.Context, string) error {
			at = append(at, time.Since(begun))
			if len(at) < 4 {
				return errors.New("not yet")
			}
			return nil
		}})
		run(t, l)
		l.Add("key")
		time.Sleep(time.Hour)
		synctest.Wait()
		want := []time.Duration{0, 5 * time.Millisecond, 15 * time.Millisecond, 35 * time.Millisecond}
		if fmt.Sprint(at) != fmt.Sprint(want) {
			t.Errorf("tried at %v, want %v", at, want)
		}
	})
}

func TestKeyIsWorkedOnByOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		busy, done := map[string]int{}, map[string]int{}
		l := New(Config[string]{Name: "test", Workers: 8, Reconcile: func(_ context.Context, key string) error {
			mu.Lock()
			busy[key]++
			if busy[key] > 1 {
				t.Errorf("%s is worked on twice at once", key)
			}
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			busy[key]--
			done[key]++
			mu.Unlock()
			return nil
		}})
		run(t, l)
		for range 5 {
			l.Add("a")
			l.Add("b")
			time.Sleep(100 * time.Millisecond)
		}
		l.AddAfter("c", time.Minute)
		time.Sleep(30 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		// What is added while its key is worked on is worked on once more.
		if done["a"] != 2 || done["b"] != 2 || done["c"] != 0 {
			t.Errorf("done %v", done)
		}
	})
}

func TestRunSeesTheFirstListBeforeItWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(
			&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a"}},
			&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "b"}},
		)
		factory := informers.NewSharedInformerFactory(client, 0)
		informer := factory.Core().V1().Pods().Informer()
		ctx, cancel := context.WithCancel(t.Context())
		factory.StartWithContext(ctx)
		t.Cleanup(func() { cancel(); factory.Shutdown() })
		seen := make(chan int, 2)
		l := New(Config[string]{Name: "test", Workers: 1, Reconcile: func(context.Context, string) error {
			seen <- len(informer.GetStore().List())
			return nil
		}})
		run(t, l, Watch{Informer: informer, Handler: Latest(func(p *corev1.Pod) { l.Add(p.Name) })})
		if a, b := <-seen, <-seen; a != 2 || b != 2 {
			t.Errorf("worked with %d and %d pods in the cache, want 2", a, b)
		}
	})
}

func TestHandlers(t *testing.T) {
	var got []string
	note := func(p *corev1.Pod) { got = append(got, p.Name) }
	pod := func(name string) *corev1.Pod { return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	for _, h := range []cache.ResourceEventHandler{Handle(note), Latest(note)} {
		h.OnAdd(pod("added"), false)
		h.OnUpdate(pod("old"), pod("new"))
		h.OnDelete(pod("deleted"))
		h.OnDelete(cache.DeletedFinalStateUnknown{Key: "ns/lost", Obj: pod("lost")})
		h.OnDelete(cache.DeletedFinalStateUnknown{Key: "ns/unknown"})
	}
	want := []string{"added", "old", "new", "deleted", "lost", "added", "new", "deleted", "lost"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("handled %v, want %v", got, want)
	}
}

func TestRecorder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		r, stop := NewRecorder(t.Context(), client, "tester")
		pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}}
		for range 3 {
			r.Eventf(pod, corev1.EventTypeWarning, "Failed", "for the %s time", "nth")
			time.Sleep(time.Second)
		}
		for i := range 40 {
			r.Eventf(pod, corev1.EventTypeNormal, fmt.Sprint("Reason", i), "different")
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		stop()
		r.Event(pod, corev1.EventTypeNormal, "Late", "dropped without harm")
		list, err := client.CoreV1().Events("ns").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if e := list.Items[0]; e.Count != 3 || e.Message != "for the nth time" || e.InvolvedObject.UID != "u" || e.Source.Component != "tester" {
			t.Errorf("event %+v", e)
		}
		if n := len(list.Items); n != 26 {
			t.Errorf("%d events, want the warning and 25 of the others", n)
		}
	})
}
