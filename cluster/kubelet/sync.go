package kubelet

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"gantry/cluster/kubelet/logs"
	"gantry/cluster/kubelet/plan"
	"gantry/cluster/kubelet/podspec"
	"gantry/cluster/kubelet/probe"
	"gantry/cluster/kubelet/volume"
)

// podState is what the kubelet remembers of a pod between two syncs. Losing it
// in a crash costs nothing but back-offs, which begin anew.
type podState struct {
	uid types.UID

	mu        sync.Mutex
	pod       *v1.Pod              // the newest from the API, or what adoption could tell
	gone      bool                 // not in the API any more
	stale     bool                 // something that its volumes or environment show has changed
	interrupt context.CancelFunc   // ends hooks that hold a sync up
	stopping  map[string]*stopping // by container ID

	// Only the sync of the pod uses what follows.
	begun     metav1.Time
	terminate *plan.Termination
	reason    string // why it was failed from here, such as DeadlineExceeded
	message   string
	backoff   map[string]plan.Backoff
	pulls     map[string]pull
	failed    map[string]plan.Hold
	failures  map[string]int // tries in a row that failed
	held      map[string]time.Time
	messages  map[string]string // termination messages by container ID
	mounted   map[string]volume.Mounted
	renew     time.Time // of tokens in volumes
	tokens    map[string]token
	watched   map[string]bool // containers under probes
	hosts     string          // addresses in the written etc-hosts
	refresh   bool            // stale, taken over by the sync
	finished  bool            // ended, and its sandbox and volumes are gone
}

func newPodState(uid types.UID) *podState {
	return &podState{uid: uid, stopping: map[string]*stopping{}, backoff: map[string]plan.Backoff{}, pulls: map[string]pull{},
		failed: map[string]plan.Hold{}, failures: map[string]int{}, held: map[string]time.Time{}, messages: map[string]string{},
		tokens: map[string]token{}, watched: map[string]bool{}}
}

// state returns the pod's state, or nil if nothing is known of it.
func (k *Kubelet) state(uid types.UID) *podState {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.states[uid]
}

// observeRetry is how long after the runtime failed to answer it is asked again.
const observeRetry = time.Second

// maxRounds bounds the steps of one sync; a pod with more to do comes again.
const maxRounds = 64

// sync brings one pod to where it should be.
func (k *Kubelet) sync(ctx context.Context, uid types.UID) {
	st := k.state(uid)
	if st == nil {
		return
	}
	for range maxRounds {
		again, err := k.step(ctx, st)
		if err != nil && ctx.Err() == nil {
			k.log.Warn("pod not synced", "pod", st.pod.Name, "err", err)
			k.queue.AddAfter(uid, observeRetry)
		}
		if !again || err != nil {
			return
		}
	}
	k.queue.Add(uid)
}

// step looks, decides, acts once, and tells whether to look again.
func (k *Kubelet) step(ctx context.Context, st *podState) (again bool, err error) {
	st.mu.Lock()
	pod, gone := k.statuses.latest(st.pod), st.gone
	if st.stale {
		st.stale, st.refresh = false, true
		st.retryConfig()
	}
	st.mu.Unlock()
	seen, err := k.observe(ctx, st, pod)
	if err != nil {
		return false, err
	}
	now := time.Now()
	if st.begun.IsZero() {
		st.begun = metav1.Time{Time: now}.Rfc3339Copy()
		if pod.Status.StartTime != nil {
			st.begun = *pod.Status.StartTime
		}
	}
	wake := k.deadline(st, pod, gone, now)
	k.watchProbes(ctx, st, pod, &seen)
	s := plan.Situation{Pod: pod, Seen: seen, Terminate: st.terminate, Health: k.health(&seen), Backoff: st.backoff, Failed: st.failed, Now: now}
	a := plan.Decide(s)
	a.WakeAt(wake)
	k.tellBackoff(st, pod, a.Hold)
	busy := a.CreateSandbox || len(a.Start) > 0 || len(a.StopSandbox) > 0
	if !gone {
		k.statuses.set(pod, k.statusOf(st, pod, &s, &a), busy)
	}
	if again, err = k.execute(ctx, st, pod, &s.Seen, &a); again || err != nil {
		return again, err
	}
	if a.Finished {
		return false, k.finish(ctx, st, pod, &s.Seen)
	}
	k.refreshVolumes(ctx, st, pod, &s.Seen)
	a.WakeAt(st.renew)
	if !a.Wake.IsZero() {
		k.queue.AddAfter(st.uid, max(time.Until(a.Wake), time.Millisecond))
	}
	return false, nil
}

// retryConfig ends the waits for what could not be started because of an object
// that may be there now.
func (st *podState) retryConfig() {
	for name, h := range st.failed {
		switch h.Reason {
		case "ContainerCreating", "PodInitializing", "CreateContainerConfigError":
			h.Until = time.Time{}
			st.failed[name] = h
		}
	}
}

