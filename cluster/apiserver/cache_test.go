package apiserver

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

func cachedPod(t *testing.T, name string, rev int64, labels map[string]string) *entry {
	t.Helper()
	e, err := newEntry("/registry/pods/default/"+name, rev, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestOldEventsAreForgottenAndSaidSo(t *testing.T) {
	c := newCache("/registry/pods/")
	c.reset(nil, 10)
	begin := time.Now()
	for i := range int64(200) {
		c.put(cachedPod(t, fmt.Sprintf("p%d", i), 11+i, nil), begin)
	}
	if events, _, ok := c.since(cursor{rev: 10, gen: 1}); !ok || len(events) != 200 {
		t.Fatalf("%d events, ok %v; want all 200 while they are young", len(events), ok)
	}
	c.relax(begin.Add(2 * keepEvents))
	if _, _, ok := c.since(cursor{rev: 10, gen: 1}); ok {
		t.Error("a watcher that missed events was not told")
	}
	if events, _, ok := c.since(cursor{rev: c.oldest(), gen: 1}); !ok || len(events) != fewestEvents {
		t.Errorf("%d events, ok %v; want the last %d", len(events), ok, fewestEvents)
	}
	c.reset(nil, 500)
	if _, _, ok := c.since(cursor{rev: 500, gen: 1}); ok {
		t.Error("a watcher from before a reload was not told")
	}
}

func TestSnapshotsDoNotChange(t *testing.T) {
	c := newCache("/registry/pods/")
	c.reset([]*entry{cachedPod(t, "a", 1, nil), cachedPod(t, "c", 2, nil)}, 2)
	tree, _ := c.snapshot()
	c.put(cachedPod(t, "b", 3, nil), time.Now())
	if err := c.remove("/registry/pods/default/a", 4, time.Now()); err != nil {
		t.Fatal(err)
	}
	var seen string
	walk(tree, "/registry/pods/default/", "", func(e *entry) bool {
		seen += e.meta.GetName()
		return true
	})
	if seen != "ac" {
		t.Errorf("the snapshot holds %q, want ac", seen)
	}
}

func TestFiltersTurnChangesIntoComingsAndGoings(t *testing.T) {
	in, out := map[string]string{"app": "a"}, map[string]string{"app": "b"}
	match := func(e *entry) bool { return e.meta.GetLabels()["app"] == "a" }
	for rule, c := range map[string]struct {
		prev, cur map[string]string
		want      watch.EventType
	}{
		"comes into view":  {out, in, watch.Added},
		"stays in view":    {in, in, watch.Modified},
		"leaves the view":  {in, out, watch.Deleted},
		"is never in view": {out, out, ""},
	} {
		ev := event{rev: 7, prev: cachedPod(t, "p", 6, c.prev), cur: cachedPod(t, "p", 7, c.cur)}
		got, e := ev.filtered(match)
		if got != c.want || (e == nil) != (c.want == "") || e != nil && e.rev != 7 {
			t.Errorf("an object that %s: %q, %+v; want %q", rule, got, e, c.want)
		}
	}
}
