package scheduler

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func priority(n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Priority = &n }
}

func gate(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }

func info(name string, change ...func(*corev1.Pod)) *podInfo {
	return newPodInfo(testPod(name, "", "", change...))
}

// next pops a pod that must be there now.
func next(t *testing.T, q *queue, want string) *waiting {
	t.Helper()
	w, p, wait := q.take(time.Now())
	if w == nil {
		t.Fatalf("nothing to pop for %v, want %s", wait, want)
	}
	if p.pod.Name != want {
		t.Fatalf("popped %s, want %s", p.pod.Name, want)
	}
	return w
}

// nothing checks that there is nothing to pop now.
func nothing(t *testing.T, q *queue) time.Duration {
	t.Helper()
	w, p, wait := q.take(time.Now())
	if w != nil {
		t.Fatalf("popped %s", p.pod.Name)
	}
	return wait
}

func TestQueueOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		for i, p := range []*podInfo{info("old"), info("young"), info("high", priority(10)), info("higher", priority(20))} {
			time.Sleep(time.Duration(i) * time.Millisecond)
			q.set(p, true)
		}
		for _, want := range []string{"higher", "high", "old", "young"} {
			next(t, q, want)
		}
		nothing(t, q)
	})
}

func TestQueueWakesOnWhatHelps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		q.set(info("p"), true)
		q.unschedulable(next(t, q, "p"), nodeAdded|podGone)
		q.happened(nodeLabels)
		nothing(t, q)
		q.happened(podGone)
		// It is in back-off, but nothing else is there.
		q.unschedulable(next(t, q, "p"), nodeAdded)
		q.set(info("p"), false)
		nothing(t, q)
		q.set(info("p", priority(1)), true)
		next(t, q, "p")
	})
}

func TestQueueKeepsWhatHappensMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		q.set(info("p"), true)
		w := next(t, q, "p")
		q.happened(podGone)
		q.unschedulable(w, podGone)
		w = next(t, q, "p")
		q.happened(nodeLabels)
		q.unschedulable(w, podGone)
		nothing(t, q)
	})
}

func TestQueueBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		q.set(info("p"), true)
		for _, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
			q.failed(next(t, q, "p"))
			if got := nothing(t, q); got != want*time.Second {
				t.Fatalf("waits for %v, want %v", got, want*time.Second)
			}
			q.happened(anyEvent) // an error is not cut short
			nothing(t, q)
			time.Sleep(want * time.Second)
		}
		next(t, q, "p")
	})
}

func TestQueuePrefersActiveOverBackingOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		q.set(info("stuck", priority(10)), true)
		q.unschedulable(next(t, q, "stuck"), nodeAdded)
		q.set(info("fresh"), true)
		q.happened(nodeAdded)
		next(t, q, "fresh")
		next(t, q, "stuck")
	})
}

func TestQueueGates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		q.set(info("p", gate), true)
		q.happened(anyEvent)
		nothing(t, q)
		q.set(info("p"), true)
		next(t, q, "p")
	})
}

func TestQueueRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		for _, n := range []string{"active", "asleep", "failed", "trying"} {
			time.Sleep(time.Millisecond)
			q.set(info(n), true)
		}
		next(t, q, "active")
		time.Sleep(time.Millisecond)
		q.set(info("active2"), true)
		q.unschedulable(next(t, q, "asleep"), nodeAdded)
		q.failed(next(t, q, "failed"))
		trying := next(t, q, "trying")
		for _, n := range []string{"active", "active2", "asleep", "failed", "trying"} {
			q.remove(info(n).pod.UID)
		}
		q.unschedulable(trying, anyEvent)
		q.happened(anyEvent)
		time.Sleep(time.Minute)
		nothing(t, q)
		if len(q.pods)+len(q.active.all)+len(q.backoff.all) != 0 {
			t.Errorf("left: %+v", q)
		}
	})
}

func TestQueueIgnoresOldVersionsOfBoundPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		q.set(info("p"), true)
		q.done(next(t, q, "p"))
		q.set(info("p"), true)
		nothing(t, q)
	})
}

func TestQueueFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		q.set(info("p"), true)
		q.unschedulable(next(t, q, "p"), 0)
		time.Sleep(4 * time.Minute)
		q.flush(time.Now(), maxWait)
		nothing(t, q)
		time.Sleep(2 * time.Minute)
		q.flush(time.Now(), maxWait)
		next(t, q, "p")
	})
}

func TestPopWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		ctx, cancel := context.WithCancel(t.Context())
		popped := make(chan string)
		go func() {
			defer close(popped)
			for {
				w, p, ok := q.pop(ctx)
				if !ok {
					return
				}
				popped <- p.pod.Name
				if p.pod.Name == "again" {
					q.failed(w)
				}
			}
		}()
		synctest.Wait()
		q.set(info("one"), true)
		if got := <-popped; got != "one" {
			t.Errorf("popped %s", got)
		}
		q.set(info("again"), true)
		begun := time.Now()
		<-popped
		<-popped
		if got := time.Since(begun); got != minBackoff {
			t.Errorf("came back after %v, want %v", got, minBackoff)
		}
		cancel()
		if _, open := <-popped; open {
			t.Error("pop goes on after its context")
		}
	})
}

func TestQueueManyPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		for i := range 100 {
			q.set(info(fmt.Sprintf("%03d", i), priority(int32(i%10))), true)
		}
		last := int32(100)
		for range 100 {
			_, p, _ := q.take(time.Now())
			if p.priority > last {
				t.Fatalf("priority %d after %d", p.priority, last)
			}
			last = p.priority
		}
	})
}
