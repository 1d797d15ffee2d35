package scheduler

import (
	"fmt"
	"math/rand/v2"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// A pod's decision on 1000 nodes that fill up with 5000 pods: the work of the
// decider alone.
func BenchmarkPlace(b *testing.B) {
	for _, kind := range []struct {
		name   string
		change func(*corev1.Pod)
	}{
		{"plain", func(*corev1.Pod) {}},
		{"of a controller", ownedBy("rs")},
		{"anti-affinity", without(term(corev1.LabelHostname, "other"))},
		{"spread", spread(corev1.LabelTopologyZone, 5, corev1.DoNotSchedule)},
	} {
		b.Run(kind.name, func(b *testing.B) {
			c := newCluster()
			for i := range 1000 {
				c.setNode(testNode(fmt.Sprint("node-", i), zone(fmt.Sprint(i%10))))
			}
			for i := 0; b.Loop(); i++ {
				if i%5000 == 0 {
					for uid := range c.pods {
						c.removePod(uid)
					}
				}
				p := newPodInfo(testPod(fmt.Sprint("pod-", i), "100m", "100Mi", kind.change))
				choice := place(c, p, rand.IntN)
				if choice.node == "" {
					b.Fatal(choice.message())
				}
				c.assume(p, choice.node)
			}
		})
	}
}
