package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

type (
	nodes = []*corev1.Node
	onto  = map[string][]*corev1.Pod
)

func TestFilters(t *testing.T) {
	zones := nodes{testNode("a", zone("1")), testNode("b", zone("1")), testNode("c", zone("2"))}
	const (
		mismatch   = "node(s) didn't match pod topology spread constraints"
		affinity   = "node(s) didn't match pod affinity rules"
		anti       = "node(s) didn't match pod anti-affinity rules"
		othersAnti = "node(s) didn't satisfy existing pods anti-affinity rules"
		taints     = "node(s) had untolerated taint(s)"
		ports      = "node(s) didn't have free ports for the requested pod ports"
		selector   = "node(s) didn't match Pod's node affinity/selector"
	)
	cases := []struct {
		name  string
		nodes nodes
		have  onto
		pod   *corev1.Pod
		fits  string // names of the nodes that do
		why   map[string]int
	}{
		{"enough is left", nodes{testNode("a")}, nil, testPod("p", "4", "8Gi"), "a", nil},
		{"too little cpu", nodes{testNode("a")}, nil, testPod("p", "4001m", "1Gi"), "", map[string]int{"Insufficient cpu": 1}},
		{"too little of two", nodes{testNode("a")}, nil, testPod("p", "5", "9Gi"), "", map[string]int{"Insufficient cpu": 1, "Insufficient memory": 1}},
		{"others' requests count", nodes{testNode("a"), testNode("b")}, onto{"a": {testPod("o", "3", "")}}, testPod("p", "2", ""), "b", map[string]int{"Insufficient cpu": 1}},
		{"room for pods runs out", nodes{testNode("a")}, onto{"a": manyPods(10)}, testPod("p", "", ""), "", map[string]int{"Too many pods": 1}},
		{"the largest init container counts", nodes{testNode("a")}, nil, testPod("p", "1", "", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Resources: p.Spec.Containers[0].Resources}}
			p.Spec.InitContainers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("5")}
		}), "", map[string]int{"Insufficient cpu": 1}},
		{"overhead counts", nodes{testNode("a")}, nil, testPod("p", "4", "", func(p *corev1.Pod) {
			p.Spec.Overhead = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1m")}
		}), "", map[string]int{"Insufficient cpu": 1}},
		{"extended resources", nodes{testNode("a"), testNode("b", capacity("example.com/gpu", "2"))}, nil, testPod("p", "", "", func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"example.com/gpu": resource.MustParse("2")}
		}), "b", map[string]int{"Insufficient example.com/gpu": 1}},

		{"cordoned", nodes{testNode("a", cordoned)}, nil, testPod("p", "", ""), "", map[string]int{"node(s) were unschedulable": 1}},
		{"cordoned and tolerated", nodes{testNode("a", cordoned)}, nil, testPod("p", "", "", tolerating(corev1.TaintNodeUnschedulable)), "a", nil},
		{"a taint", nodes{testNode("a", taint("k", corev1.TaintEffectNoSchedule)), testNode("b")}, nil, testPod("p", "", ""), "b", map[string]int{taints: 1}},
		{"NoExecute keeps off too", nodes{testNode("a", taint("k", corev1.TaintEffectNoExecute))}, nil, testPod("p", "", ""), "", map[string]int{taints: 1}},
		{"PreferNoSchedule does not", nodes{testNode("a", taint("k", corev1.TaintEffectPreferNoSchedule))}, nil, testPod("p", "", ""), "a", nil},
		{"a tolerated taint", nodes{testNode("a", taint("k", corev1.TaintEffectNoSchedule))}, nil, testPod("p", "", "", tolerating("k")), "a", nil},
		{"one of two tolerated", nodes{testNode("a", taint("k", corev1.TaintEffectNoSchedule), taint("l", corev1.TaintEffectNoSchedule))}, nil, testPod("p", "", "", tolerating("k")), "", map[string]int{taints: 1}},

		{"nodeSelector", nodes{testNode("a"), testNode("b", label("disk", "ssd"))}, nil, testPod("p", "", "", selecting("disk", "ssd")), "b", map[string]int{selector: 1}},
		{"affinity to a node by name", zones, nil, testPod("p", "", "", func(p *corev1.Pod) {
			affinityOf(p).NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
				{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"b"}}}},
			}}
		}), "b", map[string]int{selector: 2}},

		{"a taken port", nodes{testNode("a"), testNode("b")}, onto{"a": {testPod("o", "", "", onPort(80, ""))}}, testPod("p", "", "", onPort(80, "")), "b", map[string]int{ports: 1}},
		{"on another address", nodes{testNode("a")}, onto{"a": {testPod("o", "", "", onPort(80, "10.0.0.1"))}}, testPod("p", "", "", onPort(80, "10.0.0.2")), "a", nil},
		{"on all addresses", nodes{testNode("a")}, onto{"a": {testPod("o", "", "", onPort(80, "10.0.0.1"))}}, testPod("p", "", "", onPort(80, "")), "", map[string]int{ports: 1}},

		{"spread over zones", zones, onto{"a": {testPod("o", "", "")}}, testPod("p", "", "", spread(corev1.LabelTopologyZone, 1, corev1.DoNotSchedule)), "c", map[string]int{mismatch: 2}},
		{"skew allowed", zones, onto{"a": {testPod("o", "", "")}}, testPod("p", "", "", spread(corev1.LabelTopologyZone, 2, corev1.DoNotSchedule)), "a b c", nil},
		{"other namespaces do not count", zones, onto{"a": {testPod("o", "", "", inNamespace("x"))}}, testPod("p", "", "", spread(corev1.LabelTopologyZone, 1, corev1.DoNotSchedule)), "a b c", nil},
		{"nodes without the label", nodes{testNode("a", zone("1")), testNode("b")}, nil, testPod("p", "", "", spread(corev1.LabelTopologyZone, 1, corev1.DoNotSchedule)), "a", map[string]int{mismatch + " (missing required label)": 1}},
		{"domains that the selector excludes are not waited for", nodes{testNode("a", zone("1"), label("in", "y")), testNode("b", zone("2"))},
			onto{"a": {testPod("o", "", "")}}, testPod("p", "", "", spread(corev1.LabelTopologyZone, 1, corev1.DoNotSchedule), selecting("in", "y")), "a", map[string]int{selector: 1}},
		{"minDomains keeps room for those to come", zones, onto{"a": {testPod("o", "", "")}, "c": {testPod("q", "", "")}}, testPod("p", "", "", func(p *corev1.Pod) {
			spread(corev1.LabelTopologyZone, 1, corev1.DoNotSchedule)(p)
			p.Spec.TopologySpreadConstraints[0].MinDomains = new(int32(3))
		}), "", map[string]int{mismatch: 3}},
		{"matchLabelKeys counts the own version only", zones, onto{"a": {testPod("o", "", "", func(p *corev1.Pod) { p.Labels["v"] = "1" })}},
			testPod("p", "", "", spread(corev1.LabelTopologyZone, 1, corev1.DoNotSchedule), func(p *corev1.Pod) {
				p.Labels = map[string]string{"app": "web", "v": "2"}
				p.Spec.TopologySpreadConstraints[0].MatchLabelKeys = []string{"v"}
			}), "a b c", nil},

		{"with another app in the zone", zones, onto{"a": {testPod("o", "", "", app("db"))}}, testPod("p", "", "", with(term(corev1.LabelTopologyZone, "db"))), "a b", map[string]int{affinity: 1}},
		{"with an app that is nowhere", zones, nil, testPod("p", "", "", with(term(corev1.LabelTopologyZone, "db"))), "", map[string]int{affinity: 3}},
		{"the first of a group that wants to be together", zones, nil, testPod("p", "", "", with(term(corev1.LabelTopologyZone, "web"))), "a b c", nil},
		{"the second of it", zones, onto{"c": {testPod("o", "", "")}}, testPod("p", "", "", with(term(corev1.LabelTopologyZone, "web"))), "c", map[string]int{affinity: 2}},
		{"not on the host of its kind", zones, onto{"a": {testPod("o", "", "")}}, testPod("p", "", "", without(term(corev1.LabelHostname, "web"))), "b c", map[string]int{anti: 1}},
		{"not where others do not want it", zones, onto{"a": {testPod("o", "", "", app("db"), without(term(corev1.LabelTopologyZone, "web")))}}, testPod("p", "", ""), "c", map[string]int{othersAnti: 2}},
		{"terms are about their own namespace", zones, onto{"a": {testPod("o", "", "", inNamespace("x"))}}, testPod("p", "", "", without(term(corev1.LabelHostname, "web"))), "a b c", nil},
		{"or those named", zones, onto{"a": {testPod("o", "", "", inNamespace("x"))}}, testPod("p", "", "", without(func() corev1.PodAffinityTerm {
			t := term(corev1.LabelHostname, "web")
			t.Namespaces = []string{"x"}
			return t
		}())), "b c", map[string]int{anti: 1}},
		{"or all, by an empty selector", zones, onto{"a": {testPod("o", "", "", inNamespace("x"))}}, testPod("p", "", "", without(func() corev1.PodAffinityTerm {
			t := term(corev1.LabelHostname, "web")
			t.NamespaceSelector = &metav1.LabelSelector{}
			return t
		}())), "b c", map[string]int{anti: 1}},
		{"the first filter that objects is quoted", nodes{testNode("a", cordoned, taint("k", corev1.TaintEffectNoSchedule))}, nil, testPod("p", "9", ""), "", map[string]int{"node(s) were unschedulable": 1}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			fitting, out := feasible(testCluster(c.nodes, c.have), newPodInfo(c.pod))
			var names []string
			for _, n := range fitting {
				names = append(names, n.name)
			}
			slices.Sort(names)
			if got := fmt.Sprint(names); got != "["+c.fits+"]" {
				t.Errorf("fits on %s, want [%s]", got, c.fits)
			}
			if c.why == nil {
				c.why = map[string]int{}
			}
			if diff := cmp.Diff(c.why, out.reasons); diff != "" {
				t.Errorf("reasons (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMessage(t *testing.T) {
	cases := []struct {
		name  string
		nodes nodes
		pod   *corev1.Pod
		want  string
	}{
		{"no nodes", nil, testPod("p", "", ""), "no nodes available to schedule pods"},
		{"one reason", nodes{testNode("a")}, testPod("p", "5", ""), "0/1 nodes are available: 1 Insufficient cpu."},
		{"reasons are counted and sorted", nodes{testNode("a"), testNode("b"), testNode("c", taint("k", corev1.TaintEffectNoSchedule))}, testPod("p", "5", "9Gi"),
			"0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu, 2 Insufficient memory."},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			out := place(testCluster(c.nodes, nil), newPodInfo(c.pod), rand.IntN)
			if got := out.message(); got != c.want {
				t.Errorf("message %q, want %q", got, c.want)
			}
		})
	}
}

