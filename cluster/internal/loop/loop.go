// Package loop is the machinery that every controller runs on: keys go into a
// queue, a key is worked on by one goroutine at a time, and a key whose work
// failed comes back with back-off.
//
// A Loop starts its goroutines in Run (the workers, one of the queue's timer,
// two of each watched informer's handler) and has stopped them all when Run
// returns.
package loop

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = 30 * time.Second
	// A key that failed this often is logged as a warning; before that it is
	// most often a write that lost against another one.
	quietAttempts = 4
)

// Watch names an informer and what its events do.
type Watch struct {
	Informer cache.SharedIndexInformer
	// Handler's methods must not block. They may be nil in a
	// cache.ResourceEventHandlerFuncs; nil as a whole only waits for the
	// informer to be synced.
	Handler cache.ResourceEventHandler
}

// Config says what a Loop does.
type Config[K comparable] struct {
	Name    string // in logs
	Workers int    // keys that may be worked on at once; 0 means 4
	// Reconcile works on one key. It reads all that it needs itself and may be
	// repeated without harm. After an error the key comes back with back-off.
	Reconcile func(ctx context.Context, key K) error
	Logger    *slog.Logger // nil discards
}

// Loop feeds keys to one reconcile function.
type Loop[K comparable] struct {
	cfg   Config[K]
	log   *slog.Logger
	queue workqueue.TypedRateLimitingInterface[K]
}

// New returns a Loop that waits for Run.
func New[K comparable](cfg Config[K]) *Loop[K] {
	if cfg.Workers == 0 {
		cfg.Workers = 4
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Loop[K]{cfg: cfg, log: cfg.Logger.With("controller", cfg.Name)}
}

// Add queues key. Valid while Run runs, so from handlers and reconciles.
func (l *Loop[K]) Add(key K) { l.queue.Add(key) }

// AddAfter queues key when d has passed.
func (l *Loop[K]) AddAfter(key K, d time.Duration) { l.queue.AddAfter(key, d) }

// Run registers the handlers, waits until each has seen the informer's first
// list, then works on keys until ctx ends. The informers are started by
// whoever owns their factory. The error is nil when ctx ended.
func (l *Loop[K]) Run(ctx context.Context, watches ...Watch) error {
	l.queue = workqueue.NewTypedRateLimitingQueue(
		workqueue.NewTypedItemExponentialFailureRateLimiter[K](minBackoff, maxBackoff))
	defer l.queue.ShutDown()
	stop, err := Subscribe(ctx, watches...)
	if err != nil {
		return fmt.Errorf("%s: %w", l.cfg.Name, err)
	}
	defer stop()

	var workers sync.WaitGroup
	for range l.cfg.Workers {
		workers.Go(func() {
			for l.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	l.queue.ShutDown()
	workers.Wait()
	return nil
}

// next works on one key and reports whether there may be another.
func (l *Loop[K]) next(ctx context.Context) bool {
	key, shutdown := l.queue.Get()
	if shutdown || ctx.Err() != nil {
		return false
	}
	defer l.queue.Done(key)
	err := l.cfg.Reconcile(ctx, key)
	if err == nil {
		l.queue.Forget(key)
		return true
	}
	if ctx.Err() != nil {
		return false
	}
	attempt := l.queue.NumRequeues(key) + 1
	level := slog.LevelWarn
	if attempt < quietAttempts || apierrors.IsConflict(err) {
		level = slog.LevelDebug
	}
	l.log.Log(ctx, level, "reconcile failed, retrying", "key", key, "attempt", attempt, "err", err)
	l.queue.AddRateLimited(key)
	return true
}

// Subscribe adds the handlers and waits until each has seen its informer's
// first list, or ctx ends. The returned function removes them again.
func Subscribe(ctx context.Context, watches ...Watch) (stop func(), err error) {
	var undo []func()
	stop = func() {
		for _, f := range undo {
			f()
		}
	}
	var synced []cache.DoneChecker
	for _, w := range watches {
		if w.Handler == nil {
			synced = append(synced, w.Informer.HasSyncedChecker())
			continue
		}
		registration, err := w.Informer.AddEventHandler(w.Handler)
		if err != nil && ctx.Err() != nil {
			return stop, nil // the informer has stopped because everything does
		}
		if err != nil {
			stop()
			return nil, fmt.Errorf("watch: %w", err)
		}
		// An informer that has stopped refuses; then there is nothing to undo.
		undo = append(undo, func() { _ = w.Informer.RemoveEventHandler(registration) })
		synced = append(synced, registration.HasSyncedChecker())
	}
	cache.WaitFor(ctx, "", synced...)
	return stop, nil
}

// Handle returns a handler that calls f with the object of each event: the old
// and the new one of an update, the last known one of a deletion.
func Handle[T any](f func(T)) cache.ResourceEventHandler {
	each := func(obj any) {
		if t, ok := Object[T](obj); ok {
			f(t)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    each,
		UpdateFunc: func(before, after any) { each(before); each(after) },
		DeleteFunc: each,
	}
}

// Latest is as Handle, but leaves an update's old object out.
func Latest[T any](f func(T)) cache.ResourceEventHandler {
	each := func(obj any) {
		if t, ok := Object[T](obj); ok {
			f(t)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    each,
		UpdateFunc: func(_, after any) { each(after) },
		DeleteFunc: each,
	}
}

// Object returns what an event carries, out of a deletion's tombstone too.
func Object[T any](obj any) (T, bool) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	t, ok := obj.(T)
	return t, ok
}
