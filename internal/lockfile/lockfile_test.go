package lockfile

import (
	"errors"
	"path/filepath"
	"testing"
)

func TestALockIsHeldUntilItsFileIsClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	f, err := Take(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Take(path, 0o600); !errors.Is(err, ErrHeld) {
		t.Errorf("a second time: %v, want ErrHeld", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := Take(path, 0o600)
	if err != nil {
		t.Fatalf("after the first was closed: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}