func TestScores(t *testing.T) {
	image := func(name string, size int64) func(*corev1.Node) {
		return func(n *corev1.Node) {
			n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{name}, SizeBytes: size})
		}
	}
	prefer := func(app string, weight int32, anti bool) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			w := []corev1.WeightedPodAffinityTerm{{Weight: weight, PodAffinityTerm: term(corev1.LabelHostname, app)}}
			if anti {
				affinityOf(p).PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution = w
			} else {
				affinityOf(p).PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution = w
			}
		}
	}
	ab := nodes{testNode("a"), testNode("b")}
	cases := []struct {
		name  string
		nodes nodes
		have  onto
		pod   *corev1.Pod
		want  string
	}{
		{"the emptier node", ab, onto{"a": {testPod("o", "1", "1Gi")}}, testPod("p", "1", "1Gi"), "b"},
		{"pods without requests weigh something", ab, onto{"a": {testPod("o", "", "")}}, testPod("p", "", ""), "b"},
		{"the larger node", nodes{testNode("a"), testNode("b", capacity(corev1.ResourceCPU, "64"), capacity(corev1.ResourceMemory, "256Gi"))}, nil, testPod("p", "1", "1Gi"), "b"},
		{"fewer taints it would rather avoid", nodes{testNode("a", taint("k", corev1.TaintEffectPreferNoSchedule)), testNode("b")}, nil, testPod("p", "", ""), "b"},
		{"its image is there", nodes{testNode("a"), testNode("b", image("image:latest", 900<<20))}, nil, testPod("p", "", ""), "b"},
		{"siblings are elsewhere", ab, onto{"a": {testPod("o", "", "", ownedBy("rs"))}, "b": {testPod("q", "100m", "200Mi"), testPod("r", "100m", "200Mi")}}, testPod("p", "", "", ownedBy("rs")), "b"},
		{"fewer of its kind, when it says so", ab, onto{"a": {testPod("o", "", "")}, "b": {testPod("q", "", "", app("db"))}}, testPod("p", "", "", spread(corev1.LabelHostname, 1, corev1.ScheduleAnyway)), "b"},
		{"the zone with fewer siblings", nodes{testNode("a", zone("1")), testNode("b", zone("1")), testNode("c", zone("2"))},
			onto{"a": {testPod("o", "", "", ownedBy("rs"))}, "b": {testPod("q", "", "", app("db"))}, "c": {testPod("r", "", "", app("db"))}}, testPod("p", "", "", ownedBy("rs")), "c"},
		{"with those it likes", ab, onto{"a": {testPod("o", "", "")}, "b": {testPod("q", "", "", app("db"))}}, testPod("p", "", "", prefer("db", 10, false)), "b"},
		{"away from those it dislikes", ab, onto{"a": {testPod("o", "", "", app("db"))}, "b": {testPod("q", "", "")}}, testPod("p", "", "", prefer("db", 10, true)), "b"},
		{"with those that like it", ab, onto{"a": {testPod("o", "", "")}, "b": {testPod("q", "", "", app("db"), prefer("web", 10, false))}}, testPod("p", "", ""), "b"},
		{"away from those that dislike it", ab, onto{"a": {testPod("o", "", "", app("db"), prefer("web", 10, true))}, "b": {testPod("q", "", "")}}, testPod("p", "", ""), "b"},
		{"the node it prefers", nodes{testNode("a"), testNode("b", label("disk", "ssd"))}, nil, testPod("p", "", "", func(p *corev1.Pod) {
			affinityOf(p).NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution = []corev1.PreferredSchedulingTerm{{Weight: 1, Preference: corev1.NodeSelectorTerm{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpIn, Values: []string{"ssd"}}}}}}
		}), "b"},
		{"balance: cpu on the node whose memory is used", ab, onto{"a": {testPod("o", "2", "")}, "b": {testPod("q", "", "4Gi")}}, testPod("p", "2", ""), "b"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for range 8 { // ties would show
				got := place(testCluster(c.nodes, c.have), newPodInfo(c.pod), rand.IntN)
				if got.node != c.want {
					t.Fatalf("placed on %s, want %s", got.node, c.want)
				}
			}
		})
	}
}

