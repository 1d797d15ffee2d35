package main

import (
	"testing"

	"gantry/internal/problem"
)

func TestDiskBudget(t *testing.T) {
	for _, c := range []struct {
		share, least string
		percent      int
		floor        int64
		fails        bool
	}{
		{"", "", 0, 0, false},
		{"80%", "5GB", 80, 5 << 30, false},
		{"7", "100", 7, 100, false},
		{"0%", "", 0, 0, true},
		{"101%", "", 0, 0, true},
		{"much", "", 0, 0, true},
		{"", "little", 0, 0, true},
		{"", "0", 0, 0, true},
	} {
		percent, floor, err := diskBudget(c.share, c.least)
		if (err != nil) != c.fails || err == nil && (percent != c.percent || floor != c.floor) || err != nil && problem.Try(err) == "" {
			t.Errorf("diskBudget(%q, %q) = %d, %d, %v", c.share, c.least, percent, floor, err)
		}
	}
}
