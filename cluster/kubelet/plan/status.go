package plan

import (
	"fmt"
	"sort"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gantry/cluster/kubelet/podspec"
)

// RuntimePrefix marks container IDs in the API with the runtime they belong to.
const RuntimePrefix = "gantry://"

// StatusInput is all that a pod's status derives from.
type StatusInput struct {
	Pod       *v1.Pod // its Status is the old one
	Seen      Observed
	Health    map[string]Health
	Hold      map[string]Hold // of Decide: containers that wait
	Failed    map[string]Hold // containers that could not be started
	StartTime metav1.Time
	HostIP    string
	Ending    bool   // no container will be started again
	Reason    string // of the pod, such as DeadlineExceeded; it fails then
	Message   string
	Now       metav1.Time
}

// Status derives the status that the API is told. It keeps what others own:
// conditions of other types, nominatedNodeName and the like.
func Status(in StatusInput) v1.PodStatus {
	old := &in.Pod.Status
	status := *old.DeepCopy()
	status.ObservedGeneration = in.Pod.Generation
	status.StartTime = &in.StartTime
	status.QOSClass = podspec.QOS(in.Pod)
	status.HostIP = in.HostIP
	status.HostIPs = []v1.HostIP{{IP: in.HostIP}}
	setPodIPs(&status, &in)

	initialized := len(in.Pod.Spec.InitContainers) == 0
	status.InitContainerStatuses = containerStatuses(&in, in.Pod.Spec.InitContainers, true, false)
	if !initialized {
		initialized = allInitialized(in.Pod, status.InitContainerStatuses)
	}
	status.ContainerStatuses = containerStatuses(&in, in.Pod.Spec.Containers, false, initialized)

	status.Phase = phase(in.Pod, &status, in.Ending)
	if in.Reason != "" {
		status.Phase, status.Reason, status.Message = v1.PodFailed, in.Reason, in.Message
	}
	if old.Phase == v1.PodFailed || old.Phase == v1.PodSucceeded {
		status.Phase = old.Phase // a final phase is final
	}
	conditions(&in, &status)
	return status
}

func setPodIPs(status *v1.PodStatus, in *StatusInput) {
	var ips []string
	switch sb := in.Seen.Sandbox(); {
	case in.Pod.Spec.HostNetwork && len(in.Seen.Sandboxes) > 0:
		ips = []string{in.HostIP}
	case sb != nil && sb.Network.GetIp() != "":
		ips = append(ips, sb.Network.Ip)
		for _, more := range sb.Network.AdditionalIps {
			ips = append(ips, more.Ip)
		}
	case len(in.Seen.Sandboxes) > 0:
		return // a stopped sandbox: the old addresses stay as information
	}
	status.PodIP, status.PodIPs = "", nil
	for i, ip := range ips {
		if i == 0 {
			status.PodIP = ip
		}
		status.PodIPs = append(status.PodIPs, v1.PodIP{IP: ip})
	}
}

func containerStatuses(in *StatusInput, containers []v1.Container, init, initialized bool) []v1.ContainerStatus {
	if len(containers) == 0 {
		return nil
	}
	out := make([]v1.ContainerStatus, 0, len(containers))
	for i := range containers {
		out = append(out, containerStatus(in, &containers[i], init, initialized))
	}
	if !init {
		sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	}
	return out
}

