package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"gantry/engine/image"
	"gantry/internal/problem"
)

// upload is a blob that is on its way. It belongs to one request at a time.
type upload struct {
	id   string
	repo string
	busy chan struct{} // holds a token while nobody has it
	blob *image.BlobWriter
	last time.Time // guarded by uploads.mu
}

// uploads are all that are not finished.
type uploads struct {
	images *image.Store

	mu   sync.Mutex
	byID map[string]*upload
}

func newUploads(images *image.Store) *uploads {
	return &uploads{images: images, byID: map[string]*upload{}}
}

// begin opens an upload, and drops those that have rested too long.
func (u *uploads) begin(repo string) (*upload, error) {
	if err := u.expire(time.Now().Add(-uploadLife)); err != nil {
		return nil, err
	}
	blob, err := u.images.NewBlob(digest.SHA256)
	if err != nil {
		return nil, err
	}
	s := &upload{id: newUUID(), repo: repo, blob: blob, busy: make(chan struct{}, 1), last: time.Now()}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.byID[s.id] = s
	return s, nil
}

// newUUID returns a random UUID (RFC 9562, version 4), as the specification wants
// the names of uploads to be.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// take gives an upload to a request, which puts it back or ends it.
func (u *uploads) take(ctx context.Context, repo, id string) (*upload, error) {
	u.mu.Lock()
	s := u.byID[id]
	u.mu.Unlock()
	unknown := &refusal{status: http.StatusNotFound, code: codeUploadUnknown, message: "blob upload unknown to registry", detail: id}
	if s == nil || s.repo != repo {
		return nil, unknown
	}
	select {
	case <-s.busy:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.byID[id] != s {
		s.busy <- struct{}{} // it was ended meanwhile; let others see that
		return nil, unknown
	}
	return s, nil
}

func (u *uploads) put(s *upload) {
	u.mu.Lock()
	s.last = time.Now()
	u.mu.Unlock()
	s.busy <- struct{}{}
}

// end forgets an upload that the caller has, and drops what of it was not
// committed.
func (u *uploads) end(s *upload) error {
	u.mu.Lock()
	delete(u.byID, s.id)
	u.mu.Unlock()
	err := s.blob.Close()
	s.busy <- struct{}{}
	return err
}

// expire ends the uploads that nobody has touched since before.
func (u *uploads) expire(before time.Time) error {
	var old []*upload
	u.mu.Lock()
	for _, s := range u.byID {
		if s.last.After(before) {
			continue
		}
		select {
		case <-s.busy:
			old = append(old, s)
		default: // a request has it
		}
	}
	u.mu.Unlock()
	var errs []error
	for _, s := range old {
		errs = append(errs, u.end(s))
	}
	return errors.Join(errs...)
}

func (u *uploads) closeAll() error { return u.expire(time.Now().Add(time.Hour)) }

// beginUpload opens an upload; or takes a whole blob; or takes a blob from
// another repository (spec, "Pushing blobs", "Mounting a blob").
func (c *call) beginUpload() error {
	if err := c.refuseThrough(); err != nil {
		return err
	}
	q := c.r.URL.Query()
	if text := q.Get("mount"); text != "" {
		d, err := digestOf(text)
		if err != nil {
			return err
		}
		if c.mount(d, q.Get("from")) {
			return c.created(d)
		}
	}
	s, err := c.uploads.begin(c.repo)
	if err != nil {
		return err
	}
	if text := q.Get("digest"); text != "" {
		return c.finish(s, text)
	}
	c.place(s)
	c.w.WriteHeader(http.StatusAccepted)
	c.uploads.put(s)
	return nil
}

// mount makes a blob of another repository this one's as well, where the user
// may read it there. Without from, the blob may be any that is served.
func (c *call) mount(d digest.Digest, from string) bool {
	if !validName(from) || !c.may(from, pull) {
		return false
	}
	if !c.store.hasBlob(from, d) {
		there := *c
		there.repo = from
		if there.adopt(d) != nil {
			return false
		}
	}
	return c.store.addBlobs(c.repo, d) == nil
}

// place says where an upload goes on and how much of it is here.
func (c *call) place(s *upload) {
	h := c.w.Header()
	h.Set("Location", "/v2/"+c.repo+"/blobs/uploads/"+s.id)
	h.Set("Docker-Upload-Uuid", s.id)
	h.Set("Range", fmt.Sprintf("0-%d", max(0, s.blob.Size()-1)))
	h.Set("Content-Length", "0")
}

func (c *call) created(d digest.Digest) error {
	c.w.Header().Set("Location", "/v2/"+c.repo+"/blobs/"+d.String())
	c.w.Header().Set("Docker-Content-Digest", d.String())
	c.w.Header().Set("Content-Length", "0")
	c.w.WriteHeader(http.StatusCreated)
	return nil
}

// showUpload answers how much is here (spec, "Pushing a blob in chunks").
func (c *call) showUpload() error {
	s, err := c.uploads.take(c.r.Context(), c.repo, c.what)
	if err != nil {
		return err
	}
	c.place(s)
	c.w.Header().Del("Content-Length") // a 204 has none
	c.w.WriteHeader(http.StatusNoContent)
	c.uploads.put(s)
	return nil
}

// continueUpload takes a chunk, which must begin where the last one ended.
func (c *call) continueUpload() error {
	s, err := c.uploads.take(c.r.Context(), c.repo, c.what)
	if err != nil {
		return err
	}
	defer c.uploads.put(s)
	if err := c.chunk(s); err != nil {
		return err
	}
	c.place(s)
	c.w.WriteHeader(http.StatusAccepted)
	return nil
}

// chunk appends the body. What came of one that broke off stays: the client asks
// how much that is.
func (c *call) chunk(s *upload) error {
	want := int64(-1)
	if text := c.r.Header.Get("Content-Range"); text != "" {
		first, last, ok := parseRange(text)
		if !ok {
			return &refusal{status: http.StatusBadRequest, code: codeUploadInvalid, message: "invalid Content-Range", detail: text}
		}
		if first != s.blob.Size() || c.r.ContentLength >= 0 && last-first+1 != c.r.ContentLength {
			c.place(s)
			return &refusal{status: http.StatusRequestedRangeNotSatisfiable, code: codeUploadInvalid, message: "chunk out of order", detail: text}
		}
		want = last - first + 1
	}
	n, err := io.Copy(struct{ io.Writer }{s.blob}, c.r.Body)
	if err != nil {
		if c.r.Context().Err() != nil || errors.Is(err, io.ErrUnexpectedEOF) {
			return &refusal{status: http.StatusBadRequest, code: codeUploadInvalid, message: "the body ends early"}
		}
		return err
	}
	if want >= 0 && n != want {
		return &refusal{status: http.StatusBadRequest, code: codeSizeInvalid, message: "the chunk has another length than its range"}
	}
	return nil
}

// parseRange reads "5-9" or "bytes 5-9/10" as a chunk's place.
func parseRange(s string) (first, last int64, ok bool) {
	s = strings.TrimPrefix(s, "bytes ")
	s, _, _ = strings.Cut(s, "/")
	a, b, ok := strings.Cut(s, "-")
	first, err1 := strconv.ParseInt(a, 10, 64)
	last, err2 := strconv.ParseInt(b, 10, 64)
	return first, last, ok && err1 == nil && err2 == nil && first >= 0 && last >= first && last < 1<<62
}

// endUpload takes the last chunk, if there is one, and makes the blob.
func (c *call) endUpload() error {
	s, err := c.uploads.take(c.r.Context(), c.repo, c.what)
	if err != nil {
		return err
	}
	return c.finish(s, c.r.URL.Query().Get("digest"))
}

// finish makes a blob of an upload and the request's body.
func (c *call) finish(s *upload, text string) error {
	d, err := digestOf(text)
	if err != nil {
		c.uploads.put(s)
		return err
	}
	if err := c.chunk(s); err != nil {
		c.uploads.put(s)
		return err
	}
	err = s.blob.Rehash(d.Algorithm())
	if err == nil {
		err = s.blob.Commit(c.r.Context(), lease, d, "", image.Durable)
	}
	if err == nil {
		err = c.store.addBlobs(c.repo, d)
	}
	err = errors.Join(err, c.uploads.end(s))
	if errors.Is(err, problem.Invalid) {
		return invalidDigest(text)
	}
	if err != nil {
		return err
	}
	return c.created(d)
}

// cancelUpload ends an upload.
func (c *call) cancelUpload() error {
	s, err := c.uploads.take(c.r.Context(), c.repo, c.what)
	if err != nil {
		return err
	}
	if err := c.uploads.end(s); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// nextPage is a Link header (spec, "Listing Tags").
func nextPage(u *url.URL, n int, last string) string {
	q := u.Query()
	q.Set("n", strconv.Itoa(n))
	q.Set("last", last)
	return fmt.Sprintf("<%s?%s>; rel=\"next\"", u.Path, q.Encode())
}
