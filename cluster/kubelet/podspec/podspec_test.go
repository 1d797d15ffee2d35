package podspec

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func ptr[T any](v T) *T { return &v }

func TestExpand(t *testing.T) {
	vars := map[string]string{"A": "1", "B": "$(A)", "EMPTY": ""}
	lookup := func(name string) (string, bool) { v, ok := vars[name]; return v, ok }
	for in, want := range map[string]string{
		"$(A)": "1", "x$(A)y$(A)z": "x1y1z", "$$(A)": "$(A)", "$$$(A)": "$1", "$$$$(A)": "$$(A)", "$(NO)": "$(NO)", "$(B)": "$(A)",
		"$(EMPTY)": "", "$A": "$A", "$": "$", "$$": "$", "$(": "$(", "$(A": "$(A", "a$": "a$", "$()": "$()", "$($(A))": "$($(A))", "${A}": "${A}", "": "",
	} {
		if got := Expand(in, lookup); got != want {
			t.Errorf("Expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzExpand(f *testing.F) {
	for _, s := range []string{"$(A)", "$$(A)", "$(", "$$", "$(A)$(B)", "plain"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		// Where nothing is known, only $$ changes.
		got := Expand(s, func(string) (string, bool) { return "", false })
		if len(got) > len(s) {
			t.Errorf("Expand(%q) = %q grew", s, got)
		}
	})
}

var errMissing = errors.New("not found")

type objects struct{}

func (objects) ConfigMap(_, name string) (*v1.ConfigMap, error) {
	if name == "conf" {
		return &v1.ConfigMap{Data: map[string]string{"K": "v", "bad=key": "x", "OVER": "cm"}}, nil
	}
	return nil, errMissing
}

func (objects) Secret(_, name string) (*v1.Secret, error) {
	if name == "sec" {
		return &v1.Secret{Data: map[string][]byte{"S": []byte("s3"), "OVER": []byte("secret")}}, nil
	}
	return nil, errMissing
}

func service(namespace, name, ip string, ports ...v1.ServicePort) *v1.Service {
	return &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: v1.ServiceSpec{ClusterIP: ip, Ports: ports}}
}

func build(c v1.Container, services ...*v1.Service) (map[string]string, []string, error) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: "u", Labels: map[string]string{"app": "x"}}, Spec: v1.PodSpec{Containers: []v1.Container{c}}}
	var invalid []string
	env, err := BuildEnv(EnvInput{Pod: pod, Container: &c, Objects: objects{}, NotFound: func(err error) bool { return errors.Is(err, errMissing) },
		Services: services, Fields: FieldContext{PodIPs: []string{"10.0.0.2"}, HostIP: "192.0.2.1", NodeName: "n1",
			Allocatable: v1.ResourceList{v1.ResourceMemory: resource.MustParse("2Gi"), v1.ResourceCPU: resource.MustParse("3")}},
		Invalid: func(_, _ string, keys []string) { invalid = keys }})
	if err != nil {
		return nil, nil, err
	}
	return env.Values, invalid, nil
}

