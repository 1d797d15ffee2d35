package apiserver

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	// A watch without timeoutSeconds ends after 30 to 60 minutes, so that
	// clients that come back do not do so all at once.
	minWatch = 30 * time.Minute
	// bookmarkEvery is how often an idle watcher learns of its progress.
	bookmarkEvery = time.Minute
)

// watcher is one watch under way.
type watcher struct {
	req     *request
	sel     *selection
	flush   func()
	buf     []byte
	headers bool // the table's columns are still to be sent
}

func (s *Server) serveWatch(req *request) error {
	sel, err := req.selection()
	if err != nil {
		return err
	}
	if req.out.format == formatYAML {
		req.out.format = formatJSON
	}
	cur, initial, err := s.watchStart(req.r.Context(), sel)
	if err != nil {
		return err
	}
	flusher, ok := req.w.(http.Flusher)
	if !ok {
		return apierrors.NewInternalError(fmt.Errorf("unable to start watch - can't get http.Flusher: %#v", req.w))
	}
	w := &watcher{req: req, sel: sel, flush: flusher.Flush, headers: true}
	contentType := req.out.format.mediaType()
	if req.out.format == formatProto {
		contentType += ";stream=watch"
	}
	req.w.Header().Set("Content-Type", contentType)
	req.w.Header().Set("Cache-Control", "no-cache, private")
	req.w.WriteHeader(http.StatusOK)
	flusher.Flush()

	timeout := minWatch + rand.N(minWatch)
	if t := sel.opts.TimeoutSeconds; t != nil && *t > 0 {
		timeout = time.Duration(*t) * time.Second
	}
	ctx, cancel := context.WithTimeout(req.r.Context(), timeout)
	defer cancel()
	if err := w.run(ctx, s, cur, initial); err != nil && ctx.Err() == nil {
		s.log.Debug("watch ended", "kind", req.kind.Plural, "err", err)
	}
	return nil
}

// watchStart finds where the watch begins, and the objects that it begins with.
func (s *Server) watchStart(ctx context.Context, sel *selection) (cursor, []*entry, error) {
	o := sel.opts
	rev, err := parseRev(o.ResourceVersion)
	if err != nil {
		return cursor{}, nil, err
	}
	c := sel.kind.cache
	initial := rev == 0
	if o.SendInitialEvents != nil {
		initial = *o.SendInitialEvents
	}
	if initial || rev == 0 {
		if err := s.atLeast(ctx, o.ResourceVersion); err != nil {
			return cursor{}, nil, err
		}
		tree, cur := c.snapshot()
		cur.rev = max(cur.rev, 1)
		var entries []*entry
		if initial {
			walk(tree, sel.prefix, "", func(e *entry) bool {
				if sel.match(e) {
					entries = append(entries, e)
				}
				return true
			})
		}
		return cur, entries, nil
	}
	cur, ok := c.at(rev)
	if !ok {
		return cursor{}, nil, apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", rev, c.oldest()))
	}
	return cur, nil, nil
}

func (w *watcher) run(ctx context.Context, s *Server, cur cursor, initial []*entry) error {
	for _, e := range initial {
		if err := w.add(watch.Added, e); err != nil {
			return err
		}
	}
	marks := w.sel.opts.AllowWatchBookmarks
	if want := w.sel.opts.SendInitialEvents; want != nil && *want && marks {
		if err := w.bookmark(max(cur.rev, 1), true); err != nil {
			return err
		}
	}
	if err := w.write(); err != nil {
		return err
	}
	tick := time.NewTicker(bookmarkEvery)
	defer tick.Stop()
	for {
		// Read before the log: what is reached by then and not in the log
		// does not concern this kind.
		reached := s.feed.progress.now()
		events, more, ok := w.sel.kind.cache.since(cur)
		if !ok {
			return w.fail(apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d", cur.rev)))
		}
		for _, ev := range events {
			if typ, e := ev.filtered(w.sel.match); e != nil {
				if err := w.add(typ, e); err != nil {
					return err
				}
			}
			cur.rev = ev.rev
		}
		if err := w.write(); err != nil {
			return err
		}
		if more == nil {
			continue
		}
		cur.rev = max(cur.rev, reached)
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		case <-s.stopped: // a client in this process may outlive the server
			return nil
		case <-tick.C:
			if !marks {
				continue
			}
			if err := w.bookmark(cur.rev, false); err != nil {
				return err
			}
		}
	}
}

