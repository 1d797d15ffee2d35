package reaper

import (
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPlaces(t *testing.T) {
	for _, c := range []struct {
		name, path string
		want       []string
	}{
		{"sh", "/bin:/usr/bin", []string{"/bin/sh", "/usr/bin/sh"}},
		{"sh", ":/bin", []string{"./sh", "/bin/sh"}},
		{"./sh", "/bin", []string{"./sh"}},
		{"/bin/sh", "", []string{"/bin/sh"}},
	} {
		if diff := cmp.Diff(c.want, places(c.name, c.path)); diff != "" {
			t.Errorf("%s in %s: %s", c.name, c.path, diff)
		}
	}
}

func TestFaultsAreNotPassedOn(t *testing.T) {
	for s, want := range map[syscall.Signal]bool{
		syscall.SIGTERM: true, syscall.SIGHUP: true, syscall.SIGUSR1: true, syscall.SIGWINCH: true, syscall.Signal(64): true,
		syscall.SIGCHLD: false, syscall.SIGSEGV: false, syscall.SIGTTOU: false,
	} {
		if passes(s) != want {
			t.Errorf("%v: %v", s, !want)
		}
	}
}
