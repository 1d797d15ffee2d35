package engine

import (
	"math"
	"strconv"
	"strings"
	"time"

	"gantry/internal/problem"
)

// ParseTime parses a point in time as Docker's clients write it: seconds since
// 1970 with an optional fraction, RFC 3339 (also without its zone or its end),
// or a duration before now ("1h30m").
func ParseTime(text string, now time.Time) (time.Time, error) {
	if at, ok := parseSeconds(text); ok {
		return at, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{
		time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04:05", "2006-01-02T15:04Z07:00",
		"2006-01-02T15:04", "2006-01-02T15", "2006-01-02Z07:00", "2006-01-02",
	} {
		if at, err := time.ParseInLocation(layout, text, time.UTC); err == nil {
			return at, nil
		}
	}
	return time.Time{}, problem.New(problem.Invalid, "failed to parse value as time or duration: %q", text)
}

func parseSeconds(text string) (time.Time, bool) {
	whole, fraction, hasFraction := strings.Cut(text, ".")
	seconds, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || seconds > math.MaxInt64/int64(time.Second) || seconds < 0 {
		return time.Time{}, false
	}
	var nanos int64
	if hasFraction {
		if len(fraction) == 0 || len(fraction) > 9 {
			return time.Time{}, false
		}
		n, err := strconv.ParseUint(fraction+strings.Repeat("0", 9-len(fraction)), 10, 32)
		if err != nil {
			return time.Time{}, false
		}
		nanos = int64(n)
	}
	return time.Unix(seconds, nanos), true
}
