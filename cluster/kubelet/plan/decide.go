// Package plan is the policy of the kubelet: what a pod needs done to it, given
// what the runtime, the probes and the API say of it (Decide), and what its
// status is (Status). It is pure; it has no memory, no clock and no effects.
package plan

import (
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"gantry/cluster/kubelet/podspec"
)

// Attempt is one container of a pod as the runtime reports it. A container
// that is restarted is a new attempt.
type Attempt struct {
	*runtimeapi.ContainerStatus
	SandboxID string
	// Message is what the container left as its termination message.
	Message string
}

// Running tells whether it may hold a process.
func (a *Attempt) Running() bool {
	return a.State == runtimeapi.ContainerState_CONTAINER_RUNNING || a.State == runtimeapi.ContainerState_CONTAINER_UNKNOWN
}

// Exited tells whether it ran and ended.
func (a *Attempt) Exited() bool { return a.State == runtimeapi.ContainerState_CONTAINER_EXITED }

// Observed is what the runtime holds of one pod.
type Observed struct {
	Sandboxes  []*runtimeapi.PodSandboxStatus // newest first
	Containers map[string][]Attempt           // by container name, newest first
}

// Sandbox returns the newest sandbox if it can hold containers, or nil.
func (o *Observed) Sandbox() *runtimeapi.PodSandboxStatus {
	if len(o.Sandboxes) == 0 || o.Sandboxes[0].State != runtimeapi.PodSandboxState_SANDBOX_READY {
		return nil
	}
	return o.Sandboxes[0]
}

// Newest returns a container's newest attempt, or nil.
func (o *Observed) Newest(name string) *Attempt {
	if list := o.Containers[name]; len(list) > 0 {
		return &list[0]
	}
	return nil
}

// Termination says that a pod is to end, and by when.
type Termination struct {
	Deadline time.Time // containers that still run then are killed
	Message  string    // of the Killing events; empty means the usual one
}

// Health is what the probes know of a running container.
type Health struct {
	Started        bool // its startup probe, if any, succeeded
	Ready          bool
	StartupFailed  bool
	LivenessFailed bool
}

// Hold is a reason for which a container is not started now.
type Hold struct {
	Reason, Message string
	Until           time.Time // zero: until something else changes
}

// Situation is all that Decide looks at.
type Situation struct {
	Pod       *v1.Pod
	Seen      Observed
	Terminate *Termination
	Health    map[string]Health  // by container ID
	Backoff   map[string]Backoff // by container name, of restarts
	Failed    map[string]Hold    // by container name: the last try to start it failed
	Now       time.Time
}

// Kill is a container to be stopped.
type Kill struct {
	ID, Name string
	Message  string
	Grace    time.Duration
}

// Start is a container to be created and started.
type Start struct {
	Container *v1.Container
	Attempt   uint32
	Init      bool
}

// Actions is what is to be done to a pod now.
type Actions struct {
	Kill          []Kill
	Remove        []string // container IDs
	CreateSandbox bool
	Attempt       uint32 // of the sandbox to create
	StopSandbox   []string
	RemoveSandbox []string
	Start         []Start
	Hold          map[string]Hold // containers that wait, and why
	Wake          time.Time       // when time alone may change the decision; zero: never
	Finished      bool            // the pod has ended and nothing of it runs
}

// WakeAt brings Wake forward to t, unless t is zero.
func (a *Actions) WakeAt(t time.Time) {
	if !t.IsZero() && (a.Wake.IsZero() || t.Before(a.Wake)) {
		a.Wake = t
	}
}

func (a *Actions) hold(name string, h Hold) {
	a.Hold[name] = h
	a.WakeAt(h.Until)
}

// Decide tells what the pod needs now. It has no memory: run again after every
// change, it converges.
func Decide(s Situation) Actions {
	a := Actions{Hold: map[string]Hold{}}
	tidy(&s, &a)
	switch {
	case s.Terminate != nil:
		terminate(&s, &a, *s.Terminate)
	case terminal(&s):
		terminate(&s, &a, Termination{Deadline: s.Now.Add(GracePeriod(s.Pod))})
	default:
		run(&s, &a)
	}
	return a
}

// GracePeriod is the time that the pod's containers get to stop.
func GracePeriod(pod *v1.Pod) time.Duration {
	if pod.DeletionGracePeriodSeconds != nil {
		return time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second
	}
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		return time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second
	}
	return 30 * time.Second
}

// tidy removes what is no longer needed: attempts but the newest two (the
// previous one's log can still be asked for), attempts that were created and
// never started, sandboxes that are not the newest and hold nothing.
func tidy(s *Situation, a *Actions) {
	used := map[string]bool{}
	for name, list := range s.Seen.Containers {
		var kept []Attempt
		for i, c := range list {
			half := c.State == runtimeapi.ContainerState_CONTAINER_CREATED
			if half || len(kept) >= 2 && !list[i].Running() {
				a.Remove = append(a.Remove, c.Id)
				continue
			}
			kept = append(kept, c)
			used[c.SandboxID] = true
		}
		s.Seen.Containers[name] = kept
	}
	slices.Sort(a.Remove)
	for i, sb := range s.Seen.Sandboxes {
		if i > 0 && !used[sb.Id] {
			a.RemoveSandbox = append(a.RemoveSandbox, sb.Id)
		}
	}
}

