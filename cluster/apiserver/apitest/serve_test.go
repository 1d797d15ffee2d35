package apitest

import (
	"os"
	"os/signal"
	"testing"
)

// TestServe is a server to try things on by hand:
// GANTRY_APITEST_DIR=/tmp/x go test -run TestServe ./cluster/apiserver/apitest, until SIGINT.
func TestServe(t *testing.T) {
	dir := os.Getenv("GANTRY_APITEST_DIR")
	if dir == "" {
		t.Skip("serves for a person, when GANTRY_APITEST_DIR is set")
	}
	StartWith(t, Options{Dir: dir})
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt)
	<-stop
}
