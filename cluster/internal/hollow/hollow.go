// Package hollow stands in for kubelets where none can run: nodes that report
// themselves, keep their Leases, and claim to run the pods bound to them. It
// serves tests and simulations of clusters larger than the machine.
//
// Pods are shown as running and ready at once, with an address from 10.128/9,
// and go as soon as they are deleted. Run starts the workers of one loop and
// one goroutine that renews the Leases.
package hollow

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"golang.org/x/sync/errgroup"

	"gantry/cluster/internal/loop"
	"gantry/cluster/internal/pods"
)

// Config says which nodes there are and how they behave.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory // started by the caller after New
	Nodes     []string
	Capacity  corev1.ResourceList // of each node; nil means 8 cores, 32 GiB, 110 pods
	// Ready says whether a pod's containers pass their probes; nil means all
	// do. It may be called concurrently.
	Ready func(*corev1.Pod) bool
	// RenewEvery is how often the Leases are renewed; 0 means 10 s.
	RenewEvery time.Duration
}

// Kubelets are the hollow nodes.
type Kubelets struct {
	cfg     Config
	mine    map[string]bool
	pods    cache.SharedIndexInformer
	podList corelisters.PodLister
	nodes   corelisters.NodeLister
	loop    *loop.Loop[cache.ObjectName]

	mu     sync.Mutex
	last   netip.Addr      // the last address given out
	silent map[string]bool // nodes that pretend to be dead
}

// New returns kubelets that wait for Run.
func New(cfg Config) *Kubelets {
	k := &Kubelets{
		cfg:     cfg,
		mine:    map[string]bool{},
		pods:    cfg.Informers.Core().V1().Pods().Informer(),
		podList: cfg.Informers.Core().V1().Pods().Lister(),
		nodes:   cfg.Informers.Core().V1().Nodes().Lister(),
		last:    netip.MustParseAddr("10.128.0.0"),
		silent:  map[string]bool{},
	}
	for _, n := range cfg.Nodes {
		k.mine[n] = true
	}
	if k.cfg.RenewEvery == 0 {
		k.cfg.RenewEvery = 10 * time.Second
	}
	if k.cfg.Capacity == nil {
		k.cfg.Capacity = corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("32Gi"),
			corev1.ResourcePods: resource.MustParse("110"),
		}
	}
	k.loop = loop.New(loop.Config[cache.ObjectName]{Name: "hollow", Workers: 8, Reconcile: k.reconcile})
	return k
}

// Silence makes a node stop, or go on, reporting and running pods.
func (k *Kubelets) Silence(node string, silent bool) {
	k.mu.Lock()
	k.silent[node] = silent
	k.mu.Unlock()
}

// Probe has all pods' readiness asked for again.
func (k *Kubelets) Probe() {
	for _, obj := range k.pods.GetStore().List() {
		k.look(obj.(*corev1.Pod))
	}
}

// Register creates the nodes and their Leases.
func (k *Kubelets) Register(ctx context.Context) error {
	for _, name := range k.cfg.Nodes {
		now := metav1.Now()
		node := &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
			Status: corev1.NodeStatus{
				Capacity: k.cfg.Capacity, Allocatable: k.cfg.Capacity,
				Conditions: []corev1.NodeCondition{{
					Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady",
					LastHeartbeatTime: now, LastTransitionTime: now,
				}},
			},
		}
		if _, err := k.cfg.Client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("register %s: %w", name, err)
		}
	}
	return nil
}

// Run keeps the Leases and runs the pods until ctx ends.
func (k *Kubelets) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return k.loop.Run(ctx, loop.Watch{Informer: k.pods, Handler: loop.Latest(k.look)})
	})
	g.Go(func() error {
		tick := time.NewTicker(k.cfg.RenewEvery)
		defer tick.Stop()
		for {
			k.renew(ctx)
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	})
	return g.Wait()
}

func (k *Kubelets) look(pod *corev1.Pod) {
	if k.mine[pod.Spec.NodeName] {
		k.loop.Add(cache.MetaObjectToName(pod))
	}
}

func (k *Kubelets) quiet(node string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.silent[node]
}

// renew renews the Leases. One that cannot be is renewed the next time.
func (k *Kubelets) renew(ctx context.Context) {
	leases := k.cfg.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	for _, name := range k.cfg.Nodes {
		if k.quiet(name) {
			continue
		}
		k.report(ctx, name)
		now := metav1.NowMicro()
		patch := fmt.Sprintf(`{"spec":{"renewTime":%q}}`, now.UTC().Format(metav1.RFC3339Micro))
		_, err := leases.Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		if apierrors.IsNotFound(err) {
			_, _ = leases.Create(ctx, &coordinationv1.Lease{
				ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name},
				Spec: coordinationv1.LeaseSpec{
					HolderIdentity: &name, LeaseDurationSeconds: new(int32(40)), RenewTime: &now,
				},
			}, metav1.CreateOptions{})
		}
	}
}

// report makes a node ready again that was taken for dead.
func (k *Kubelets) report(ctx context.Context, name string) {
	node, err := k.nodes.Get(name)
	if err != nil {
		return // not shown yet: registered as ready
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			now := metav1.Now().UTC().Format(time.RFC3339)
			patch := fmt.Sprintf(`{"status":{"conditions":[{"type":"Ready","status":"True","reason":"KubeletReady","message":"","lastHeartbeatTime":%q,"lastTransitionTime":%q}]}}`, now, now)
			_, _ = k.cfg.Client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
		}
	}
}

func (k *Kubelets) reconcile(ctx context.Context, key cache.ObjectName) error {
	pod, err := k.podList.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && k.quiet(pod.Spec.NodeName) {
		return nil
	} else if err != nil {
		return err
	}
	client := k.cfg.Client.CoreV1().Pods(key.Namespace)
	if pod.DeletionTimestamp != nil {
		err := client.Delete(ctx, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: new(int64(0)), Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
		})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	ready := corev1.ConditionTrue
	if k.cfg.Ready != nil && !k.cfg.Ready(pod) {
		ready = corev1.ConditionFalse
	}
	if c := pods.Condition(pod, corev1.PodReady); pod.Status.Phase == corev1.PodRunning && c != nil && c.Status == ready {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status":   k.status(pod, ready),
	})
	if err != nil {
		return err
	}
	_, err = client.Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (k *Kubelets) status(pod *corev1.Pod, ready corev1.ConditionStatus) corev1.PodStatus {
	now := metav1.Now()
	s := corev1.PodStatus{Phase: corev1.PodRunning, StartTime: pod.Status.StartTime, PodIP: pod.Status.PodIP, PodIPs: pod.Status.PodIPs}
	if s.StartTime == nil {
		s.StartTime = &now
	}
	if s.PodIP == "" {
		k.mu.Lock()
		k.last = k.last.Next()
		s.PodIP = k.last.String()
		k.mu.Unlock()
		s.PodIPs = []corev1.PodIP{{IP: s.PodIP}}
	}
	for _, t := range []corev1.PodConditionType{corev1.ContainersReady, corev1.PodReady} {
		s.Conditions = append(s.Conditions, corev1.PodCondition{Type: t, Status: ready, LastTransitionTime: now})
	}
	for _, c := range pod.Spec.Containers {
		s.ContainerStatuses = append(s.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, Ready: ready == corev1.ConditionTrue, Started: new(true),
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		})
	}
	return s
}
