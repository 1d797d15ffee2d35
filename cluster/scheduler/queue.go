package scheduler

import (
	"cmp"
	"container/heap"
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	minBackoff = time.Second
	maxBackoff = 10 * time.Second
)

// place of a waiting pod.
type stage int

const (
	active  stage = iota // to be tried next, by priority, then by age
	backoff              // to be tried when its back-off is over; sooner if nothing else is there
	asleep               // until an event that may help it
	gated                // has scheduling gates
	trying               // out of the queue: being decided over, or bound
)

// waiting is a pod in the queue. Its fields are the queue's, under its mutex.
type waiting struct {
	info     *podInfo
	stage    stage
	since    time.Time // when it entered the queue, or fell asleep
	attempts int
	until    time.Time // end of its back-off
	strict   bool      // the back-off is for an error: it is not cut short
	retry    event     // what may help it
	missed   event     // what happened while it was being tried
	gone     bool      // removed while it was being tried
	index    int       // in its heap
}

// queue holds the pods that have no node yet. All methods may be called
// concurrently.
type queue struct {
	mu      sync.Mutex
	pods    map[types.UID]*waiting
	active  waitingHeap
	backoff waitingHeap
	trying  map[*waiting]bool
	wake    chan struct{} // holds a token when there may be something to pop
}

func newQueue() *queue {
	return &queue{
		pods:    map[types.UID]*waiting{},
		active:  waitingHeap{less: byPriority},
		backoff: waitingHeap{less: func(a, b *waiting) bool { return a.until.Before(b.until) }},
		trying:  map[*waiting]bool{},
		wake:    make(chan struct{}, 1), // one token: more would say the same
	}
}

func byPriority(a, b *waiting) bool {
	if c := cmp.Compare(b.info.priority, a.info.priority); c != 0 {
		return c < 0
	}
	return a.since.Before(b.since)
}

// set takes in a pod that has no node. changed says that it asks for something
// else than before, so that a pod that is asleep is worth another try.
func (q *queue) set(info *podInfo, changed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.pods[info.pod.UID]
	if w == nil {
		w = &waiting{info: info, since: time.Now(), stage: asleep}
		q.pods[info.pod.UID] = w
		q.enterLocked(w, active)
		return
	}
	w.info = info
	switch {
	case w.stage == trying:
		if changed {
			w.missed = anyEvent
		}
	case w.stage == gated && len(info.pod.Spec.SchedulingGates) == 0:
		q.enterLocked(w, active)
	case w.stage == asleep && changed:
		q.awakeLocked(w)
	case w.stage == active:
		heap.Fix(&q.active, w.index)
	}
}

// remove forgets a pod.
func (q *queue) remove(uid types.UID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w := q.pods[uid]; w != nil {
		q.leaveLocked(w)
		w.gone = true
		delete(q.pods, uid)
	}
}

// pop waits for the next pod to try: w stands for it in the queue, info is
// what it asks for at this moment. ok is false when ctx ended.
func (q *queue) pop(ctx context.Context) (w *waiting, info *podInfo, ok bool) {
	for {
		w, info, wait := q.take(time.Now())
		if w != nil {
			return w, info, true
		}
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return nil, nil, false
		case <-q.wake:
		case <-timer:
		}
	}
}

// take returns the next pod, or how long until there may be one; 0: an event
// will tell.
func (q *queue) take(now time.Time) (*waiting, *podInfo, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.backoff.all) > 0 && !q.backoff.all[0].until.After(now) {
		q.enterLocked(q.backoff.all[0], active)
	}
	w := q.nextLocked()
	if w == nil {
		if len(q.backoff.all) > 0 {
			return nil, nil, q.backoff.all[0].until.Sub(now)
		}
		return nil, nil, 0
	}
	q.leaveLocked(w)
	w.stage = trying
	w.attempts++
	w.missed = 0
	q.trying[w] = true
	return w, w.info, 0
}

