package scheduler

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/resource"
	schedulingv1 "k8s.io/component-helpers/scheduling/corev1"
)

// resources is an amount of each resource.
type resources struct {
	cpuMillis      int64
	memoryBytes    int64
	ephemeralBytes int64
	scalars        map[corev1.ResourceName]int64 // others; nil when there are none
}

func (r *resources) add(o *resources, sign int64) {
	r.cpuMillis += sign * o.cpuMillis
	r.memoryBytes += sign * o.memoryBytes
	r.ephemeralBytes += sign * o.ephemeralBytes
	for name, n := range o.scalars {
		if r.scalars == nil {
			r.scalars = map[corev1.ResourceName]int64{}
		}
		r.scalars[name] += sign * n
	}
}

func resourcesOf(list corev1.ResourceList) resources {
	var r resources
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			r.cpuMillis = q.MilliValue()
		case corev1.ResourceMemory:
			r.memoryBytes = q.Value()
		case corev1.ResourceEphemeralStorage:
			r.ephemeralBytes = q.Value()
		case corev1.ResourcePods:
			// Counted, not added up.
		default:
			if r.scalars == nil {
				r.scalars = map[corev1.ResourceName]int64{}
			}
			r.scalars[name] = q.Value()
		}
	}
	return r
}

// What a container without requests counts for when nodes are scored: else all
// such pods would end up on one node.
const (
	assumedCPUMillis   = 100
	assumedMemoryBytes = 200 << 20
)

// podInfo is a pod with what the plug-ins read of it, worked out once. It is
// not changed after it was made.
type podInfo struct {
	pod      *corev1.Pod
	priority int32
	owner    types.UID // its controller's; empty: it has none
	request  resources
	scored   resources // request, with the assumed amounts where nothing is asked for
	ports    []hostPort
	affinity affinityTerms
}

func newPodInfo(pod *corev1.Pod) *podInfo {
	info := &podInfo{
		pod:      pod,
		priority: schedulingv1.PodPriority(pod),
		request:  resourcesOf(resource.PodRequests(pod, resource.PodResourcesOptions{UseStatusResources: true})),
		ports:    hostPorts(pod),
		affinity: affinityTermsOf(pod),
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		info.owner = ref.UID
	}
	assumed := corev1.ResourceList{
		corev1.ResourceCPU:    *newMilli(assumedCPUMillis),
		corev1.ResourceMemory: *newBytes(assumedMemoryBytes),
	}
	info.scored = resourcesOf(resource.PodRequests(pod, resource.PodResourcesOptions{
		UseStatusResources: true, NonMissingContainerRequests: assumed,
	}))
	return info
}

// nodeInfo is a node with the pods on it.
type nodeInfo struct {
	name        string
	node        *corev1.Node // nil: pods are bound to it, but it is not known
	allocatable resources
	maxPods     int64
	pods        map[types.UID]*podInfo
	requested   resources
	scored      resources
	ports       map[hostPort]int  // how many pods use it
	owned       map[types.UID]int // pods by controller, without those being deleted
	images      map[string]int64  // sizes by name
	position    int               // in cluster.order
}

// placed is a pod that has a node.
type placed struct {
	info    *podInfo
	node    *nodeInfo
	assumed bool // chosen by us, not shown by the informer yet
}

// cluster is the scheduler's picture: what the informers show, with the
// choices that were made since. It has no lock of its own.
type cluster struct {
	nodes map[string]*nodeInfo
	order []*nodeInfo // the known nodes
	next  int         // where in order the next search begins
	pods  map[types.UID]*placed

	imageNodes      map[string]int // how many nodes have an image
	antiAffinity    map[*nodeInfo]int
	withAffinity    map[*nodeInfo]int
	namespaceLabels func(name string) map[string]string
}

func newCluster() *cluster {
	return &cluster{
		nodes:           map[string]*nodeInfo{},
		pods:            map[types.UID]*placed{},
		imageNodes:      map[string]int{},
		antiAffinity:    map[*nodeInfo]int{},
		withAffinity:    map[*nodeInfo]int{},
		namespaceLabels: func(string) map[string]string { return nil },
	}
}

