package problem

import (
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestKindIsFoundThroughWrapping(t *testing.T) {
	err := fmt.Errorf("inspect: %w", New(NotFound, "container %s: %w", "web", io.EOF))
	if !errors.Is(err, NotFound) || !errors.Is(err, io.EOF) {
		t.Errorf("kind or cause lost in %v", err)
	}
	if errors.Is(err, Conflict) {
		t.Errorf("%v is a conflict", err)
	}
	if got, want := err.Error(), "inspect: container web: EOF"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
}

func TestTryFindsTheAdvice(t *testing.T) {
	err := fmt.Errorf("up: %w", &UserError{Op: "listen", Object: ":80", Err: io.EOF, Try: "pass --http-listen"})
	if got := Try(err); got != "pass --http-listen" {
		t.Errorf("Try = %q", got)
	}
	if got := Try(io.EOF); got != "" {
		t.Errorf("Try of a plain error = %q", got)
	}
}
