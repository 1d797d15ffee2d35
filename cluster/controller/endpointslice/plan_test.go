package endpointslice

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func svc(change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "svc", Labels: map[string]string{"team": "a"}},
		Spec: corev1.ServiceSpec{
			ClusterIP: "10.43.0.9", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Selector: map[string]string{"app": "web"},
			Ports:    []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("http"), Protocol: corev1.ProtocolTCP}},
		},
	}
	for _, c := range change {
		c(s)
	}
	return s
}

func pod(name, ip string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)},
		Spec: corev1.PodSpec{
			NodeName:   "node",
			Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: ip,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func unready(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
func dying(p *corev1.Pod)   { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }
func failed(p *corev1.Pod)  { p.Status.Phase = corev1.PodFailed }
func port(n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = n }
}

func zone(node string) string { return map[string]string{"node": "zone-1"}[node] }

// show prints a group in short: family, ports, and endpoints with r(eady),
// s(erving), t(erminating).
func show(family discoveryv1.AddressType, ports []discoveryv1.EndpointPort, endpoints []discoveryv1.Endpoint) string {
	var out []string
	for _, p := range ports {
		out = append(out, fmt.Sprintf("%s=%d", *p.Name, *p.Port))
	}
	for _, e := range endpoints {
		flags := ""
		for _, c := range []struct {
			set  *bool
			flag string
		}{{e.Conditions.Ready, "r"}, {e.Conditions.Serving, "s"}, {e.Conditions.Terminating, "t"}} {
			if *c.set {
				flags += c.flag
			}
		}
		out = append(out, e.Addresses[0]+":"+flags)
	}
	return string(family) + " " + strings.Join(out, " ")
}

func TestGroups(t *testing.T) {
	cases := []struct {
		name string
		svc  *corev1.Service
		pods []*corev1.Pod
		want []string
	}{
		{"nothing behind it is one empty group", svc(), nil, []string{"IPv4 "}},
		{"pods by name, ports resolved by the pod's", svc(), []*corev1.Pod{pod("b", "10.0.0.2"), pod("a", "10.0.0.1")}, []string{"IPv4 http=8080 10.0.0.1:rs 10.0.0.2:rs"}},
		{"other numbers make another group", svc(), []*corev1.Pod{pod("a", "10.0.0.1"), pod("b", "10.0.0.2", port(9090))}, []string{"IPv4 http=8080 10.0.0.1:rs", "IPv4 http=9090 10.0.0.2:rs"}},
		{"a port by number", svc(func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(7) }), []*corev1.Pod{pod("a", "10.0.0.1")}, []string{"IPv4 http=7 10.0.0.1:rs"}},
		{"a port that the pod has not is left out", svc(func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromString("no") }), []*corev1.Pod{pod("a", "10.0.0.1")}, []string{"IPv4 10.0.0.1:rs"}},
		{"a name of another protocol does not count", svc(func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolUDP }), []*corev1.Pod{pod("a", "10.0.0.1")}, []string{"IPv4 10.0.0.1:rs"}},
		{"not ready", svc(), []*corev1.Pod{pod("a", "10.0.0.1", unready)}, []string{"IPv4 http=8080 10.0.0.1:"}},
		{"terminating still serves", svc(), []*corev1.Pod{pod("a", "10.0.0.1", dying)}, []string{"IPv4 http=8080 10.0.0.1:st"}},
		{"publishNotReadyAddresses", svc(func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }), []*corev1.Pod{pod("a", "10.0.0.1", unready), pod("b", "10.0.0.2", dying)}, []string{"IPv4 http=8080 10.0.0.1:r 10.0.0.2:rst"}},
		{"no address, no endpoint", svc(), []*corev1.Pod{pod("a", "")}, []string{"IPv4 "}},
		{"finished pods are none", svc(), []*corev1.Pod{pod("a", "10.0.0.1", failed)}, []string{"IPv4 "}},
		{"dual stack", svc(func(s *corev1.Service) {
			s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
		}), []*corev1.Pod{pod("a", "10.0.0.1", func(p *corev1.Pod) { p.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}} })},
			[]string{"IPv4 http=8080 10.0.0.1:rs", "IPv6 http=8080 fd00::1:rs"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, g := range groups(c.svc, c.pods, zone) {
				got = append(got, show(g.family, g.ports, g.endpoints))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("groups (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEndpointSaysWhoAndWhere(t *testing.T) {
	p := pod("web-0", "10.0.0.1", func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "web-0", "web" })
	got, ok := endpointOf(svc(), p, discoveryv1.AddressTypeIPv4, zone)
	want := discoveryv1.Endpoint{
		Addresses:  []string{"10.0.0.1"},
		Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
		Hostname:   new("web-0"), NodeName: new("node"), Zone: new("zone-1"),
		TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "ns", Name: "web-0", UID: "uid-web-0"},
	}
	if diff := cmp.Diff(want, got); diff != "" || !ok {
		t.Errorf("endpoint (-want +got):\n%s", diff)
	}
}

