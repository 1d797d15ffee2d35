package resource

import (
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/utils/ptr"
)

func TestEveryRowIsWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Kinds() {
		id := k.GVR().String()
		if seen[id] {
			t.Errorf("%s is there twice", id)
		}
		seen[id] = true
		if k.Plural == "" || k.Singular != strings.ToLower(k.Kind) || k.Prefix == "" {
			t.Errorf("%s: names %q %q, prefix %q", id, k.Plural, k.Singular, k.Prefix)
		}
		if !k.Allows(Main) || k.HasStatus != k.Allows(Status) {
			t.Errorf("%s: changes do not fit HasStatus %v", id, k.HasStatus)
		}
		if _, ok := k.NewStored().(interface{ Marshal() ([]byte, error) }); !ok {
			t.Errorf("%s: the stored form has no protobuf encoding", id)
		}
		internal, err := k.Internal(k.New())
		if err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		k.PrepareCreate(internal)
		k.ValidateCreate(internal) // must not panic on an empty object
		for _, part := range []Change{Main, Status, Finalize} {
			k.PrepareUpdate(part, internal, internal.DeepCopyObject())
			k.ValidateUpdate(part, internal, internal.DeepCopyObject())
		}
		stored, err := k.ToStored(internal)
		if err != nil {
			t.Errorf("%s: %v", id, err)
		}
		if _, err := k.Table(stored, true); err != nil {
			t.Errorf("%s has no columns: %v", id, err)
		}
		for _, label := range append(k.SelectableFields(), "metadata.name") {
			text := label + "=x"
			if k.Group == "events.k8s.io" || k.Kind == "ReplicaSet" && label == "status.replicas" {
				continue // other labels there, mapped to these
			}
			sel, err := k.FieldSelector(text)
			if err != nil {
				t.Errorf("%s cannot be selected by %s: %v", id, text, err)
				continue
			}
			k.MatchFields(sel, stored)
		}
		if _, err := k.FieldSelector("spec.nope=x"); err == nil || !strings.Contains(err.Error(), "spec.nope") {
			t.Errorf("%s by a field that does not exist: %v", id, err)
		}
	}
}

func kindNamed(t *testing.T, plural string) *Kind {
	t.Helper()
	kinds := Kinds()
	i := slices.IndexFunc(kinds, func(k *Kind) bool { return k.Plural == plural })
	if i < 0 {
		t.Fatalf("no %s in the table", plural)
	}
	return kinds[i]
}

func TestGenerationCountsWhatControllersAct(t *testing.T) {
	base := func() *apps.Deployment {
		return &apps.Deployment{ObjectMeta: metav1.ObjectMeta{Generation: 5}, Spec: apps.DeploymentSpec{Replicas: 1}}
	}
	for rule, c := range map[string]struct {
		part   Change
		change func(*apps.Deployment)
		want   int64
	}{
		"the spec":                   {Main, func(d *apps.Deployment) { d.Spec.Replicas = 2 }, 6},
		"annotations":                {Main, func(d *apps.Deployment) { d.Annotations = map[string]string{"a": "b"} }, 6},
		"not labels":                 {Main, func(d *apps.Deployment) { d.Labels = map[string]string{"a": "b"} }, 5},
		"not the status":             {Main, func(d *apps.Deployment) { d.Status.Replicas = 2 }, 5},
		"no spec through the status": {Status, func(d *apps.Deployment) { d.Spec.Replicas = 2 }, 5},
	} {
		obj := base()
		c.change(obj)
		kindNamed(t, "deployments").PrepareUpdate(c.part, obj, base())
		if obj.Generation != c.want {
			t.Errorf("%s: generation %d, want %d", rule, obj.Generation, c.want)
		}
	}
}

func TestGraceOfPods(t *testing.T) {
	k := kindNamed(t, "pods")
	pod := func(node string, phase core.PodPhase) runtime.Object {
		return &core.Pod{Spec: core.PodSpec{NodeName: node, TerminationGracePeriodSeconds: ptr.To[int64](30)}, Status: core.PodStatus{Phase: phase}}
	}
	for rule, c := range map[string]struct {
		pod  runtime.Object
		ask  *int64
		want int64
	}{
		"a running pod has its own":     {pod("n", core.PodRunning), nil, 30},
		"the client's goes first":       {pod("n", core.PodRunning), ptr.To[int64](5), 5},
		"a pod without a node has none": {pod("", core.PodPending), nil, 0},
		"a pod that has ended has none": {pod("n", core.PodSucceeded), ptr.To[int64](5), 0},
		"below zero is the least":       {pod("n", core.PodRunning), ptr.To[int64](-1), 1},
	} {
		o := &metav1.DeleteOptions{GracePeriodSeconds: c.ask}
		if !k.Grace(c.pod, o) || *o.GracePeriodSeconds != c.want {
			t.Errorf("%s: %d, want %d", rule, *o.GracePeriodSeconds, c.want)
		}
	}
	if kindNamed(t, "configmaps").Grace(&core.ConfigMap{}, &metav1.DeleteOptions{}) {
		t.Error("a ConfigMap is deleted gracefully")
	}
}

func TestServiceTypeChangesClearWhatTheyMust(t *testing.T) {
	k := kindNamed(t, "services")
	old := &core.Service{Spec: core.ServiceSpec{
		Type: core.ServiceTypeNodePort, ClusterIP: "10.0.0.1", ClusterIPs: []string{"10.0.0.1"},
		Ports: []core.ServicePort{{Port: 80, NodePort: 30080}}, ExternalTrafficPolicy: core.ServiceExternalTrafficPolicyCluster,
	}}
	obj := old.DeepCopy()
	obj.Spec.Type = core.ServiceTypeClusterIP
	k.PrepareUpdate(Main, obj, old)
	if obj.Spec.Ports[0].NodePort != 0 || obj.Spec.ExternalTrafficPolicy != "" || obj.Spec.ClusterIP == "" {
		t.Errorf("NodePort to ClusterIP: %+v", obj.Spec)
	}
	obj = old.DeepCopy()
	obj.Spec.Type, obj.Spec.ExternalName = core.ServiceTypeExternalName, "example.org"
	k.PrepareUpdate(Main, obj, old)
	if obj.Spec.ClusterIP != "" || obj.Spec.ClusterIPs != nil {
		t.Errorf("NodePort to ExternalName: %+v", obj.Spec)
	}
	if old.Spec.Ports[0].NodePort != 30080 {
		t.Error("the old object was changed")
	}
}
