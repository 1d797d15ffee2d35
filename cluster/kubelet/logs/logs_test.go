package logs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const stamp = "2026-01-02T03:04:05.000000006Z"

func line(stream, tag, text string) string {
	return stamp + " " + stream + " " + tag + " " + text + "\n"
}

func TestRead(t *testing.T) {
	const late = "2027-01-02T03:04:05.000000006Z stdout F late\n"
	tests := map[string]struct {
		files map[string]string // "" is the newest
		opts  Options
		want  string
	}{
		"both streams in order": {
			files: map[string]string{"": line("stdout", "F", "a") + line("stderr", "F", "b")}, opts: Options{Tail: -1}, want: "a\nb\n"},
		"partial records make one line (cri: tag P)": {
			files: map[string]string{"": line("stdout", "P", "ab") + line("stdout", "F", "cd")}, opts: Options{Tail: -1}, want: "abcd\n"},
		"one time stamp for a line of several records": {
			files: map[string]string{"": line("stdout", "P", "ab") + line("stdout", "F", "cd")}, opts: Options{Tail: -1, Timestamps: true}, want: stamp + " abcd\n"},
		"tail": {
			files: map[string]string{"": line("stdout", "F", "a") + line("stdout", "F", "b") + line("stdout", "F", "c")}, opts: Options{Tail: 2}, want: "b\nc\n"},
		"tail of nothing": {
			files: map[string]string{"": line("stdout", "F", "a")}, opts: Options{Tail: 0}, want: ""},
		"tail of more than there is": {
			files: map[string]string{"": line("stdout", "F", "a")}, opts: Options{Tail: 9}, want: "a\n"},
		"tail reaches into rotated files": {
			files: map[string]string{".2": line("stdout", "F", "a") + line("stdout", "F", "b"), ".1": line("stdout", "F", "c"), "": line("stdout", "F", "d")},
			opts:  Options{Tail: 3}, want: "b\nc\nd\n"},
		"everything, oldest first": {
			files: map[string]string{".10": line("stdout", "F", "z"), ".2": line("stdout", "F", "a"), ".1": line("stdout", "F", "c"), "": line("stdout", "F", "d")},
			opts:  Options{Tail: -1}, want: "z\na\nc\nd\n"},
		"limit cuts in the middle of a line": {
			files: map[string]string{"": line("stdout", "F", "abcdef") + line("stdout", "F", "x")}, opts: Options{Tail: -1, Limit: 4}, want: "abcd"},
		"since": {
			files: map[string]string{"": line("stdout", "F", "early") + late}, opts: Options{Tail: -1, Since: time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)}, want: "late\n"},
		"a torn line and an unfinished one are left out": {
			files: map[string]string{"": "2026-01-0" + "\n" + line("stdout", "F", "a") + stamp + " stdout F unfin"}, opts: Options{Tail: -1}, want: "a\n"},
		"a line longer than every buffer": {
			files: map[string]string{"": line("stdout", "F", strings.Repeat("x", 100_000))}, opts: Options{Tail: 1}, want: strings.Repeat("x", 100_000) + "\n"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "0.log")
			for suffix, content := range tc.files {
				if err := os.WriteFile(path+suffix, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var got bytes.Buffer
			if err := Read(t.Context(), path, tc.opts, nil, &got, &got); err != nil || got.String() != tc.want {
				t.Errorf("got %.200q, %v; want %.200q", got.String(), err, tc.want)
			}
		})
	}
}

func TestReadSplitsStreams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(line("stdout", "F", "out")+line("stderr", "F", "err")), 0o600); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := Read(t.Context(), path, Options{Tail: -1}, nil, nil, &got); err != nil || got.String() != "err\n" {
		t.Errorf("stderr alone: %q, %v", got.String(), err)
	}
}

// signalling tells each write.
type signalling struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	wrote chan struct{}
}

func (s *signalling) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf.Write(p)
	select {
	case s.wrote <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (s *signalling) until(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		s.mu.Lock()
		got := s.buf.String()
		s.mu.Unlock()
		if got == want {
			return
		}
		select {
		case <-s.wrote:
		case <-deadline:
			t.Fatalf("followed %q, want %q", got, want)
		}
	}
}

func TestFollowAcrossRotations(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	write := func(text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	rotate := func() {
		t.Helper()
		for i := 8; i >= 1; i-- {
			os.Rename(fmt.Sprintf("%s.%d", path, i), fmt.Sprintf("%s.%d", path, i+1)) //nolint:errcheck // most do not exist
		}
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
	}
	write(line("stdout", "F", "one"))
	out := &signalling{wrote: make(chan struct{}, 1)}
	ended := make(chan struct{})
	done := make(chan error, 1)
	go func() { done <- Read(t.Context(), path, Options{Follow: true, Tail: -1}, ended, out, out) }()
	out.until(t, "one\n")
	full := line("stdout", "F", "two")
	write(full[:20]) // half a record
	write(full[20:])
	out.until(t, "one\ntwo\n")
	write(line("stdout", "F", "three"))
	rotate()
	write(line("stdout", "F", "four"))
	rotate() // before anybody has seen the one between
	write(line("stdout", "F", "five"))
	out.until(t, "one\ntwo\nthree\nfour\nfive\n")
	write(line("stdout", "F", "last"))
	close(ended)
	if err := <-done; err != nil {
		t.Error(err)
	}
	out.until(t, "one\ntwo\nthree\nfour\nfive\nlast\n")
}

func TestFollowEndsWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Read(ctx, path, Options{Follow: true}, nil, os.Stdout, nil); err != nil {
		t.Error(err)
	}
}

func TestLast(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	var b strings.Builder
	for i := range 200 {
		b.WriteString(line("stderr", "F", fmt.Sprintf("line %03d", i)))
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Last(t.Context(), path, 80, 27)
	if want := "line 197\nline 198\nline 199\n"; got != want || err != nil {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{line("stdout", "F", "text"), line("stderr", "P:x", ""), "", " ", stamp, stamp + " stdout", stamp + " stdin F x"} {
		f.Add([]byte(strings.TrimSuffix(s, "\n")))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Parse(data)
		if err != nil {
			return
		}
		if !bytes.HasPrefix(data, r.Stamp) || !bytes.HasSuffix(data, r.Text) {
			t.Errorf("Parse(%q) = %+v", data, r)
		}
	})
}
