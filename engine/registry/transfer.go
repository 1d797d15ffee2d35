package registry

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/fault"
	"gantry/internal/problem"
)

// wanted is a layer that a pull lacks.
type wanted struct {
	desc   ocispec.Descriptor
	diffID digest.Digest
	from   []*repository
	lease  string // who gets the layer
}

// transfer is the download of one layer, for all pulls that want it. It lives
// until it is done or nobody waits for it any more.
type transfer struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
	err    error         // once done is closed
	gone   chan struct{} // closed when it holds nothing any more

	mu       sync.Mutex
	waiters  int
	watchers []*watcher
	last     Event // for who comes later
}

// watcher is what one waiter has not been told yet. A slow one holds nobody up:
// of events with the same status it gets the latest.
type watcher struct {
	queue []Event
	wake  chan struct{} // holds one: there is something in the queue
}

// layer brings a layer into the store: it joins a transfer of it, or starts one.
func (c *Client) layer(ctx context.Context, w wanted, progress func(Event)) error {
	for {
		t, mine := c.join(ctx, w)
		err := t.wait(ctx, progress)
		if err == nil {
			err = c.cfg.Images.Lease(w.lease, w.diffID)
			_ = c.cfg.Images.LeaseBlobs(w.lease, w.desc.Digest) // it may be of another layer with the same files
		}
		c.leave(w.desc.Digest, t)
		if err == nil || mine || context.Cause(ctx) != nil {
			return err
		}
		// What failed for another may go well with these credentials.
	}
}

// errUnwanted says that nobody waits for a transfer.
var errUnwanted = errors.New("nobody waits for the layer any more")

// join returns the running transfer of a layer, or starts one.
func (c *Client) join(ctx context.Context, w wanted) (_ *transfer, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.transfers[w.desc.Digest]; ok {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.waiters++
		return t, false
	}
	life, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	t := &transfer{cancel: cancel, done: make(chan struct{}), gone: make(chan struct{}), waiters: 1}
	c.transfers[w.desc.Digest] = t
	go func() {
		lease := "transfer " + random()
		t.err = c.download(life, w, lease, t.tell)
		close(t.done)
		<-life.Done() // the last waiter has its own lease, or none
		c.cfg.Images.EndLease(lease)
		close(t.gone)
	}()
	return t, true
}

// leave says that a waiter is gone. The last one ends the transfer.
func (c *Client) leave(d digest.Digest, t *transfer) {
	c.mu.Lock()
	t.mu.Lock()
	t.waiters--
	last := t.waiters == 0
	t.mu.Unlock()
	if last {
		delete(c.transfers, d)
	}
	c.mu.Unlock()
	if last {
		t.cancel(errUnwanted)
		<-t.gone
	}
}

// wait returns when the transfer is done or ctx ends; meanwhile it passes
// progress on.
func (t *transfer) wait(ctx context.Context, progress func(Event)) error {
	w := &watcher{wake: make(chan struct{}, 1)}
	t.mu.Lock()
	if t.last.Status != "" {
		w.add(t.last)
	}
	t.watchers = append(t.watchers, w)
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.watchers = slices.DeleteFunc(t.watchers, func(o *watcher) bool { return o == w })
	}()
	for {
		select {
		case <-w.wake:
			t.pass(w, progress)
		case <-t.done:
			t.pass(w, progress)
			return t.err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// pass tells a watcher what it has not been told.
func (t *transfer) pass(w *watcher, progress func(Event)) {
	t.mu.Lock()
	events := w.queue
	w.queue = nil
	t.mu.Unlock()
	for _, e := range events {
		progress(e)
	}
}

// tell notes an event for all watchers.
func (t *transfer) tell(e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = e
	for _, w := range t.watchers {
		w.add(e)
	}
}

func (w *watcher) add(e Event) {
	if n := len(w.queue); n > 0 && w.queue[n-1].Status == e.Status {
		w.queue[n-1] = e
	} else {
		w.queue = append(w.queue, e)
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// download fetches, verifies and unpacks a layer in one pass. The layer and its
// blob get a lease.
func (c *Client) download(ctx context.Context, w wanted, lease string, tell func(Event)) error {
	select {
	case c.slots <- struct{}{}:
	default:
		tell(Event{Status: "Waiting"})
		select {
		case c.slots <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	defer func() { <-c.slots }()
	err := c.unpackHere(ctx, w, lease, tell)
	if errors.Is(err, problem.NotFound) {
		err = c.unpackThere(ctx, w, lease, tell)
	}
	if err != nil {
		return err
	}
	tell(Event{Status: "Pull complete"})
	return nil
}

// unpackHere makes the layer of a blob that the store has.
func (c *Client) unpackHere(ctx context.Context, w wanted, lease string, tell func(Event)) error {
	if err := c.cfg.Images.LeaseBlobs(lease, w.desc.Digest); err != nil {
		return err
	}
	f, err := c.cfg.Images.OpenBlob(ctx, w.desc.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	layer, err := c.cfg.Images.UnpackBlob(ctx, lease, reportReads(f, w.desc.Size, "Extracting", tell))
	if err != nil {
		return err
	}
	return w.check(layer.DiffID)
}

func (c *Client) unpackThere(ctx context.Context, w wanted, lease string, tell func(Event)) (err error) {
	blob, err := c.cfg.Images.NewBlob(w.desc.Digest.Algorithm())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	body := newBlobReader(ctx, slices.Clone(w.from), w.desc)
	defer body.Close()
	stream := io.TeeReader(reportReads(body, w.desc.Size, "Downloading", tell), blob)
	layer, err := c.cfg.Images.UnpackBlob(ctx, lease, stream)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, stream); err != nil { // what follows the archive
		return err
	}
	tell(Event{Status: "Verifying Checksum"})
	if got := blob.Digest(); got != w.desc.Digest {
		return problem.New(problem.Invalid, "filesystem layer verification failed for digest %s: it has digest %s", w.desc.Digest, got)
	}
	if err := w.check(layer.DiffID); err != nil {
		return err
	}
	tell(Event{Status: "Download complete"})
	if err := fault.At("registry/pull/before-blob"); err != nil {
		return err
	}
	if err := blob.Commit(ctx, lease, w.desc.Digest, layer.DiffID, false); err != nil {
		return err
	}
	tell(Event{Status: "Extracting", Current: w.desc.Size, Total: w.desc.Size})
	return nil
}

func (w wanted) check(got digest.Digest) error {
	if got != w.diffID {
		return problem.New(problem.Invalid, "layer %s unpacks to %s, the image configuration says %s", w.desc.Digest, got, w.diffID)
	}
	return nil
}

// reportEvery bounds how often progress is told.
const reportEvery = 100 * time.Millisecond

// reader reports how much was read of it.
type reader struct {
	r        io.Reader
	n, total int64
	status   string
	last     time.Time
	tell     func(Event)
}

func reportReads(r io.Reader, total int64, status string, tell func(Event)) io.Reader {
	return &reader{r: r, total: total, status: status, tell: tell}
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.n += int64(n)
	if now := time.Now(); n > 0 && (now.Sub(r.last) >= reportEvery || r.n == r.total) {
		r.last = now
		r.tell(Event{Status: r.status, Current: r.n, Total: r.total})
	}
	return n, err
}
