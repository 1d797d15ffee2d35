package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"gantry/engine/container/logfile"
	"gantry/engine/container/logsink"
	"gantry/internal/atomicfile"
	"gantry/internal/fault"
)

// forwarder sends what a container prints to a service, in order, from the log
// that the shim writes. There is one for a container at a time: it goes on
// through the container's restarts, and ends when all is sent and nothing runs.
type forwarder struct {
	leave  chan struct{}      // closed: what cannot be sent at once stays unsent
	cancel context.CancelFunc // ends it at once
	done   chan struct{}      // closed when it has ended

	again   bool // guarded by the record's mu: there may be more to send
	leaving bool // likewise: leave is closed

	at   sent // of the goroutine alone, as what follows
	dir  string
	sink logSink
	mute bool // that at cannot be written has been said
}

// sent is the content of forward/sent.json: how far a container's log was sent.
type sent struct {
	Version int
	At      logfile.Position
	Open    map[string]logsink.Piece `json:",omitempty"` // by stream, the last piece of a line that has not ended
}

// errLeft tells that a forwarder was told to end while its service is away.
var errLeft = errors.New("the container is removed")

// forward makes sure that what r prints, and has printed, is being sent.
func (e *Engine) forward(r *record) {
	if !r.config().forwards() {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &forwarder{leave: make(chan struct{}), cancel: cancel, done: make(chan struct{}), dir: filepath.Join(r.dir, "forward")}
	r.mu.Lock()
	present := r.forwarder
	if present == nil {
		r.forwarder = f
	} else {
		present.again = true
	}
	r.mu.Unlock()
	if present != nil {
		cancel()
		return
	}
	e.spawn(func(engine context.Context) {
		defer close(f.done)
		defer cancel()
		defer context.AfterFunc(engine, cancel)()
		e.runForwarder(ctx, r, f)
	})
}

// runForwarder sends until all is sent and no run goes on, or ctx ends.
func (e *Engine) runForwarder(ctx context.Context, r *record, f *forwarder) {
	if err := f.open(); err != nil {
		e.log.Warn("how far a log was sent is not known: all of it is sent again", "container", r.id, "err", err)
	}
	b := backoff{}
	for {
		from := f.at.At
		err := e.sendLog(ctx, r, f)
		if f.at.At != from {
			b = backoff{} // it went on in between
		}
		if err == nil {
			if r.forwarded(f) {
				return
			}
			continue
		}
		if ctx.Err() == nil && !errors.Is(err, errLeft) {
			if b.delay == 0 {
				e.log.Warn("a container's log cannot be sent, and is tried again", "container", r.id, "err", err)
			}
			err = b.wait(ctx, f.leave)
			if err == nil {
				continue
			}
		}
		r.mu.Lock()
		r.forwarder = nil
		r.mu.Unlock()
		return
	}
}

// forwarded takes f, which has sent all, out of its record, unless there may be
// more since.
func (r *record) forwarded(f *forwarder) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.again {
		return false
	}
	r.forwarder = nil
	return true
}

// leaveLimit is how long the removal of a container waits for its log to be sent
// to a service that takes it.
const leaveLimit = 10 * time.Second

// endForward ends the sending of a container's log before its removal. Lines
// that a service which is away did not take are lost with the container.
func (e *Engine) endForward(r *record) {
	r.mu.Lock()
	f := r.forwarder
	if f != nil && !f.leaving {
		f.leaving = true
		close(f.leave)
	}
	r.mu.Unlock()
	if f == nil {
		return
	}
	limit := time.NewTimer(leaveLimit)
	defer limit.Stop()
	select {
	case <-f.done:
		return
	case <-e.closed:
	case <-limit.C:
		e.log.Warn("a removed container's log was not sent to its end", "container", r.id)
	}
	f.cancel()
	select {
	case <-f.done:
	case <-e.closed: // it was not begun, or ends by itself
	}
}

// sendLog sends what is in the log beyond what was sent, and with a run what
// comes until its end.
func (e *Engine) sendLog(ctx context.Context, r *record, f *forwarder) (err error) {
	r.mu.Lock()
	cfg, this := r.cfg, r.run
	f.again = false
	r.mu.Unlock()
	if f.sink, err = sinkOf(cfg); err != nil {
		return err
	}
	defer f.sink.Close()
	read := logfile.Options{Format: cfg.LogFormat, After: f.at.At}
	if this != nil {
		read.Follow, read.Done = true, this.proc.Done()
	}
	for entry, err := range logfile.Read(ctx, cfg.LogPath, read) {
		if err != nil {
			return err
		}
		m := f.at.message(&entry)
		if err := e.send(ctx, r, f, m); err != nil {
			return err
		}
		f.at.passed(&entry, m.Piece)
		e.noteSent(r, f, atomicfile.Replace)
	}
	if f.at.At != read.After {
		e.noteSent(r, f, atomicfile.Write)
	}
	return nil
}

