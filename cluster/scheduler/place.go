package scheduler

import (
	"fmt"
	"slices"
	"strings"
)

// choice is the outcome of one decision.
type choice struct {
	node    string         // empty: none fits
	nodes   int            // how many there are
	reasons map[string]int // why not, and on how many nodes
	retry   event          // what may help
}

// message says why no node fits, in the reference's words.
func (c *choice) message() string {
	if c.nodes == 0 {
		return "no nodes available to schedule pods"
	}
	var parts []string
	for reason, n := range c.reasons {
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(parts)
	return fmt.Sprintf("0/%d nodes are available: %s.", c.nodes, strings.Join(parts, ", "))
}

// Not all nodes of a large cluster are looked at for each pod: once this many
// fit, one of them is good enough.
const (
	minFeasible        = 100
	maxFeasiblePercent = 50
	minFeasiblePercent = 5
)

// enough returns how many nodes that fit are enough.
func enough(nodes int) int {
	if nodes < minFeasible {
		return nodes
	}
	percent := max(maxFeasiblePercent-nodes/125, minFeasiblePercent)
	return max(nodes*percent/100, minFeasible)
}

// place chooses a node for a pod. intN breaks ties; it returns a number from 0
// to below its argument. Only the place where the next search begins changes
// in c.
func place(c *cluster, pod *podInfo, intN func(int) int) choice {
	fitting, out := feasible(c, pod)
	switch len(fitting) {
	case 0:
		return out
	case 1:
		out.node = fitting[0].name
		return out
	}
	total := score(c, pod, fitting)
	best, ties := 0, 1
	for i := 1; i < len(fitting); i++ {
		switch {
		case total[i] > total[best]:
			best, ties = i, 1
		case total[i] == total[best]:
			// Each of k equals ends up chosen with probability 1/k.
			if ties++; intN(ties) == 0 {
				best = i
			}
		}
	}
	out.node = fitting[best].name
	return out
}

// feasible returns nodes on which the pod can run, enough of them to choose
// from.
func feasible(c *cluster, pod *podInfo) ([]*nodeInfo, choice) {
	out := choice{nodes: len(c.order), reasons: map[string]int{}, retry: nodeAdded}
	type check struct {
		f    *filter
		fits func(*nodeInfo) []string
	}
	var checks []check
	for i := range filters {
		if fits := filters[i].prepare(c, pod); fits != nil {
			checks = append(checks, check{&filters[i], fits})
		}
	}
	want := enough(len(c.order))
	fitting := make([]*nodeInfo, 0, min(want, len(c.order)))
	looked := 0
nodes:
	for ; looked < len(c.order) && len(fitting) < want; looked++ {
		n := c.order[(c.next+looked)%len(c.order)]
		for _, check := range checks {
			if reasons := check.fits(n); reasons != nil {
				out.retry |= check.f.retry
				for _, r := range reasons {
					out.reasons[r]++
				}
				continue nodes
			}
		}
		fitting = append(fitting, n)
	}
	if len(c.order) > 0 {
		c.next = (c.next + looked) % len(c.order)
	}
	return fitting, out
}

const maxScore = 100

// score rates the nodes; more is better.
func score(c *cluster, pod *podInfo, nodes []*nodeInfo) []int64 {
	total := make([]int64, len(nodes))
	for i := range scorers {
		s := &scorers[i]
		for j, n := range s.score(c, pod, nodes) {
			total[j] += s.weight * n
		}
	}
	return total
}

// normalize stretches scores to 0..maxScore by the highest of them; reverse
// makes fewer better.
func normalize(scores []int64, reverse bool) []int64 {
	highest := int64(0)
	for _, s := range scores {
		highest = max(highest, s)
	}
	for i, s := range scores {
		if highest > 0 {
			s = maxScore * s / highest
		}
		if reverse {
			s = maxScore - s
		}
		scores[i] = s
	}
	return scores
}
