package garbagecollector

import (
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// identity says where an object is found.
type identity struct {
	kind      schema.GroupKind
	gvr       schema.GroupVersionResource
	namespace string
	name      string
	uid       types.UID
}

type presence int

const (
	unseen  presence = iota // known only because others name it as their owner
	present                 // shown by an informer
	gone                    // its deletion was shown; a UID does not come back
)

// node is an object in the graph.
type node struct {
	identity
	presence   presence
	owners     []metav1.OwnerReference
	dependents map[types.UID]*node
	deleting   bool
	foreground bool // has the finalizer foregroundDeletion
	orphan     bool // has the finalizer orphan
}

// waits reports whether the object's deletion waits for its dependents'.
func (n *node) waits() bool { return n.presence == present && n.deleting && n.foreground }

// graph holds who owns whom. A node that is not present stays as long as it
// has dependents. All methods may be called concurrently.
type graph struct {
	mu    sync.Mutex
	nodes map[types.UID]*node
}

func newGraph() *graph { return &graph{nodes: map[types.UID]*node{}} }

// observe takes in an object as an informer shows it, and returns the UIDs
// that are to be worked on for it.
func (g *graph) observe(id identity, m metav1.Object) (work []types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodeLocked(id.uid)
	n.identity = id
	n.presence = present
	work = g.setOwnersLocked(n, m.GetOwnerReferences())
	n.deleting = m.GetDeletionTimestamp() != nil
	n.foreground = slices.Contains(m.GetFinalizers(), metav1.FinalizerDeleteDependents)
	n.orphan = slices.Contains(m.GetFinalizers(), metav1.FinalizerOrphanDependents)
	if n.deleting && (n.foreground || n.orphan) || !n.deleting && g.doubtfulLocked(n) {
		work = append(work, n.uid)
	}
	return work
}

// remove takes in an object's deletion.
func (g *graph) remove(uid types.UID) (work []types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	if n == nil {
		return nil
	}
	n.presence = gone
	work = g.setOwnersLocked(n, nil)
	for dependent := range n.dependents {
		work = append(work, dependent)
	}
	g.dropLocked(n)
	return work
}

// setOwnersLocked replaces n's owners and returns those of the former and the
// new ones that wait for their dependents.
func (g *graph) setOwnersLocked(n *node, owners []metav1.OwnerReference) (work []types.UID) {
	if slices.EqualFunc(n.owners, owners, sameReference) {
		return nil
	}
	for _, ref := range n.owners {
		if o := g.nodes[ref.UID]; o != nil {
			delete(o.dependents, n.uid)
			if o.waits() {
				work = append(work, o.uid)
			}
		}
	}
	former := n.owners
	n.owners = slices.Clone(owners)
	for _, ref := range n.owners {
		o := g.nodeLocked(ref.UID)
		o.dependents[n.uid] = n
		if o.waits() {
			work = append(work, o.uid)
		}
	}
	for _, ref := range former {
		if o := g.nodes[ref.UID]; o != nil {
			g.dropLocked(o)
		}
	}
	return work
}

func sameReference(a, b metav1.OwnerReference) bool {
	return a.UID == b.UID && a.Kind == b.Kind && a.APIVersion == b.APIVersion && a.Name == b.Name && blocks(a) == blocks(b)
}

func blocks(ref metav1.OwnerReference) bool {
	return ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
}

func (g *graph) nodeLocked(uid types.UID) *node {
	n := g.nodes[uid]
	if n == nil {
		n = &node{identity: identity{uid: uid}, dependents: map[types.UID]*node{}}
		g.nodes[uid] = n
	}
	return n
}

func (g *graph) dropLocked(n *node) {
	if n.presence != present && len(n.dependents) == 0 {
		delete(g.nodes, n.uid)
	}
}

// doubtfulLocked reports whether an owner of n is not known to be there for
// good.
func (g *graph) doubtfulLocked(n *node) bool {
	return slices.ContainsFunc(n.owners, func(ref metav1.OwnerReference) bool {
		return g.ownerLocked(n, ref) != solid
	})
}

// verdict is what is known of an owner that an object names.
type verdict int

const (
	solid    verdict = iota // is there, and is not waiting for its dependents
	waiting                 // is being deleted, and waits for its dependents to go first
	dangling                // is gone
	unknown                 // the API must be asked
)

// ownerLocked judges one owner reference of n by the graph alone.
func (g *graph) ownerLocked(n *node, ref metav1.OwnerReference) verdict {
	o := g.nodes[ref.UID]
	switch {
	case o == nil || o.presence == unseen:
		return unknown
	case o.presence == gone:
		return dangling
	case o.namespace != "" && o.namespace != n.namespace, o.name != ref.Name, o.kind != kindOf(ref):
		// The UID is right, but what is there under the name given is not the
		// owner: an owner in another namespace is none.
		return unknown
	case o.waits():
		return waiting
	}
	return solid
}

func kindOf(ref metav1.OwnerReference) schema.GroupKind {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return schema.GroupKind{Kind: ref.Kind}
	}
	return schema.GroupKind{Group: gv.Group, Kind: ref.Kind}
}

// item is a node as one pass works on it.
type item struct {
	identity
	deleting, foreground, orphan bool
	doubtful                     bool
	dependents                   []dependent
}

type dependent struct {
	identity
	blocks   bool // this item's deletion in the foreground
	deleting bool
	waits    bool // for its own dependents
}

// item returns the present node with this UID.
func (g *graph) item(uid types.UID) (item, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	if n == nil || n.presence != present {
		return item{}, false
	}
	it := item{identity: n.identity, deleting: n.deleting, foreground: n.foreground, orphan: n.orphan, doubtful: g.doubtfulLocked(n)}
	for _, d := range n.dependents {
		it.dependents = append(it.dependents, dependent{
			identity: d.identity, deleting: d.deleting, waits: d.waits(),
			blocks: slices.ContainsFunc(d.owners, func(ref metav1.OwnerReference) bool {
				return ref.UID == uid && blocks(ref)
			}),
		})
	}
	return it, true
}

// owner judges an owner reference of an object by the graph.
func (g *graph) owner(id identity, ref metav1.OwnerReference) verdict {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ownerLocked(&node{identity: id}, ref)
}
