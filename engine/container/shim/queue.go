package shim

import (
	"sync"
	"time"

	"gantry/engine/container/wire"
)

// logQueue lets output go on while the log's disk is slow. Output that comes
// when it is full is not logged. A goroutine of its own writes the log.
type logQueue struct {
	limit int

	mu      sync.Mutex
	cond    *sync.Cond // of mu: a member below changed
	waiting []piece
	size    int
	ending  bool
	done    chan struct{}
}

// piece is what was read from a stream at once.
type piece struct {
	at     time.Time
	stream wire.Stream
	data   []byte
}

func newLogQueue(w *logWriter, limit int) *logQueue {
	q := &logQueue{limit: limit, done: make(chan struct{})}
	q.cond = sync.NewCond(&q.mu)
	go func() {
		defer close(q.done)
		for p, ok := q.next(); ok; p, ok = q.next() {
			w.record(p.at, p.stream, p.data)
		}
	}()
	return q
}

// add queues a copy of data, or drops it: one piece always fits.
func (q *logQueue) add(at time.Time, stream wire.Stream, data []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.size > 0 && q.size+len(data) > q.limit {
		return
	}
	q.waiting = append(q.waiting, piece{at, stream, append([]byte(nil), data...)})
	q.size += len(data)
	q.cond.Signal()
}

func (q *logQueue) next() (piece, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiting) == 0 && !q.ending {
		q.cond.Wait()
	}
	if len(q.waiting) == 0 {
		return piece{}, false
	}
	p := q.waiting[0]
	q.waiting = q.waiting[1:]
	q.size -= len(p.data)
	return p, true
}

// end waits until all that is queued is in the log.
func (q *logQueue) end() {
	q.mu.Lock()
	q.ending = true
	q.cond.Signal()
	q.mu.Unlock()
	<-q.done
}