// add puts one event into the buffer.
func (w *watcher) add(typ watch.EventType, e *entry) error {
	switch w.req.out.shape {
	case shapeTable:
		t, err := w.req.tableOf(e, w.headers)
		if err != nil {
			return err
		}
		w.headers = false
		return w.addObject(typ, t, tableGVK)
	case shapePartial:
		return w.addObject(typ, partialOf(e), partialGVK)
	}
	raw, err := e.encoded(w.req.kind, w.req.out.format)
	if err != nil {
		return err
	}
	if w.req.out.format == formatProto {
		head := w.req.kind.protoHead
		w.frame(typ, func(b []byte) []byte { return appendUnknown(b, head, raw) }, len(head)+len(raw)+16)
		return nil
	}
	w.line(typ, raw)
	return nil
}

func (w *watcher) addObject(typ watch.EventType, obj runtime.Object, gvk schema.GroupVersionKind) error {
	raw, err := encodeObject(w.req.out.format, obj, gvk)
	if err != nil {
		return err
	}
	if w.req.out.format == formatProto {
		w.frame(typ, func(b []byte) []byte { return append(b, raw...) }, len(raw))
		return nil
	}
	w.line(typ, raw[:len(raw)-1])
	return nil
}

func (w *watcher) line(typ watch.EventType, raw []byte) {
	w.buf = append(w.buf, `{"type":"`...)
	w.buf = append(w.buf, typ...)
	w.buf = append(w.buf, `","object":`...)
	w.buf = append(w.buf, raw...)
	w.buf = append(w.buf, "}\n"...)
}

// frame appends a length-delimited metav1.WatchEvent.
func (w *watcher) frame(typ watch.EventType, object func([]byte) []byte, size int) {
	obj := object(make([]byte, 0, size))
	ext := appendBytes(make([]byte, 0, len(obj)+8), 1, obj) // RawExtension
	start := len(w.buf)
	w.buf = append(w.buf, 0, 0, 0, 0)
	w.buf = appendBytes(w.buf, 1, []byte(typ))
	w.buf = appendBytes(w.buf, 2, ext)
	binary.BigEndian.PutUint32(w.buf[start:], uint32(len(w.buf)-start-4))
}

// bookmark tells the client that it has seen everything up to rev.
func (w *watcher) bookmark(rev int64, initialEnd bool) error {
	var obj runtime.Object
	gvk := w.req.kind.GroupVersionKind
	switch w.req.out.shape {
	case shapeTable:
		// The columns come with the first row; a bookmark has the revision.
		obj, gvk = &metav1.Table{ListMeta: metav1.ListMeta{ResourceVersion: formatRev(rev)}}, tableGVK
		if initialEnd {
			return w.tableBookmark(rev)
		}
		return w.addObject(watch.Bookmark, obj, gvk)
	case shapePartial:
		obj, gvk = &metav1.PartialObjectMetadata{}, partialGVK
	default:
		obj = w.req.kind.New()
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	m.SetResourceVersion(formatRev(rev))
	if initialEnd {
		m.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	return w.addObject(watch.Bookmark, obj, gvk)
}

// tableBookmark ends the initial events of a table: its one row's object
// carries the annotation.
func (w *watcher) tableBookmark(rev int64) error {
	p := withKind(&metav1.PartialObjectMetadata{}, partialGVK)
	p.ResourceVersion = formatRev(rev)
	p.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	raw, err := json.Marshal(p)
	if err != nil {
		return err
	}
	t := &metav1.Table{
		ListMeta: metav1.ListMeta{ResourceVersion: formatRev(rev)},
		Rows:     []metav1.TableRow{{Cells: []any{}, Object: runtime.RawExtension{Raw: raw}}},
	}
	return w.addObject(watch.Bookmark, t, tableGVK)
}

// fail sends err as the last event.
func (w *watcher) fail(err error) error {
	if err := w.addObject(watch.Error, statusOf(err), statusGVK); err != nil {
		return err
	}
	return w.write()
}

func (w *watcher) write() error {
	if len(w.buf) == 0 {
		return nil
	}
	_, err := w.req.w.Write(w.buf)
	w.flush()
	if cap(w.buf) > 64<<10 {
		w.buf = nil // an idle watcher keeps no large buffer
	}
	w.buf = w.buf[:0]
	return err
}