// deadline notes that the pod must end, because it was deleted or has run for
// longer than it may. It returns when the latter will be so.
func (k *Kubelet) deadline(st *podState, pod *v1.Pod, gone bool, now time.Time) (wake time.Time) {
	if pod.DeletionTimestamp != nil || gone {
		at := now.Add(plan.GracePeriod(pod))
		if st.terminate == nil || at.Before(st.terminate.Deadline) {
			st.terminate = &plan.Termination{Deadline: at}
		}
		return time.Time{}
	}
	if pod.Spec.ActiveDeadlineSeconds == nil || st.terminate != nil {
		return time.Time{}
	}
	end := st.begun.Add(time.Duration(*pod.Spec.ActiveDeadlineSeconds) * time.Second)
	if end.After(now) {
		return end
	}
	st.terminate = &plan.Termination{Deadline: now.Add(plan.GracePeriod(pod))}
	st.reason, st.message = "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"
	k.recorder.Event(pod, v1.EventTypeNormal, st.reason, st.message)
	return time.Time{}
}

// observe asks the runtime what there is of a pod.
func (k *Kubelet) observe(ctx context.Context, st *podState, pod *v1.Pod) (plan.Observed, error) {
	seen := plan.Observed{Containers: map[string][]plan.Attempt{}}
	selector := map[string]string{kubelettypes.KubernetesPodUIDLabel: string(st.uid)}
	sandboxes, err := k.cfg.Runtime.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{LabelSelector: selector})
	if err != nil {
		return seen, err
	}
	for _, sb := range sandboxes {
		r, err := k.cfg.Runtime.PodSandboxStatus(ctx, sb.Id, false)
		if err != nil {
			return seen, err
		}
		seen.Sandboxes = append(seen.Sandboxes, r.Status)
	}
	slices.SortFunc(seen.Sandboxes, func(a, b *runtimeapi.PodSandboxStatus) int {
		return cmp.Or(cmp.Compare(b.Metadata.GetAttempt(), a.Metadata.GetAttempt()), cmp.Compare(b.CreatedAt, a.CreatedAt))
	})
	containers, err := k.cfg.Runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{LabelSelector: selector})
	if err != nil {
		return seen, err
	}
	known := map[string]bool{}
	for _, c := range containers {
		r, err := k.cfg.Runtime.ContainerStatus(ctx, c.Id, false)
		if err != nil {
			return seen, err
		}
		at := plan.Attempt{ContainerStatus: r.Status, SandboxID: c.PodSandboxId}
		if at.Exited() {
			at.Message = k.terminationMessage(ctx, st, pod, &at)
		}
		known[c.Id] = true
		name := c.Metadata.GetName()
		seen.Containers[name] = append(seen.Containers[name], at)
	}
	for name := range seen.Containers {
		slices.SortFunc(seen.Containers[name], func(a, b plan.Attempt) int {
			return cmp.Or(cmp.Compare(b.Metadata.GetAttempt(), a.Metadata.GetAttempt()), cmp.Compare(b.CreatedAt, a.CreatedAt))
		})
	}
	for id := range st.messages {
		if !known[id] {
			delete(st.messages, id)
		}
	}
	return seen, nil
}

// Bounds of a termination message, the reference's.
const (
	maxMessage         = 4096
	maxFallbackLines   = 80
	maxFallbackMessage = 2048
)

// terminationMessage reads what an ended container left to say.
func (k *Kubelet) terminationMessage(ctx context.Context, st *podState, pod *v1.Pod, a *plan.Attempt) string {
	if m, ok := st.messages[a.Id]; ok {
		return m
	}
	name := a.Metadata.GetName()
	if old := toldMessage(pod, plan.RuntimePrefix+a.Id); old != "" {
		st.messages[a.Id] = old // the file goes with the pod's volumes
		return old
	}
	text := readBounded(k.messageFile(st.uid, name, a.Metadata.GetAttempt()), maxMessage)
	fallback := a.Annotations[podspec.AnnotationTerminationPolicy] == string(v1.TerminationMessageFallbackToLogsOnError)
	if text == "" && fallback && a.ExitCode != 0 {
		path := filepath.Join(k.podLogDir(pod), podspec.LogPath(name, a.Metadata.GetAttempt()))
		if last, err := logs.Last(ctx, path, maxFallbackLines, maxFallbackMessage); err == nil {
			text = last
		}
	}
	st.messages[a.Id] = text
	return text
}

// toldMessage is the termination message that the API server was told before.
func toldMessage(pod *v1.Pod, containerID string) string {
	for _, list := range [][]v1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			for _, t := range []*v1.ContainerStateTerminated{list[i].State.Terminated, list[i].LastTerminationState.Terminated} {
				if t != nil && t.ContainerID == containerID {
					return t.Message
				}
			}
		}
	}
	return ""
}

func readBounded(path string, n int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	buf := make([]byte, n)
	read, _ := f.Read(buf) // what is there is enough
	return string(buf[:read])
}

func (k *Kubelet) podDir(uid types.UID) string { return filepath.Join(k.volumes.Dir, string(uid)) }

func (k *Kubelet) podLogDir(pod *v1.Pod) string {
	return podspec.LogDir(k.cfg.LogDir, pod.Namespace, pod.Name, string(pod.UID))
}

