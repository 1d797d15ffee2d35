package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/distribution/reference"

	"gantry/internal/problem"
)

// The error codes (spec, "Error Codes") that the client acts on.
const (
	codeDenied          = "DENIED"
	codeUnauthorized    = "UNAUTHORIZED"
	codeManifestUnknown = "MANIFEST_UNKNOWN"
	codeNameUnknown     = "NAME_UNKNOWN"
	codeBlobUnknown     = "BLOB_UNKNOWN"
)

// Error is a registry's refusal.
type Error struct {
	Status  int
	Code    string // "MANIFEST_UNKNOWN"; empty when the registry gave none
	Message string
	URL     string
}

// Error has the words of Docker's own client.
func (e *Error) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("unexpected status from request to %s: %d %s", e.URL, e.Status, http.StatusText(e.Status))
	}
	text := strings.ToLower(strings.ReplaceAll(e.Code, "_", " "))
	if e.Message == "" {
		return text
	}
	return text + ": " + e.Message
}

// Is makes a refusal one of the kinds of problems.
func (e *Error) Is(target error) bool {
	switch {
	case e.Status == http.StatusNotFound:
		return target == problem.NotFound
	case e.Status == http.StatusTooManyRequests || e.Status == http.StatusServiceUnavailable:
		return target == problem.Unavailable
	}
	return false
}

// maxErrorBody bounds what is read of a refusal.
const maxErrorBody = 64 << 10

// refusal reads an error from a response, whose body it closes.
func refusal(resp *http.Response) error {
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)) // what came of it says enough
	e := &Error{Status: resp.StatusCode, URL: resp.Request.URL.Redacted()}
	var doc struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
		Details string `json:"details"` // of token servers
	}
	if json.Unmarshal(body, &doc) == nil {
		if len(doc.Errors) > 0 {
			e.Code, e.Message = doc.Errors[0].Code, doc.Errors[0].Message
		} else if doc.Details != "" {
			e.Code, e.Message = codeUnauthorized, doc.Details
		}
	}
	if e.Status == http.StatusUnauthorized {
		for _, ch := range parseChallenges(resp.Header.Values("WWW-Authenticate")) {
			if ch.scheme == "bearer" && ch.params["error"] == "insufficient_scope" {
				e.Code, e.Message = codeDenied, "requested access to the resource is denied"
			}
		}
	}
	if e.Code == "" && e.Status == http.StatusUnauthorized {
		e.Code, e.Message = codeUnauthorized, "authentication required"
	}
	return e
}

// pullError says a refusal of a pull as Docker does (moby, distribution/errors.go).
func pullError(err error, ref reference.Named) error {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return err
	}
	switch {
	case e.Code == codeDenied:
		return problem.New(problem.NotFound, "pull access denied for %s, repository does not exist or may require 'docker login': %w", reference.FamiliarName(ref), err)
	case e.Code == codeNameUnknown:
		return problem.New(problem.NotFound, "repository %s not found: %w", reference.FamiliarName(ref), err)
	case e.Code == codeManifestUnknown || e.Code == "" && e.Status == http.StatusNotFound:
		return problem.New(problem.NotFound, "manifest for %s not found: %w", reference.FamiliarString(ref), err)
	}
	return err
}
