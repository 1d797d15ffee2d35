package engine

import (
	"time"

	dcontainer "github.com/moby/moby/api/types/container"
)

// The reference's back-off between restarts: it doubles, and begins anew after
// a run of some length.
const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = time.Minute
	longRun      = 10 * time.Second
)

// ending is what is known when a run is over.
type ending struct {
	code     int
	ran      time.Duration
	stopped  bool // somebody asked for it
	restarts int  // how many in a row were made by the policy
	backoff  time.Duration
}

// afterExit decides whether the policy restarts a container whose run has
// ended, and after what delay. restarts is the count to continue with.
func afterExit(policy dcontainer.RestartPolicy, end ending) (restart bool, delay time.Duration, restarts int) {
	switch {
	case end.stopped, policy.IsNone():
		return false, 0, end.restarts
	case policy.IsOnFailure():
		if end.code == 0 || policy.MaximumRetryCount > 0 && end.restarts >= policy.MaximumRetryCount {
			return false, 0, end.restarts
		}
	}
	return true, nextBackoff(end.backoff, end.ran), end.restarts + 1
}

func nextBackoff(last, ran time.Duration) time.Duration {
	if last == 0 || ran >= longRun {
		return firstBackoff
	}
	return min(2*last, lastBackoff)
}

// afterBoot decides whether the policy starts a container that does not run
// when the engine begins. lost tells that it ran when the engine last looked,
// so that the end of its process was not its own doing.
func afterBoot(policy dcontainer.RestartPolicy, everStarted, stopped, lost bool, code, restarts int) bool {
	switch {
	case !everStarted || policy.IsNone():
		return false
	case policy.IsAlways():
		return true
	case policy.IsUnlessStopped():
		return !stopped
	case policy.IsOnFailure():
		return !stopped && (lost || code != 0) &&
			(policy.MaximumRetryCount == 0 || restarts < policy.MaximumRetryCount)
	}
	return false
}