func TestEnv(t *testing.T) {
	field := func(path string) *v1.EnvVarSource {
		return &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: path}}
	}
	got, invalid, err := build(v1.Container{Name: "c",
		EnvFrom: []v1.EnvFromSource{
			{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}}},
			{Prefix: "P_", SecretRef: &v1.SecretEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "sec"}}},
			{SecretRef: &v1.SecretEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "no"}, Optional: ptr(true)}},
		},
		Resources: v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1500m")}},
		Env: []v1.EnvVar{
			{Name: "OVER", Value: "own $(K) $(LATER) $(DB_SERVICE_HOST)"}, {Name: "LATER", Value: "late"},
			{Name: "NAME", ValueFrom: field("metadata.name")}, {Name: "LABEL", ValueFrom: field("metadata.labels['app']")},
			{Name: "IP", ValueFrom: field("status.podIP")}, {Name: "HOST", ValueFrom: field("status.hostIP")}, {Name: "NODE", ValueFrom: field("spec.nodeName")},
			{Name: "CPU", ValueFrom: &v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: "limits.cpu"}}},
			{Name: "MEM", ValueFrom: &v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}}},
			{Name: "CM", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}, Key: "K"}}},
			{Name: "GONE", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "sec"}, Key: "no", Optional: ptr(true)}}},
		},
	}, service("ns", "db", "10.43.0.7", v1.ServicePort{Name: "sql", Port: 5432}), service("other", "far", "10.43.0.8", v1.ServicePort{Port: 1}),
		service("ns", "headless", "None", v1.ServicePort{Port: 1}), service("default", "kubernetes", "10.43.0.1", v1.ServicePort{Name: "https", Port: 443, Protocol: "TCP"}))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"K": "v", "P_S": "s3", "P_OVER": "secret", "OVER": "own v $(LATER) 10.43.0.7", "LATER": "late", "NAME": "web", "LABEL": "x", "IP": "10.0.0.2",
		"HOST": "192.0.2.1", "NODE": "n1", "CPU": "2", "MEM": "2048", "CM": "v",
		"DB_SERVICE_HOST": "10.43.0.7", "DB_SERVICE_PORT": "5432", "DB_SERVICE_PORT_SQL": "5432", "DB_PORT": "tcp://10.43.0.7:5432",
		"DB_PORT_5432_TCP": "tcp://10.43.0.7:5432", "DB_PORT_5432_TCP_PROTO": "tcp", "DB_PORT_5432_TCP_PORT": "5432", "DB_PORT_5432_TCP_ADDR": "10.43.0.7",
		"KUBERNETES_SERVICE_HOST": "10.43.0.1", "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_SERVICE_PORT_HTTPS": "443", "KUBERNETES_PORT": "tcp://10.43.0.1:443",
		"KUBERNETES_PORT_443_TCP": "tcp://10.43.0.1:443", "KUBERNETES_PORT_443_TCP_PROTO": "tcp", "KUBERNETES_PORT_443_TCP_PORT": "443", "KUBERNETES_PORT_443_TCP_ADDR": "10.43.0.1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"bad=key"}, invalid); diff != "" {
		t.Errorf("skipped keys (-want +got):\n%s", diff)
	}
}

func TestEnvErrors(t *testing.T) {
	for want, e := range map[string]v1.EnvVar{
		"couldn't find key no in ConfigMap ns/conf": {Name: "X", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}, Key: "no"}}},
		"couldn't find key no in Secret ns/sec":     {Name: "X", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "sec"}, Key: "no"}}},
		"not found":                                 {Name: "X", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "no"}, Key: "no"}}},
		"unsupported fieldPath: spec.what":          {Name: "X", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "spec.what"}}},
		"fileKeyRef":                                {Name: "X", ValueFrom: &v1.EnvVarSource{FileKeyRef: &v1.FileKeySelector{}}},
	} {
		if _, _, err := build(v1.Container{Name: "c", Env: []v1.EnvVar{e}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestResourcesBecomeCgroupSettings(t *testing.T) {
	const node = 1000 << 20
	list := func(cpu, memory string) v1.ResourceList {
		l := v1.ResourceList{}
		if cpu != "" {
			l[v1.ResourceCPU] = resource.MustParse(cpu)
		}
		if memory != "" {
			l[v1.ResourceMemory] = resource.MustParse(memory)
		}
		return l
	}
	tests := map[string]struct {
		requests, limits v1.ResourceList
		want             *runtimeapi.LinuxContainerResources
		qos              v1.PodQOSClass
	}{
		"nothing":                   {nil, nil, &runtimeapi.LinuxContainerResources{CpuShares: 2, OomScoreAdj: 1000}, v1.PodQOSBestEffort},
		"request":                   {list("500m", "100Mi"), nil, &runtimeapi.LinuxContainerResources{CpuShares: 512, OomScoreAdj: 900}, v1.PodQOSBurstable},
		"limits alone are requests": {list("250m", "64Mi"), list("250m", "64Mi"), &runtimeapi.LinuxContainerResources{CpuShares: 256, CpuPeriod: 100000, CpuQuota: 25000, MemoryLimitInBytes: 64 << 20, OomScoreAdj: -997}, v1.PodQOSGuaranteed},
		"tiny":                      {list("1m", ""), list("1m", ""), &runtimeapi.LinuxContainerResources{CpuShares: 2, CpuPeriod: 100000, CpuQuota: 1000, OomScoreAdj: 999}, v1.PodQOSBurstable},
	}
	for name, tc := range tests {
		pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{Requests: tc.requests, Limits: tc.limits}}}}}
		got := Resources(pod, &pod.Spec.Containers[0], node)
		if got.String() != tc.want.String() {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
		if q := QOS(pod); q != tc.qos {
			t.Errorf("%s: class %s, want %s", name, q, tc.qos)
		}
	}
}

