package scheduler

// Images below the first size are fetched so fast that it does not matter
// where they are; more than the second, per container, does not count.
const (
	smallImage = 23 << 20
	largeImage = 1000 << 20
)

// imageScore prefers nodes that have the pod's images, weighted by how common
// an image is: else one node that has it would draw all pods.
func imageScore(c *cluster, pod *podInfo, nodes []*nodeInfo) []int64 {
	spec := &pod.pod.Spec
	var images []string
	for i := range spec.InitContainers {
		images = append(images, imageName(spec.InitContainers[i].Image))
	}
	for i := range spec.Containers {
		images = append(images, imageName(spec.Containers[i].Image))
	}
	for i := range spec.Volumes {
		if v := spec.Volumes[i].Image; v != nil {
			images = append(images, imageName(v.Reference))
		}
	}
	limit := int64(largeImage * max(1, len(spec.InitContainers)+len(spec.Containers)))
	scores := make([]int64, len(nodes))
	for i, n := range nodes {
		sum := int64(0)
		for _, name := range images {
			if size, ok := n.images[name]; ok {
				sum += int64(float64(size) * float64(c.imageNodes[name]) / float64(len(c.order)))
			}
		}
		sum = min(max(sum, smallImage), limit)
		scores[i] = maxScore * (sum - smallImage) / (limit - smallImage)
	}
	return scores
}
