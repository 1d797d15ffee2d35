package builder

import (
	"slices"
	"testing"
	"time"
)

func TestPruned(t *testing.T) {
	now := time.Now()
	records := []CacheRecord{
		{ID: "old", Bytes: 10, Used: now.Add(-3 * time.Hour)}, {ID: "new", Bytes: 10, Used: now.Add(-time.Hour)}, {ID: "mid", Bytes: 10, Used: now.Add(-2 * time.Hour)},
	}
	for rule, c := range map[string]struct {
		opts PruneOptions
		want []cacheKey
	}{
		"the zero options forget nothing": {PruneOptions{}, nil},
		"what was not used since":         {PruneOptions{Before: now.Add(-90 * time.Minute)}, []cacheKey{"mid", "old"}},
		"all":                             {PruneOptions{Before: now}, []cacheKey{"new", "mid", "old"}},
		"the results used last stay within the bytes": {PruneOptions{Before: now, Keep: 20}, []cacheKey{"old"}},
		"a result that is larger than the bytes goes": {PruneOptions{Before: now, Keep: 5}, []cacheKey{"new", "mid", "old"}},
	} {
		if got := pruned(slices.Clone(records), c.opts); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", rule, got, c.want)
		}
	}
}
