package engine

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// said is a log that tells when something was logged.
type said chan struct{}

func (s said) Write(p []byte) (int, error) {
	s <- struct{}{}
	return len(p), nil
}

// TestCompressionThatFailsIsTriedAgain fails by a directory that is not empty where
// a temporary file is to be.
func TestCompressionThatFailsIsTriedAgain(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	if err := os.WriteFile(path+".1", []byte(strings.Repeat("x", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	obstacle := filepath.Join(dir, ".packing-log")
	if err := os.MkdirAll(filepath.Join(obstacle, "file"), 0o700); err != nil {
		t.Fatal(err)
	}
	warned := make(said, 1)
	c, err := newCompressor(slog.New(slog.NewTextHandler(warned, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.run(ctx, []string{path})
	}()
	defer func() { <-done }()
	defer cancel()
	<-warned
	if err := os.RemoveAll(obstacle); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(time.Minute)
	for {
		if _, err := os.Stat(path + ".1.gz"); err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("it was not tried again")
		}
	}
}