func TestDNS(t *testing.T) {
	cluster := Cluster{DNS: netip.MustParseAddr("10.43.0.10"), Domain: "cluster.local",
		HostDNS: &runtimeapi.DNSConfig{Servers: []string{"192.0.2.53"}, Searches: []string{"corp.example"}, Options: []string{"edns0"}}}
	first := "[10.43.0.10] [ns.svc.cluster.local svc.cluster.local cluster.local corp.example] [ndots:5]"
	host := "[192.0.2.53] [corp.example] [edns0]"
	tests := map[string]struct {
		change func(*v1.PodSpec)
		want   string
	}{
		"ClusterFirst":                       {func(s *v1.PodSpec) { s.DNSPolicy = v1.DNSClusterFirst }, first},
		"the empty policy is ClusterFirst":   {func(*v1.PodSpec) {}, first},
		"ClusterFirst on the host's network": {func(s *v1.PodSpec) { s.DNSPolicy, s.HostNetwork = v1.DNSClusterFirst, true }, host},
		"ClusterFirstWithHostNet":            {func(s *v1.PodSpec) { s.DNSPolicy, s.HostNetwork = v1.DNSClusterFirstWithHostNet, true }, first},
		"Default":                            {func(s *v1.PodSpec) { s.DNSPolicy = v1.DNSDefault }, host},
		"None, with its own": {func(s *v1.PodSpec) {
			s.DNSPolicy, s.DNSConfig = v1.DNSNone, &v1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Searches: []string{"a"}}
		}, "[1.1.1.1] [a] []"},
		"an option replaces its namesake": {func(s *v1.PodSpec) {
			s.DNSConfig = &v1.PodDNSConfig{Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: ptr("2")}, {Name: "debug"}}}
		}, "[10.43.0.10] [ns.svc.cluster.local svc.cluster.local cluster.local corp.example] [ndots:2 debug]"},
		"three servers at most": {func(s *v1.PodSpec) {
			s.DNSConfig = &v1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "10.43.0.10", "2.2.2.2", "3.3.3.3"}}
		}, "[10.43.0.10 1.1.1.1 2.2.2.2] [ns.svc.cluster.local svc.cluster.local cluster.local corp.example] [ndots:5]"},
	}
	for name, tc := range tests {
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}}
		tc.change(&pod.Spec)
		d := DNS(pod, cluster)
		if got := strings.Join([]string{brackets(d.Servers), brackets(d.Searches), brackets(d.Options)}, " "); got != tc.want {
			t.Errorf("%s: got  %s\nwant %s", name, got, tc.want)
		}
	}
}

func brackets(list []string) string { return "[" + strings.Join(list, " ") + "]" }

func TestParseResolvConf(t *testing.T) {
	d := ParseResolvConf("# comment\nnameserver 1.1.1.1\nnameserver 2.2.2.2\ndomain old\nsearch a b\noptions ndots:1 rotate\nnameserver\n")
	if got := brackets(d.Servers) + brackets(d.Searches) + brackets(d.Options); got != "[1.1.1.1 2.2.2.2][a b][ndots:1 rotate]" {
		t.Error(got)
	}
}

