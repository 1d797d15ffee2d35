// Package e2e uses the built programs as a user would: its tests run the
// commands of the README and what goes wrong around them.
package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// repository is the module's directory, seen from this one.
const repository = "../.."

// copyTree returns a copy of a directory of the repository that a test may
// change.
func copyTree(t testing.TB, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), filepath.Base(from))
	if err := os.CopyFS(to, os.DirFS(filepath.Join(repository, from))); err != nil {
		t.Fatal(err)
	}
	return to
}

// write puts a file into dir.
func write(t testing.TB, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// contains fails the test unless text has all of parts in it.
func contains(t testing.TB, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("got\n%s\nwant it to contain %q", text, part)
		}
	}
}
