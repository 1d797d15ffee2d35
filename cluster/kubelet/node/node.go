// Package node registers this machine as a Node, keeps the Node's status true
// and renews its Lease.
//
// Run is its one goroutine and paces both: the Lease every ten seconds, the
// status when it differs, and at least every five minutes.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Config is what a Reporter needs.
type Config struct {
	Client  kubernetes.Interface
	Runtime internalapi.RuntimeService
	Images  internalapi.ImageManagerService
	Name    string
	IP      netip.Addr
	Labels  map[string]string
	PodCIDR netip.Prefix
	RootDir string
	Version string
	Logger  *slog.Logger
}

// The reference's intervals.
const (
	leaseDuration  = 40 * time.Second
	renewInterval  = 10 * time.Second
	reportInterval = 5 * time.Minute
	retryInterval  = 200 * time.Millisecond // of registration, while the server starts
	maxPods        = 110
	maxImages      = 50
	kubeletVersion = "v1.36.3" // of the API that is spoken; clients compare it
)

// Reporter keeps one Node.
type Reporter struct {
	cfg      Config
	static   facts
	recorder record.EventRecorder // of Run
	reported time.Time            // of Run
	memory   atomic.Int64
	storage  atomic.Int64
}

// New returns a Reporter; it reads the machine's facts and writes nothing.
func New(cfg Config) (*Reporter, error) {
	if cfg.Name == "" || cfg.Client == nil {
		return nil, errors.New("node: name and client are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Reporter{cfg: cfg, static: readFacts()}
	r.memory.Store(r.static.memoryBytes)
	return r, nil
}

// MemoryCapacity is the machine's memory in bytes.
func (r *Reporter) MemoryCapacity() int64 { return r.memory.Load() }

// Allocatable is what pods may use of the machine.
func (r *Reporter) Allocatable() v1.ResourceList {
	list := v1.ResourceList{
		v1.ResourceCPU:    *resource.NewQuantity(int64(r.static.cpus), resource.DecimalSI),
		v1.ResourceMemory: *resource.NewQuantity(r.memory.Load(), resource.BinarySI),
		v1.ResourcePods:   *resource.NewQuantity(maxPods, resource.DecimalSI),
	}
	if n := r.storage.Load(); n > 0 {
		list[v1.ResourceEphemeralStorage] = *resource.NewQuantity(n, resource.BinarySI)
	}
	return list
}

// Run registers the node and reports on it until ctx ends.
func (r *Reporter) Run(ctx context.Context, recorder record.EventRecorder) error {
	r.recorder = recorder
	wait := time.Duration(0)
	registered := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		if !registered {
			if err := r.register(ctx); err != nil {
				r.cfg.Logger.Debug("node not registered yet", "node", r.cfg.Name, "err", err)
				wait = retryInterval
				continue
			}
			registered = true
			r.recorder.Event(r.ref(), v1.EventTypeNormal, "Starting", "Starting kubelet.")
		}
		wait = renewInterval
		if err := errors.Join(r.report(ctx), r.renew(ctx)); err != nil && ctx.Err() == nil {
			r.cfg.Logger.Warn("node not reported", "node", r.cfg.Name, "err", err)
			wait = time.Second
			if apierrors.IsNotFound(err) {
				registered = false
			}
		}
	}
}

func (r *Reporter) ref() *v1.ObjectReference {
	return &v1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: r.cfg.Name, UID: types.UID(r.cfg.Name)}
}

func (r *Reporter) labels() map[string]string {
	l := map[string]string{
		v1.LabelHostname: r.cfg.Name, v1.LabelOSStable: runtime.GOOS, v1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": runtime.GOOS, "beta.kubernetes.io/arch": runtime.GOARCH,
	}
	for k, v := range r.cfg.Labels {
		l[k] = v
	}
	return l
}

// register creates the Node with its whole status, so that it is Ready from the
// first write on; of one that exists it corrects labels and range.
func (r *Reporter) register(ctx context.Context) error {
	nodes := r.cfg.Client.CoreV1().Nodes()
	n, err := nodes.Get(ctx, r.cfg.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		n = &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: r.cfg.Name, Labels: r.labels()}}
		if r.cfg.PodCIDR.IsValid() {
			n.Spec.PodCIDR, n.Spec.PodCIDRs = r.cfg.PodCIDR.String(), []string{r.cfg.PodCIDR.String()}
		}
		if n.Status, err = r.status(ctx, n.Status); err != nil {
			return err
		}
		_, err = nodes.Create(ctx, n, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			err = nil
		}
		return err
	}
	if err != nil {
		return err
	}
	update := n.DeepCopy()
	if update.Labels == nil {
		update.Labels = map[string]string{}
	}
	for k, v := range r.labels() {
		update.Labels[k] = v
	}
	if update.Spec.PodCIDR == "" && r.cfg.PodCIDR.IsValid() {
		update.Spec.PodCIDR, update.Spec.PodCIDRs = r.cfg.PodCIDR.String(), []string{r.cfg.PodCIDR.String()}
	}
	if apiequality.Semantic.DeepEqual(n, update) {
		return nil
	}
	_, err = nodes.Update(ctx, update, metav1.UpdateOptions{})
	return err
}

