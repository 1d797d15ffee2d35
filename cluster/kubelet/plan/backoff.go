package plan

import "time"

// The bounds of back-offs, the reference's own: of restarts and image pulls.
const (
	InitialBackoff = 10 * time.Second
	MaxBackoff     = 5 * time.Minute
	resetBackoff   = 2 * MaxBackoff // without a failure for this long, begin anew
)

// Backoff is how long to wait after a failure; the zero value waits not at all.
type Backoff struct {
	Delay time.Duration
	At    time.Time // when Delay was last raised
}

// Until returns when the wait ends that began with a failure at since.
func (b Backoff) Until(since time.Time) time.Time {
	if b.Delay == 0 || since.Sub(b.At) > resetBackoff {
		return time.Time{}
	}
	return since.Add(b.Delay)
}

// Next raises the delay at now, for a failure at since.
func (b Backoff) Next(since, now time.Time) Backoff {
	if b.Delay == 0 || since.Sub(b.At) > resetBackoff {
		return Backoff{Delay: InitialBackoff, At: now}
	}
	return Backoff{Delay: min(2*b.Delay, MaxBackoff), At: now}
}
