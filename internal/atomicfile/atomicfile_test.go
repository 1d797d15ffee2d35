package atomicfile

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWriteReplacesAndLeavesNoTemporary(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.json")
	for _, content := range []string{"first", "second, longer"} {
		if err := Write(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content {
			t.Fatalf("read back %q, %v; want %q", got, err, content)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("directory holds %v, %v; want the file alone", entries, err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
}

func TestSweepRemovesOnlyTemporaries(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{tempPrefix + "state.json-1", "state.json"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Sweep(dir); err != nil {
		t.Fatal(err)
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 1 || entries[0].Name() != "state.json" {
		t.Errorf("left %v, want state.json", entries)
	}
}

func TestOverwriteJSONStaysInItsSpace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	if err := WriteJSON(path, strings.Repeat("a", 100), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{`"short"`, `"` + strings.Repeat("b", 200) + `"`} {
		if err := OverwriteJSON(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		var got json.RawMessage
		data, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(data, &got)
		}
		if err != nil || string(got) != text {
			t.Errorf("%s, %v; want %s", data, err, text)
		}
	}
	if err := OverwriteJSON(path, make([]byte, 1<<20)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("more than the file has room for: %v", err)
	}
	if err := OverwriteJSON(path+"x", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}
