package ingress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"
)

// ServeHTTP routes one request.
func (r *Router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.handlers.Add(1)
	defer r.handlers.Done()
	t := r.table.Load()
	if t == nil {
		refuse(w, http.StatusServiceUnavailable, "the rules are being read; try again in a moment")
		return
	}
	b := t.match(req.Host, req.URL.Path)
	switch {
	case b == nil:
		refuse(w, http.StatusNotFound, fmt.Sprintf("no Ingress has a rule for host %q and path %q", hostname(req.Host), req.URL.Path))
		return
	case b.problem != "":
		refuse(w, http.StatusServiceUnavailable, fmt.Sprintf("Service %s cannot be used: %s", b.name, b.problem))
		return
	case len(b.endpoints) == 0:
		refuse(w, http.StatusServiceUnavailable, fmt.Sprintf("Service %s has no ready endpoints", b.name))
		return
	}
	proxy := httputil.ReverseProxy{
		Rewrite:    rewrite,
		Transport:  &attempt{transports: r.transport, backend: b},
		BufferPool: &buffers,
		ErrorLog:   quiet,
		ErrorHandler: func(w http.ResponseWriter, req *http.Request, err error) {
			if req.Context().Err() != nil {
				return // the client left; nobody reads an answer
			}
			r.log.Debug("no endpoint answered", "service", b.name, "err", err)
			refuse(w, http.StatusBadGateway, fmt.Sprintf("Service %s did not answer: %v", b.name, err))
		},
	}
	proxy.ServeHTTP(w, req)
}

// refuse answers for ourselves; the header tells it from an endpoint's answer.
func refuse(w http.ResponseWriter, code int, why string) {
	w.Header().Set("Server", "gantry")
	http.Error(w, fmt.Sprintf("%d %s: %s", code, strings.ToLower(http.StatusText(code)), why), code)
}

// quiet drops what ReverseProxy says of single requests that clients broke off.
var quiet = log.New(io.Discard, "", 0)

// rewrite makes the request that goes to an endpoint. The headers by which a
// client could pretend to be a proxy are gone from Out already.
func rewrite(p *httputil.ProxyRequest) {
	p.Out.URL.Scheme = "http"
	p.Out.Host = p.In.Host
	p.SetXForwarded()
	if ip, _, err := net.SplitHostPort(p.In.RemoteAddr); err == nil {
		p.Out.Header.Set("X-Real-Ip", ip)
	}
	if local, ok := p.In.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		p.Out.Header.Set("X-Forwarded-Port", fmt.Sprint(local.Port))
	}
}

// bufferSize is ReverseProxy's own.
const bufferSize = 32 << 10

type bufferPool struct{ pool sync.Pool }

var buffers = bufferPool{sync.Pool{New: func() any { return new([bufferSize]byte) }}}

func (p *bufferPool) Get() []byte  { return p.pool.Get().(*[bufferSize]byte)[:] }
func (p *bufferPool) Put(b []byte) { p.pool.Put((*[bufferSize]byte)(b)) }

// transports keep connections to endpoints: one for HTTP/1.1, one for gRPC,
// which needs HTTP/2 all the way.
type transports struct{ http1, http2 *http.Transport }

// Bounds of connections to endpoints. A dial is on a link nearby; one that takes
// longer than this meets a node that is gone.
const (
	dialTimeout      = 2 * time.Second
	idlePerEndpoint  = 256
	endpointIdleTime = 60 * time.Second
)

func newTransports() transports {
	base := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext,
		MaxIdleConnsPerHost: idlePerEndpoint,
		IdleConnTimeout:     endpointIdleTime,
		DisableCompression:  true, // what the client accepts is its own affair
		Protocols:           new(http.Protocols),
	}
	base.Protocols.SetHTTP1(true)
	grpc := base.Clone()
	grpc.Protocols = new(http.Protocols)
	grpc.Protocols.SetUnencryptedHTTP2(true)
	return transports{base, grpc}
}

func (t transports) close() {
	t.http1.CloseIdleConnections()
	t.http2.CloseIdleConnections()
}

func (t transports) of(req *http.Request) *http.Transport {
	if req.ProtoMajor == 2 && strings.HasPrefix(req.Header.Get("Content-Type"), "application/grpc") {
		return t.http2
	}
	return t.http1
}

// maxTries bounds how many endpoints see one request.
const maxTries = 3

// attempt sends one request to the endpoints of a backend in turn.
type attempt struct {
	transports
	backend *backend
}

// RoundTrip tries endpoints until one takes the request.
func (a *attempt) RoundTrip(req *http.Request) (*http.Response, error) {
	transport := a.of(req)
	body := &heldBody{ReadCloser: req.Body}
	if req.Body != nil {
		req.Body = body
	}
	next := a.backend.next()
	var last error
	for range maxTries {
		endpoint, ok := next()
		if !ok {
			break
		}
		req.URL.Host = endpoint
		response, err := transport.RoundTrip(req)
		if err == nil {
			return response, nil
		}
		last = err
		if !mayRetry(req, body, err) {
			break
		}
	}
	return nil, last
}

// mayRetry decides whether a failed request may be sent to another endpoint.
func mayRetry(req *http.Request, body *heldBody, err error) bool {
	if req.Context().Err() != nil || body.touched() {
		return false
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return true
	}
	if errors.Is(err, context.Canceled) {
		return false
	}
	switch req.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// heldBody is a request's body that a failed try may close without ending it,
// as the server closes it anyway.
type heldBody struct {
	io.ReadCloser
	mu   sync.Mutex
	read bool
}

// Read notes that there is no going back.
func (b *heldBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	b.read = true
	b.mu.Unlock()
	return b.ReadCloser.Read(p)
}

// Close does nothing.
func (b *heldBody) Close() error { return nil }

func (b *heldBody) touched() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.read
}
