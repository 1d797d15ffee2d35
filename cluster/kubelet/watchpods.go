package kubelet

import (
	"context"
	"errors"
	"maps"
	"os"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"gantry/cluster/kubelet/podspec"
)

// isGone tells that an object, or the one of that UID, no longer exists.
func isGone(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsConflict(err) }

// prepare makes the directories that everything is below.
func (k *Kubelet) prepare() error {
	if resolv, err := os.ReadFile("/etc/resolv.conf"); err == nil {
		k.cluster.HostDNS = podspec.ParseResolvConf(string(resolv))
	}
	return errors.Join(
		os.MkdirAll(k.cfg.RootDir, 0o711), os.MkdirAll(k.volumes.Dir, 0o711),
		os.MkdirAll(k.volumes.RunDir, 0o711), os.MkdirAll(k.cfg.LogDir, 0o755))
}

// podHandler turns what happens to pods in the API into keys.
func (k *Kubelet) podHandler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { k.podSeen(obj.(*v1.Pod)) },
		UpdateFunc: func(old, obj any) {
			if before, after := old.(*v1.Pod), obj.(*v1.Pod); before.UID != after.UID {
				k.podGone(before) // deleted and made again while nobody looked
			}
			k.podSeen(obj.(*v1.Pod))
		},
		DeleteFunc: func(obj any) {
			if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = unknown.Obj
			}
			if pod, ok := obj.(*v1.Pod); ok {
				k.podGone(pod)
			}
		},
	}
}

func (k *Kubelet) podSeen(pod *v1.Pod) {
	k.mu.Lock()
	st := k.states[pod.UID]
	if st == nil {
		st = newPodState(pod.UID)
		k.states[pod.UID] = st
	}
	k.mu.Unlock()

	st.mu.Lock()
	before := st.pod
	st.pod = pod
	if before != nil && (!maps.Equal(before.Labels, pod.Labels) || !maps.Equal(before.Annotations, pod.Annotations)) {
		st.stale = true
	}
	interrupt := st.interrupt
	st.mu.Unlock()
	if pod.DeletionTimestamp != nil && interrupt != nil {
		interrupt()
	}
	if before == nil || !onlyStatus(before, pod) {
		k.queue.Add(pod.UID)
	}
}

// onlyStatus tells whether an update changed nothing but conditions and
// statuses that the kubelet wrote itself.
func onlyStatus(a, b *v1.Pod) bool {
	if a.Generation != b.Generation || (a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil) ||
		!maps.Equal(a.Labels, b.Labels) || !maps.Equal(a.Annotations, b.Annotations) {
		return false
	}
	if a.DeletionGracePeriodSeconds != nil && b.DeletionGracePeriodSeconds != nil && *a.DeletionGracePeriodSeconds != *b.DeletionGracePeriodSeconds {
		return false
	}
	if a.Status.Phase != b.Status.Phase && (b.Status.Phase == v1.PodFailed || b.Status.Phase == v1.PodSucceeded) {
		return false
	}
	for i := range b.Status.Conditions { // readiness gates are written by others
		c := &b.Status.Conditions[i]
		if was := findCondition(a.Status.Conditions, c.Type); findCondition(b.Status.Conditions, c.Type) == c && !isOwned(c.Type) &&
			(was == nil || was.Status != c.Status) {
			return false
		}
	}
	return true
}

func isOwned(t v1.PodConditionType) bool {
	for _, o := range owned {
		if o == t {
			return true
		}
	}
	return false
}

func (k *Kubelet) podGone(pod *v1.Pod) {
	st := k.state(pod.UID)
	if st == nil {
		return
	}
	st.mu.Lock()
	st.gone = true
	st.pod = pod
	interrupt := st.interrupt
	st.mu.Unlock()
	if interrupt != nil {
		interrupt()
	}
	k.queue.Add(pod.UID)
}

// refresh notes that an object changed that a pod uses.
func (k *Kubelet) refresh(uid types.UID) {
	if st := k.state(uid); st != nil {
		st.mu.Lock()
		st.stale = true
		st.mu.Unlock()
		k.queue.Add(uid)
	}
}

// runtimeEventsBuffer takes the bursts of many containers starting at once;
// the reader only puts keys in the queue.
const runtimeEventsBuffer = 256

