package scheduler

import (
	"fmt"
	"math"

	"k8s.io/apimachinery/pkg/api/resource"
)

func newMilli(n int64) *resource.Quantity { return resource.NewMilliQuantity(n, resource.DecimalSI) }
func newBytes(n int64) *resource.Quantity { return resource.NewQuantity(n, resource.BinarySI) }

// fitFilter keeps pods off nodes that have too little left of what they ask
// for: init containers, sidecars and overhead counted as they will run.
func fitFilter(_ *cluster, pod *podInfo) func(*nodeInfo) []string {
	want := &pod.request
	return func(n *nodeInfo) []string {
		var reasons []string
		if int64(len(n.pods))+1 > n.maxPods {
			reasons = append(reasons, "Too many pods")
		}
		if want.cpuMillis > 0 && want.cpuMillis > n.allocatable.cpuMillis-n.requested.cpuMillis {
			reasons = append(reasons, "Insufficient cpu")
		}
		if want.memoryBytes > 0 && want.memoryBytes > n.allocatable.memoryBytes-n.requested.memoryBytes {
			reasons = append(reasons, "Insufficient memory")
		}
		if want.ephemeralBytes > 0 && want.ephemeralBytes > n.allocatable.ephemeralBytes-n.requested.ephemeralBytes {
			reasons = append(reasons, "Insufficient ephemeral-storage")
		}
		for name, amount := range want.scalars {
			if amount > 0 && amount > n.allocatable.scalars[name]-n.requested.scalars[name] {
				reasons = append(reasons, fmt.Sprintf("Insufficient %s", name))
			}
		}
		return reasons
	}
}

// leastAllocatedScore prefers the nodes of which the most is left.
func leastAllocatedScore(_ *cluster, pod *podInfo, nodes []*nodeInfo) []int64 {
	free := func(capacity, used int64) int64 {
		if capacity == 0 || used > capacity {
			return 0
		}
		return (capacity - used) * maxScore / capacity
	}
	scores := make([]int64, len(nodes))
	for i, n := range nodes {
		scores[i] = (free(n.allocatable.cpuMillis, n.scored.cpuMillis+pod.scored.cpuMillis) +
			free(n.allocatable.memoryBytes, n.scored.memoryBytes+pod.scored.memoryBytes)) / 2
	}
	return scores
}

// balancedScore prefers the nodes whose processors and memory the pod brings
// closer to being used alike.
func balancedScore(_ *cluster, pod *podInfo, nodes []*nodeInfo) []int64 {
	if pod.request.cpuMillis == 0 && pod.request.memoryBytes == 0 {
		return nil
	}
	balance := func(n *nodeInfo, cpu, memory int64) int64 {
		if n.allocatable.cpuMillis == 0 || n.allocatable.memoryBytes == 0 {
			return maxScore
		}
		c := min(1, float64(cpu)/float64(n.allocatable.cpuMillis))
		m := min(1, float64(memory)/float64(n.allocatable.memoryBytes))
		// The standard deviation of two values.
		return int64((1 - math.Abs(c-m)/2) * maxScore)
	}
	scores := make([]int64, len(nodes))
	for i, n := range nodes {
		without := balance(n, n.requested.cpuMillis, n.requested.memoryBytes)
		with := balance(n, n.requested.cpuMillis+pod.request.cpuMillis, n.requested.memoryBytes+pod.request.memoryBytes)
		scores[i] = maxScore/2 + (maxScore/2+with-without)/2
	}
	return scores
}
