package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gantry/engine/container/logfile"
	"gantry/engine/container/wire"
)

// TestCompressionLosesNothing writes, rotates, compresses and follows at once.
func TestCompressionLosesNothing(t *testing.T) {
	const lines = 4000
	w := testLog(t, wire.Create{LogFormat: "json-file", MaxBytes: 4000, MaxFiles: 500})
	done := make(chan struct{})
	var compressing sync.WaitGroup
	compressing.Go(func() {
		for {
			if err := logfile.Compress(w.path); err != nil {
				t.Error(err)
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	followed(t, w, lines, done)
	compressing.Wait()
	if err := logfile.Compress(w.path); err != nil {
		t.Fatal(err)
	}
	got := readLog(t, w.path, "json-file")
	for i, e := range got {
		if want := fmt.Sprintf("stdout:line %d\n", i); e != want {
			t.Fatalf("entry %d is %q, want %q", i, e, want)
		}
	}
	plain, err := filepath.Glob(w.path + ".*[0-9]")
	if err != nil || len(plain) > 0 || len(got) != lines {
		t.Errorf("%d entries, want %d; not compressed: %v, %v", len(got), lines, plain, err)
	}
}

// TestACrashInCompressionDoublesNothing has both forms of a file, as a crash
// between the two steps leaves them.
func TestACrashInCompressionDoublesNothing(t *testing.T) {
	w := testLog(t, wire.Create{LogFormat: "json-file", MaxBytes: 200, MaxFiles: 5})
	for i := range 6 {
		w.write(wire.Stdout, fmt.Appendf(nil, "line %d %s\n", i, strings.Repeat("x", 60)))
	}
	w.close()
	before := readLog(t, w.path, "json-file")
	// The file itself is kept, not a copy: a file is told from its neighbour by its
	// inode, and a copy may get that of a neighbour that was removed.
	kept := filepath.Join(filepath.Dir(w.path), "kept")
	if err := os.Link(w.path+".1", kept); err != nil {
		t.Fatal(err)
	}
	if err := logfile.Compress(w.path); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(kept, w.path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(w.path), ".packing-log"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"as the crash left it", "compressed again"} {
		if diff := cmp.Diff(before, readLog(t, w.path, "json-file")); diff != "" {
			t.Errorf("%s (-want +got)\n%s", when, diff)
		}
		if err := logfile.Compress(w.path); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(w.path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "log" && !strings.HasSuffix(e.Name(), ".gz") {
			t.Errorf("%s is left", e.Name())
		}
	}
}

func TestAFullQueueDropsAndTheRestIsWritten(t *testing.T) {
	w := testLog(t, wire.Create{LogFormat: "json-file", LogBuffer: 100})
	w.mu.Lock() // the disk is slow
	for i := range 50 {
		w.write(wire.Stdout, fmt.Appendf(nil, "line %d ..........\n", i))
	}
	w.mu.Unlock()
	w.close()
	got := readLog(t, w.path, "json-file")
	if len(got) == 0 || len(got) >= 50 || got[0] != "stdout:line 0 ..........\n" {
		t.Errorf("%d entries: %q", len(got), got)
	}
}

// TestAFullDiskStopsNothing has a log on a device that takes nothing, and then
// one that does.
func TestAFullDiskStopsNothing(t *testing.T) {
	w := testLog(t, wire.Create{LogFormat: "json-file"})
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	w.write(wire.Stdout, []byte("before\n"))
	file := w.file
	w.file = full
	w.write(wire.Stdout, []byte("lost\n"))
	w.write(wire.Stderr, []byte("lost too\n"))
	w.file = file
	w.write(wire.Stdout, []byte("after\n"))
	w.write(wire.Stdout, []byte("more\n"))
	w.close()
	want := []string{"stdout:before\n", "stderr:" + lostMark, "stdout:after\n", "stdout:more\n"}
	if diff := cmp.Diff(want, readLog(t, w.path, "json-file")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestAttributesAreOfEachEntry(t *testing.T) {
	w := testLog(t, wire.Create{LogFormat: "json-file", LogAttrs: `{"tag":"x"}`})
	w.write(wire.Stdout, []byte("a\n"))
	w.close()
	text, err := os.ReadFile(w.path)
	if err != nil || !strings.HasPrefix(string(text), `{"log":"a\n","stream":"stdout","attrs":{"tag":"x"},"time":"`) {
		t.Errorf("the file has %q, %v", text, err)
	}
	for e, err := range logfile.Read(t.Context(), w.path, logfile.Options{Format: "json-file"}) {
		if err != nil || e.Attrs["tag"] != "x" || time.Since(e.Time) > time.Hour {
			t.Errorf("%+v, %v", e, err)
		}
	}
	if got := readLog(t, w.path, "json-file"); !slices.Equal(got, []string{"stdout:a\n"}) {
		t.Errorf("entries are %q", got)
	}
}
