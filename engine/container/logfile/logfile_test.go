package logfile

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	const stamp = "2026-01-02T03:04:05.0000006Z"
	cases := map[string]struct {
		format, line string
		want         Entry
		ok           bool
	}{
		"json-file: a whole line":           {"json-file", `{"log":"a\n","stream":"stdout","time":"` + stamp + `"}` + "\n", Entry{at, "stdout", []byte("a\n"), false, nil, Position{}}, true},
		"json-file: a piece has no newline": {"json-file", `{"log":"a","stream":"stderr","time":"` + stamp + `"}` + "\n", Entry{at, "stderr", []byte("a"), true, nil, Position{}}, true},
		"json-file: escapes":                {"json-file", `{"log":"\u001b[0m\"\\\t\ufffd\n","stream":"stdout","time":"` + stamp + `"}`, Entry{at, "stdout", []byte("\x1b[0m\"\\\t\ufffd\n"), false, nil, Position{}}, true},
		"json-file: torn":                   {"json-file", `{"log":"a\n","stre`, Entry{}, false},
		"json-file: no time":                {"json-file", `{"log":"a\n","stream":"stdout"}`, Entry{}, false},
		"json-file: another stream":         {"json-file", `{"log":"a\n","stream":"stdin","time":"` + stamp + `"}`, Entry{}, false},
		"json-file: empty line":             {"json-file", "\n", Entry{}, false},
		"cri: a whole line":                 {"cri", stamp + " stdout F a b\n", Entry{at, "stdout", []byte("a b\n"), false, nil, Position{}}, true},
		"cri: an empty line":                {"cri", stamp + " stdout F \n", Entry{at, "stdout", []byte("\n"), false, nil, Position{}}, true},
		"cri: a piece":                      {"cri", stamp + " stderr P a\n", Entry{at, "stderr", []byte("a"), true, nil, Position{}}, true},
		"cri: more tags":                    {"cri", stamp + " stderr F:x:y a\n", Entry{at, "stderr", []byte("a\n"), false, nil, Position{}}, true},
		"cri: torn":                         {"cri", stamp + " stdo", Entry{}, false},
		"cri: an unknown tag":               {"cri", stamp + " stdout X a\n", Entry{}, false},
		"cri: no time":                      {"cri", "now stdout F a\n", Entry{}, false},
	}
	for name, c := range cases {
		got, ok := parse(c.format, []byte(c.line))
		if diff := cmp.Diff(c.want, got); diff != "" || ok != c.ok {
			t.Errorf("%s: parse(%q) = ok %v, want %v; (-want +got)\n%s", name, c.line, ok, c.ok, diff)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("json-file", []byte(`{"log":"a\n","stream":"stdout","time":"2026-01-02T03:04:05.0000006Z"}`+"\n"))
	f.Add("cri", []byte("2026-01-02T03:04:05.0000006Z stdout P a b\n"))
	f.Fuzz(func(t *testing.T, format string, line []byte) {
		e, ok := parse(format, line)
		if !ok {
			return
		}
		if len(e.Line) == 0 || e.Time.IsZero() || e.Stream != "stdout" && e.Stream != "stderr" {
			t.Errorf("parse(%q) = %+v", line, e)
		}
		if whole := e.Line[len(e.Line)-1] == '\n'; format == "json-file" && whole == e.Partial {
			t.Errorf("parse(%q) = %+v: whole and partial", line, e)
		}
	})
}

func FuzzBackwards(f *testing.F) {
	f.Add([]byte("a\nb\n\nc"))
	f.Add([]byte(strings.Repeat("0123456789\n", 20000)))
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		var got []string
		err = backwards(file, func(line []byte, start int64) bool {
			if string(content[start:start+int64(len(line))]) != string(line) {
				t.Errorf("line %q is not at %d", line, start)
			}
			got = append(got, string(line))
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for line := range strings.SplitAfterSeq(string(content), "\n") {
			if strings.HasSuffix(line, "\n") {
				want = append(want, line)
			}
		}
		slices.Reverse(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("lines of %q (-want +got)\n%s", content, diff)
		}
	})
}

var start = time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)

// line is the i-th second's line.
func line(i int, stream, tag, text string) string {
	return fmt.Sprintf("%s %s %s %s\n", start.Add(time.Duration(i)*time.Second).Format(time.RFC3339Nano), stream, tag, text)
}

func collect(t *testing.T, path string, o Options) []string {
	t.Helper()
	var got []string
	for e, err := range Read(t.Context(), path, o) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(e.Line))
	}
	return got
}