func (c *cluster) nodeNamed(name string) *nodeInfo {
	n := c.nodes[name]
	if n == nil {
		n = &nodeInfo{
			name: name, pods: map[types.UID]*podInfo{},
			ports: map[hostPort]int{}, owned: map[types.UID]int{},
		}
		c.nodes[name] = n
	}
	return n
}

func (c *cluster) setNode(node *corev1.Node) {
	n := c.nodeNamed(node.Name)
	if n.node == nil {
		n.position = len(c.order)
		c.order = append(c.order, n)
	}
	n.node = node
	n.allocatable = resourcesOf(node.Status.Allocatable)
	n.maxPods = node.Status.Allocatable.Pods().Value()
	c.countImages(n, -1)
	n.images = map[string]int64{}
	for _, image := range node.Status.Images {
		for _, name := range image.Names {
			n.images[name] = image.SizeBytes
		}
	}
	c.countImages(n, 1)
}

func (c *cluster) countImages(n *nodeInfo, sign int) {
	for name := range n.images {
		if c.imageNodes[name] += sign; c.imageNodes[name] == 0 {
			delete(c.imageNodes, name)
		}
	}
}

func (c *cluster) removeNode(name string) {
	n := c.nodes[name]
	if n == nil || n.node == nil {
		return
	}
	c.countImages(n, -1)
	n.node, n.images = nil, nil
	last := len(c.order) - 1
	c.order[n.position] = c.order[last]
	c.order[n.position].position = n.position
	c.order[last] = nil
	c.order = c.order[:last]
	c.dropEmpty(n)
}

func (c *cluster) dropEmpty(n *nodeInfo) {
	if n.node == nil && len(n.pods) == 0 {
		delete(c.nodes, n.name)
	}
}

// setPod takes in a pod as the informer shows it on a node.
func (c *cluster) setPod(info *podInfo, node string) {
	c.removePod(info.pod.UID)
	c.put(&placed{info: info, node: c.nodeNamed(node)})
}

// assume counts a pod on the node chosen for it.
func (c *cluster) assume(info *podInfo, node string) {
	if have := c.pods[info.pod.UID]; have != nil && !have.assumed {
		return // the informer was faster
	}
	c.removePod(info.pod.UID)
	c.put(&placed{info: info, node: c.nodeNamed(node), assumed: true})
}

// unassume takes a choice back.
func (c *cluster) unassume(uid types.UID) {
	if p := c.pods[uid]; p != nil && p.assumed {
		c.removePod(uid)
	}
}

func (c *cluster) put(p *placed) {
	c.pods[p.info.pod.UID] = p
	p.node.pods[p.info.pod.UID] = p.info
	c.count(p, 1)
}

// removePod reports whether the pod was on a node.
func (c *cluster) removePod(uid types.UID) bool {
	p := c.pods[uid]
	if p == nil {
		return false
	}
	c.count(p, -1)
	delete(c.pods, uid)
	delete(p.node.pods, uid)
	c.dropEmpty(p.node)
	return true
}

func (c *cluster) count(p *placed, sign int) {
	n, info := p.node, p.info
	n.requested.add(&info.request, int64(sign))
	n.scored.add(&info.scored, int64(sign))
	for _, port := range info.ports {
		bump(n.ports, port, sign)
	}
	if info.owner != "" && info.pod.DeletionTimestamp == nil {
		bump(n.owned, info.owner, sign)
	}
	if len(info.affinity.requiredAnti) > 0 {
		bump(c.antiAffinity, n, sign)
	}
	if info.affinity.any() {
		bump(c.withAffinity, n, sign)
	}
}

func bump[K comparable](m map[K]int, k K, by int) {
	if m[k] += by; m[k] == 0 {
		delete(m, k)
	}
}

// imageName completes an image's name as nodes report it.
func imageName(name string) string {
	if strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") {
		return name + ":latest"
	}
	return name
}
