package server

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"

	"gantry/internal/problem"
)

// getBlob answers GET and HEAD of a blob, whole or a range (spec, "Pulling blobs").
func (c *call) getBlob() error {
	d, err := digestOf(c.what)
	if err != nil {
		return err
	}
	body, err := c.openBlob(d)
	if errors.Is(err, problem.NotFound) {
		if done, err := c.throughBlob(d); done {
			return err
		}
		return unknownBlob(c.what)
	}
	if err != nil {
		return err
	}
	defer body.Close()
	c.blobHeader(d)
	http.ServeContent(c.w, c.r, "", time.Time{}, body)
	return nil
}

func (c *call) blobHeader(d digest.Digest) {
	h := c.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Etag", `"`+d.String()+`"`)
	h.Set("Cache-Control", "max-age=31536000")
}

// content is a blob being read.
type content interface {
	io.ReadSeeker
	io.Closer
}

// memory is content in memory.
type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// openBlob opens what the repository has, or the engine has for it.
func (c *call) openBlob(d digest.Digest) (content, error) {
	if !c.store.hasBlob(c.repo, d) {
		return c.engineBlob(d)
	}
	return c.cfg.Images.OpenBlob(c.r.Context(), d)
}

// deleteBlob removes a blob from the repository (spec, "Deleting Blobs").
func (c *call) deleteBlob() error {
	d, err := digestOf(c.what)
	if err != nil {
		return err
	}
	if !c.store.hasBlob(c.repo, d) {
		return unknownBlob(c.what)
	}
	err = c.store.removeBlob(c.r.Context(), c.repo, d)
	if errors.Is(err, problem.Conflict) {
		return &refusal{status: http.StatusMethodNotAllowed, code: codeUnsupported, message: "a manifest of the repository names the blob", detail: c.what}
	}
	if err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusAccepted)
	return nil
}