func (k *Kubelet) messageFile(uid types.UID, container string, attempt uint32) string {
	return filepath.Join(k.podDir(uid), "containers", container, strconv.FormatUint(uint64(attempt), 10))
}

// health collects what the probes know of the running containers.
func (k *Kubelet) health(seen *plan.Observed) map[string]plan.Health {
	out := map[string]plan.Health{}
	for _, list := range seen.Containers {
		for i := range list {
			if list[i].Running() {
				h := k.probes.Health(list[i].Id)
				out[list[i].Id] = plan.Health{Started: h.Started, Ready: h.Ready, StartupFailed: h.StartupFailed, LivenessFailed: h.LivenessFailed}
			}
		}
	}
	return out
}

// watchProbes puts the running containers under probes, and no others.
func (k *Kubelet) watchProbes(ctx context.Context, st *podState, pod *v1.Pod, seen *plan.Observed) {
	running := map[string]bool{}
	ip := k.cfg.NodeIP.String()
	if sb := seen.Sandbox(); sb != nil && !pod.Spec.HostNetwork {
		ip = sb.Network.GetIp()
	}
	for name, list := range seen.Containers {
		c := podspec.FindContainer(pod, name)
		if c == nil || len(list) == 0 || !list[0].Running() {
			continue
		}
		id := list[0].Id
		running[id] = true
		t := probe.Target{Pod: pod, Container: c, ID: id, IP: ip, StartedAt: time.Unix(0, list[0].StartedAt)}
		if old := plan.FindStatus(&pod.Status, name); old != nil && old.ContainerID == plan.RuntimePrefix+id {
			// Adopted: it must not fall out of its Services while we look again.
			t.Known = probe.Health{Started: old.Started != nil && *old.Started, Ready: old.Ready}
		}
		k.probes.Watch(ctx, t)
		if st.terminate != nil {
			k.probes.Terminating(id)
		}
		st.watched[id] = true
	}
	for id := range st.watched {
		if !running[id] {
			k.probes.Forget(id)
			delete(st.watched, id)
		}
	}
}

// statusOf is the pod's status now.
func (k *Kubelet) statusOf(st *podState, pod *v1.Pod, s *plan.Situation, a *plan.Actions) v1.PodStatus {
	in := plan.StatusInput{
		Pod: pod, Seen: s.Seen, Health: s.Health, Hold: a.Hold, Failed: st.failed, StartTime: st.begun,
		HostIP: k.cfg.NodeIP.String(), Ending: a.Finished, Reason: st.reason, Message: st.message,
		Now: metav1.Now().Rfc3339Copy(),
	}
	if st.terminate != nil {
		in.Hold, in.Failed = nil, nil
	}
	return plan.Status(in)
}

// refreshVolumes brings the content of the volumes of a running pod up to date.
func (k *Kubelet) refreshVolumes(ctx context.Context, st *podState, pod *v1.Pod, seen *plan.Observed) {
	due := !st.renew.IsZero() && !st.renew.After(time.Now())
	used := len(seen.Containers) > 0
	adopted := st.mounted == nil
	if !used || !st.refresh && !due && !adopted || st.terminate != nil {
		return
	}
	if err := k.setUpVolumes(ctx, st, pod, seen); err != nil {
		k.log.Warn("volumes not refreshed", "pod", pod.Name, "err", err)
		st.refresh, st.renew = true, time.Time{}
		k.queue.AddAfter(st.uid, observeRetry)
		return
	}
	st.refresh = false
}

// finish gives back what an ended pod holds, and lets the API server forget it.
func (k *Kubelet) finish(ctx context.Context, st *podState, pod *v1.Pod, seen *plan.Observed) error {
	st.mu.Lock()
	gone := st.gone
	st.mu.Unlock()
	if !gone && pod.DeletionTimestamp != nil {
		if err := k.statuses.write(ctx, st.uid); err != nil {
			return err
		}
	}
	if !st.finished {
		if err := k.volumes.TearDown(st.uid); err != nil {
			return err
		}
		k.objects.release(st.uid)
		st.finished, st.mounted = true, nil
	}
	if !gone && pod.DeletionTimestamp != nil {
		zero := int64(0)
		err := k.cfg.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
		if err != nil && !isGone(err) {
			return err
		}
		return nil // the watch tells when it is gone
	}
	if !gone {
		return nil // ended by itself: its containers and logs stay until it is deleted
	}
	for _, sb := range seen.Sandboxes {
		if err := k.cfg.Runtime.RemovePodSandbox(ctx, sb.Id); err != nil {
			return err
		}
	}
	var errs []error
	for _, list := range seen.Containers { // of sandboxes that are gone
		for i := range list {
			if len(seen.Sandboxes) == 0 {
				errs = append(errs, k.cfg.Runtime.RemoveContainer(ctx, list[i].Id))
			}
		}
	}
	if errs = append(errs, os.RemoveAll(k.podLogDir(pod))); errors.Join(errs...) != nil {
		return errors.Join(errs...)
	}
	k.statuses.forget(st.uid)
	k.mu.Lock()
	delete(k.states, st.uid)
	k.mu.Unlock()
	return nil
}
