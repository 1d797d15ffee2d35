package node

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/record"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"gantry/cluster/apiserver/apitest"
)

// fake is a runtime that can be down.
type fake struct {
	internalapi.RuntimeService
	internalapi.ImageManagerService
	down atomic.Bool
}

func (f *fake) Close(context.Context) error { return nil }

func (f *fake) Version(context.Context, string) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: "fake", RuntimeVersion: "2"}, nil
}

func (f *fake) Status(context.Context, bool) (*runtimeapi.StatusResponse, error) {
	if f.down.Load() {
		return nil, errors.New("no answer")
	}
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: runtimeapi.RuntimeReady, Status: true}, {Type: runtimeapi.NetworkReady, Status: true}}}}, nil
}

func (f *fake) ListImages(context.Context, *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	return []*runtimeapi.Image{{RepoTags: []string{"img:1"}, Size: 5}, {Size: 7}}, nil
}

func TestReporter(t *testing.T) {
	api := apitest.Start(t)
	rt := &fake{}
	cfg := Config{Client: api.Client, Runtime: rt, Images: rt, Name: "n1", IP: netip.MustParseAddr("192.0.2.1"), Labels: map[string]string{"zone": "z"},
		PodCIDR: netip.MustParsePrefix("10.42.0.0/24"), RootDir: t.TempDir(), Version: "x"}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	events := record.NewFakeRecorder(100)
	done := make(chan error, 1)
	runCtx, stop := context.WithCancel(ctx)
	begin := time.Now()
	go func() { done <- r.Run(runCtx, events) }()
	n := untilNode(ctx, t, api, func(n *v1.Node) bool { return ready(&n.Status) })
	t.Logf("ready after %v", time.Since(begin))
	if n.Labels[v1.LabelHostname] != "n1" || n.Labels["zone"] != "z" || n.Labels[v1.LabelOSStable] != "linux" || n.Spec.PodCIDR != "10.42.0.0/24" {
		t.Errorf("node: %v %+v", n.Labels, n.Spec)
	}
	s := n.Status
	if s.NodeInfo.ContainerRuntimeVersion != "fake://2" || s.NodeInfo.KubeletVersion != "v1.36.3+gantry-x" || s.NodeInfo.KernelVersion == "" || s.NodeInfo.BootID == "" ||
		s.Addresses[0].Address != "192.0.2.1" || s.Allocatable.Cpu().IsZero() || s.Allocatable.Memory().Value() != r.MemoryCapacity() ||
		s.Allocatable.Pods().Value() != 110 || s.Allocatable.StorageEphemeral().IsZero() || len(s.Images) != 1 || s.Images[0].Names[0] != "img:1" {
		t.Errorf("status: %+v", s)
	}
	lease := func() *metav1.MicroTime {
		l, err := api.Client.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(ctx, "n1", metav1.GetOptions{})
		if err != nil || *l.Spec.HolderIdentity != "n1" || *l.Spec.LeaseDurationSeconds != 40 {
			t.Fatalf("lease: %+v, %v", l, err)
		}
		return l.Spec.RenewTime
	}
	w, err := api.Client.CoordinationV1().Leases(v1.NamespaceNodeLease).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	<-w.ResultChan() // the first one
	w.Stop()
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	first := lease()

	// A second process of it: labels are corrected, what others wrote stays.
	cfg.Labels = map[string]string{"zone": "y"}
	if n, err = api.Client.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{}); err != nil { // it may have reported again
		t.Fatal(err)
	}
	n.Spec.Unschedulable = true
	if _, err := api.Client.CoreV1().Nodes().Update(ctx, n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	rt.down.Store(true)
	if r, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	runCtx, stop = context.WithCancel(ctx)
	go func() { done <- r.Run(runCtx, events) }()
	n = untilNode(ctx, t, api, func(n *v1.Node) bool { return !ready(&n.Status) })
	for !first.Before(lease()) {
		if ctx.Err() != nil {
			t.Fatal("the lease was not renewed")
		}
	}
	if n.Labels["zone"] != "y" || !n.Spec.Unschedulable {
		t.Errorf("second registration: %v %+v", n.Labels, n.Spec)
	}
	for _, c := range n.Status.Conditions {
		if c.Type == v1.NodeReady && (c.Reason != "KubeletNotReady" || c.Message != "[container runtime is down: no answer]") {
			t.Errorf("Ready: %+v", c)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func untilNode(ctx context.Context, t *testing.T, api *apitest.Server, cond func(*v1.Node) bool) *v1.Node {
	t.Helper()
	selector := fields.OneTermEqualSelector("metadata.name", "n1").String()
	w, err := api.Client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{FieldSelector: selector})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if n, ok := e.Object.(*v1.Node); ok && cond(n) {
			return n
		}
	}
	t.Fatal("node never was as wanted")
	return nil
}

func TestStatusComparisonIgnoresHeartbeats(t *testing.T) {
	a := &v1.NodeStatus{Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue, LastHeartbeatTime: metav1.Now()}}}
	b := a.DeepCopy()
	b.Conditions[0].LastHeartbeatTime = metav1.NewTime(time.Now().Add(time.Hour))
	if !sameNodeStatus(a, b) {
		t.Error("a heartbeat counts as a change")
	}
	b.Conditions[0].Status = v1.ConditionFalse
	if sameNodeStatus(a, b) {
		t.Error("a condition does not count as a change")
	}
}
