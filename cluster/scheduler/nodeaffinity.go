package scheduler

import (
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// nodeAffinityFilter keeps pods to the nodes that their nodeSelector and
// required node affinity name.
func nodeAffinityFilter(_ *cluster, pod *podInfo) func(*nodeInfo) []string {
	spec := &pod.pod.Spec
	affine := spec.Affinity != nil && spec.Affinity.NodeAffinity != nil &&
		spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil
	if len(spec.NodeSelector) == 0 && !affine {
		return nil
	}
	required := nodeaffinity.GetRequiredNodeAffinity(pod.pod)
	return func(n *nodeInfo) []string {
		// A term that cannot be parsed matches nothing, as in the reference.
		if ok, err := required.Match(n.node); !ok || err != nil {
			return []string{"node(s) didn't match Pod's node affinity/selector"}
		}
		return nil
	}
}

// nodeAffinityScore prefers the nodes that the pod prefers.
func nodeAffinityScore(_ *cluster, pod *podInfo, nodes []*nodeInfo) []int64 {
	affinity := pod.pod.Spec.Affinity
	if affinity == nil || affinity.NodeAffinity == nil || len(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return nil
	}
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return nil // a preference that cannot be parsed is none
	}
	scores := make([]int64, len(nodes))
	for i, n := range nodes {
		scores[i] = terms.Score(n.node)
	}
	return normalize(scores, false)
}
