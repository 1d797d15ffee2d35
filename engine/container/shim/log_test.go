package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gantry/engine/container/logfile"
	"gantry/engine/container/wire"
)

func testLog(t *testing.T, c wire.Create) *logWriter {
	t.Helper()
	if c.LogPath == "" {
		c.LogPath = filepath.Join(t.TempDir(), "log")
	}
	w, err := newLog(&c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.close)
	return w
}

// readLog returns the entries, each as "STREAM:text".
func readLog(t *testing.T, path, format string) []string {
	t.Helper()
	var got []string
	for e, err := range logfile.Read(t.Context(), path, logfile.Options{Format: format}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Stream+":"+string(e.Line))
	}
	return got
}

func TestLogKeepsEveryByte(t *testing.T) {
	long := strings.Repeat("0123456789abcde\u00e4", 4<<10)
	cases := map[string]struct {
		writes []string // out of turns: stdout, then stderr ...
		want   []string
	}{
		"lines of one write":          {[]string{"a\nb\n"}, []string{"stdout:a\n", "stdout:b\n"}},
		"a line of two writes":        {[]string{"a", "", "b\n"}, []string{"stdout:ab\n"}},
		"streams do not mix":          {[]string{"a", "x\n", "b\n"}, []string{"stderr:x\n", "stdout:ab\n"}},
		"an end without a newline":    {[]string{"a"}, []string{"stdout:a"}},
		"empty lines":                 {[]string{"\n\n"}, []string{"stdout:\n", "stdout:\n"}},
		"control and quote":           {[]string{"\x00\x1b\"\\\r\t\x7f\n"}, []string{"stdout:\x00\x1b\"\\\r\t\x7f\n"}},
		"markup is not disturbed":     {[]string{"<a&b>\n"}, []string{"stdout:<a&b>\n"}},
		"a character over two writes": {[]string{"\xc3", "", "\xa4\n"}, []string{"stdout:\u00e4\n"}},
	}
	for _, format := range []string{"json-file", "cri"} {
		for name, c := range cases {
			w := testLog(t, wire.Create{LogFormat: format})
			for i, text := range c.writes {
				w.write(wire.Stream(1+i%2), []byte(text))
			}
			w.close()
			if diff := cmp.Diff(c.want, readLog(t, w.path, format)); diff != "" {
				t.Errorf("%s, %s (-want +got)\n%s", format, name, diff)
			}
		}
		w := testLog(t, wire.Create{LogFormat: format})
		for i := 0; i < len(long); i += 1000 {
			w.write(wire.Stdout, []byte(long[i:min(i+1000, len(long))]))
		}
		w.write(wire.Stdout, []byte("\n"))
		w.close()
		var got strings.Builder
		for _, e := range readLog(t, w.path, format) {
			text := strings.TrimPrefix(e, "stdout:")
			if len(text) > maxLine {
				t.Errorf("%s: a piece of %d bytes", format, len(text))
			}
			got.WriteString(text)
		}
		if got.String() != long+"\n" {
			t.Errorf("%s: a long line came back as %d bytes, want %d", format, got.Len(), len(long)+1)
		}
	}
}

func TestLogRotates(t *testing.T) {
	w := testLog(t, wire.Create{LogFormat: "json-file", MaxBytes: 1000, MaxFiles: 3})
	for i := range 100 {
		w.write(wire.Stdout, fmt.Appendf(nil, "line %d\n", i))
	}
	w.close()
	names, err := filepath.Glob(w.path + "*")
	if err != nil || len(names) != 3 {
		t.Fatalf("files %v, %v; want three", names, err)
	}
	for _, name := range names {
		if info, err := os.Stat(name); err != nil || info.Size() > 1000 {
			t.Errorf("%s: %d bytes, %v; want at most 1000", name, info.Size(), err)
		}
	}
	got := readLog(t, w.path, "json-file")
	for i, e := range got {
		if want := fmt.Sprintf("stdout:line %d\n", 100-len(got)+i); e != want {
			t.Fatalf("entry %d is %q, want %q", i, e, want)
		}
	}
}

func TestLogOfOneFileStartsAnew(t *testing.T) {
	w := testLog(t, wire.Create{LogFormat: "cri", MaxBytes: 200, MaxFiles: 1})
	for i := range 20 {
		w.write(wire.Stdout, fmt.Appendf(nil, "line %d\n", i))
	}
	w.close()
	if got := readLog(t, w.path, "cri"); len(got) == 0 || got[len(got)-1] != "stdout:line 19\n" {
		t.Errorf("got %q", got)
	}
}

func TestLogGoesOnAfterATornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte(`{"log":"torn by a cra`), 0o600); err != nil {
		t.Fatal(err)
	}
	w := testLog(t, wire.Create{LogFormat: "json-file", LogPath: path})
	w.write(wire.Stdout, []byte("next\n"))
	w.close()
	if diff := cmp.Diff([]string{"stdout:next\n"}, readLog(t, path, "json-file")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestFollowerMissesNothingOfARotatingLog(t *testing.T) {
	const lines = 5000
	w := testLog(t, wire.Create{LogFormat: "json-file", MaxBytes: 4000, MaxFiles: 500})
	followed(t, w, lines, make(chan struct{}))
}

// followed writes lines to a log, closes it and done, and compares what one that
// follows it meanwhile reads.
func followed(t *testing.T, w *logWriter, lines int, done chan struct{}) {
	t.Helper()
	go func() {
		defer close(done)
		for i := range lines {
			w.write(wire.Stdout, fmt.Appendf(nil, "line %d\n", i))
		}
		w.close()
	}()
	next := 0
	for e, err := range logfile.Read(t.Context(), w.path, logfile.Options{Format: "json-file", Follow: true, Done: done}) {
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("line %d\n", next); string(e.Line) != want {
			t.Fatalf("followed %q, want %q", e.Line, want)
		}
		next++
	}
	if next != lines {
		t.Errorf("followed %d lines, want %d", next, lines)
	}
}

func TestReopenAfterARename(t *testing.T) {
	w := testLog(t, wire.Create{LogFormat: "cri"})
	w.write(wire.Stdout, []byte("before\n"))
	if err := os.Rename(w.path, w.path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := w.reopen(); err != nil {
		t.Fatal(err)
	}
	w.write(wire.Stdout, []byte("after\n"))
	if diff := cmp.Diff([]string{"stdout:after\n"}, readLog(t, w.path, "cri")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func FuzzEscapeSurvivesTheReader(f *testing.F) {
	f.Add([]byte("plain \x00 \xff \u2028 \"quoted\""))
	f.Fuzz(func(t *testing.T, text []byte) {
		text = append([]byte(strings.ReplaceAll(string(text), "\n", "")), '\n')
		if len(text) > maxLine {
			return
		}
		w := testLog(t, wire.Create{LogFormat: "json-file"})
		w.write(wire.Stdout, text)
		w.close()
		got := readLog(t, w.path, "json-file")
		want := "stdout:" + strings.Map(func(r rune) rune { return r }, string(text)) // each bad byte is replaced
		if len(got) != 1 || got[0] != want {
			t.Errorf("%q came back as %q, want %q", text, got, want)
		}
	})
}
