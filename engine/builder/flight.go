package builder

import (
	"context"
	"sync"
)

// flights says which results are being made, so that the same step in two builds
// at once runs once.
type flights struct {
	mu  sync.Mutex
	now map[cacheKey]chan struct{} // closed when the step has ended
}

// enter makes the caller the one that makes the result for k, until leave is
// called. If somebody else is making it, enter waits for the end of that and
// returns a nil leave: the cache may know the result now.
func (f *flights) enter(ctx context.Context, k cacheKey) (leave func(), err error) {
	f.mu.Lock()
	other, busy := f.now[k]
	if !busy {
		done := make(chan struct{})
		if f.now == nil {
			f.now = map[cacheKey]chan struct{}{}
		}
		f.now[k] = done
		f.mu.Unlock()
		return func() {
			f.mu.Lock()
			delete(f.now, k)
			f.mu.Unlock()
			close(done)
		}, nil
	}
	f.mu.Unlock()
	select {
	case <-other:
		return nil, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
