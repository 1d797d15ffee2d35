package expect

import (
	"testing"
	"time"
)

func TestSatisfied(t *testing.T) {
	start := time.Unix(1000, 0)
	cases := []struct {
		name string
		do   func(e *Expectations)
		at   time.Time
		want bool
	}{
		{"nothing was announced", func(*Expectations) {}, start, true},
		{"a creation is pending", func(e *Expectations) { e.Create("o", 2, start); e.Created("o", 1) }, start, false},
		{"all creations were seen", func(e *Expectations) { e.Create("o", 2, start); e.Created("o", 1); e.Created("o", 1) }, start, true},
		{"a creation seen before its announcement does not count", func(e *Expectations) { e.Created("o", 1); e.Create("o", 1, start) }, start, false},
		{"a deletion is pending", func(e *Expectations) { e.Delete("o", "a", start) }, start, false},
		{"another object's deletion does not satisfy", func(e *Expectations) { e.Delete("o", "a", start); e.Deleted("o", "b") }, start, false},
		{"a deletion seen twice counts once", func(e *Expectations) {
			e.Delete("o", "a", start)
			e.Delete("o", "b", start)
			e.Deleted("o", "a")
			e.Deleted("o", "a")
		}, start, false},
		{"creations and deletions both count", func(e *Expectations) { e.Create("o", 1, start); e.Delete("o", "a", start); e.Created("o", 1) }, start, false},
		{"owners are apart", func(e *Expectations) { e.Create("p", 1, start) }, start, true},
		{"a gone owner is forgotten", func(e *Expectations) { e.Create("o", 1, start); e.Forget("o") }, start, true},
		{"lost events are not waited for forever", func(e *Expectations) { e.Create("o", 1, start) }, start.Add(6 * time.Minute), true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var e Expectations
			c.do(&e)
			if got := e.Satisfied("o", c.at); got != c.want {
				t.Errorf("Satisfied = %v, want %v", got, c.want)
			}
		})
	}
}
