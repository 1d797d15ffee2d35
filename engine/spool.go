package engine

import (
	"context"
	"io"
	"sync"
	"time"
)

// spoolLimit bounds what waits for a client that reads slowly while the process
// runs; at the limit the process is held up, as by a slow terminal.
const spoolLimit = 64 << 10

// spool stands between a process's output and a client. When the process has
// ended it takes all that is left of the output at once, so that the process's
// shim can go, while the client reads as slowly as it likes.
type spool struct {
	mu    sync.Mutex
	cond  *sync.Cond // of mu: a member below changed
	queue []piece
	bytes int
	loose bool // the process has ended: there is no limit
	over  bool // nothing comes any more
	err   error
	done  chan struct{} // closed when the writer has ended
}

// piece is one write to one of the client's streams.
type piece struct {
	to   io.Writer
	data []byte
}

func newSpool() *spool {
	s := &spool{done: make(chan struct{})}
	s.cond = sync.NewCond(&s.mu)
	go s.write()
	return s
}

// stream returns the end of a client's stream that the process writes to; nil
// for nil.
func (s *spool) stream(to io.Writer) io.Writer {
	if to == nil {
		return nil
	}
	return &spoolStream{s, to}
}

type spoolStream struct {
	spool *spool
	to    io.Writer
}

func (w *spoolStream) Write(p []byte) (int, error) {
	s := w.spool
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.bytes > spoolLimit && !s.loose && s.err == nil {
		s.cond.Wait()
	}
	if s.err != nil {
		return 0, s.err
	}
	s.queue = append(s.queue, piece{w.to, append([]byte(nil), p...)})
	s.bytes += len(p)
	s.cond.Broadcast()
	return len(p), nil
}

// loosen takes the limit away.
func (s *spool) loosen() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loose = true
	s.cond.Broadcast()
}

// write passes on what is queued, until it is over or the client has gone.
func (s *spool) write() {
	defer close(s.done)
	for {
		s.mu.Lock()
		for len(s.queue) == 0 && !s.over {
			s.cond.Wait()
		}
		queue := s.queue
		s.queue, s.bytes = nil, 0
		s.cond.Broadcast()
		s.mu.Unlock()
		if len(queue) == 0 {
			return
		}
		for _, p := range queue {
			if _, err := p.to.Write(p.data); err != nil {
				s.mu.Lock()
				s.err = err
				s.cond.Broadcast()
				s.mu.Unlock()
				return
			}
		}
	}
}

// finish waits until the client has all, or ctx ends: then one write may still
// hang until the caller closes the client's connection.
func (s *spool) finish(ctx context.Context) error {
	s.mu.Lock()
	s.over = true
	s.cond.Broadcast()
	s.mu.Unlock()
	select {
	case <-s.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// relay runs attach with streams that are spooled: what attach wrote when the
// process ended, ended tells of, reaches the client after attach has returned.
func relay(ctx context.Context, s Streams, ended <-chan struct{}, attach func(Streams) error) error {
	between := newSpool()
	stop := make(chan struct{})
	go func() {
		select {
		case <-ended:
			between.loosen()
		case <-stop:
		}
	}()
	client := s
	client.Stdout, client.Stderr = between.stream(s.Stdout), between.stream(s.Stderr)
	err := attach(client)
	close(stop)
	if finishErr := between.finish(ctx); err == nil {
		err = finishErr
	}
	return err
}

// users counts those who still read from a process's shim.
type users struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed when n becomes 0; nil while nobody waits
}

func (u *users) enter() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.n++
}

func (u *users) leave() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.n--
	if u.n == 0 && u.idle != nil {
		close(u.idle)
		u.idle = nil
	}
}

// wait waits until there are none, but no longer than limit.
func (u *users) wait(limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return u.end(ctx) == nil
}

// end waits until there are none.
func (u *users) end(ctx context.Context) error {
	u.mu.Lock()
	if u.n == 0 {
		u.mu.Unlock()
		return nil
	}
	if u.idle == nil {
		u.idle = make(chan struct{})
	}
	idle := u.idle
	u.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
