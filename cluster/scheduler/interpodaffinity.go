package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// affinityTerm is a wish to be in one domain with other pods, or not to be.
type affinityTerm struct {
	key        string // of the node label that makes the domains
	selector   labels.Selector
	namespaces map[string]bool
	nsSelector labels.Selector // of namespaces, besides those named
	weight     int64           // of a preference
}

// affinityTerms are a pod's own wishes.
type affinityTerms struct {
	required, requiredAnti, preferred, preferredAnti []affinityTerm
}

func (t *affinityTerms) any() bool {
	return len(t.required)+len(t.requiredAnti)+len(t.preferred)+len(t.preferredAnti) > 0
}

// An existing pod's required affinity draws new pods with this weight.
const hardAffinityWeight = 1

func affinityTermsOf(pod *corev1.Pod) (t affinityTerms) {
	if pod.Spec.Affinity == nil {
		return t
	}
	if a := pod.Spec.Affinity.PodAffinity; a != nil {
		t.required = requiredTerms(pod, a.RequiredDuringSchedulingIgnoredDuringExecution)
		t.preferred = preferredTerms(pod, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a := pod.Spec.Affinity.PodAntiAffinity; a != nil {
		t.requiredAnti = requiredTerms(pod, a.RequiredDuringSchedulingIgnoredDuringExecution)
		t.preferredAnti = preferredTerms(pod, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return t
}

func requiredTerms(pod *corev1.Pod, terms []corev1.PodAffinityTerm) (out []affinityTerm) {
	for i := range terms {
		out = append(out, termOf(pod, &terms[i], 0))
	}
	return out
}

func preferredTerms(pod *corev1.Pod, terms []corev1.WeightedPodAffinityTerm) (out []affinityTerm) {
	for i := range terms {
		out = append(out, termOf(pod, &terms[i].PodAffinityTerm, int64(terms[i].Weight)))
	}
	return out
}

func termOf(pod *corev1.Pod, term *corev1.PodAffinityTerm, weight int64) affinityTerm {
	t := affinityTerm{key: term.TopologyKey, namespaces: map[string]bool{}, nsSelector: labels.Nothing(), weight: weight}
	var err error
	if t.selector, err = withLabelKeys(term.LabelSelector, pod.Labels, term.MatchLabelKeys, term.MismatchLabelKeys); err != nil {
		t.selector = labels.Nothing() // validation keeps such selectors out
	}
	for _, ns := range term.Namespaces {
		t.namespaces[ns] = true
	}
	if term.NamespaceSelector != nil {
		if s, err := metav1.LabelSelectorAsSelector(term.NamespaceSelector); err == nil {
			t.nsSelector = s
		}
	} else if len(term.Namespaces) == 0 {
		t.namespaces[pod.Namespace] = true
	}
	return t
}

// matches reports whether the term is about pod.
func (t *affinityTerm) matches(c *cluster, pod *corev1.Pod) bool {
	if !t.namespaces[pod.Namespace] && !t.nsSelector.Matches(labels.Set(c.namespaceLabels(pod.Namespace))) {
		return false
	}
	return t.selector.Matches(labels.Set(pod.Labels))
}

// domain is a node label's key and value.
type domain struct{ key, value string }

func domainOf(n *nodeInfo, key string) (domain, bool) {
	value, ok := n.node.Labels[key]
	return domain{key, value}, ok
}

// affinityFilter keeps pods to the domains that their required affinity needs,
// and off those that their own or others' required anti-affinity forbids.
func affinityFilter(c *cluster, pod *podInfo) func(*nodeInfo) []string {
	forbidden := forbiddenByOthers(c, pod)
	own := &pod.affinity
	if len(forbidden) == 0 && len(own.required) == 0 && len(own.requiredAnti) == 0 {
		return nil
	}
	wanted := countTogether(c, own.required)
	avoided := countEach(c, own.requiredAnti)
	first := len(wanted) == 0 && matchesSelf(c, pod)
	return func(n *nodeInfo) []string {
		switch {
		case !affine(n, own.required, wanted, first):
			return []string{"node(s) didn't match pod affinity rules"}
		case inAny(n, own.requiredAnti, avoided):
			return []string{"node(s) didn't match pod anti-affinity rules"}
		}
		for key, value := range n.node.Labels {
			if forbidden[domain{key, value}] {
				return []string{"node(s) didn't satisfy existing pods anti-affinity rules"}
			}
		}
		return nil
	}
}

func forbiddenByOthers(c *cluster, pod *podInfo) map[domain]bool {
	forbidden := map[domain]bool{}
	for n := range c.antiAffinity {
		if n.node == nil {
			continue
		}
		for _, other := range n.pods {
			for i := range other.affinity.requiredAnti {
				term := &other.affinity.requiredAnti[i]
				if d, ok := domainOf(n, term.key); ok && term.matches(c, pod.pod) {
					forbidden[d] = true
				}
			}
		}
	}
	return forbidden
}

// countTogether returns the domains with pods that all the terms are about.
func countTogether(c *cluster, terms []affinityTerm) map[domain]bool {
	found := map[domain]bool{}
	if len(terms) == 0 {
		return found
	}
	for _, n := range c.order {
		for _, other := range n.pods {
			all := true
			for i := range terms {
				all = all && terms[i].matches(c, other.pod)
			}
			if !all {
				continue
			}
			for i := range terms {
				if d, ok := domainOf(n, terms[i].key); ok {
					found[d] = true
				}
			}
		}
	}
	return found
}

// countEach returns the domains with pods that any of the terms is about.
func countEach(c *cluster, terms []affinityTerm) map[domain]bool {
	found := map[domain]bool{}
	if len(terms) == 0 {
		return found
	}
	for _, n := range c.order {
		for _, other := range n.pods {
			for i := range terms {
				if d, ok := domainOf(n, terms[i].key); ok && terms[i].matches(c, other.pod) {
					found[d] = true
				}
			}
		}
	}
	return found
}

// affine reports whether a node is in a wanted domain by every term. The first
// pod of a group that wants to be with itself may go anywhere that has the
// labels.
func affine(n *nodeInfo, terms []affinityTerm, wanted map[domain]bool, first bool) bool {
	for i := range terms {
		d, ok := domainOf(n, terms[i].key)
		if !ok || !first && !wanted[d] {
			return false
		}
	}
	return true
}

func inAny(n *nodeInfo, terms []affinityTerm, avoided map[domain]bool) bool {
	for i := range terms {
		if d, ok := domainOf(n, terms[i].key); ok && avoided[d] {
			return true
		}
	}
	return false
}

func matchesSelf(c *cluster, pod *podInfo) bool {
	for i := range pod.affinity.required {
		if !pod.affinity.required[i].matches(c, pod.pod) {
			return false
		}
	}
	return true
}

// affinityScore prefers domains by the pod's preferences about the pods there,
// and by theirs about it.
func affinityScore(c *cluster, pod *podInfo, nodes []*nodeInfo) []int64 {
	sums := map[domain]int64{}
	add := func(n *nodeInfo, terms []affinityTerm, about *corev1.Pod, sign, weight int64) {
		for i := range terms {
			if d, ok := domainOf(n, terms[i].key); ok && terms[i].matches(c, about) {
				sums[d] += sign * max(terms[i].weight, weight)
			}
		}
	}
	own := &pod.affinity
	if len(own.preferred)+len(own.preferredAnti) > 0 {
		for _, n := range c.order {
			for _, other := range n.pods {
				add(n, own.preferred, other.pod, 1, 0)
				add(n, own.preferredAnti, other.pod, -1, 0)
			}
		}
	}
	for n := range c.withAffinity {
		if n.node == nil {
			continue
		}
		for _, other := range n.pods {
			add(n, other.affinity.required, pod.pod, 1, hardAffinityWeight)
			add(n, other.affinity.preferred, pod.pod, 1, 0)
			add(n, other.affinity.preferredAnti, pod.pod, -1, 0)
		}
	}
	if len(sums) == 0 {
		return nil
	}
	return stretch(nodes, sums)
}

// stretch maps the nodes' sums, which may be negative, to 0..maxScore.
func stretch(nodes []*nodeInfo, sums map[domain]int64) []int64 {
	scores := make([]int64, len(nodes))
	lowest, highest := int64(math.MaxInt64), int64(math.MinInt64)
	for i, n := range nodes {
		for key, value := range n.node.Labels {
			scores[i] += sums[domain{key, value}]
		}
		lowest, highest = min(lowest, scores[i]), max(highest, scores[i])
	}
	for i := range scores {
		if highest == lowest {
			scores[i] = 0
			continue
		}
		scores[i] = int64(maxScore * float64(scores[i]-lowest) / float64(highest-lowest))
	}
	return scores
}
