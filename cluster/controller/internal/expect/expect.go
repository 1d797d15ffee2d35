// Package expect counts the writes that a controller has made and its informer
// has not shown yet. Where the API chooses the name of a created object (pods
// of a ReplicaSet), a second try cannot meet "already exists", so the next
// decision must wait until the informer has caught up with the last one.
package expect

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Informers that lag longer than this are not waited for: the watch was
// replaced by a new list and the events were lost with it.
const timeout = 5 * time.Minute

// Expectations holds the pending writes of each owner. The zero value is
// ready; all methods may be called concurrently.
type Expectations struct {
	mu     sync.Mutex
	owners map[types.UID]*pending // nil when satisfied
}

type pending struct {
	creates int
	deletes map[types.UID]bool
	since   time.Time
}

// Create announces n creations for owner, before the first of them.
func (e *Expectations) Create(owner types.UID, n int, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.entryLocked(owner, now).creates += n
}

// Delete announces the deletion of the object uid, before it.
func (e *Expectations) Delete(owner, uid types.UID, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.entryLocked(owner, now).deletes[uid] = true
}

// Created takes n creations off: seen by the informer, or failed.
func (e *Expectations) Created(owner types.UID, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p := e.owners[owner]; p != nil {
		p.creates = max(0, p.creates-n)
		e.dropLocked(owner, p)
	}
}

// Deleted takes a deletion off: seen by the informer, or failed.
func (e *Expectations) Deleted(owner, uid types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p := e.owners[owner]; p != nil {
		delete(p.deletes, uid)
		e.dropLocked(owner, p)
	}
}

// Forget drops all that is pending for an owner that is gone.
func (e *Expectations) Forget(owner types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.owners, owner)
}

// Satisfied reports whether the informer has shown all of owner's writes.
func (e *Expectations) Satisfied(owner types.UID, now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.owners[owner]
	if p != nil && now.Sub(p.since) > timeout {
		delete(e.owners, owner)
		return true
	}
	return p == nil
}

func (e *Expectations) entryLocked(owner types.UID, now time.Time) *pending {
	if e.owners == nil {
		e.owners = map[types.UID]*pending{}
	}
	p := e.owners[owner]
	if p == nil {
		p = &pending{deletes: map[types.UID]bool{}}
		e.owners[owner] = p
	}
	p.since = now
	return p
}

func (e *Expectations) dropLocked(owner types.UID, p *pending) {
	if p.creates == 0 && len(p.deletes) == 0 {
		delete(e.owners, owner)
	}
}
