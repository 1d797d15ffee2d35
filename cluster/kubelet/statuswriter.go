package kubelet

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"

	"gantry/cluster/kubelet/plan"
)

// statusWriter tells the API server the statuses of pods, the newest only: one
// that is superseded before it is written never is.
type statusWriter struct {
	client kubernetes.Interface
	log    *slog.Logger
	queue  workqueue.TypedRateLimitingInterface[types.UID]

	mu      sync.Mutex
	pending map[types.UID]*pendingStatus
}

type pendingStatus struct {
	base *v1.Pod      // the newest version known: from the watch, or of the last write
	want v1.PodStatus //
	op   sync.Mutex   // held over a write, so that flush and the queue do not cross
}

const (
	statusWriters = 4
	// softDelay is how long a status that will soon be out of date may wait.
	softDelay = 200 * time.Millisecond
)

func newStatusWriter(client kubernetes.Interface, log *slog.Logger) *statusWriter {
	return &statusWriter{client: client, log: log, pending: map[types.UID]*pendingStatus{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[types.UID]())}
}

func (w *statusWriter) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { <-ctx.Done(); w.queue.ShutDown(); return nil })
	for range statusWriters {
		g.Go(func() error {
			for {
				uid, shutdown := w.queue.Get()
				if shutdown {
					return nil
				}
				if err := w.write(ctx, uid); err != nil && ctx.Err() == nil {
					w.log.Warn("status of pod not written", "pod", uid, "err", err)
					w.queue.AddRateLimited(uid)
				} else {
					w.queue.Forget(uid)
				}
				w.queue.Done(uid)
			}
		})
	}
	return g.Wait()
}

// set makes status the one to be written, now or within softDelay.
func (w *statusWriter) set(pod *v1.Pod, status v1.PodStatus, soft bool) {
	w.mu.Lock()
	p := w.pending[pod.UID]
	if p == nil {
		p = &pendingStatus{base: pod}
		w.pending[pod.UID] = p
	}
	if newer(pod, p.base) {
		p.base = pod
	}
	p.want = status
	same := plan.SameStatus(&p.base.Status, &status)
	w.mu.Unlock()
	switch {
	case same:
	case soft:
		w.queue.AddAfter(pod.UID, softDelay)
	default:
		w.queue.Add(pod.UID)
	}
}

// latest returns the pod with the status that was last set, which may not have
// come back from the API server yet.
func (w *statusWriter) latest(pod *v1.Pod) *v1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.pending[pod.UID]
	if p == nil {
		return pod
	}
	out := *pod // shallow: only the status is replaced
	out.Status = mergeStatus(&pod.Status, p.want)
	return &out
}

// forget drops what is held for a pod.
func (w *statusWriter) forget(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pending, uid)
}

// newer tells whether a is a later version than b. Versions of one server can
// be compared as numbers.
func newer(a, b *v1.Pod) bool {
	x, errX := strconv.ParseUint(a.ResourceVersion, 10, 64)
	y, errY := strconv.ParseUint(b.ResourceVersion, 10, 64)
	return errX == nil && (errY != nil || x > y)
}

// write brings the API server up to date with what is wanted for a pod.
func (w *statusWriter) write(ctx context.Context, uid types.UID) error {
	w.mu.Lock()
	p := w.pending[uid]
	w.mu.Unlock()
	if p == nil {
		return nil
	}
	p.op.Lock()
	defer p.op.Unlock()
	w.mu.Lock()
	base, want := p.base, p.want
	w.mu.Unlock()
	for {
		status := mergeStatus(&base.Status, want)
		if plan.SameStatus(&base.Status, &status) {
			return nil
		}
		update := *base // shallow: encoding does not change it
		update.Status = status
		update.ManagedFields = nil
		pods := w.client.CoreV1().Pods(base.Namespace)
		done, err := pods.UpdateStatus(ctx, &update, metav1.UpdateOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case apierrors.IsConflict(err):
			if base, err = pods.Get(ctx, base.Name, metav1.GetOptions{}); err != nil {
				if apierrors.IsNotFound(err) {
					return nil
				}
				return err
			}
			if base.UID != uid {
				return nil
			}
			continue
		case err != nil:
			return err
		}
		w.mu.Lock()
		if newer(done, p.base) {
			p.base = done
		}
		w.mu.Unlock()
		return nil
	}
}

// owned are the conditions that the kubelet writes; others are other's.
var owned = []v1.PodConditionType{v1.PodReadyToStartContainers, v1.PodInitialized, v1.PodReady, v1.ContainersReady, v1.PodScheduled}

// mergeStatus is want, with what others write taken from the current status.
func mergeStatus(current *v1.PodStatus, want v1.PodStatus) v1.PodStatus {
	out := want
	out.Conditions = nil
	for i := range current.Conditions {
		c := current.Conditions[i]
		if slices.Contains(owned, c.Type) {
			if mine := findCondition(want.Conditions, c.Type); mine != nil {
				c = *mine
			}
		}
		out.Conditions = append(out.Conditions, c)
	}
	for i := range want.Conditions {
		if c := want.Conditions[i]; slices.Contains(owned, c.Type) && findCondition(current.Conditions, c.Type) == nil {
			out.Conditions = append(out.Conditions, c)
		}
	}
	out.NominatedNodeName = current.NominatedNodeName
	out.EphemeralContainerStatuses = current.EphemeralContainerStatuses
	out.ResourceClaimStatuses = current.ResourceClaimStatuses
	return out
}

func findCondition(list []v1.PodCondition, t v1.PodConditionType) *v1.PodCondition {
	for i := range list {
		if list[i].Type == t {
			return &list[i]
		}
	}
	return nil
}
