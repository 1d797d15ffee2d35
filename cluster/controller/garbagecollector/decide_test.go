package garbagecollector

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

func TestDecide(t *testing.T) {
	const fg, orphan = metav1.FinalizerDeleteDependents, metav1.FinalizerOrphanDependents
	some := []dependent{{identity: identity{uid: "d"}}}
	circle := []dependent{{identity: identity{uid: "d"}, waits: true}}
	cases := []struct {
		name       string
		verdicts   []verdict
		finalizers []string
		dependents []dependent
		want       string
	}{
		{"all owners are there", []verdict{solid, solid}, nil, nil, "nothing"},
		{"what cannot be told counts as there", []verdict{unknown}, nil, nil, "nothing"},
		{"the only owner is gone", []verdict{dangling}, nil, nil, "delete Background"},
		{"all owners are gone", []verdict{dangling, dangling}, nil, nil, "delete Background"},
		{"one of two is gone", []verdict{dangling, solid}, nil, nil, "keep [1]"},
		{"one waits, one is there", []verdict{solid, waiting}, nil, nil, "keep [0]"},
		{"the owner waits", []verdict{waiting}, nil, nil, "delete Background"},
		{"the owner waits and there are dependents", []verdict{waiting}, nil, some, "delete Foreground"},
		{"a circle is cut", []verdict{waiting}, nil, circle, "unblock and delete Foreground"},
		{"gone owners do not make dependents wait", []verdict{dangling}, nil, some, "delete Background"},
		{"its own finalizer asks for foreground", []verdict{dangling}, []string{fg}, nil, "delete Foreground"},
		{"its own finalizer asks to orphan", []verdict{dangling}, []string{orphan}, nil, "delete Orphan"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			object := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Finalizers: c.finalizers}}
			for i := range c.verdicts {
				object.OwnerReferences = append(object.OwnerReferences, metav1.OwnerReference{UID: types.UID(fmt.Sprint(i)), BlockOwnerDeletion: new(true)})
			}
			a := decide(object, c.verdicts, c.dependents)
			got := "nothing"
			switch {
			case a.remove && a.owners != nil:
				got = fmt.Sprintf("unblock and delete %s", a.policy)
				if blocks(a.owners[0]) || !blocks(object.OwnerReferences[0]) {
					t.Error("still blocks, or the object itself was changed")
				}
			case a.remove:
				got = fmt.Sprintf("delete %s", a.policy)
			case a.owners != nil:
				var left []types.UID
				for _, o := range a.owners {
					left = append(left, o.UID)
				}
				got = fmt.Sprintf("keep %v", left)
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

var testKind = schema.GroupKind{Kind: "Thing"}

// thing is an object "name" in namespace ns; owners are names, "!" before one
// makes the reference block.
func thing(name string, change ...func(*metav1.ObjectMeta)) *metav1.ObjectMeta {
	m := &metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}
	for _, c := range change {
		c(m)
	}
	return m
}

func ownedBy(owners ...string) func(*metav1.ObjectMeta) {
	return func(m *metav1.ObjectMeta) {
		for _, o := range owners {
			name, block := strings.CutPrefix(o, "!")
			m.OwnerReferences = append(m.OwnerReferences, metav1.OwnerReference{
				APIVersion: "v1", Kind: "Thing", Name: name, UID: types.UID(name), BlockOwnerDeletion: &block,
			})
		}
	}
}

func deleting(finalizers ...string) func(*metav1.ObjectMeta) {
	return func(m *metav1.ObjectMeta) {
		m.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
		m.Finalizers = finalizers
	}
}

func in(namespace string) func(*metav1.ObjectMeta) {
	return func(m *metav1.ObjectMeta) { m.Namespace = namespace }
}

func (g *graph) see(m *metav1.ObjectMeta) string {
	return work(g.observe(identity{testKind, schema.GroupVersionResource{}, m.Namespace, m.Name, m.UID}, m))
}

func work(uids []types.UID) string {
	var out []string
	for _, u := range uids {
		out = append(out, string(u))
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), " ")
}

func TestGraphFindsWork(t *testing.T) {
	const fg = metav1.FinalizerDeleteDependents
	step := func(t *testing.T, what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: work on %q, want %q", what, got, want)
		}
	}
	t.Run("an owner that comes first leaves no doubt", func(t *testing.T) {
		g := newGraph()
		step(t, "owner", g.see(thing("o")), "")
		step(t, "dependent", g.see(thing("d", ownedBy("o"))), "")
	})
	t.Run("an owner not seen yet is to be looked up", func(t *testing.T) {
		g := newGraph()
		step(t, "dependent", g.see(thing("d", ownedBy("o"))), "d")
		step(t, "owner", g.see(thing("o")), "")
		step(t, "dependent again", g.see(thing("d", ownedBy("o"))), "")
	})
	t.Run("an owner's end is its dependents' work", func(t *testing.T) {
		g := newGraph()
		g.see(thing("o"))
		g.see(thing("d", ownedBy("o")))
		g.see(thing("e", ownedBy("o")))
		step(t, "end", work(g.remove("o")), "d e")
		if v := g.owner(identity{kind: testKind, namespace: "ns"}, thing("", ownedBy("o")).OwnerReferences[0]); v != dangling {
			t.Errorf("owner is %v, want dangling", v)
		}
		g.remove("d")
		g.remove("e")
		if len(g.nodes) != 0 {
			t.Errorf("%d nodes left", len(g.nodes))
		}
	})
	t.Run("an owner in another namespace is none", func(t *testing.T) {
		g := newGraph()
		g.see(thing("o", in("elsewhere")))
		step(t, "dependent", g.see(thing("d", ownedBy("o"))), "d")
	})
	t.Run("an owner of no namespace may own all", func(t *testing.T) {
		g := newGraph()
		g.see(thing("o", in("")))
		step(t, "dependent", g.see(thing("d", ownedBy("o"))), "")
	})
	t.Run("foreground: the owner is worked on when it is deleted and when a dependent goes", func(t *testing.T) {
		g := newGraph()
		g.see(thing("o"))
		g.see(thing("d", ownedBy("!o")))
		step(t, "deletion", g.see(thing("o", deleting(fg))), "o")
		it, ok := g.item("o")
		if !ok || len(it.dependents) != 1 || !it.dependents[0].blocks {
			t.Errorf("item %+v", it)
		}
		if it, _ := g.item("d"); !it.doubtful {
			t.Error("the dependent of an owner that waits is left alone")
		}
		step(t, "dependent's end", work(g.remove("d")), "o")
	})
	t.Run("foreground: a dependent that lets go frees its owner", func(t *testing.T) {
		g := newGraph()
		g.see(thing("o", deleting(fg)))
		step(t, "dependent", g.see(thing("d", ownedBy("!o"))), "d o")
		step(t, "no longer blocks", g.see(thing("d", ownedBy("o"))), "d o")
		step(t, "no longer owned", g.see(thing("d")), "o")
	})
	t.Run("a deleted object without such finalizers is nobody's work", func(t *testing.T) {
		g := newGraph()
		step(t, "deletion", g.see(thing("d", ownedBy("o"), deleting("example.com/other"))), "")
	})
}
