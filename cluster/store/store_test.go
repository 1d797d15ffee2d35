package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"gantry/internal/problem"
)

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRecordsLiveThroughTheirChanges(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	begin := time.Now()
	s := open(t, dir)
	t.Logf("ready after %v", time.Since(begin))

	rev, err := s.Create(ctx, "/registry/x/a", []byte("1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(ctx, "/registry/x/a", []byte("1"), 0); !errors.Is(err, problem.Exists) {
		t.Errorf("second create: %v, want Exists", err)
	}
	watch := s.Watch(ctx, Prefix, rev)
	if b := <-watch; len(b.Changes) != 1 || b.Changes[0].Revision != rev {
		t.Errorf("watch from the creation delivers %+v", b)
	}
	rev2, _, err := s.Update(ctx, "/registry/x/a", []byte("2"), rev, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, have, err := s.Update(ctx, "/registry/x/a", []byte("3"), rev, 0)
	if !errors.Is(err, problem.Conflict) || have.Revision != rev2 || string(have.Value) != "2" {
		t.Errorf("update of an old revision: %v, %+v; want Conflict and what is there", err, have)
	}
	if b := <-watch; len(b.Changes) != 1 || string(b.Changes[0].Value) != "2" || b.Revision != rev2 {
		t.Errorf("watch delivers %+v, want the update", b)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = open(t, dir)
	defer s.Close()
	got, err := s.Get(ctx, "/registry/x/a")
	if err != nil || string(got.Value) != "2" || got.Revision != rev2 {
		t.Errorf("after a restart: %+v, %v", got, err)
	}
	if _, _, err := s.Delete(ctx, "/registry/x/a", rev2); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(ctx, "/registry/x/a"); !errors.Is(err, problem.NotFound) {
		t.Errorf("after the removal: %v, want NotFound", err)
	}
}

func TestListPagesInKeyOrderAtOneRevision(t *testing.T) {
	ctx := t.Context()
	s := open(t, t.TempDir())
	defer s.Close()
	for i := range 5 {
		if _, err := s.Create(ctx, fmt.Sprintf("/registry/x/%d", i), []byte("v"), 0); err != nil {
			t.Fatal(err)
		}
	}
	page, err := s.List(ctx, "/registry/x/", ListOptions{Limit: 2})
	if err != nil || len(page.Records) != 2 || page.Remaining != 3 {
		t.Fatalf("first page: %+v, %v", page, err)
	}
	if _, err := s.Create(ctx, "/registry/x/9", nil, 0); err != nil {
		t.Fatal(err)
	}
	rest, err := s.List(ctx, "/registry/x/", ListOptions{Revision: page.Revision, After: page.Records[1].Key})
	if err != nil || len(rest.Records) != 3 || rest.Remaining != 0 {
		t.Fatalf("second page: %+v, %v; want the three of that revision", rest, err)
	}
	if err := s.Compact(ctx, page.Revision+1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.List(ctx, "/registry/x/", ListOptions{Revision: page.Revision}); !errors.Is(err, ErrCompacted) {
		t.Errorf("list of a compacted revision: %v", err)
	}
	b := <-s.Watch(ctx, Prefix, 1)
	if !errors.Is(b.Err, ErrCompacted) {
		t.Errorf("watch from a compacted revision: %+v", b)
	}
}

func BenchmarkCreate(b *testing.B) {
	s := open(b, b.TempDir())
	defer s.Close()
	value := make([]byte, 1500)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			key := fmt.Sprintf("/registry/x/%d", time.Now().UnixNano())
			if _, err := s.Create(context.Background(), key, value, 0); err != nil && !errors.Is(err, problem.Exists) {
				b.Fatal(err)
			}
		}
	})
}
