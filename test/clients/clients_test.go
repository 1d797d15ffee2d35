// Package clients runs real clients of Docker's API against the built programs:
// docker-compose and python3-docker as Debian 12 has them, and, as a module of
// their own (testdata/golang), moby's Go client and testcontainers.
package clients

import (
	"bytes"
	"fmt"
	"os/exec"
	"testing"

	"gantry/internal/testenv"
	"gantry/test/harness"
)

// start brings up an engine with a busybox image.
func start(t *testing.T) *harness.Server {
	t.Helper()
	s := harness.Start(t, harness.Options{Args: []string{"--disable=cluster"}})
	s.ImportBusybox()
	return s
}

// needVersion1 skips the test unless docker-compose is Debian 12's, which brings
// python3-docker along. That a distribution has gone on to version 2 is not a
// hole in the test run.
func needVersion1(t *testing.T) {
	t.Helper()
	out, err := exec.Command(testenv.NeedCommand(t, "docker-compose"), "version", "--short").Output()
	if err != nil {
		t.Fatalf("docker-compose version: %v", err)
	}
	if !bytes.HasPrefix(out, []byte("1.")) {
		t.Skipf("docker-compose is version %s, not 1", bytes.TrimSpace(out))
	}
}

// want compares what a command printed.
func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %s", what, fmt.Sprintf("%q, want %q", got, want))
	}
}
