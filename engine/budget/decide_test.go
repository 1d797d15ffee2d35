package budget

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gantry/internal/control"
)

func at(hours int) time.Time { return time.Unix(int64(hours)*3600, 0) }

func holding(k Kind, id string, used int, needs string, parts ...Part) Holding {
	return Holding{Kind: k, ID: id, Used: at(used), Needs: needs, Parts: parts}
}

func TestDecide(t *testing.T) {
	for rule, c := range map[string]struct {
		holdings []Holding
		need     int64
		want     []string
		freed    int64
	}{
		"nothing is needed": {[]Holding{holding(Result, "a", 1, "", Part{"1", 5})}, 0, nil, 0},
		"the oldest goes first, and no more than is needed": {[]Holding{
			holding(Result, "new", 3, "", Part{"1", 5}), holding(Image, "old", 1, "", Part{"2", 5}), holding(Mount, "mid", 2, "", Part{"3", 5})},
			8, []string{"old", "mid"}, 10},
		"packed copies go before all else": {[]Holding{
			holding(Result, "old", 1, "", Part{"1", 5}), holding(Copy, "copy", 9, "", Part{"2", 1})},
			1, []string{"copy"}, 1},
		"what is needed stays": {[]Holding{
			holding(Image, "tagged", 1, "it has a tag", Part{"1", 5}), holding(Copy, "leased", 1, "it is leased", Part{"2", 5})},
			9, nil, 0},
		"what was used within the grace stays": {[]Holding{holding(Image, "now", 20, "", Part{"1", 5})}, 9, nil, 0},
		"a result whose layer a tagged image has frees nothing": {[]Holding{
			holding(Image, "tagged", 1, "it has a tag", Part{"1", 5}), holding(Result, "of it", 1, "", Part{"1", 5}), holding(Result, "own", 2, "", Part{"2", 3})},
			9, []string{"own"}, 3},
		"a shared part is free when the last one goes": {[]Holding{
			holding(Image, "untagged", 1, "", Part{"1", 5}, Part{"2", 1}), holding(Result, "of it", 2, "", Part{"1", 5}), holding(Result, "other", 3, "", Part{"3", 5})},
			6, []string{"untagged", "of it"}, 6},
		"a young one keeps the part that an old one shares": {[]Holding{
			holding(Result, "old", 1, "", Part{"1", 5}), holding(Result, "young", 20, "", Part{"1", 5})},
			9, nil, 0},
		"what takes nothing stays": {[]Holding{holding(Container, "c", 1, "", Part{"1", 0})}, 9, nil, 0},
		"a tie is broken by the name": {[]Holding{
			holding(Result, "b", 1, "", Part{"1", 5}), holding(Result, "a", 1, "", Part{"2", 5})},
			5, []string{"a"}, 5},
	} {
		plan, freed := decide(c.holdings, c.need, func(Kind) time.Time { return at(10) })
		var got []string
		for _, h := range plan {
			got = append(got, h.ID)
		}
		if diff := cmp.Diff(c.want, got); diff != "" || freed != c.freed {
			t.Errorf("%s: frees %d, want %d (-want +got):\n%s", rule, freed, c.freed, diff)
		}
	}
}

func TestExcess(t *testing.T) {
	for rule, c := range map[string]struct {
		d     disk
		taken int64
		want  int64
	}{
		"within both":            {disk{limit: 80, floor: 5, free: 20}, 70, 0},
		"over the share":         {disk{limit: 80, floor: 5, free: 20}, 90, 10},
		"below the floor":        {disk{limit: 80, floor: 5, free: 2}, 10, 3},
		"the worse of the two":   {disk{limit: 80, floor: 50, free: 2}, 90, 48},
		"others fill the disk":   {disk{limit: 80, floor: 5, free: 0}, 0, 5},
		"at the very boundaries": {disk{limit: 80, floor: 5, free: 5}, 80, 0},
	} {
		if got := c.d.excess(c.taken); got != c.want {
			t.Errorf("%s: %d, want %d", rule, got, c.want)
		}
	}
}

func TestReportCountsSharedBytesOnce(t *testing.T) {
	holdings := []Holding{
		holding(Image, "sha256:one", 1, "it has a tag", Part{"base", 100}, Part{"1", 10}),
		holding(Image, "sha256:two", 1, "", Part{"base", 100}, Part{"2", 20}),
		holding(Result, "r", 1, "", Part{"2", 20}), holding(Result, "s", 1, "", Part{"3", 3}),
	}
	if got := taken(holdings); got != 133 {
		t.Errorf("taken: %d, want 133", got)
	}
	got := map[string]control.DiskKind{}
	for _, k := range kinds(holdings) {
		got[k.Kind] = k
	}
	for _, want := range []control.DiskKind{
		{Kind: "images", Count: 2, Bytes: 130, OwnBytes: 110, FreeBytes: 20},
		{Kind: "build cache", Count: 2, Bytes: 23, OwnBytes: 3, FreeBytes: 23},
		{Kind: "containers"},
	} {
		if diff := cmp.Diff(want, got[want.Kind]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", want.Kind, diff)
		}
	}
	want := []control.DiskImage{{ID: "one", Bytes: 110, UniqueBytes: 10, Needs: "it has a tag"}, {ID: "two", Bytes: 120}}
	if diff := cmp.Diff(want, images(holdings)); diff != "" {
		t.Errorf("images (-want +got):\n%s", diff)
	}
}