func containerStatus(in *StatusInput, c *v1.Container, init, initialized bool) v1.ContainerStatus {
	no := false
	st := v1.ContainerStatus{Name: c.Name, Image: c.Image, Started: &no}
	old := FindStatus(&in.Pod.Status, c.Name)
	cur := in.Seen.Newest(c.Name)
	if cur == nil {
		return neverSeen(in, st, old, init, initialized)
	}
	st.ContainerID = RuntimePrefix + cur.Id
	st.RestartCount = int32(cur.Metadata.GetAttempt())
	if cur.ImageId != "" {
		st.ImageID = cur.ImageId
	} else {
		st.ImageID = cur.ImageRef
	}
	if user := cur.Image.GetUserSpecifiedImage(); user != "" {
		st.Image = user
	}
	if list := in.Seen.Containers[c.Name]; len(list) > 1 && list[1].Exited() {
		st.LastTerminationState.Terminated = terminated(&list[1])
	} else if old != nil && old.ContainerID != st.ContainerID && len(list) == 1 {
		st.LastTerminationState = lostAttempt(old)
	} else if old != nil {
		st.LastTerminationState = old.LastTerminationState
	}
	switch {
	case cur.Running():
		st.State.Running = &v1.ContainerStateRunning{StartedAt: metaTime(cur.StartedAt)}
		h := in.Health[cur.Id]
		started := h.Started
		st.Started = &started
		st.Ready = h.Started && h.Ready && (!init || podspec.IsSidecar(c))
	case cur.Exited():
		t := terminated(cur)
		st.State.Terminated = t
		st.Ready = init && !podspec.IsSidecar(c) && t.ExitCode == 0
		if w := waiting(in, c.Name); w != nil && !in.Ending && shouldRestart(in.Pod, c, cur.ExitCode) {
			st.State = v1.ContainerState{Waiting: w}
			st.LastTerminationState.Terminated = t
		}
	default:
		st.State.Waiting = &v1.ContainerStateWaiting{Reason: "ContainerCreating"}
	}
	return st
}

// waiting says why a container is not running now, or returns nil.
func waiting(in *StatusInput, name string) *v1.ContainerStateWaiting {
	if h, ok := in.Hold[name]; ok {
		return &v1.ContainerStateWaiting{Reason: h.Reason, Message: h.Message}
	}
	if h, ok := in.Failed[name]; ok {
		return &v1.ContainerStateWaiting{Reason: h.Reason, Message: h.Message}
	}
	return nil
}

// neverSeen is the status of a container of which the runtime knows nothing:
// not started yet, or lost.
func neverSeen(in *StatusInput, st v1.ContainerStatus, old *v1.ContainerStatus, init, initialized bool) v1.ContainerStatus {
	if old != nil && old.ContainerID != "" {
		if in.Ending {
			kept := *old.DeepCopy()
			if kept.State.Terminated == nil {
				kept.State = v1.ContainerState{Terminated: lostState(old)}
			}
			kept.Ready = false
			kept.Started = st.Started
			return kept
		}
		st.RestartCount = old.RestartCount
		st.LastTerminationState = lostAttempt(old)
	}
	st.State.Waiting = waiting(in, st.Name)
	if st.State.Waiting == nil {
		reason := "ContainerCreating"
		if !init && !initialized || init && len(in.Pod.Spec.InitContainers) > 0 {
			reason = "PodInitializing"
		}
		st.State.Waiting = &v1.ContainerStateWaiting{Reason: reason}
	}
	return st
}

// lostAttempt is the last state of a container whose attempt, known to the
// API, is gone from the runtime.
func lostAttempt(old *v1.ContainerStatus) v1.ContainerState {
	switch {
	case old.State.Terminated != nil:
		return v1.ContainerState{Terminated: old.State.Terminated.DeepCopy()}
	case old.State.Running != nil:
		return v1.ContainerState{Terminated: lostState(old)}
	}
	return old.LastTerminationState
}

func lostState(old *v1.ContainerStatus) *v1.ContainerStateTerminated {
	return &v1.ContainerStateTerminated{
		ExitCode: 137, Reason: "ContainerStatusUnknown", ContainerID: old.ContainerID,
		Message: "The container could not be located when the pod was terminated",
	}
}

