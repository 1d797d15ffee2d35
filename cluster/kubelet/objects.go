package kubelet

import (
	"context"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// objects holds the ConfigMaps and Secrets that pods of this node use, and no
// others: a node must not read what does not concern it. Each is listed and
// watched by its name for as long as a pod refers to it.
type objects struct {
	client  kubernetes.Interface
	log     *slog.Logger
	changed func(types.UID)
	wg      sync.WaitGroup

	mu      sync.Mutex
	entries map[objectKey]*objectEntry
}

type objectKey struct{ kind, namespace, name string }

// objectEntry is one object; its fields but users are guarded by mu.
type objectEntry struct {
	users map[types.UID]bool // guarded by objects.mu
	stop  context.CancelFunc

	mu     sync.Mutex
	object runtime.Object // nil: does not exist
	known  bool           // object is from the server
}

func newObjects(client kubernetes.Interface, log *slog.Logger, changed func(types.UID)) *objects {
	return &objects{client: client, log: log, changed: changed, entries: map[objectKey]*objectEntry{}}
}

// get returns the object for a pod, which counts as its user from now on. ctx
// is the component's life: the watch runs under it.
func (o *objects) get(ctx context.Context, user types.UID, key objectKey) (runtime.Object, error) {
	o.mu.Lock()
	e := o.entries[key]
	if e == nil {
		e = &objectEntry{users: map[types.UID]bool{}}
		o.entries[key] = e
	}
	e.users[user] = true
	o.mu.Unlock()

	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.known {
		object, version, err := o.list(ctx, key)
		if err != nil {
			return nil, err
		}
		e.object, e.known = object, true
		watchCtx, stop := context.WithCancel(ctx)
		e.stop = stop
		o.wg.Go(func() { o.watch(watchCtx, key, e, version) })
	}
	if e.object == nil {
		return nil, apierrors.NewNotFound(v1.Resource(key.kind), key.name)
	}
	return e.object, nil
}

// release forgets a user; what nobody uses any more is no longer watched.
func (o *objects) release(user types.UID) {
	o.mu.Lock()
	var stopped []*objectEntry
	for key, e := range o.entries {
		if e.users[user] {
			if delete(e.users, user); len(e.users) == 0 {
				stopped = append(stopped, e)
				delete(o.entries, key)
			}
		}
	}
	o.mu.Unlock()
	for _, e := range stopped {
		e.mu.Lock()
		if e.stop != nil {
			e.stop()
		}
		e.mu.Unlock()
	}
}

// wait returns when no watch runs any more.
func (o *objects) wait() { o.wg.Wait() }

func (o *objects) list(ctx context.Context, key objectKey) (runtime.Object, string, error) {
	opts := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", key.name).String()}
	if key.kind == "configmaps" {
		list, err := o.client.CoreV1().ConfigMaps(key.namespace).List(ctx, opts)
		if err != nil || len(list.Items) == 0 {
			return nil, version(list, err), err
		}
		return &list.Items[0], list.ResourceVersion, nil
	}
	list, err := o.client.CoreV1().Secrets(key.namespace).List(ctx, opts)
	if err != nil || len(list.Items) == 0 {
		return nil, version(list, err), err
	}
	return &list.Items[0], list.ResourceVersion, nil
}

func version(list metav1.ListInterface, err error) string {
	if err != nil {
		return ""
	}
	return list.GetResourceVersion()
}

// rewatchWait is between two tries to watch an object, when the server is away.
const rewatchWait = time.Second

// watch keeps an entry current until its context ends.
func (o *objects) watch(ctx context.Context, key objectKey, e *objectEntry, version string) {
	for ctx.Err() == nil {
		version = o.watchOnce(ctx, key, e, version)
		if version != "" {
			continue
		}
		// The position is lost: begin again from the current state.
		object, v, err := o.list(ctx, key)
		if err == nil {
			o.store(key, e, object)
			version = v
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(rewatchWait):
		}
	}
}

// watchOnce follows one watch and returns where to go on, or "".
func (o *objects) watchOnce(ctx context.Context, key objectKey, e *objectEntry, version string) string {
	opts := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", key.name).String(),
		ResourceVersion: version, AllowWatchBookmarks: true}
	var w watch.Interface
	var err error
	if key.kind == "configmaps" {
		w, err = o.client.CoreV1().ConfigMaps(key.namespace).Watch(ctx, opts)
	} else {
		w, err = o.client.CoreV1().Secrets(key.namespace).Watch(ctx, opts)
	}
	if err != nil {
		return ""
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		if event.Type == watch.Error {
			return ""
		}
		if m, ok := event.Object.(metav1.Object); ok {
			version = m.GetResourceVersion()
		}
		switch event.Type {
		case watch.Added, watch.Modified:
			o.store(key, e, event.Object)
		case watch.Deleted:
			o.store(key, e, nil)
		}
	}
	return version
}

func (o *objects) store(key objectKey, e *objectEntry, object runtime.Object) {
	e.mu.Lock()
	same := sameVersion(e.object, object)
	e.object = object
	e.mu.Unlock()
	if same {
		return
	}
	o.mu.Lock()
	users := make([]types.UID, 0, len(e.users))
	for uid := range e.users {
		users = append(users, uid)
	}
	o.mu.Unlock()
	o.log.Debug("object of pods changed", "key", key.namespace+"/"+key.name, "kind", key.kind)
	for _, uid := range users {
		o.changed(uid)
	}
}

func sameVersion(a, b runtime.Object) bool {
	ma, okA := a.(metav1.Object)
	mb, okB := b.(metav1.Object)
	if !okA || !okB {
		return okA == okB
	}
	return ma.GetUID() == mb.GetUID() && ma.GetResourceVersion() == mb.GetResourceVersion()
}
