package apiserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"

	"gantry/cluster/store"
)

// feed keeps all caches equal to the store by one watch over everything, so
// that one number, the revision reached, orders all kinds.
type feed struct {
	store    *store.Store
	caches   map[string]*cache // by prefix
	progress progress
	codec    *codec
	writes   writes
}

func newFeed(st *store.Store, codec *codec) *feed {
	return &feed{store: st, codec: codec, caches: map[string]*cache{}, progress: progress{changed: make(chan struct{})}}
}

// cacheOf returns the cache of a storage prefix, making it if need be.
func (f *feed) cacheOf(prefix string) *cache {
	prefix = store.Prefix + prefix + "/"
	c := f.caches[prefix]
	if c == nil {
		c = newCache(prefix)
		f.caches[prefix] = c
	}
	return c
}

// fill loads everything and returns the revision loaded.
func (f *feed) fill(ctx context.Context) (int64, error) {
	page, err := f.store.List(ctx, store.Prefix, store.ListOptions{})
	if err != nil {
		return 0, fmt.Errorf("load objects: %w", err)
	}
	byCache := map[*cache][]*entry{}
	for _, r := range page.Records {
		c := f.find(r.Key)
		if c == nil {
			continue // a kind that this server does not serve
		}
		e, err := f.codec.entry(r)
		if err != nil {
			return 0, fmt.Errorf("load %s: %w", r.Key, err)
		}
		byCache[c] = append(byCache[c], e)
	}
	for _, c := range f.caches {
		c.reset(byCache[c], page.Revision)
	}
	f.progress.reach(page.Revision)
	return page.Revision, nil
}

func (f *feed) find(key string) *cache {
	// "/registry/" KIND "/" ... or "/registry/" GROUP "/" KIND "/" ...
	rest := key[len(store.Prefix):]
	first := strings.IndexByte(rest, '/')
	if first < 0 {
		return nil
	}
	if c := f.caches[key[:len(store.Prefix)+first+1]]; c != nil {
		return c
	}
	second := strings.IndexByte(rest[first+1:], '/')
	if second < 0 {
		return nil
	}
	return f.caches[key[:len(store.Prefix)+first+1+second+1]]
}

// run follows the store from revision rev on until ctx ends. When the store
// cannot say what happened meanwhile, all is loaded anew.
func (f *feed) run(ctx context.Context, rev int64) error {
	for {
		err := f.follow(ctx, rev)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			return errors.New("the store's watch ended")
		}
		if rev, err = f.fill(ctx); err != nil {
			return err
		}
	}
}

func (f *feed) follow(ctx context.Context, rev int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for batch := range f.store.Watch(ctx, store.Prefix, rev+1) {
		if batch.Err != nil {
			return batch.Err
		}
		now := time.Now()
		for _, ch := range batch.Changes {
			if err := f.apply(ch, now); err != nil {
				return err
			}
		}
		f.progress.reach(batch.Revision)
	}
	return nil
}

func (f *feed) apply(ch store.Change, now time.Time) error {
	c := f.find(ch.Key)
	if c == nil {
		return nil
	}
	if ch.Deleted {
		return c.remove(ch.Key, ch.Revision, now)
	}
	e, err := f.writes.entry(ch.Key, ch.Revision, ch.Value)
	if e == nil && err == nil {
		e, err = f.codec.entry(ch.Record)
	}
	if err != nil {
		return fmt.Errorf("decode %s: %w", ch.Key, err)
	}
	c.put(e, now)
	return nil
}

// writes hands the objects of writes under way to the feed, so that neither
// decodes what this process has just encoded.
type writes struct {
	mu      sync.Mutex
	pending map[string]*write
}

// write is one of them. The feed or the writer, whoever is first to know the
// revision, makes the entry that both use.
type write struct {
	value []byte
	obj   runtime.Object

	once sync.Once
	made *entry
	err  error
}

func (w *write) entry(key string, rev int64) (*entry, error) {
	w.once.Do(func() { w.made, w.err = newEntry(key, rev, w.obj) })
	return w.made, w.err
}

func (ws *writes) begin(key string, value []byte, obj runtime.Object) *write {
	w := &write{value: value, obj: obj}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.pending == nil {
		ws.pending = map[string]*write{}
	}
	ws.pending[key] = w
	return w
}

// end forgets a write that failed; the feed takes the others.
func (ws *writes) end(key string, w *write) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.pending[key] == w {
		delete(ws.pending, key)
	}
}

func (ws *writes) entry(key string, rev int64, value []byte) (*entry, error) {
	ws.mu.Lock()
	w := ws.pending[key]
	if w != nil && bytes.Equal(w.value, value) {
		delete(ws.pending, key)
	} else {
		w = nil
	}
	ws.mu.Unlock()
	if w == nil {
		return nil, nil
	}
	return w.entry(key, rev)
}

// shallowCopy copies an object's top level, so that its metadata's own fields
// can be set without touching the original.
func shallowCopy(obj runtime.Object) runtime.Object {
	v := reflect.ValueOf(obj).Elem()
	out := reflect.New(v.Type())
	out.Elem().Set(v)
	return out.Interface().(runtime.Object)
}
