package apiserver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
)

// loopbackHost is never resolved.
const loopbackHost = "http://gantry.loopback"

// loopbackQPS lets clients inside the process write as fast as etcd takes it.
const loopbackQPS = -1

// Loopback returns the configuration of clients inside this process. They are
// system:masters, speak protobuf and use no network. It may be called before Run;
// requests wait until the objects are loaded.
func (s *Server) Loopback() *rest.Config {
	return s.LoopbackAs("system:apiserver", groupMasters)
}

// LoopbackAs is Loopback for another user, to whom authorization applies.
func (s *Server) LoopbackAs(user string, groups ...string) *rest.Config {
	id := identity{name: user, groups: append(groups, groupAuthenticated), internal: true}
	return &rest.Config{
		Host:      loopbackHost,
		QPS:       loopbackQPS,
		UserAgent: user,
		Transport: &loopback{server: s, user: id},
		ContentConfig: rest.ContentConfig{
			ContentType:        runtime.ContentTypeProtobuf,
			AcceptContentTypes: runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON,
		},
	}
}

// loopback calls the handler in process.
type loopback struct {
	server *Server
	user   identity
}

// RoundTrip implements http.RoundTripper. The handler runs in a goroutine of
// its own, which ends with the request's context or when the body is closed.
func (l *loopback) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	in := r.Clone(ctx)
	if in.Body == nil {
		in.Body = http.NoBody
	}
	in.RequestURI = in.URL.RequestURI()
	if isTrue(in.URL.Query().Get("watch")) {
		return l.stream(in, cancel)
	}
	defer cancel()
	w := &bufferWriter{header: http.Header{}, code: http.StatusOK}
	l.server.serveAs(w, in, l.user)
	_ = in.Body.Close()
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(r.Context())
	}
	return response(r, w.code, w.header, io.NopCloser(&w.body), int64(w.body.Len())), nil
}

func response(r *http.Request, code int, h http.Header, body io.ReadCloser, length int64) *http.Response {
	return &http.Response{
		StatusCode: code, Status: http.StatusText(code), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, Body: body, ContentLength: length, Request: r,
	}
}

func (l *loopback) stream(in *http.Request, cancel context.CancelFunc) (*http.Response, error) {
	s := &stream{header: http.Header{}, started: make(chan struct{}), cancel: cancel, code: http.StatusOK}
	s.cond = sync.NewCond(&s.mu)
	go func() {
		defer s.finish()
		l.server.serveAs(s, in, l.user)
	}()
	select {
	case <-s.started:
	case <-in.Context().Done():
		cancel()
		return nil, context.Cause(in.Context())
	}
	return response(in, s.code, s.sent, s, -1), nil
}

// stream is a response that is read while it is written. It buffers what the
// reader has not taken: a watch's writer must not wait for its reader, and what
// it has to say is bounded by what happens.
type stream struct {
	header  http.Header
	sent    http.Header // header at the time of WriteHeader
	code    int
	once    sync.Once
	started chan struct{}
	cancel  context.CancelFunc

	mu   sync.Mutex
	cond *sync.Cond // of mu: something was written, read, or ended
	buf  []byte
	done bool
	shut bool
}

// maxUnread is how far a stream's writer may be ahead of its reader.
const maxUnread = 1 << 20

func (s *stream) Header() http.Header { return s.header }

func (s *stream) WriteHeader(code int) {
	s.once.Do(func() {
		s.code, s.sent = code, s.header.Clone()
		close(s.started)
	})
}

func (s *stream) Write(p []byte) (int, error) {
	s.WriteHeader(http.StatusOK)
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.buf) > maxUnread && !s.shut {
		s.cond.Wait()
	}
	if s.shut {
		return 0, errors.New("the reader has closed the stream")
	}
	s.buf = append(s.buf, p...)
	s.cond.Broadcast()
	return len(p), nil
}

// Flush implements http.Flusher; Write delivers at once.
func (s *stream) Flush() { s.WriteHeader(http.StatusOK) }

func (s *stream) finish() {
	s.WriteHeader(http.StatusOK)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
	s.cond.Broadcast()
}

// Read implements io.Reader for the client.
func (s *stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.buf) == 0 && !s.done && !s.shut {
		s.cond.Wait()
	}
	switch {
	case s.shut:
		return 0, http.ErrBodyReadAfterClose
	case len(s.buf) == 0:
		return 0, io.EOF
	}
	n := copy(p, s.buf)
	if s.buf = s.buf[n:]; len(s.buf) == 0 {
		s.buf = nil
	}
	s.cond.Broadcast()
	return n, nil
}

// Close implements io.Closer for the client: it ends the handler.
func (s *stream) Close() error {
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shut = true
	s.cond.Broadcast()
	return nil
}

// bufferWriter keeps a whole response.
type bufferWriter struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (w *bufferWriter) Header() http.Header         { return w.header }
func (w *bufferWriter) WriteHeader(code int)        { w.code = code }
func (w *bufferWriter) Write(p []byte) (int, error) { return w.body.Write(p) }
func (w *bufferWriter) Flush()                      {}

// give is Write of a buffer that the writer does not use again.
func (w *bufferWriter) give(p []byte) { w.body = *bytes.NewBuffer(p) }