func terminated(a *Attempt) *v1.ContainerStateTerminated {
	t := &v1.ContainerStateTerminated{
		ExitCode: a.ExitCode, Reason: a.Reason, Message: a.Message,
		StartedAt: metaTime(a.StartedAt), FinishedAt: metaTime(a.FinishedAt), ContainerID: RuntimePrefix + a.Id,
	}
	if t.Reason == "" {
		t.Reason = "Error"
		if a.ExitCode == 0 {
			t.Reason = "Completed"
		}
	}
	if t.Message == "" {
		t.Message = a.ContainerStatus.Message
	}
	return t
}

// metaTime has the API's resolution, so that a status read back equals the one written.
func metaTime(nanos int64) metav1.Time {
	if nanos == 0 {
		return metav1.Time{}
	}
	return metav1.NewTime(time.Unix(0, nanos)).Rfc3339Copy()
}

func allInitialized(pod *v1.Pod, statuses []v1.ContainerStatus) bool {
	for i := range statuses {
		c := podspec.FindContainer(pod, statuses[i].Name)
		if podspec.IsSidecar(c) && !*statuses[i].Started || !podspec.IsSidecar(c) && !statuses[i].Ready {
			return false
		}
	}
	return true
}

// anyStarted tells whether a container other than the init ones ever ran.
func anyStarted(statuses []v1.ContainerStatus) bool {
	for i := range statuses {
		s := &statuses[i]
		if s.State.Running != nil || s.State.Terminated != nil || s.LastTerminationState.Terminated != nil {
			return true
		}
	}
	return false
}

// phase sums the container states up as the reference does.
func phase(pod *v1.Pod, status *v1.PodStatus, ending bool) v1.PodPhase {
	begun := anyStarted(status.ContainerStatuses)
	for i := range status.InitContainerStatuses {
		st := &status.InitContainerStatuses[i]
		c := podspec.FindContainer(pod, st.Name)
		switch t := ended(st); {
		case podspec.IsSidecar(c):
			if !begun && !*st.Started && t == nil && !ending {
				return v1.PodPending
			}
		case t == nil && !begun && !ending:
			return v1.PodPending
		case t != nil && t.ExitCode != 0 && !shouldRestart(pod, c, t.ExitCode):
			return v1.PodFailed
		case t != nil && t.ExitCode != 0 && !begun && !ending:
			return v1.PodPending
		}
	}
	var running, stopped, succeeded, final, waiting int
	for i := range status.ContainerStatuses {
		st := &status.ContainerStatuses[i]
		switch t := ended(st); {
		case st.State.Running != nil:
			running++
		case t != nil:
			stopped++
			if t.ExitCode == 0 {
				succeeded++
			}
			if ending || !shouldRestart(pod, podspec.FindContainer(pod, st.Name), t.ExitCode) {
				final++
			}
		default:
			waiting++
		}
	}
	switch {
	case waiting > 0 && ending && running == 0:
		return v1.PodFailed // it never came to run and never will
	case waiting > 0:
		return v1.PodPending
	case running > 0 || stopped != final:
		return v1.PodRunning
	case stopped == succeeded:
		return v1.PodSucceeded
	}
	return v1.PodFailed
}

// ended returns how a container last ended, unless it runs again.
func ended(st *v1.ContainerStatus) *v1.ContainerStateTerminated {
	switch {
	case st.State.Terminated != nil:
		return st.State.Terminated
	case st.State.Waiting != nil:
		return st.LastTerminationState.Terminated
	}
	return nil
}

// conditions sets the conditions that the kubelet owns.
func conditions(in *StatusInput, status *v1.PodStatus) {
	statuses := append(append([]v1.ContainerStatus{}, status.InitContainerStatuses...), status.ContainerStatuses...)
	sandbox := v1.ConditionFalse
	if sb := in.Seen.Sandbox(); sb != nil && (in.Pod.Spec.HostNetwork || sb.Network.GetIp() != "") {
		sandbox = v1.ConditionTrue
	}
	ready := containersReady(in.Pod, statuses, status.Phase)
	podReady := ready
	podReady.Type = v1.PodReady
	if ready.Status == v1.ConditionTrue {
		podReady = gatesReady(in.Pod, status.Conditions)
	}
	for _, c := range []v1.PodCondition{
		{Type: v1.PodReadyToStartContainers, Status: sandbox},
		initializedCondition(in.Pod, status),
		podReady,
		ready,
		{Type: v1.PodScheduled, Status: v1.ConditionTrue},
	} {
		c.ObservedGeneration = in.Pod.Generation
		setCondition(status, c, in.Now)
	}
}

