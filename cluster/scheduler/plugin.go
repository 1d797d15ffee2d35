package scheduler

// filter keeps pods off nodes on which they cannot or must not run.
type filter struct {
	name  string
	retry event // what may make room where the filter found none
	// prepare works out what does not depend on the node, and returns the
	// check of one node, which gives the reasons why the pod does not fit
	// there. It returns nil when the filter has nothing to say about the pod.
	prepare func(*cluster, *podInfo) func(*nodeInfo) []string
}

// filters are asked in this order; the first that objects is quoted.
var filters = []filter{
	{"NodeUnschedulable", nodeAdded | nodeTaints, unschedulableFilter},
	{"TaintToleration", nodeAdded | nodeTaints, taintFilter},
	{"NodeAffinity", nodeAdded | nodeLabels, nodeAffinityFilter},
	{"NodePorts", nodeAdded | podGone, portsFilter},
	{"NodeResourcesFit", nodeAdded | nodeResources | podGone | podShrunk, fitFilter},
	{"PodTopologySpread", nodeAdded | nodeRemoved | nodeLabels | nodeTaints | podPlaced | podGone | podRelabelled, spreadFilter},
	{"InterPodAffinity", nodeAdded | nodeLabels | podPlaced | podGone | podRelabelled | namespaceLabelled, affinityFilter},
}

// scorer rates nodes on which a pod fits, each from 0 to maxScore. It returns
// nil when it has no opinion.
type scorer struct {
	name   string
	weight int64
	score  func(*cluster, *podInfo, []*nodeInfo) []int64
}

var scorers = []scorer{
	{"TaintToleration", 3, taintScore},
	{"NodeAffinity", 2, nodeAffinityScore},
	{"PodTopologySpread", 2, spreadScore},
	{"InterPodAffinity", 2, affinityScore},
	{"LeastAllocated", 1, leastAllocatedScore},
	{"BalancedAllocation", 1, balancedScore},
	{"ImageLocality", 1, imageScore},
}
