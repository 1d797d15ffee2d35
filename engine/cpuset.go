package engine

import (
	"fmt"
	"strconv"
	"strings"
)

// maxSet is the reference's bound of a number in a set.
const maxSet = 8192

// parseSet parses a list of numbers and ranges in the kernel's form: "0-3,8".
func parseSet(list string) (map[int]bool, error) {
	set := map[int]bool{}
	if list == "" {
		return set, nil
	}
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err := strconv.Atoi(first)
		if err != nil {
			return nil, fmt.Errorf("invalid format: %s", list)
		}
		to, err := strconv.Atoi(last)
		if err != nil || from < 0 || to < from {
			return nil, fmt.Errorf("invalid format: %s", list)
		}
		if to > maxSet {
			return nil, fmt.Errorf("value of out range, maximum is %d", maxSet)
		}
		for n := from; n <= to; n++ {
			set[n] = true
		}
	}
	return set, nil
}
