package registry

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"
)

// request is what is asked of a registry, as often as it takes.
type request struct {
	method string
	url    *url.URL
	header http.Header
	body   func() (io.ReadCloser, error) // nil: none; called for each try
	length int64                         // of the body; -1: not known
	scopes []string
	once   bool // the body cannot be given again
}

// Retries. With these, a registry that is away for some seconds is waited for.
const (
	maxTries      = 6
	maxBackoff    = 10 * time.Second
	maxRetryAfter = time.Minute // who asks for more is not waited for
)

// do sends a request and returns the answer, whatever its status. It answers
// challenges, and tries again when the connection breaks or the registry says
// that it cannot answer now.
func (r *repository) do(ctx context.Context, q request) (*http.Response, error) {
	authorized := false
	for try := 1; ; {
		resp, err := r.send(ctx, q)
		if err == nil && resp.StatusCode == http.StatusUnauthorized && !authorized {
			authorized = true
			if err := r.auth.answer(ctx, resp, q.scopes); err != nil {
				return nil, err
			}
			if q.once {
				return nil, errAuthorizedLate
			}
			continue
		}
		wait, again := r.client.retry(try, resp, err)
		if !again || q.once || ctx.Err() != nil {
			return resp, err
		}
		if resp != nil {
			_ = resp.Body.Close() // it said all there is
		}
		r.client.log.Debug("registry is asked again", "registry", r.base.Host, "attempt", try, "dur", wait, "err", err)
		if err := pause(ctx, wait); err != nil {
			return nil, err
		}
		try++
	}
}

// errAuthorizedLate says that a request that cannot be repeated met a challenge.
var errAuthorizedLate = errors.New("the registry asked for credentials in the middle of an upload")

func (r *repository) send(ctx context.Context, q request) (*http.Response, error) {
	var body io.ReadCloser
	if q.body != nil {
		var err error
		if body, err = q.body(); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, q.method, q.url.String(), body)
	if err != nil {
		return nil, err
	}
	for k, v := range q.header {
		req.Header[k] = v
	}
	if q.body != nil {
		req.ContentLength = q.length
		if q.length == 0 {
			req.Body = http.NoBody
		}
	}
	req.Header.Set("User-Agent", r.client.cfg.UserAgent)
	if sameHost(q.url, r.base) {
		r.auth.apply(req, q.scopes)
	}
	resp, err := r.http.Do(req)
	if err == nil {
		r.warned.note(r.base.Host, resp.Header)
	}
	return resp, err
}

// sameHost tells whether credentials for one address are for the other.
func sameHost(a, b *url.URL) bool { return a.Scheme == b.Scheme && a.Host == b.Host }

// retry decides whether a request is to be tried again, and when.
func (c *Client) retry(try int, resp *http.Response, err error) (time.Duration, bool) {
	if try >= maxTries {
		return 0, false
	}
	wait := min(c.backoff<<(try-1), maxBackoff)
	wait = wait/2 + rand.N(wait/2+1) // so that many clients do not come back at once
	if err != nil {
		return wait, temporary(err)
	}
	switch resp.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
	default:
		return 0, false
	}
	if asked, ok := retryAfter(resp.Header.Get("Retry-After"), time.Now()); ok {
		return max(asked, wait), asked <= maxRetryAfter
	}
	return wait, true
}

// retryAfter reads the header of that name (RFC 9110, section 10.2.3).
func retryAfter(text string, now time.Time) (time.Duration, bool) {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second, true
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now)), true
	}
	return 0, false
}

// temporary tells errors of a connection that may go well the next time from
// those that will not: nobody listens, no such host, a bad certificate.
func temporary(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, errStalled) || errors.Is(err, net.ErrClosed) {
		return true
	}
	if dns := (*net.DNSError)(nil); errors.As(err, &dns) {
		return false // the resolver has tried long enough
	}
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// pause waits, or ends with ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