func many(from, to int) []*corev1.Pod {
	var out []*corev1.Pod
	for i := from; i < to; i++ {
		out = append(out, pod(fmt.Sprintf("p%04d", i), fmt.Sprintf("10.0.%d.%d", i/250, i%250+1)))
	}
	return out
}

// settle applies a plan to the slices.
func settle(have []*discoveryv1.EndpointSlice, p plan) []*discoveryv1.EndpointSlice {
	gone := map[string]bool{}
	for _, s := range append(p.remove, p.update...) {
		gone[s.Name] = true
	}
	var out []*discoveryv1.EndpointSlice
	for _, s := range have {
		if !gone[s.Name] {
			out = append(out, s)
		}
	}
	return append(append(out, p.create...), p.update...)
}

func sizes(all []*discoveryv1.EndpointSlice) map[int]int {
	out := map[int]int{}
	for _, s := range all {
		out[len(s.Endpoints)]++
	}
	return out
}

func TestDecideFillsSlices(t *testing.T) {
	have := settle(nil, decide(svc(), many(0, 250), nil, zone))
	if diff := cmp.Diff(map[int]int{100: 2, 50: 1}, sizes(have)); diff != "" {
		t.Fatalf("sizes (-want +got):\n%s", diff)
	}
	names := map[string]bool{}
	for _, s := range have {
		names[s.Name] = true
	}
	if len(names) != 3 {
		t.Fatalf("names: %v", names)
	}
	if p := decide(svc(), many(0, 250), have, zone); len(p.create)+len(p.update)+len(p.remove) != 0 {
		t.Errorf("nothing changed, and yet %+v", p)
	}
	p := decide(svc(), many(0, 260), have, zone)
	if len(p.create) != 0 || len(p.update) != 1 || len(p.update[0].Endpoints) != 60 {
		t.Errorf("ten more: %d new slices, %d changed", len(p.create), len(p.update))
	}
	p = decide(svc(), many(1, 250), have, zone)
	if len(p.create) != 0 || len(p.update) != 1 || len(p.update[0].Endpoints) != 99 {
		t.Errorf("one fewer: %d new slices, %d changed", len(p.create), len(p.update))
	}
	have = settle(have, decide(svc(), many(0, 460), have, zone))
	if diff := cmp.Diff(map[int]int{100: 4, 60: 1}, sizes(have)); diff != "" {
		t.Fatalf("sizes (-want +got):\n%s", diff)
	}
	have = settle(have, decide(svc(), nil, have, zone))
	if len(have) != 1 || len(have[0].Endpoints) != 0 || len(have[0].Ports) != 0 {
		t.Errorf("without pods: %d slices", len(have))
	}
}

func TestDecideKeepsToItself(t *testing.T) {
	have := settle(nil, decide(svc(), many(0, 1), nil, zone))
	if got, want := have[0].Labels, map[string]string{
		"team": "a", discoveryv1.LabelServiceName: "web", discoveryv1.LabelManagedBy: ManagedBy,
	}; cmp.Diff(want, got) != "" {
		t.Errorf("labels %v, want %v", got, want)
	}
	t.Run("headless", func(t *testing.T) {
		p := decide(svc(func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone }), many(0, 1), have, zone)
		if len(p.update) != 1 || !strings.Contains(fmt.Sprint(p.update[0].Labels), corev1.IsHeadlessService) {
			t.Errorf("plan %+v", p)
		}
	})
	t.Run("slices of a former service of the name go, and names do not clash", func(t *testing.T) {
		p := decide(svc(func(s *corev1.Service) { s.UID = "another" }), many(0, 1), have, zone)
		if len(p.create) != 1 || len(p.remove) != 1 || p.create[0].Name == have[0].Name {
			t.Errorf("plan %+v", p)
		}
	})
	t.Run("a pod that turns ready is changed in place", func(t *testing.T) {
		p := decide(svc(), []*corev1.Pod{pod("p0000", "10.0.0.1", unready)}, have, zone)
		if len(p.create)+len(p.remove) != 0 || len(p.update) != 1 || *p.update[0].Endpoints[0].Conditions.Ready {
			t.Errorf("plan %+v", p)
		}
	})
}
