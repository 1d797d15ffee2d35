package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/problem"
)

// errStalled says that a body gave nothing for too long.
var errStalled = errors.New("the registry sends nothing")

// blobReader reads a blob. When the connection breaks it goes on where it was;
// when a mirror fails it goes on elsewhere.
type blobReader struct {
	ctx    context.Context //nolint:containedctx // as long as one download
	from   []*repository   // in order of preference
	desc   ocispec.Descriptor
	n      int64 // bytes given
	body   io.ReadCloser
	cancel context.CancelCauseFunc // of the request that body belongs to
	failed int                     // times in a row without a byte
}

func newBlobReader(ctx context.Context, from []*repository, d ocispec.Descriptor) *blobReader {
	return &blobReader{ctx: ctx, from: from, desc: d}
}

// Read gives io.EOF after as many bytes as the descriptor says, and an error
// when there are more.
func (b *blobReader) Read(p []byte) (int, error) {
	for {
		if err := context.Cause(b.ctx); err != nil {
			return 0, err
		}
		if b.body == nil {
			if err := b.open(); err != nil {
				return 0, err
			}
		}
		n, err := b.read(p)
		b.n += int64(n)
		if n > 0 {
			b.failed = 0
		}
		if b.n > b.desc.Size {
			return 0, problem.New(problem.Invalid, "blob %s is larger than the %d bytes that its descriptor says", b.desc.Digest, b.desc.Size)
		}
		if err == nil || n > 0 {
			return n, nil // an error comes again
		}
		if errors.Is(err, io.EOF) {
			if b.n == b.desc.Size {
				return 0, io.EOF
			}
			err = io.ErrUnexpectedEOF
		}
		if err := b.broken(err); err != nil {
			return 0, err
		}
	}
}

// read reads from the body, and gives it up when nothing comes.
func (b *blobReader) read(p []byte) (int, error) {
	stalled := time.AfterFunc(b.from[0].client.stall, func() { b.cancel(errStalled) })
	defer stalled.Stop()
	return b.body.Read(p)
}

// broken closes what has failed, and waits before the next try.
func (b *blobReader) broken(err error) error {
	b.Close()
	if cause := context.Cause(b.ctx); cause != nil {
		return cause
	}
	b.failed++
	wait, again := b.from[0].client.retry(b.failed, nil, io.ErrUnexpectedEOF)
	if !again {
		if len(b.from) == 1 {
			return fmt.Errorf("blob %s: %w", b.desc.Digest, err)
		}
		b.from, b.failed = b.from[1:], 0
	}
	b.from[0].client.log.Debug("download is resumed", "digest", b.desc.Digest, "bytes", b.n, "attempt", b.failed, "err", err)
	return pause(b.ctx, wait)
}

// open asks for what is missing.
func (b *blobReader) open() error {
	for {
		err := b.request()
		if err == nil || context.Cause(b.ctx) != nil || len(b.from) == 1 {
			return err
		}
		b.from[0].client.log.Debug("mirror does not have a blob", "digest", b.desc.Digest, "registry", b.from[0].base.Host, "err", err)
		b.from = b.from[1:]
	}
}

func (b *blobReader) request() error {
	r := b.from[0]
	header := http.Header{}
	if b.n > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", b.n))
	}
	ctx, cancel := context.WithCancelCause(b.ctx)
	resp, err := r.do(ctx, request{method: http.MethodGet, url: r.url("blobs", b.desc.Digest.String()), header: header, scopes: []string{r.scope("pull")}})
	if err != nil {
		cancel(err)
		return err
	}
	b.body, b.cancel = resp.Body, cancel
	switch resp.StatusCode {
	case http.StatusOK:
		// A registry without ranges sends all of it again.
		_, _ = io.CopyN(io.Discard, resp.Body, b.n) // if it breaks, so does the next read
		return nil
	case http.StatusPartialContent:
		if start, ok := rangeStart(resp.Header.Get("Content-Range")); ok && start == b.n {
			return nil
		}
		b.Close()
		return problem.New(problem.Invalid, "blob %s: the registry sent range %q instead of from %d", b.desc.Digest, resp.Header.Get("Content-Range"), b.n)
	}
	err = refusal(resp)
	b.Close()
	return err
}

// Close ends the request.
func (b *blobReader) Close() {
	if b.body != nil {
		b.cancel(nil)
		_ = b.body.Close() // nothing was promised about it
		b.body = nil
	}
}

// rangeStart reads where "bytes 5-9/10" starts (RFC 9110, section 14.4).
func rangeStart(s string) (int64, bool) {
	s, ok := strings.CutPrefix(s, "bytes ")
	if !ok {
		return 0, false
	}
	first, rest, ok := strings.Cut(strings.TrimSpace(s), "-")
	if !ok || !strings.Contains(rest, "/") {
		return 0, false
	}
	n, err := strconv.ParseInt(first, 10, 64)
	return n, err == nil && n >= 0
}

// fetch reads a small blob, verified.
func fetch(ctx context.Context, from []*repository, d ocispec.Descriptor, limit int64) ([]byte, error) {
	if d.Size < 0 || d.Size > limit {
		return nil, problem.New(problem.Invalid, "blob %s of %d bytes is larger than %d", d.Digest, d.Size, limit)
	}
	b := newBlobReader(ctx, from, d)
	defer b.Close()
	data, err := io.ReadAll(b)
	if err != nil {
		return nil, err
	}
	if got := d.Digest.Algorithm().FromBytes(data); got != d.Digest {
		return nil, problem.New(problem.Invalid, "blob %s has digest %s", d.Digest, got)
	}
	return data, nil
}

// checkDigest refuses what is no digest that can be verified here.
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return problem.New(problem.Invalid, "digest %q: %w", d, err)
	}
	return nil
}