// report writes the status if it says something new, or has not for long.
func (r *Reporter) report(ctx context.Context) error {
	nodes := r.cfg.Client.CoreV1().Nodes()
	n, err := nodes.Get(ctx, r.cfg.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	status, err := r.status(ctx, n.Status)
	if err != nil {
		return err
	}
	same := sameNodeStatus(&n.Status, &status)
	if same && time.Since(r.reported) < reportInterval {
		return nil
	}
	becameReady := ready(&status) && !ready(&n.Status)
	n.Status = status
	if _, err := nodes.UpdateStatus(ctx, n, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update status: %w", err)
	}
	r.reported = time.Now()
	if becameReady {
		r.recorder.Eventf(r.ref(), v1.EventTypeNormal, "NodeReady", "Node %s status is now: NodeReady", r.cfg.Name)
	}
	return nil
}

func ready(s *v1.NodeStatus) bool {
	for i := range s.Conditions {
		if s.Conditions[i].Type == v1.NodeReady {
			return s.Conditions[i].Status == v1.ConditionTrue
		}
	}
	return false
}

// sameNodeStatus compares without heartbeats.
func sameNodeStatus(a, b *v1.NodeStatus) bool {
	x, y := a.DeepCopy(), b.DeepCopy()
	for _, s := range []*v1.NodeStatus{x, y} {
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
	}
	return apiequality.Semantic.DeepEqual(x, y)
}

// status is the node's status now; old keeps what others write.
func (r *Reporter) status(ctx context.Context, old v1.NodeStatus) (v1.NodeStatus, error) {
	s := *old.DeepCopy()
	r.storage.Store(diskBytes(r.cfg.RootDir))
	s.Capacity, s.Allocatable = r.Allocatable(), r.Allocatable()
	s.Addresses = []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: r.cfg.IP.String()}, {Type: v1.NodeHostName, Address: r.cfg.Name}}
	s.NodeInfo = r.static.info
	s.NodeInfo.KubeletVersion = kubeletVersion
	if r.cfg.Version != "" {
		s.NodeInfo.KubeletVersion += "+gantry-" + r.cfg.Version
	}
	version, err := r.cfg.Runtime.Version(ctx, "v1")
	if err == nil {
		s.NodeInfo.ContainerRuntimeVersion = version.RuntimeName + "://" + version.RuntimeVersion
	}
	now := metav1.Now().Rfc3339Copy()
	for _, c := range append(r.pressure(), r.readyCondition(ctx)) {
		setCondition(&s, c, now)
	}
	images, err := r.cfg.Images.ListImages(ctx, nil)
	if err != nil {
		return s, nil // the rest is true without them; Ready says what is wrong
	}
	s.Images = nil
	for _, img := range images {
		names := append(append([]string{}, img.RepoDigests...), img.RepoTags...)
		if len(names) > 0 && len(s.Images) < maxImages {
			s.Images = append(s.Images, v1.ContainerImage{Names: names, SizeBytes: int64(img.Size)})
		}
	}
	return s, nil
}

func (r *Reporter) readyCondition(ctx context.Context) v1.NodeCondition {
	c := v1.NodeCondition{Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"}
	resp, err := r.cfg.Runtime.Status(ctx, false)
	var problems []string
	if err != nil {
		problems = append(problems, "container runtime is down: "+err.Error())
	} else {
		for _, cond := range resp.Status.GetConditions() {
			required := cond.Type == runtimeapi.RuntimeReady || cond.Type == runtimeapi.NetworkReady
			if required && !cond.Status {
				problems = append(problems, fmt.Sprintf("container runtime condition %s is false: reason:%s message:%s", cond.Type, cond.Reason, cond.Message))
			}
		}
	}
	if len(problems) > 0 {
		c.Status, c.Reason, c.Message = v1.ConditionFalse, "KubeletNotReady", fmt.Sprint(problems)
	}
	return c
}

func setCondition(s *v1.NodeStatus, c v1.NodeCondition, now metav1.Time) {
	c.LastHeartbeatTime, c.LastTransitionTime = now, now
	for i := range s.Conditions {
		if have := &s.Conditions[i]; have.Type == c.Type {
			if have.Status == c.Status {
				c.LastTransitionTime = have.LastTransitionTime
			}
			*have = c
			return
		}
	}
	s.Conditions = append(s.Conditions, c)
}

// renew renews the node's Lease, or makes it.
func (r *Reporter) renew(ctx context.Context) error {
	leases := r.cfg.Client.CoordinationV1().Leases(v1.NamespaceNodeLease)
	now := metav1.NowMicro()
	seconds := int32(leaseDuration / time.Second)
	lease, err := leases.Get(ctx, r.cfg.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: r.cfg.Name, Namespace: v1.NamespaceNodeLease},
			Spec: coordinationv1.LeaseSpec{HolderIdentity: &r.cfg.Name, LeaseDurationSeconds: &seconds, RenewTime: &now}}
		if n, err := r.cfg.Client.CoreV1().Nodes().Get(ctx, r.cfg.Name, metav1.GetOptions{}); err == nil {
			lease.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.UID}}
		}
		if _, err = leases.Create(ctx, lease, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create lease: %w", err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("get lease: %w", err)
	}
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &r.cfg.Name, &seconds, &now
	if _, err := leases.Update(ctx, lease, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("renew lease: %w", err)
	}
	return nil
}