// terminate stops the containers, sidecars last and in reverse order, then the
// sandboxes.
func terminate(s *Situation, a *Actions, t Termination) {
	grace := max(t.Deadline.Sub(s.Now), 0)
	stop := func(c *v1.Container) bool {
		found := false
		list := s.Seen.Containers[c.Name]
		for i := range list {
			if list[i].Running() {
				a.Kill = append(a.Kill, Kill{ID: list[i].Id, Name: c.Name, Message: t.Message, Grace: grace})
				found = true
			}
		}
		return found
	}
	busy := false
	for i := range s.Pod.Spec.Containers {
		busy = stop(&s.Pod.Spec.Containers[i]) || busy
	}
	for i := range s.Pod.Spec.InitContainers {
		if c := &s.Pod.Spec.InitContainers[i]; !podspec.IsSidecar(c) {
			busy = stop(c) || busy
		}
	}
	for i := len(s.Pod.Spec.InitContainers) - 1; i >= 0 && !busy; i-- {
		if c := &s.Pod.Spec.InitContainers[i]; podspec.IsSidecar(c) {
			busy = stop(c)
		}
	}
	if busy {
		return
	}
	for _, sb := range s.Seen.Sandboxes {
		if sb.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			a.StopSandbox = append(a.StopSandbox, sb.Id)
		}
	}
	a.Finished = len(a.StopSandbox) == 0
}

// shouldRestart applies the restart rules of a container, then its own policy,
// then the pod's.
func shouldRestart(pod *v1.Pod, c *v1.Container, exitCode int32) bool {
	for _, rule := range c.RestartPolicyRules {
		if rule.ExitCodes == nil || rule.Action != v1.ContainerRestartRuleActionRestart {
			continue
		}
		in := slices.Contains(rule.ExitCodes.Values, exitCode)
		if in == (rule.ExitCodes.Operator == v1.ContainerRestartRuleOnExitCodesOpIn) {
			return true
		}
	}
	policy := pod.Spec.RestartPolicy
	if c.RestartPolicy != nil {
		policy = v1.RestartPolicy(*c.RestartPolicy)
	}
	switch policy {
	case v1.RestartPolicyNever:
		return false
	case v1.RestartPolicyOnFailure:
		return exitCode != 0
	}
	return true
}

// initFailed tells whether an init container ended in a way that no restart mends.
func initFailed(s *Situation) bool {
	for i := range s.Pod.Spec.InitContainers {
		c := &s.Pod.Spec.InitContainers[i]
		if podspec.IsSidecar(c) {
			continue
		}
		// Init containers always restart under policy Always, also after success
		// in an earlier sandbox; only failures count here.
		if n := s.Seen.Newest(c.Name); n != nil && n.Exited() && n.ExitCode != 0 && !shouldRestart(s.Pod, c, n.ExitCode) {
			return true
		}
	}
	return false
}

// terminal tells whether all containers have ended and none is to be restarted.
func terminal(s *Situation) bool {
	if s.Pod.Status.Phase == v1.PodSucceeded || s.Pod.Status.Phase == v1.PodFailed || initFailed(s) {
		return true
	}
	for i := range s.Pod.Spec.Containers {
		c := &s.Pod.Spec.Containers[i]
		n := s.Seen.Newest(c.Name)
		if n == nil || !n.Exited() || shouldRestart(s.Pod, c, n.ExitCode) {
			return false
		}
	}
	return true
}

// run brings the pod up and keeps it up.
func run(s *Situation, a *Actions) {
	sb := s.Seen.Sandbox()
	if sb == nil || !s.Pod.Spec.HostNetwork && sb.GetNetwork().GetIp() == "" {
		newSandbox(s, a)
		return
	}
	if !runInit(s, a, sb.Id) {
		return
	}
	for i := range s.Pod.Spec.Containers {
		c := &s.Pod.Spec.Containers[i]
		n := s.Seen.Newest(c.Name)
		if n != nil && n.SandboxID != sb.Id && n.Exited() {
			// Ended with an earlier sandbox: a finished one stays finished.
			if shouldRestart(s.Pod, c, n.ExitCode) {
				tryStart(s, a, c, n, false)
			}
			continue
		}
		keepUp(s, a, c, inSandbox(s, c.Name, sb.Id), false)
	}
}

// newSandbox replaces a sandbox that is missing or broken; whatever still runs
// in the old one goes first.
func newSandbox(s *Situation, a *Actions) {
	for name, list := range s.Seen.Containers {
		for i := range list {
			if list[i].Running() {
				a.Kill = append(a.Kill, Kill{ID: list[i].Id, Name: name, Grace: GracePeriod(s.Pod),
					Message: "Pod sandbox changed, it will be killed and re-created."})
			}
		}
	}
	for _, sb := range s.Seen.Sandboxes {
		if sb.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			a.StopSandbox = append(a.StopSandbox, sb.Id)
		}
		a.Attempt = max(a.Attempt, sb.Metadata.GetAttempt()+1)
	}
	slices.SortFunc(a.Kill, func(x, y Kill) int { return cmpString(x.Name, y.Name) })
	if len(a.Kill) > 0 {
		a.StopSandbox = nil
		return
	}
	if h, failed := s.Failed[""]; failed && h.Until.After(s.Now) {
		a.WakeAt(h.Until)
		return
	}
	a.CreateSandbox = true
}