func setCondition(status *v1.PodStatus, c v1.PodCondition, now metav1.Time) {
	for i := range status.Conditions {
		have := &status.Conditions[i]
		if have.Type != c.Type {
			continue
		}
		c.LastTransitionTime, c.LastProbeTime = now, have.LastProbeTime
		if have.Status == c.Status {
			c.LastTransitionTime = have.LastTransitionTime
		}
		*have = c
		return
	}
	c.LastTransitionTime = now
	status.Conditions = append(status.Conditions, c)
}

func containersReady(pod *v1.Pod, statuses []v1.ContainerStatus, phase v1.PodPhase) v1.PodCondition {
	c := v1.PodCondition{Type: v1.ContainersReady, Status: v1.ConditionFalse}
	switch phase {
	case v1.PodSucceeded:
		c.Reason = "PodCompleted"
		return c
	case v1.PodFailed:
		c.Reason = "PodFailed"
		return c
	}
	var unready []string
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			isInit := &list[0] != &pod.Spec.Containers[0]
			if isInit && !podspec.IsSidecar(&list[i]) {
				continue
			}
			for j := range statuses {
				if statuses[j].Name == list[i].Name && !statuses[j].Ready {
					unready = append(unready, list[i].Name)
				}
			}
		}
	}
	if len(unready) > 0 {
		c.Reason, c.Message = "ContainersNotReady", fmt.Sprintf("containers with unready status: %s", unready)
		return c
	}
	c.Status = v1.ConditionTrue
	return c
}

// gatesReady is the Ready condition of a pod whose containers are ready: its
// readiness gates decide.
func gatesReady(pod *v1.Pod, have []v1.PodCondition) v1.PodCondition {
	var messages []string
	for _, gate := range pod.Spec.ReadinessGates {
		message := fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", string(gate.ConditionType))
		for i := range have {
			if have[i].Type == gate.ConditionType {
				message = ""
				if have[i].Status != v1.ConditionTrue {
					message = fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", string(gate.ConditionType), have[i].Status)
				}
			}
		}
		if message != "" {
			messages = append(messages, message)
		}
	}
	if len(messages) > 0 {
		return v1.PodCondition{Type: v1.PodReady, Status: v1.ConditionFalse, Reason: "ReadinessGatesNotReady", Message: strings.Join(messages, ", ")}
	}
	return v1.PodCondition{Type: v1.PodReady, Status: v1.ConditionTrue}
}

func initializedCondition(pod *v1.Pod, status *v1.PodStatus) v1.PodCondition {
	c := v1.PodCondition{Type: v1.PodInitialized, Status: v1.ConditionTrue}
	if status.Phase == v1.PodSucceeded {
		c.Reason = "PodCompleted"
		return c
	}
	if anyStarted(status.ContainerStatuses) {
		return c
	}
	var incomplete []string
	for i := range status.InitContainerStatuses {
		st := &status.InitContainerStatuses[i]
		sidecar := podspec.IsSidecar(podspec.FindContainer(pod, st.Name))
		if sidecar && !*st.Started || !sidecar && !st.Ready {
			incomplete = append(incomplete, st.Name)
		}
	}
	if len(incomplete) > 0 {
		c.Status, c.Reason = v1.ConditionFalse, "ContainersNotInitialized"
		c.Message = fmt.Sprintf("containers with incomplete status: %s", incomplete)
	}
	return c
}

// SameStatus tells whether writing a over b would change anything.
func SameStatus(a, b *v1.PodStatus) bool { return apiequality.Semantic.DeepEqual(a, b) }