// nextLocked prefers the active pods. With nothing else to do, one that backs
// off is tried early: it is there because something happened that may help it.
func (q *queue) nextLocked() *waiting {
	if len(q.active.all) > 0 {
		return q.active.all[0]
	}
	var next *waiting
	for _, w := range q.backoff.all {
		if !w.strict && (next == nil || byPriority(w, next)) {
			next = w
		}
	}
	return next
}

// done ends the try of a pod that is bound, or gone. It stays known until the
// informer shows that too: an older version of it may still be on its way.
func (q *queue) done(w *waiting) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.trying, w)
}

// failed ends a try that met an error.
func (q *queue) failed(w *waiting) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.trying, w)
	if w.gone {
		return
	}
	w.strict = true
	w.until = time.Now().Add(backoffOf(w.attempts))
	q.enterLocked(w, backoff)
}

// unschedulable ends the try of a pod that fits nowhere, until one of retry
// happens.
func (q *queue) unschedulable(w *waiting, retry event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.trying, w)
	if w.gone {
		return
	}
	now := time.Now()
	w.retry, w.strict, w.since = retry, false, now
	w.until = now.Add(backoffOf(w.attempts))
	w.stage = asleep
	if w.missed&retry != 0 {
		q.awakeLocked(w)
	}
}

// happened wakes the pods that e may help.
func (q *queue) happened(e event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for w := range q.trying {
		w.missed |= e
	}
	for _, w := range q.pods {
		if w.stage == asleep && w.retry&e != 0 {
			q.awakeLocked(w)
		}
	}
}

// flush wakes the pods that have been asleep for longer than limit.
func (q *queue) flush(now time.Time, limit time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, w := range q.pods {
		if w.stage == asleep && now.Sub(w.since) > limit {
			q.awakeLocked(w)
		}
	}
}

func (q *queue) awakeLocked(w *waiting) {
	if w.until.After(time.Now()) {
		q.enterLocked(w, backoff)
		return
	}
	q.enterLocked(w, active)
}

// enterLocked moves a pod to a stage; one with gates cannot become active.
func (q *queue) enterLocked(w *waiting, s stage) {
	q.leaveLocked(w)
	if s == active && len(w.info.pod.Spec.SchedulingGates) > 0 {
		w.stage = gated
		return
	}
	w.stage = s
	switch s {
	case active:
		heap.Push(&q.active, w)
	case backoff:
		heap.Push(&q.backoff, w)
	case asleep, gated, trying:
		return
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) leaveLocked(w *waiting) {
	switch w.stage {
	case active:
		heap.Remove(&q.active, w.index)
	case backoff:
		heap.Remove(&q.backoff, w.index)
	case asleep, gated, trying:
	}
	if w.stage != trying {
		w.stage = asleep
	}
}

func backoffOf(attempts int) time.Duration {
	d := minBackoff
	for i := 1; i < attempts && d < maxBackoff; i++ {
		d *= 2
	}
	return min(d, maxBackoff)
}

// waitingHeap is a container/heap of pods.
type waitingHeap struct {
	all  []*waiting
	less func(a, b *waiting) bool
}

func (h *waitingHeap) Len() int           { return len(h.all) }
func (h *waitingHeap) Less(i, j int) bool { return h.less(h.all[i], h.all[j]) }
func (h *waitingHeap) Swap(i, j int) {
	h.all[i], h.all[j] = h.all[j], h.all[i]
	h.all[i].index, h.all[j].index = i, j
}

// Push implements heap.Interface.
func (h *waitingHeap) Push(x any) {
	w := x.(*waiting)
	w.index = len(h.all)
	h.all = append(h.all, w)
}

// Pop implements heap.Interface.
func (h *waitingHeap) Pop() any {
	last := len(h.all) - 1
	w := h.all[last]
	h.all[last] = nil
	h.all = h.all[:last]
	return w
}
