package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"gantry/internal/problem"
)

func TestASecondServerOnTheDataDirectoryIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	first, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lock(dir)
	if want := fmt.Sprintf("another gantryd (pid %d) uses %s", os.Getpid(), dir); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	if !errors.Is(err, problem.Conflict) || problem.Try(err) == "" {
		t.Errorf("%v is no conflict with advice", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := lock(dir)
	if err != nil {
		t.Fatalf("after the first is gone: %v", err)
	}
	_ = again.Close()
}

func TestATakenIngressPortIsReplacedAndTold(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	l, note, err := listenHTTP(taken.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, was, _ := net.SplitHostPort(taken.Addr().String())
	_, is, _ := net.SplitHostPort(l.Addr().String())
	for _, part := range []string{"port " + was, fmt.Sprintf("pid %d", os.Getpid()), "port " + is} {
		if !strings.Contains(note, part) {
			t.Errorf("note %q does not name %q", note, part)
		}
	}
	if _, _, err := listenHTTP("no.such.host.invalid:80"); problem.Try(err) == "" {
		t.Errorf("a bad address: %v comes without advice", err)
	}
}

func TestASocketLeftByAKilledServerIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(path); !errors.Is(err, problem.Conflict) {
		t.Errorf("while it answers: %v, want Conflict", err)
	}
	first.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := listenUnix(path)
	if err != nil {
		t.Fatalf("after it is dead: %v", err)
	}
	time.AfterFunc(50*time.Millisecond, func() { second.Close() }) // as a child of the dead one does
	third, err := listenUnix(path)
	if err != nil {
		t.Fatalf("while its child executes its program: %v", err)
	}
	defer third.Close()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v, want 0660", info.Mode(), err)
	}
}

func TestAFailingPartIsNamed(t *testing.T) {
	for rule, run := range map[string]func(context.Context) error{
		"a part that fails":             func(context.Context) error { return errors.New("broken") },
		"a part that returns too early": func(context.Context) error { return nil },
	} {
		g, ctx := errgroup.WithContext(context.Background())
		part(ctx, g, "proxy", run)
		if err := g.Wait(); err == nil || !strings.HasPrefix(err.Error(), "proxy: ") {
			t.Errorf("%s: %v", rule, err)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	g, ctx := errgroup.WithContext(ctx)
	part(ctx, g, "proxy", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	stop()
	if err := g.Wait(); err != nil {
		t.Errorf("a part that ends when it is asked to: %v", err)
	}
}

func TestPurgeRefusesDirectoriesThatAreNotAServers(t *testing.T) {
	for dir, want := range map[string]bool{"/": false, "/var": false, "/home/": false, "/var/lib/gantry": true, "/run/gantry": true, "/data/": false} {
		if err := removable(dir); (err == nil) != want {
			t.Errorf("removable(%s) = %v", dir, err)
		}
	}
}

func TestTheCommandsOfTheDaemon(t *testing.T) {
	var names []string
	for _, c := range command().Commands() {
		names = append(names, c.Name())
	}
	if got := strings.Join(names, " "); got != "check diagnose purge server" {
		t.Errorf("commands are %s", got)
	}
}