// noteSent writes how far the log was sent. While it cannot be written, a death
// of the daemon doubles lines.
func (e *Engine) noteSent(r *record, f *forwarder, write func(string, []byte, fs.FileMode) error) {
	err := f.record(write)
	if err != nil && !f.mute {
		e.log.Warn("how far a log was sent is not written", "container", r.id, "err", err)
	}
	f.mute = err != nil
}

// send sends one message, however long that takes.
func (e *Engine) send(ctx context.Context, r *record, f *forwarder, m logsink.Message) error {
	b := backoff{}
	for {
		err := f.sink.Send(ctx, m)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, logsink.ErrTooLong):
			e.log.Warn("a line of a log is not sent", "container", r.id, "err", err)
			return nil
		case b.delay == 0:
			e.log.Warn("the service of a container's log is away: lines wait", "container", r.id, "err", err)
		}
		if err := b.wait(ctx, f.leave); err != nil {
			return err
		}
	}
}

// backoff is a time to wait that grows with each wait.
type backoff struct{ delay time.Duration }

const (
	firstAgain = 100 * time.Millisecond
	lastAgain  = 15 * time.Second
)

// next returns how long to wait now.
func (b *backoff) next() time.Duration {
	b.delay = min(max(2*b.delay, firstAgain), lastAgain)
	return b.delay
}

// wait returns an error if ctx ends or leave is closed.
func (b *backoff) wait(ctx context.Context, leave <-chan struct{}) error {
	timer := time.NewTimer(b.next())
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-leave:
		return errLeft
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *forwarder) path() string { return filepath.Join(f.dir, "sent.json") }

// open reads how far the log was sent. After an error it begins anew.
func (f *forwarder) open() error {
	f.at = sent{Version: recordVersion}
	// A directory of its own: that of the log is watched for changes.
	if err := os.Mkdir(f.dir, 0o700); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := atomicfile.Sweep(f.dir); err != nil {
		return err
	}
	data, err := os.ReadFile(f.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	at, err := decodeSent(data)
	if err == nil {
		f.at = at
	}
	return err
}

func decodeSent(data []byte) (at sent, err error) {
	if err := json.Unmarshal(data, &at); err != nil {
		return at, fmt.Errorf("sent.json: %w", err)
	}
	if at.Version != recordVersion {
		return at, fmt.Errorf("sent.json has version %d", at.Version)
	}
	return at, nil
}

func (f *forwarder) record(write func(string, []byte, fs.FileMode) error) error {
	if err := fault.At("engine/forward/before-record"); err != nil {
		return err
	}
	data, err := json.Marshal(f.at)
	if err != nil {
		return err
	}
	err = write(f.path(), data, 0o600)
	if isFull(err) {
		err = atomicfile.OverwriteJSON(f.path(), data)
	}
	if err != nil {
		return err
	}
	return fault.At("engine/forward/after-record")
}

// pieceBytes is about the length at which the shim divides lines. A shorter one
// without its newline is the end of what a container printed.
const pieceBytes = 16<<10 - 4

// message is what is sent of an entry.
func (s *sent) message(entry *logfile.Entry) logsink.Message {
	m := logsink.Message{Time: entry.Time, Stderr: entry.Stream == "stderr", Line: entry.Line}
	if !entry.Partial {
		m.Line = m.Line[:len(m.Line)-1]
	}
	goesOn := entry.Partial && len(entry.Line) >= pieceBytes
	open := s.Open[entry.Stream]
	if !goesOn && open.ID == "" {
		return m
	}
	if open.ID == "" {
		var id [32]byte
		rand.Read(id[:]) // never fails
		open.ID = hex.EncodeToString(id[:])
	}
	m.Piece = logsink.Piece{ID: open.ID, Ordinal: open.Ordinal + 1, Last: !goesOn}
	return m
}

// passed notes that an entry has been sent as p.
func (s *sent) passed(entry *logfile.Entry, p logsink.Piece) {
	s.At = entry.At
	delete(s.Open, entry.Stream)
	if p.ID == "" || p.Last {
		return
	}
	if s.Open == nil {
		s.Open = map[string]logsink.Piece{}
	}
	s.Open[entry.Stream] = p
}