func TestHosts(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns"}, Spec: v1.PodSpec{Subdomain: "sub", HostAliases: []v1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"a", "b"}}}}}
	got := string(Hosts(pod, "cluster.local", []string{"10.0.0.2"}, nil))
	for _, want := range []string{"# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n", "10.0.0.2\tweb.sub.ns.svc.cluster.local\tweb\n", "\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	pod.Spec.HostNetwork = true
	if got := string(Hosts(pod, "cluster.local", nil, []byte("127.0.0.1 here\n"))); !strings.HasPrefix(got, "# Kubernetes-managed hosts file (host network).\n127.0.0.1 here\n") {
		t.Errorf("host network:\n%s", got)
	}
}

func TestHostname(t *testing.T) {
	long := strings.Repeat("a", 62) + "-b"
	for name, tc := range map[string]struct {
		spec v1.PodSpec
		want string
	}{
		"the pod's name":                  {v1.PodSpec{}, "web."},
		"hostname, subdomain":             {v1.PodSpec{Hostname: "h", Subdomain: "s"}, "h.s.ns.svc.d"},
		"cut to 63, no hyphen at the end": {v1.PodSpec{Hostname: long}, long[:62] + "."},
	} {
		h, d := Hostname(&v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns"}, Spec: tc.spec}, "d")
		if got := h + "." + d; got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

func TestVerifyNonRoot(t *testing.T) {
	tests := map[string]struct {
		user  *int64
		image ImageUser
		want  string
	}{
		"a number is trusted":     {ptr(int64(5)), ImageUser{}, ""},
		"root by name of the pod": {ptr(int64(0)), ImageUser{}, "container's runAsUser breaks non-root policy"},
		"image says root":         {nil, ImageUser{UID: ptr(int64(0))}, "container has runAsNonRoot and image will run as root"},
		"image says nothing":      {nil, ImageUser{}, "container has runAsNonRoot and image will run as root"},
		"image says a name":       {nil, ImageUser{Name: "app"}, "container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root"},
		"image says a number":     {nil, ImageUser{UID: ptr(int64(7))}, ""},
	}
	for name, tc := range tests {
		pod := &v1.Pod{Spec: v1.PodSpec{SecurityContext: &v1.PodSecurityContext{RunAsNonRoot: ptr(true)},
			Containers: []v1.Container{{Name: "c", SecurityContext: &v1.SecurityContext{RunAsUser: tc.user}}}}}
		err := VerifyNonRoot(pod, &pod.Spec.Containers[0], tc.image)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func TestContainer(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: "u"}, Spec: v1.PodSpec{
		HostNetwork: true, SecurityContext: &v1.PodSecurityContext{RunAsGroup: ptr(int64(3)), FSGroup: ptr(int64(9)), SupplementalGroups: []int64{4}},
		Containers: []v1.Container{{Name: "c", Image: "img:1", Command: []string{"$(X)"}, Args: []string{"a", "$(NO)"}, WorkingDir: "/w", TTY: true, Stdin: true,
			SecurityContext: &v1.SecurityContext{Capabilities: &v1.Capabilities{Add: []v1.Capability{"NET_ADMIN"}, Drop: []v1.Capability{"ALL"}},
				AllowPrivilegeEscalation: ptr(false), ReadOnlyRootFilesystem: ptr(true)}}}}}
	got, err := Container(ContainerInput{Pod: pod, Container: &pod.Spec.Containers[0], Attempt: 2, ImageID: "sha256:1", ImageUser: ImageUser{UID: ptr(int64(6))},
		Env: &Env{Names: []string{"X"}, Values: map[string]string{"X": "cmd"}}})
	if err != nil {
		t.Fatal(err)
	}
	sc := got.Linux.SecurityContext
	if got.Command[0] != "cmd" || got.Args[1] != "$(NO)" || got.LogPath != "c/2.log" || got.Metadata.Attempt != 2 || !got.Tty || !got.Stdin ||
		got.Annotations[AnnotationRestartCount] != "2" || got.Labels["io.kubernetes.pod.uid"] != "u" || string(got.Envs[0].Value) != "cmd" {
		t.Errorf("config: %v", got)
	}
	if sc.RunAsUser.Value != 6 || sc.RunAsGroup.Value != 3 || len(sc.SupplementalGroups) != 2 || !sc.NoNewPrivs || !sc.ReadonlyRootfs ||
		sc.Seccomp.ProfileType != runtimeapi.SecurityProfile_RuntimeDefault || sc.NamespaceOptions.Network != runtimeapi.NamespaceMode_NODE ||
		sc.Capabilities.DropCapabilities[0] != "ALL" || len(sc.MaskedPaths) == 0 {
		t.Errorf("security: %v", sc)
	}
	pod.Spec.Containers[0].VolumeDevices = []v1.VolumeDevice{{Name: "raw"}}
	if _, err := Container(ContainerInput{Pod: pod, Container: &pod.Spec.Containers[0], Env: &Env{}}); err == nil || !strings.Contains(err.Error(), "volumeDevices") {
		t.Errorf("raw device: %v", err)
	}
}

func TestSandbox(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: "u", Labels: map[string]string{"app": "x"}}, Spec: v1.PodSpec{
		ShareProcessNamespace: ptr(true),
		Containers: []v1.Container{{Name: "c", Ports: []v1.ContainerPort{{ContainerPort: 80}, {ContainerPort: 53, HostPort: 5353, Protocol: v1.ProtocolUDP, HostIP: "127.0.0.1"}},
			Resources: v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceMemory: resource.MustParse("1Mi")}}}, {Name: "d"}}}}
	got := Sandbox(pod, 3, "/logs", Cluster{Domain: "d"})
	if got.Metadata.Attempt != 3 || got.Labels["app"] != "x" || got.Labels["io.kubernetes.pod.name"] != "web" || got.Hostname != "web" ||
		len(got.PortMappings) != 1 || got.PortMappings[0].Protocol != runtimeapi.Protocol_UDP || got.Linux.SecurityContext.NamespaceOptions.Pid != runtimeapi.NamespaceMode_POD {
		t.Errorf("sandbox: %v", got)
	}
	if got.Linux.Resources.MemoryLimitInBytes != 0 {
		t.Errorf("pod limited to %d bytes though one container has no limit", got.Linux.Resources.MemoryLimitInBytes)
	}
}