func TestTiesAreBrokenEvenly(t *testing.T) {
	c := testCluster(nodes{testNode("a"), testNode("b"), testNode("c")}, nil)
	r := rand.New(rand.NewPCG(1, 2))
	got := map[string]int{}
	for range 3000 {
		got[place(c, newPodInfo(testPod("p", "", "")), r.IntN).node]++
	}
	for _, n := range []string{"a", "b", "c"} {
		if got[n] < 850 || got[n] > 1150 {
			t.Errorf("of 3000 pods %d on %s", got[n], n)
		}
	}
}

func TestClusterForgetsWhatIsGone(t *testing.T) {
	c := testCluster(nodes{testNode("a"), testNode("b"), testNode("c")}, nil)
	pod := newPodInfo(testPod("p", "1", "1Gi", onPort(80, ""), ownedBy("rs"), without(term(corev1.LabelHostname, "web"))))
	c.assume(pod, "a")
	c.setPod(pod, "b") // the informer knows better
	c.unassume(pod.pod.UID)
	if len(c.nodes["a"].pods) != 0 || len(c.nodes["b"].pods) != 1 {
		t.Errorf("a has %d pods, b %d", len(c.nodes["a"].pods), len(c.nodes["b"].pods))
	}
	c.removeNode("b")
	if c.nodes["b"] == nil || len(c.order) != 2 {
		t.Error("a node with pods is forgotten, or still chosen from")
	}
	c.removePod(pod.pod.UID)
	c.removeNode("a")
	c.removeNode("c")
	c.removeNode("c")
	if len(c.nodes)+len(c.order)+len(c.pods)+len(c.antiAffinity)+len(c.withAffinity)+len(c.imageNodes) != 0 {
		t.Errorf("left: %+v", c)
	}
}

func TestEnough(t *testing.T) {
	for nodes, want := range map[int]int{0: 0, 50: 50, 99: 99, 100: 100, 1000: 420, 5000: 500, 20000: 1000} {
		if got := enough(nodes); got != want {
			t.Errorf("enough(%d) = %d, want %d", nodes, got, want)
		}
	}
}