// runtimeEvents turns what happens to containers into keys.
func (k *Kubelet) runtimeEvents(ctx context.Context) error {
	for ctx.Err() == nil {
		events := make(chan *runtimeapi.ContainerEventResponse, runtimeEventsBuffer)
		done := make(chan error, 1)
		go func() {
			done <- k.cfg.Runtime.GetContainerEvents(ctx, events, func(runtimeapi.RuntimeService_GetContainerEventsClient) {
				k.queueAll() // what happened before the stream began
			})
		}()
		err := k.followEvents(ctx, events, done)
		if ctx.Err() != nil {
			return nil
		}
		k.log.Warn("runtime's event stream ended", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(observeRetry):
		}
	}
	return nil
}

func (k *Kubelet) followEvents(ctx context.Context, events <-chan *runtimeapi.ContainerEventResponse, done <-chan error) error {
	for {
		select {
		case e, open := <-events:
			if !open {
				return <-done
			}
			if e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT {
				k.exits.signal()
			}
			if uid := e.GetPodSandboxStatus().GetMetadata().GetUid(); uid != "" {
				k.queue.Add(types.UID(uid))
			}
		case err := <-done:
			return err
		case <-ctx.Done():
			return <-done
		}
	}
}

func (k *Kubelet) queueAll() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for uid := range k.states {
		k.queue.Add(uid)
	}
}

// adopt finds what an earlier process of the kubelet left: pods whose API
// object still exists go on by themselves; of the others, containers, volumes
// and logs are removed.
func (k *Kubelet) adopt(ctx context.Context) error {
	left := map[types.UID]*v1.Pod{}
	sandboxes, err := k.cfg.Runtime.ListPodSandbox(ctx, nil)
	if err != nil {
		return err
	}
	for _, sb := range sandboxes {
		m := sb.Metadata
		left[types.UID(m.GetUid())] = remains(m.GetName(), m.GetNamespace(), m.GetUid())
	}
	containers, err := k.cfg.Runtime.ListContainers(ctx, nil)
	if err != nil {
		return err
	}
	for _, c := range containers {
		uid := types.UID(c.Labels[kubelettypes.KubernetesPodUIDLabel])
		if uid == "" {
			continue // not a pod's
		}
		if left[uid] == nil {
			left[uid] = remains(c.Labels[kubelettypes.KubernetesPodNameLabel], c.Labels[kubelettypes.KubernetesPodNamespaceLabel], string(uid))
		}
		pod := left[uid]
		if podspec.FindContainer(pod, c.Metadata.GetName()) == nil {
			pod.Spec.Containers = append(pod.Spec.Containers, v1.Container{Name: c.Metadata.GetName()})
		}
		if seconds, err := strconv.ParseInt(c.Annotations[podspec.AnnotationGracePeriod], 10, 64); err == nil {
			pod.Spec.TerminationGracePeriodSeconds = &seconds
		}
	}
	if err := k.remainsOnDisk(left); err != nil {
		return err
	}
	for uid, pod := range left {
		if k.state(uid) != nil {
			continue
		}
		k.log.Info("removing pod that was deleted meanwhile", "pod", pod.Namespace+"/"+pod.Name)
		st := newPodState(uid)
		st.pod, st.gone = pod, true
		k.mu.Lock()
		k.states[uid] = st
		k.mu.Unlock()
		k.queue.Add(uid)
	}
	return nil
}

// remains stands in for the Pod of which only traces are left.
func remains(name, namespace, uid string) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, UID: types.UID(uid)}}
}

// remainsOnDisk adds the pods of which there are volumes or logs.
func (k *Kubelet) remainsOnDisk(left map[types.UID]*v1.Pod) error {
	logDirs, err := os.ReadDir(k.cfg.LogDir)
	if err != nil {
		return err
	}
	for _, d := range logDirs {
		parts := strings.Split(d.Name(), "_")
		if len(parts) == 3 && left[types.UID(parts[2])] == nil {
			left[types.UID(parts[2])] = remains(parts[1], parts[0], parts[2])
		}
	}
	uids, err := k.volumes.Pods()
	if err != nil {
		return err
	}
	for _, uid := range uids {
		if left[uid] == nil {
			left[uid] = remains("", "", string(uid))
		}
	}
	return nil
}