func TestReadChooses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for name, content := range map[string]string{
		".2": line(0, "stdout", "F", "zero") + line(1, "stderr", "F", "one"),
		".1": line(2, "stdout", "F", "two") + "torn by a cra",
		"":   line(3, "stdout", "P", "thr") + line(3, "stdout", "F", "ee") + "\nnot a line\n" + line(4, "stderr", "F", "four") + line(5, "stdout", "P", "fiv"),
	} {
		if err := os.WriteFile(path+name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := func(i int) time.Time { return start.Add(time.Duration(i) * time.Second) }
	cases := map[string]struct {
		o    Options
		want []string
	}{
		"all, oldest first":                     {Options{}, []string{"zero\n", "one\n", "two\n", "thr", "ee\n", "four\n", "fiv"}},
		"a line without its end counts in tail": {Options{Tail: 2}, []string{"four\n", "fiv"}},
		"tail keeps the pieces of a line":       {Options{Tail: 3}, []string{"thr", "ee\n", "four\n", "fiv"}},
		"tail goes into rotated files":          {Options{Tail: 4}, []string{"two\n", "thr", "ee\n", "four\n", "fiv"}},
		"tail of more than there is":            {Options{Tail: 50}, []string{"zero\n", "one\n", "two\n", "thr", "ee\n", "four\n", "fiv"}},
		"negative tail: none":                   {Options{Tail: -1}, nil},
		"one stream":                            {Options{Stderr: true}, []string{"one\n", "four\n"}},
		"tail of one stream":                    {Options{Stderr: true, Tail: 1}, []string{"four\n"}},
		"since and until are inclusive":         {Options{Since: at(1), Until: at(2)}, []string{"one\n", "two\n"}},
		"tail before until":                     {Options{Until: at(2), Tail: 1}, []string{"two\n"}},
	}
	for name, c := range cases {
		c.o.Format = "cri"
		if diff := cmp.Diff(c.want, collect(t, path, c.o)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}

func TestReadOfAMissingLogIsEmpty(t *testing.T) {
	if got := collect(t, filepath.Join(t.TempDir(), "log"), Options{Format: "cri"}); got != nil {
		t.Errorf("got %q", got)
	}
}

func TestReadWaitsForARotationToEnd(t *testing.T) {
	for range 20 {
		path := filepath.Join(t.TempDir(), "log")
		for n, name := range []string{name(path, 1), path} {
			if err := os.WriteFile(name, []byte(line(n, "stdout", "F", fmt.Sprint(n))), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		dir, err := os.Open(filepath.Dir(path))
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name(path, 1), name(path, 2)); err != nil {
			t.Fatal(err)
		}
		begun, read := make(chan struct{}), make(chan []string)
		go func() {
			close(begun)
			read <- collect(t, path, Options{Format: "cri"})
		}()
		<-begun
		if err := os.Rename(path, name(path, 1)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(line(2, "stdout", "F", "2")), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(dir.Fd()), unix.LOCK_UN); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"0\n", "1\n", "2\n"}, <-read); diff != "" {
			t.Fatalf("(-want +got)\n%s", diff)
		}
	}
}

// TestAFileIsKnownByMoreThanItsInode has a compressed file whose inode number is
// that of another log file by now.
func TestAFileIsKnownByMoreThanItsInode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(name(path, 1), []byte(line(0, "stdout", "F", "a")), 0o600); err != nil {
		t.Fatal(err)
	}
	plain, err := openPart(name(path, 1))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if err := Compress(path); err != nil {
		t.Fatal(err)
	}
	packed, err := openPart(name(path, 1))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { packed.Close() }()
	if !packed.packed || !packed.is(plain) || !plain.is(packed) {
		t.Errorf("the compressed form of a file is not known to be that")
	}
	if err := os.WriteFile(path, []byte(line(1, "stdout", "F", "a")), 0o600); err != nil {
		t.Fatal(err)
	}
	other, err := openPart(path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	packed.inode = other.inode
	if packed.is(other) || other.is(packed) || same(packed, path) {
		t.Error("a file is taken for another with its inode number")
	}
	if gone, err := packed.removed(); gone || err != nil {
		t.Errorf("removed: %v, %v", gone, err)
	}
	if err := packed.inflate(); err != nil {
		t.Fatal(err)
	}
	if packed.is(other) || same(packed, path) {
		t.Error("an inflated file is taken for another with its inode number")
	}
	if gone, err := packed.removed(); gone || err != nil {
		t.Errorf("removed, once inflated: %v, %v", gone, err)
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte(line(0, "stdout", "F", "a")), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	for e, err := range Read(ctx, path, Options{Format: "cri", Follow: true}) {
		if err == nil {
			if string(e.Line) != "a\n" {
				t.Errorf("got %q", e.Line)
			}
			cancel(stop)
			continue
		}
		if !errors.Is(err, stop) {
			t.Errorf("ended with %v, want the context's cause", err)
		}
	}
}

func TestFollowSeesALineWhoseEndComesLater(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	first, second := line(0, "stdout", "F", "first"), line(1, "stdout", "F", "second")
	f.WriteString(first + second[:10])
	done := make(chan struct{})
	var got []string
	for e, err := range Read(t.Context(), path, Options{Format: "cri", Follow: true, Done: done}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(e.Line))
		if len(got) == 1 {
			f.WriteString(second[10:])
			close(done)
		}
	}
	if diff := cmp.Diff([]string{"first\n", "second\n"}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestFollowEndsWhenNothingMoreIsWanted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte(line(0, "stdout", "F", "a")), 0o600); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, err := range Read(t.Context(), path, Options{Format: "cri", Follow: true, Until: time.Now().Add(100 * time.Millisecond)}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("%d lines, want the one that is there", n)
	}
}

// FuzzPacked reads any bytes as a compressed file of a log: it is refused, or
// read through.
func FuzzPacked(f *testing.F) {
	for _, comment := range []string{"inode 7", "7", "inode x", ""} {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		z.Comment = comment
		if _, err := z.Write([]byte(`{"log":"a\n","stream":"stdout","time":"2026-01-02T03:04:05Z"}` + "\n")); err != nil {
			f.Fatal(err)
		}
		if err := z.Close(); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
		f.Add(b.Bytes()[:b.Len()-9])
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "log.1")
		if err := os.WriteFile(path+compressed, content, 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := openPart(path)
		if err != nil {
			return
		}
		defer func() { p.Close() }()
		if p.inflate() != nil {
			return
		}
		err = backwards(p.File, func(line []byte, _ int64) bool {
			parse("json-file", line)
			return true
		})
		if err != nil {
			t.Error(err)
		}
	})
}
