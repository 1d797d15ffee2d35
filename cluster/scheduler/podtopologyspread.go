package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// constraint is a topology spread constraint, or one of the defaults for pods
// that have none.
type constraint struct {
	key        string
	maxSkew    int32
	minDomains int32
	selector   labels.Selector
	namespace  string
	owner      types.UID // set: the pods of this controller are counted, not those of selector
	self       bool      // the pod counts among the others
	eligible   func(*nodeInfo) bool
}

// Pods of a controller that name no constraints are spread over hosts and,
// less strictly, over zones.
var defaultSpread = []struct {
	key     string
	maxSkew int32
}{{corev1.LabelHostname, 3}, {corev1.LabelTopologyZone, 5}}

func constraintsOf(pod *podInfo, action corev1.UnsatisfiableConstraintAction) []constraint {
	var out []constraint
	for i := range pod.pod.Spec.TopologySpreadConstraints {
		c := &pod.pod.Spec.TopologySpreadConstraints[i]
		if c.WhenUnsatisfiable != action {
			continue
		}
		selector, err := withLabelKeys(c.LabelSelector, pod.pod.Labels, c.MatchLabelKeys, nil)
		if err != nil {
			selector = labels.Nothing() // validation keeps such selectors out
		}
		next := constraint{
			key: c.TopologyKey, maxSkew: c.MaxSkew, minDomains: 1,
			selector: selector, namespace: pod.pod.Namespace,
			self:     selector.Matches(labels.Set(pod.pod.Labels)),
			eligible: eligibleNodes(pod, c),
		}
		if c.MinDomains != nil {
			next.minDomains = *c.MinDomains
		}
		out = append(out, next)
	}
	return out
}

// withLabelKeys adds to a selector that the labels with these keys must be the
// same as, or other than, the pod's own.
func withLabelKeys(s *metav1.LabelSelector, own map[string]string, same, other []string) (labels.Selector, error) {
	if s == nil {
		return labels.Nothing(), nil
	}
	full := s.DeepCopy()
	add := func(keys []string, op metav1.LabelSelectorOperator) {
		for _, k := range keys {
			if v, ok := own[k]; ok {
				full.MatchExpressions = append(full.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: op, Values: []string{v}})
			}
		}
	}
	add(same, metav1.LabelSelectorOpIn)
	add(other, metav1.LabelSelectorOpNotIn)
	return metav1.LabelSelectorAsSelector(full)
}

// eligibleNodes tells which nodes a constraint counts: by default those that
// the pod's node affinity admits, tainted or not.
func eligibleNodes(pod *podInfo, c *corev1.TopologySpreadConstraint) func(*nodeInfo) bool {
	honorAffinity := c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor
	honorTaints := c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor
	required := nodeaffinity.GetRequiredNodeAffinity(pod.pod)
	tolerates := taintFilter(nil, pod)
	return func(n *nodeInfo) bool {
		if honorAffinity {
			if ok, err := required.Match(n.node); !ok || err != nil {
				return false
			}
		}
		return !honorTaints || tolerates(n) == nil
	}
}

// count returns how many pods on a node a constraint is about.
func (c *constraint) count(n *nodeInfo) int {
	if c.owner != "" {
		return n.owned[c.owner]
	}
	total := 0
	for _, p := range n.pods {
		if p.pod.Namespace == c.namespace && p.pod.DeletionTimestamp == nil && c.selector.Matches(labels.Set(p.pod.Labels)) {
			total++
		}
	}
	return total
}

func hasKeys(n *nodeInfo, constraints []constraint) bool {
	for i := range constraints {
		if _, ok := n.node.Labels[constraints[i].key]; !ok {
			return false
		}
	}
	return true
}

