// Package testenv tells tests what the machine can do, and makes the real
// things that they run on.
//
// A missing prerequisite skips the test, unless GANTRY_TEST_ALL is set, as it
// is in the privileged run: there a skip would hide a hole, so it fails.
package testenv

import (
	"os"
	"os/exec"
	"testing"
)

// NeedRoot skips the test unless it runs as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "root")
	}
}

// NeedCgroup2 skips the test unless /sys/fs/cgroup is a pure cgroup2 mount. It
// always skips: which hierarchy a host has is not a hole in the test run.
func NeedCgroup2(t testing.TB) {
	t.Helper()
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		t.Skip("needs a host with cgroup2 alone")
	}
}

// NeedCommand skips the test unless name is on PATH, and returns its path.
func NeedCommand(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, name+" on PATH")
	}
	return path
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("GANTRY_TEST_ALL") != "" {
		t.Fatalf("the privileged run needs %s", what)
	}
	t.Skipf("needs %s", what)
}
