// Package problem holds the closed set of error kinds that callers branch on,
// and the error that tells a person what to do next.
//
// A package returns an error of one of these kinds by wrapping it:
//
//	problem.New(problem.NotFound, "container %s", id)
//
// and its callers ask with errors.Is(err, problem.NotFound). Each HTTP surface
// maps the set to its own status codes in one table.
package problem

import (
	"errors"
	"fmt"
)

// Kind is one of the ways in which an operation on an object can fail.
// It is an error itself, so that errors.Is finds it in a chain.
type Kind string

// The kinds. An error of none of them is an internal failure.
const (
	NotFound    Kind = "not found"
	Exists      Kind = "already exists"
	Conflict    Kind = "conflict"
	Invalid     Kind = "invalid"
	Denied      Kind = "denied"
	Unavailable Kind = "unavailable"
	Unsupported Kind = "not supported"
	NoSpace     Kind = "no space left"
)

// Error returns the kind's name.
func (k Kind) Error() string { return string(k) }

// New returns an error of kind k whose text is the formatted message alone.
// As with fmt.Errorf, %w wraps a cause.
func New(k Kind, format string, args ...any) error {
	return &kinded{kind: k, err: fmt.Errorf(format, args...)}
}

type kinded struct {
	kind Kind
	err  error
}

func (e *kinded) Error() string   { return e.err.Error() }
func (e *kinded) Unwrap() []error { return []error{e.kind, e.err} }

// UserError adds to an error the next step that a person can take.
// Only commands print Try.
type UserError struct {
	Op     string // the verb: "push", "start"
	Object string // what it was done to: "web", "port 80"
	Err    error
	Try    string // one imperative sentence; empty when there is nothing to advise
}

// Error returns the operation, the object and the cause, without the advice.
func (e *UserError) Error() string {
	if e.Object == "" {
		return fmt.Sprintf("%s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("%s %s: %v", e.Op, e.Object, e.Err)
}

// Unwrap returns the cause.
func (e *UserError) Unwrap() error { return e.Err }

// Try returns the advice of the first UserError in err's chain, or "".
func Try(err error) string {
	if u, ok := errors.AsType[*UserError](err); ok {
		return u.Try
	}
	return ""
}
