package logfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A reader that goes on after any entry reads all that follow it, wherever
// rotation and compression have brought it.
func TestReadAfterAPosition(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	write := func(name string, from, to int) {
		var content string
		for i := from; i < to; i++ {
			content += line(i, "stdout", "F", fmt.Sprint("line ", i))
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(path+".1", 0, 3)
	write(path, 3, 6)
	var all []string
	var positions []Position
	for e, err := range Read(t.Context(), path, Options{Format: "cri"}) {
		if err != nil {
			t.Fatal(err)
		}
		all, positions = append(all, string(e.Line)), append(positions, e.At)
	}
	for i, move := range []func() error{
		func() error { return nil },
		func() error { return errors.Join(os.Rename(path+".1", path+".2"), os.Rename(path, path+".1")) },
		func() error { write(path, 6, 8); all = append(all, "line 6\n", "line 7\n"); return Compress(path) },
	} {
		if err := move(); err != nil {
			t.Fatal(err)
		}
		for n, at := range positions {
			want, got := strings.Join(all[n+1:], ""), strings.Join(collect(t, path, Options{Format: "cri", After: at}), "")
			if got != want {
				t.Errorf("move %d, after %d: %q, want %q", i, n, got, want)
			}
		}
	}
	last := positions[len(positions)-1]
	for name, at := range map[string]Position{
		"nothing":                         {},
		"a file that is gone":             {1, last.Start, last.End, last.Time},
		"a file whose number was used up": {last.File, last.Start, last.End, last.Time.Add(1)},
		"more than the file has":          {last.File, last.Start, last.End + 1000, last.Time},
		"nonsense":                        {last.File, 7, 3, last.Time},
	} {
		if diff := cmp.Diff(all, collect(t, path, Options{Format: "cri", After: at})); diff != "" {
			t.Errorf("after %s (-want +got)\n%s", name, diff)
		}
	}
}
