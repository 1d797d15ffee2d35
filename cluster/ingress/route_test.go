package ingress

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

func lister(t testing.TB, names ...string) corelisters.ServiceLister {
	t.Helper()
	store := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	for _, name := range names {
		err := store.Add(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	return corelisters.NewServiceLister(store)
}

func TestMatch(t *testing.T) {
	older := ingressOf("older", "claimed.org / Prefix older")
	older.CreationTimestamp = metav1.NewTime(time.Unix(1, 0))
	newer := ingressOf("newer", "claimed.org / Prefix newer",
		"a.org / Prefix root", "a.org /foo Prefix foo", "a.org /foo/bar/ Prefix bar", "a.org /foo Exact exact", "a.org /impl ImplementationSpecific impl",
		"*.wild.org / Prefix wild", "one.wild.org /only Exact one",
		"- /anyhost Prefix anyhost", "Upper.org / Prefix upper")
	newer.CreationTimestamp = metav1.NewTime(time.Unix(2, 0))
	newer.Spec.DefaultBackend = &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "fallback", Port: networkingv1.ServiceBackendPort{Name: "http"}}}
	names := strings.Fields("older newer root foo bar exact impl wild one anyhost upper fallback")
	table := build(served([]*networkingv1.Ingress{newer, older}), lister(t, names...), nil, nil)
	for _, test := range []struct{ rule, host, path, want string }{
		{"oldest Ingress has the host and path", "claimed.org", "/", "older"},
		{"Prefix / takes all", "a.org", "/x", "root"},
		{"Exact before Prefix of equal length", "a.org", "/foo", "exact"},
		{"Exact takes no final slash", "a.org", "/foo/", "foo"},
		{"Prefix goes by elements", "a.org", "/foobar", "root"},
		{"longest path first", "a.org", "/foo/bar/baz", "bar"},
		{"final slash of a Prefix does not count", "a.org", "/foo/bar", "bar"},
		{"ImplementationSpecific is a Prefix", "a.org", "/impl/x", "impl"},
		{"port of the host does not count", "a.org:8080", "/foo", "exact"},
		{"case of the host does not count", "UPPER.ORG", "/", "upper"},
		{"wildcard is one label", "x.wild.org", "/", "wild"},
		{"wildcard is not two labels", "x.y.wild.org", "/", "fallback"},
		{"wildcard is not none", "wild.org", "/", "fallback"},
		{"exact host before wildcard", "one.wild.org", "/only", "one"},
		{"wildcard where the exact host has no path", "one.wild.org", "/other", "wild"},
		{"rule without host", "unknown.org", "/anyhost", "anyhost"},
		{"default backend takes the rest", "unknown.org", "/", "fallback"},
	} {
		b := table.match(test.host, test.path)
		if b == nil || b.name != "default/"+test.want {
			t.Errorf("%s: %s%s goes to %+v, want %s", test.rule, test.host, test.path, b, test.want)
		}
	}
	if b := build(nil, lister(t), nil, nil).match("a.org", "/"); b != nil {
		t.Errorf("without rules: %+v", b)
	}
}

func TestEndpointsAreTheReadyOnes(t *testing.T) {
	yes, no := true, false
	s := sliceOf("web-1", "web", "10.42.0.5:8080")
	s.Endpoints = append(s.Endpoints,
		discoveryv1.Endpoint{Addresses: []string{"10.42.0.6"}, Conditions: discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}},
		discoveryv1.Endpoint{Addresses: []string{"10.42.0.7"}, Conditions: discoveryv1.EndpointConditions{Ready: &no}})
	again := sliceOf("web-2", "web", "10.42.0.5:8080")
	if got := strings.Join(endpoints("http", []*discoveryv1.EndpointSlice{s, again}), " "); got != "10.42.0.5:8080" {
		t.Errorf("endpoints %q, want the ready one, once", got)
	}
	s.Endpoints = s.Endpoints[1:]
	if got := strings.Join(endpoints("http", []*discoveryv1.EndpointSlice{s}), " "); got != "10.42.0.6:8080" {
		t.Errorf("endpoints %q, want the one that terminates and still serves", got)
	}
	if got := endpoints("other", []*discoveryv1.EndpointSlice{s}); len(got) != 0 {
		t.Errorf("endpoints %q of a port that the slice has not", got)
	}
}

func FuzzMatch(f *testing.F) {
	table := build([]*networkingv1.Ingress{ingressOf("x", "a.org /foo Prefix web", "*.b.org / Exact web", "- / Prefix web")}, lister(f, "web"), nil, nil)
	f.Add("a.org:80", "/foo/bar")
	f.Add("[::1]:80", "")
	f.Add("x.b.org.", "*")
	f.Fuzz(func(t *testing.T, host, path string) {
		if b := table.match(host, path); b != nil && b.name != "default/web" {
			t.Errorf("%q %q goes to %s", host, path, b.name)
		}
	})
}
