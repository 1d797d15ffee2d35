package apiserver_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gantry/cluster/apiserver/apitest"
)

func TestNothingRunsAfterTheEnd(t *testing.T) {
	s := apitest.Start(t)
	w, err := s.Client.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	s.Stop()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Second, errors.New("goroutines are left"))
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond) // goroutines end after what they were waited for
	defer tick.Stop()
	for {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		if !strings.Contains(string(stacks), "gantry/cluster/apiserver.(") && !strings.Contains(string(stacks), "gantry/cluster/store.(") {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%v:\n%s", context.Cause(ctx), stacks)
		}
	}
}
