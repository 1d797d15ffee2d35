package dockerapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/moby/moby/api/types/common"

	"gantry/engine"
	"gantry/internal/problem"
)

// statuses gives each kind of error its status, as the reference does. An error
// of no kind is an internal one.
var statuses = []struct {
	kind   error
	status int
}{
	{engine.ErrNotModified, http.StatusNotModified},
	{problem.NotFound, http.StatusNotFound},
	{problem.Exists, http.StatusConflict},
	{problem.Conflict, http.StatusConflict},
	{problem.Invalid, http.StatusBadRequest},
	{problem.Denied, http.StatusForbidden},
	{problem.Unavailable, http.StatusServiceUnavailable},
	{problem.Unsupported, http.StatusNotImplemented},
	{problem.NoSpace, http.StatusInternalServerError},
	{context.Canceled, 499}, // the client has gone; nobody reads it
}

// statusError is an error whose status no kind gives.
type statusError struct {
	status int
	text   string
}

func (e statusError) Error() string { return e.text }

func statusOf(err error) int {
	if e, ok := errors.AsType[statusError](err); ok {
		return e.status
	}
	for _, row := range statuses {
		if errors.Is(err, row.kind) {
			return row.status
		}
	}
	return http.StatusInternalServerError
}

// fail answers with an error.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(err)
	if status == http.StatusInternalServerError {
		h.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	if status == http.StatusNotModified {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A client that has gone needs no answer.
	_ = json.NewEncoder(w).Encode(common.ErrorResponse{Message: err.Error()})
}

// failCall answers with an error, unless an answer has been begun: then the
// client sees its end.
func (h *Handler) failCall(c *call, err error) {
	if !c.begun {
		h.fail(c.w, c.r, err)
		return
	}
	if c.r.Context().Err() == nil && !errors.Is(err, errClientGone) {
		h.log.Warn("answer broken off", "method", c.r.Method, "path", c.r.URL.Path, "err", err)
	}
}

// errClientGone marks that an answer could not be written.
var errClientGone = errors.New("the client has gone")

// refuse serves a route that Gantry does not have.
func refuse(what string) func(*call) error {
	return func(*call) error {
		return problem.New(problem.Unsupported, "%s is not supported by this version of Gantry", what)
	}
}

func notInSwarm(*call) error {
	return problem.New(problem.Unavailable, "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.")
}

func notInSwarmAtAll(*call) error {
	return problem.New(problem.Unavailable, "This node is not part of a swarm")
}

// experimental answers for what the reference has only in its experimental mode.
func experimental(*call) error {
	return statusError{http.StatusNotImplemented, "This experimental feature is disabled by default. Start the Docker daemon in experimental mode in order to enable it."}
}

// noPlugin answers for a plugin that is named: there are none.
func noPlugin(c *call) error {
	return problem.New(problem.NotFound, "plugin %q not found", c.vars[0])
}
