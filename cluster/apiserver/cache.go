package apiserver

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/btree"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	// An event is kept for the watchers that are behind, and for those that
	// come back: for this long, and the last few in any case.
	keepEvents   = 90 * time.Second
	fewestEvents = 64
	treeDegree   = 32
)

// cache holds all objects of one storage prefix and their latest events.
//
// The feed changes it in the order of revisions. A list is a snapshot (the tree
// is copied on write). A watcher reads the log of events at its own pace.
type cache struct {
	prefix string // of keys, with both slashes

	mu     sync.Mutex
	tree   *btree.BTreeG[*entry]
	log    []event
	base   int64         // all events after this revision are in the log
	notify chan struct{} // closed when the log grows or the cache is dropped
	gen    int           // counts the times that the feed began anew
}

// event is one change. prev is nil when the object appears; cur when it
// disappears: then last has the revision of its removal.
type event struct {
	rev       int64
	at        time.Time
	prev, cur *entry
	last      *entry
}

func lessEntry(a, b *entry) bool { return a.key < b.key }

func newCache(prefix string) *cache {
	return &cache{prefix: prefix, tree: btree.NewG(treeDegree, lessEntry), notify: make(chan struct{})}
}

// reset replaces all content, as of rev. Watchers find their place gone.
func (c *cache) reset(entries []*entry, rev int64) {
	tree := btree.NewG(treeDegree, lessEntry)
	for _, e := range entries {
		tree.ReplaceOrInsert(e)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tree, c.log, c.base = tree, nil, rev
	c.gen++
	c.wakeLocked()
}

func (c *cache) wakeLocked() {
	close(c.notify)
	c.notify = make(chan struct{})
}

// put records e, which is newer than all before.
func (c *cache) put(e *entry, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	prev, _ := c.tree.ReplaceOrInsert(e)
	c.appendLocked(event{rev: e.rev, at: now, prev: prev, cur: e})
}

// remove records that key is gone since rev.
func (c *cache) remove(key string, rev int64, now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	prev, ok := c.tree.Delete(&entry{key: key})
	if !ok {
		return nil
	}
	last, err := newEntry(key, rev, shallowCopy(prev.obj))
	if err != nil {
		return err
	}
	c.appendLocked(event{rev: rev, at: now, prev: prev, last: last})
	return nil
}

func (c *cache) appendLocked(e event) {
	c.log = append(c.log, e)
	c.trimLocked(e.at)
	c.wakeLocked()
}

func (c *cache) trimLocked(now time.Time) {
	drop := 0
	for len(c.log)-drop > fewestEvents && now.Sub(c.log[drop].at) > keepEvents {
		drop++
	}
	if drop > 0 {
		c.base = c.log[drop-1].rev
		n := copy(c.log, c.log[drop:])
		clear(c.log[n:])
		c.log = c.log[:n]
	}
}

// relax drops what idle memory need not hold: old events and old encodings.
func (c *cache) relax(now time.Time) {
	c.mu.Lock()
	c.trimLocked(now)
	tree := c.tree.Clone()
	c.mu.Unlock()
	tree.Ascend(func(e *entry) bool {
		e.forget()
		return true
	})
}

func (c *cache) get(key string) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, _ := c.tree.Get(&entry{key: key})
	return e
}

// snapshot returns the objects now, and the place in the log to go on from.
func (c *cache) snapshot() (*btree.BTreeG[*entry], cursor) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cur := cursor{rev: c.base, gen: c.gen}
	if n := len(c.log); n > 0 {
		cur.rev = c.log[n-1].rev
	}
	return c.tree.Clone(), cur
}

// walk visits the entries whose keys begin with prefix and are greater than
// after, in order.
func walk(tree *btree.BTreeG[*entry], prefix, after string, visit func(*entry) bool) {
	from := max(prefix, after)
	tree.AscendGreaterOrEqual(&entry{key: from}, func(e *entry) bool {
		if !strings.HasPrefix(e.key, prefix) {
			return false
		}
		return e.key == after || visit(e)
	})
}

// cursor is a watcher's place: it has seen everything up to rev.
type cursor struct {
	rev int64
	gen int
}

// since returns the events after cur, or, when there is none, a channel that
// closes when there is. ok is false if events after cur may be missing.
func (c *cache) since(cur cursor) (events []event, more <-chan struct{}, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cur.gen != c.gen || cur.rev < c.base {
		return nil, nil, false
	}
	i := len(c.log)
	for i > 0 && c.log[i-1].rev > cur.rev {
		i--
	}
	if i == len(c.log) {
		return nil, c.notify, true
	}
	return append([]event(nil), c.log[i:]...), nil, true
}

// at returns the cursor of revision rev, false if it is too old.
func (c *cache) at(rev int64) (cursor, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return cursor{rev: rev, gen: c.gen}, rev >= c.base
}

// filtered is the event as a watcher with a filter sees it; the entry is nil
// when it sees nothing.
func (ev event) filtered(match func(*entry) bool) (watch.EventType, *entry) {
	had := ev.prev != nil && match(ev.prev)
	has := ev.cur != nil && match(ev.cur)
	switch {
	case has && had:
		return watch.Modified, ev.cur
	case has:
		return watch.Added, ev.cur
	case had && ev.cur == nil:
		return watch.Deleted, ev.last
	case had:
		// It left the watcher's view: the object as it was seen, with the
		// revision of the event.
		if e, err := newEntry(ev.prev.key, ev.rev, shallowCopy(ev.prev.obj)); err == nil {
			return watch.Deleted, e
		}
	}
	return "", nil
}

// progress lets requests wait until the cache has reached a revision.
type progress struct {
	mu      sync.Mutex
	rev     int64
	changed chan struct{}
}

func (p *progress) reach(rev int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if rev > p.rev {
		p.rev = rev
		close(p.changed)
		p.changed = make(chan struct{})
	}
}

func (p *progress) now() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rev
}

// wait returns when everything up to rev is in the cache.
func (p *progress) wait(ctx context.Context, rev int64) error {
	for {
		p.mu.Lock()
		reached, changed := p.rev >= rev, p.changed
		p.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func formatRev(rev int64) string { return strconv.FormatInt(rev, 10) }

// oldest is the revision from which on events are known.
func (c *cache) oldest() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.base
}