// spreadFilter keeps pods off nodes where they would make a domain fuller than
// the emptiest one by more than allowed.
func spreadFilter(c *cluster, pod *podInfo) func(*nodeInfo) []string {
	constraints := constraintsOf(pod, corev1.DoNotSchedule)
	if len(constraints) == 0 {
		return nil
	}
	domains := make([]map[string]int, len(constraints))
	for i := range constraints {
		domains[i] = map[string]int{}
	}
	for _, n := range c.order {
		if !hasKeys(n, constraints) {
			continue
		}
		for i := range constraints {
			if constraints[i].eligible(n) {
				domains[i][n.node.Labels[constraints[i].key]] += constraints[i].count(n)
			}
		}
	}
	emptiest := make([]int, len(constraints))
	for i := range constraints {
		if len(domains[i]) < int(constraints[i].minDomains) {
			continue // domains that are still to come count as empty
		}
		emptiest[i] = math.MaxInt
		for _, n := range domains[i] {
			emptiest[i] = min(emptiest[i], n)
		}
	}
	const mismatch = "node(s) didn't match pod topology spread constraints"
	return func(n *nodeInfo) []string {
		for i := range constraints {
			domain, ok := n.node.Labels[constraints[i].key]
			if !ok {
				return []string{mismatch + " (missing required label)"}
			}
			skew := domains[i][domain] - emptiest[i]
			if constraints[i].self {
				skew++
			}
			if skew > int(constraints[i].maxSkew) {
				return []string{mismatch}
			}
		}
		return nil
	}
}

// spreadScore prefers nodes in domains with fewer of the pod's kind. The
// defaults count the pods of the same controller, where the reference counts
// by the selectors of Services and controllers: that is a lookup, not a pass
// over all pods.
func spreadScore(c *cluster, pod *podInfo, nodes []*nodeInfo) []int64 {
	constraints := constraintsOf(pod, corev1.ScheduleAnyway)
	byDefault := len(pod.pod.Spec.TopologySpreadConstraints) == 0 && pod.owner != ""
	if byDefault {
		for _, d := range defaultSpread {
			constraints = append(constraints, constraint{
				key: d.key, maxSkew: d.maxSkew, owner: pod.owner, eligible: func(*nodeInfo) bool { return true },
			})
		}
	}
	if len(constraints) == 0 {
		return nil
	}
	sums := make([]float64, len(nodes))
	skipped := make([]bool, len(nodes))
	for i, n := range nodes {
		skipped[i] = !byDefault && !hasKeys(n, constraints)
	}
	for i := range constraints {
		addSpread(c, &constraints[i], nodes, skipped, sums)
	}
	return normalizeSpread(sums, skipped)
}

// addSpread adds to each node's sum how full its domain is.
func addSpread(c *cluster, con *constraint, nodes []*nodeInfo, skipped []bool, sums []float64) {
	if con.key == corev1.LabelHostname {
		// Each node is a domain of its own.
		weight := math.Log(float64(len(nodes) + 2))
		for i, n := range nodes {
			if !skipped[i] {
				sums[i] += float64(con.count(n))*weight + float64(con.maxSkew-1)
			}
		}
		return
	}
	domains := map[string]int{}
	for i, n := range nodes {
		if domain, ok := n.node.Labels[con.key]; ok && !skipped[i] {
			domains[domain] = 0
		}
	}
	if len(domains) == 0 {
		return
	}
	for _, n := range c.order {
		domain, ok := n.node.Labels[con.key]
		if _, known := domains[domain]; ok && known && con.eligible(n) {
			domains[domain] += con.count(n)
		}
	}
	weight := math.Log(float64(len(domains) + 2))
	for i, n := range nodes {
		if domain, ok := n.node.Labels[con.key]; ok && !skipped[i] {
			sums[i] += float64(domains[domain])*weight + float64(con.maxSkew-1)
		}
	}
}

// normalizeSpread turns sums, of which less is better, into scores.
func normalizeSpread(sums []float64, skipped []bool) []int64 {
	lowest, highest := int64(math.MaxInt64), int64(0)
	scores := make([]int64, len(sums))
	for i, s := range sums {
		scores[i] = int64(math.Round(s))
		if !skipped[i] {
			lowest, highest = min(lowest, scores[i]), max(highest, scores[i])
		}
	}
	for i, s := range scores {
		switch {
		case skipped[i]:
			scores[i] = 0
		case highest == 0:
			scores[i] = maxScore
		default:
			scores[i] = maxScore * (highest + lowest - s) / highest
		}
	}
	return scores
}