func cmpString(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// inSandbox returns the newest attempt if it lives in the sandbox, or nil.
func inSandbox(s *Situation, name, sandboxID string) *Attempt {
	if n := s.Seen.Newest(name); n != nil && n.SandboxID == sandboxID {
		return n
	}
	return nil
}

// runInit takes the next step of initialization and tells whether the other
// containers may run.
func runInit(s *Situation, a *Actions, sandboxID string) bool {
	done := false
	for i := range s.Pod.Spec.Containers {
		done = done || inSandbox(s, s.Pod.Spec.Containers[i].Name, sandboxID) != nil
	}
	for i := range s.Pod.Spec.InitContainers {
		c := &s.Pod.Spec.InitContainers[i]
		cur := inSandbox(s, c.Name, sandboxID)
		if !podspec.IsSidecar(c) {
			if done || cur != nil && cur.Exited() && cur.ExitCode == 0 {
				continue
			}
			keepUp(s, a, c, cur, true)
			return false
		}
		keepUp(s, a, c, cur, true)
		if !done && (cur == nil || !cur.Running() || !s.Health[cur.Id].Started) {
			return false
		}
	}
	return true
}

// keepUp starts container c where it does not run, or stops it where it must
// be replaced. cur is its newest attempt in the current sandbox, or nil.
func keepUp(s *Situation, a *Actions, c *v1.Container, cur *Attempt, init bool) {
	switch {
	case cur == nil:
		tryStart(s, a, c, nil, init)
	case cur.Running():
		if message, grace := replace(s, c, cur); message != "" {
			a.Kill = append(a.Kill, Kill{ID: cur.Id, Name: c.Name, Message: message, Grace: grace})
		}
	case shouldRestart(s.Pod, c, cur.ExitCode):
		tryStart(s, a, c, cur, init)
	}
}

// replace says why a running container must go, or "".
func replace(s *Situation, c *v1.Container, cur *Attempt) (message string, grace time.Duration) {
	grace = GracePeriod(s.Pod)
	probe := (*v1.Probe)(nil)
	switch h := s.Health[cur.Id]; {
	case cur.State == runtimeapi.ContainerState_CONTAINER_UNKNOWN:
		message = `Container is in "Unknown" state, try killing it before restart`
	case cur.Annotations[podspec.AnnotationHash] != podspec.Hash(c):
		message = fmt.Sprintf("Container %s definition changed", c.Name)
	case h.StartupFailed:
		message, probe = fmt.Sprintf("Container %s failed startup probe", c.Name), c.StartupProbe
	case h.LivenessFailed:
		message, probe = fmt.Sprintf("Container %s failed liveness probe", c.Name), c.LivenessProbe
	default:
		return "", 0
	}
	if probe != nil && probe.TerminationGracePeriodSeconds != nil {
		grace = time.Duration(*probe.TerminationGracePeriodSeconds) * time.Second
	}
	if s.Pod.Spec.RestartPolicy != v1.RestartPolicyNever || podspec.IsSidecar(c) {
		message += ", will be restarted"
	}
	return message, grace
}

// tryStart starts container c unless it must wait. last is its previous
// attempt in this sandbox, or nil.
func tryStart(s *Situation, a *Actions, c *v1.Container, last *Attempt, init bool) {
	if h, failed := s.Failed[c.Name]; failed && h.Until.After(s.Now) {
		a.hold(c.Name, h)
		return
	}
	if last != nil {
		if until := s.Backoff[c.Name].Until(time.Unix(0, last.FinishedAt)); until.After(s.Now) {
			a.hold(c.Name, Hold{Until: until, Reason: "CrashLoopBackOff",
				Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", s.Backoff[c.Name].Delay, c.Name, podspec.Format(s.Pod))})
			return
		}
	}
	a.Start = append(a.Start, Start{Container: c, Attempt: nextAttempt(s, c.Name), Init: init})
}

// nextAttempt counts on from what the runtime remembers, or from what the API
// remembers where the runtime lost it.
func nextAttempt(s *Situation, name string) uint32 {
	if n := s.Seen.Newest(name); n != nil {
		return n.Metadata.GetAttempt() + 1
	}
	if old := FindStatus(&s.Pod.Status, name); old != nil && (old.ContainerID != "" || old.LastTerminationState.Terminated != nil) {
		return uint32(old.RestartCount) + 1
	}
	return 0
}

// FindStatus returns the status of the container or init container of that
// name, or nil.
func FindStatus(status *v1.PodStatus, name string) *v1.ContainerStatus {
	for _, list := range [][]v1.ContainerStatus{status.ContainerStatuses, status.InitContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}
