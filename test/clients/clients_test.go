// Package clients runs real clients of Docker's API against the built programs:
// docker-compose and python3-docker as Debian 12 has them, and, as a module of
// their own (testdata/golang), moby's Go client and testcontainers.
package clients

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"testing"
	"time"

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

// eventually retries try until it succeeds or a minute has passed. It is for
// what offers a foreign process no event to wait for.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

// get fetches a URL; any status but 200 is an error.
func get(client *http.Client, url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(body), err
}

// want compares what a command printed.
func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %s", what, fmt.Sprintf("%q, want %q", got, want))
	}
}
