package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"gantry/internal/problem"
)

// The codes of the specification ("Error Codes").
const (
	codeBlobUnknown         = "BLOB_UNKNOWN"
	codeUploadInvalid       = "BLOB_UPLOAD_INVALID"
	codeUploadUnknown       = "BLOB_UPLOAD_UNKNOWN"
	codeDigestInvalid       = "DIGEST_INVALID"
	codeManifestBlobUnknown = "MANIFEST_BLOB_UNKNOWN"
	codeManifestInvalid     = "MANIFEST_INVALID"
	codeManifestUnknown     = "MANIFEST_UNKNOWN"
	codeNameInvalid         = "NAME_INVALID"
	codeNameUnknown         = "NAME_UNKNOWN"
	codeSizeInvalid         = "SIZE_INVALID"
	codeUnauthorized        = "UNAUTHORIZED"
	codeDenied              = "DENIED"
	codeUnsupported         = "UNSUPPORTED"
)

// refusal is an error of a request, as the client sees it.
type refusal struct {
	status  int
	code    string
	message string
	detail  string
}

func (e *refusal) Error() string { return e.message }

func unknownManifest(what string) error {
	return &refusal{status: http.StatusNotFound, code: codeManifestUnknown, message: "manifest unknown", detail: what}
}

func unknownBlob(what string) error {
	return &refusal{status: http.StatusNotFound, code: codeBlobUnknown, message: "blob unknown to registry", detail: what}
}

func unknownName(what string) error {
	return &refusal{status: http.StatusNotFound, code: codeNameUnknown, message: "repository name not known to registry", detail: what}
}

func invalidDigest(what string) error {
	return &refusal{status: http.StatusBadRequest, code: codeDigestInvalid, message: "provided digest did not match uploaded content", detail: what}
}

func invalidManifest(why string) error {
	return &refusal{status: http.StatusBadRequest, code: codeManifestInvalid, message: "manifest invalid", detail: why}
}

// fail answers with an error (spec, "Error Codes").
func (c *call) fail(err error) {
	var e *refusal
	if !errors.As(err, &e) {
		e = &refusal{status: http.StatusInternalServerError, code: "UNKNOWN", message: "unknown error"}
		switch {
		case c.r.Context().Err() != nil:
			return // nobody reads it
		case errors.Is(err, problem.NoSpace):
			e.status, e.message = http.StatusInsufficientStorage, "no space left"
		}
		c.log.Error("request failed", "method", c.r.Method, "path", c.r.URL.Path, "err", err)
	}
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  string `json:"detail,omitempty"`
	}
	c.w.Header().Del("Content-Length") // of the answer that it was to be
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(e.status)
	if c.r.Method != http.MethodHead {
		// A client that has gone needs no answer.
		_ = json.NewEncoder(c.w).Encode(map[string][]item{"errors": {{e.code, e.message, e.detail}}})
	}
}

// json answers with a document.
func (c *call) json(status int, v any) error {
	if c.w.Header().Get("Content-Type") == "" {
		c.w.Header().Set("Content-Type", "application/json")
	}
	c.w.WriteHeader(status)
	if c.r.Method != http.MethodHead {
		_ = json.NewEncoder(c.w).Encode(v) // a client that has gone needs no answer
	}
	return nil
}

// maxWarnings bounds the warnings of one answer, in bytes (spec, "Warnings").
const maxWarnings = 4096

// warn adds a warning to an answer. What would be too much is left out.
func warn(h http.Header, text string) {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
	text = `299 - "` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
	size := len(text)
	for _, before := range h.Values("Warning") {
		size += len(before)
	}
	if size <= maxWarnings {
		h.Add("Warning", text)
	}
}
