package tree

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// archived returns the names, in order, that Archive writes.
func archived(t *testing.T, root *Root, name, as string) []string {
	t.Helper()
	var out bytes.Buffer
	if err := Archive(context.Background(), &out, root, name, as); err != nil {
		t.Fatal(err)
	}
	var names []string
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		text := h.Name
		if h.Linkname != "" {
			text += " -> " + h.Linkname
		}
		names = append(names, text)
	}
}

func TestArchiveNamesItsEntries(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"d/a": "a", "d/e/b": "b"} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Link(filepath.Join(dir, "d/a"), filepath.Join(dir, "d/z")), os.Symlink("/d", filepath.Join(dir, "l"))); err != nil {
		t.Fatal(err)
	}
	root, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for rule, c := range map[string]struct{ name, as, want string }{
		"a directory under another name": {"/d", "new", "new/|new/a|new/e/|new/e/b|new/z -> new/a"},
		"what a directory holds":         {"/d", ".", "./|./a|./e/|./e/b|./z -> ./a"},
		"the root":                       {"/", "/", "/|/d/|/d/a|/d/e/|/d/e/b|/d/z -> /d/a|/l -> /d"},
		"all but the root's own entry":   {"/", "", "d/|d/a|d/e/|d/e/b|d/z -> d/a|l -> /d"},
		"a file":                         {"/d/a", "b", "b"},
		"a link is not followed":         {"/l", "l", "l -> /d"},
		"links on the way are":           {"/l/e", "e", "e/|e/b"},
	} {
		if got := archived(t, root, c.name, c.as); !slices.Equal(got, strings.Split(c.want, "|")) {
			t.Errorf("%s: %q, want %q", rule, got, c.want)
		}
	}
	if err := Archive(context.Background(), io.Discard, root, "/gone", "gone"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

// growing calls once when the first byte of an entry's header has been written.
type growing struct {
	bytes.Buffer
	once func()
}

func (g *growing) Write(p []byte) (int, error) {
	if g.once != nil {
		g.once()
		g.once = nil
	}
	return g.Buffer.Write(p)
}

func TestArchiveOfAFileThatChanges(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	root, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for rule, c := range map[string]struct{ later, want string }{
		"a file that grows is cut off":                  {"0123456789", "0123"},
		"a file that shrinks is filled with zeros":      {"01", "01\x00\x00"},
		"a file that another replaces is still written": {"", "abcd"},
	} {
		// Anew: what is there may be the link of another case.
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("abcd"), 0o644); err != nil {
			t.Fatal(err)
		}
		w := &growing{once: func() {
			if c.later == "" {
				err = errors.Join(os.Remove(path), os.Symlink(filepath.Join(dir, "secret"), path))
			} else {
				err = os.WriteFile(path, []byte(c.later), 0o644)
			}
		}}
		if err := errors.Join(Archive(context.Background(), w, root, "f", "f"), err); err != nil {
			t.Fatal(err)
		}
		r := tar.NewReader(&w.Buffer)
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %q, %v, want %q", rule, got, err, c.want)
		}
	}
}

func TestFollow(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "d"), 0o755), os.Symlink("/d", filepath.Join(dir, "to-dir")),
		os.Symlink("../../../gone/x", filepath.Join(dir, "d/dangling")), os.Symlink("loop", filepath.Join(dir, "loop"))); err != nil {
		t.Fatal(err)
	}
	root, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, want := range map[string]string{
		"/to-dir": "/d", "to-dir/dangling": "/gone/x", "/d": "/d", "/to-dir/new": "/d/new", "/no/such": "/no/such", "/loop": "/loop",
	} {
		if got := root.Follow(name); got != want {
			t.Errorf("Follow(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestChmodDoesNotFollow(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside")
	if err := errors.Join(os.WriteFile(outside, nil, 0o600), os.Symlink(outside, filepath.Join(dir, "l"))); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := chmod(int(d.Fd()), "l", 0o777); !errors.Is(err, unix.ELOOP) {
		t.Errorf("chmod of a link: %v, want ELOOP", err)
	}
	if info, err := os.Stat(outside); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("what the link leads to: %v, %v", info.Mode(), err)
	}
}
