package plan

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"gantry/cluster/kubelet/podspec"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// scene builds a situation: a pod with containers a and b, and what runs of it.
type scene struct{ Situation }

func newScene(policy v1.RestartPolicy, containers ...string) *scene {
	grace := int64(30)
	s := &scene{Situation{Now: noon, Seen: Observed{Containers: map[string][]Attempt{}}, Health: map[string]Health{},
		Backoff: map[string]Backoff{}, Failed: map[string]Hold{},
		Pod: &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: "u"},
			Spec: v1.PodSpec{RestartPolicy: policy, TerminationGracePeriodSeconds: &grace}}}}
	for _, name := range containers {
		s.Pod.Spec.Containers = append(s.Pod.Spec.Containers, v1.Container{Name: name, Image: "img"})
	}
	return s
}

func (s *scene) init(name string, sidecar bool) *scene {
	c := v1.Container{Name: name, Image: "img"}
	if sidecar {
		always := v1.ContainerRestartPolicyAlways
		c.RestartPolicy = &always
	}
	s.Pod.Spec.InitContainers = append(s.Pod.Spec.InitContainers, c)
	return s
}

// sandbox adds a newer sandbox.
func (s *scene) sandbox(ready bool) *scene {
	n := len(s.Seen.Sandboxes)
	sb := &runtimeapi.PodSandboxStatus{Id: fmt.Sprintf("s%d", n), Metadata: &runtimeapi.PodSandboxMetadata{Attempt: uint32(n)},
		Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "10.0.0.1"}}
	if !ready {
		sb.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	}
	s.Seen.Sandboxes = append([]*runtimeapi.PodSandboxStatus{sb}, s.Seen.Sandboxes...)
	return s
}

// ran adds a newer attempt of a container to the newest sandbox. exit < 0: it
// runs and is healthy.
func (s *scene) ran(name string, exit int32) *scene {
	list := s.Seen.Containers[name]
	id := fmt.Sprintf("%s%d", name, len(list))
	a := Attempt{SandboxID: s.Seen.Sandboxes[0].Id, ContainerStatus: &runtimeapi.ContainerStatus{
		Id: id, Metadata: &runtimeapi.ContainerMetadata{Name: name, Attempt: uint32(len(list))},
		Annotations: map[string]string{podspec.AnnotationHash: podspec.Hash(&v1.Container{Name: name, Image: "img"})},
		StartedAt:   noon.Add(-time.Minute).UnixNano(),
	}}
	if exit < 0 {
		a.State = runtimeapi.ContainerState_CONTAINER_RUNNING
		s.Health[id] = Health{Started: true, Ready: true}
	} else {
		a.State, a.ExitCode, a.FinishedAt = runtimeapi.ContainerState_CONTAINER_EXITED, exit, noon.Add(-time.Second).UnixNano()
	}
	s.Seen.Containers[name] = append([]Attempt{a}, list...)
	return s
}

func (s *scene) state(name string, state runtimeapi.ContainerState) *scene {
	s.Seen.Containers[name][0].State = state
	return s
}

func (s *scene) health(id string, h Health) *scene { s.Health[id] = h; return s }

func (s *scene) ending(in time.Duration) *scene {
	s.Terminate = &Termination{Deadline: noon.Add(in)}
	return s
}

func (s *scene) change(f func(*Situation)) *scene { f(&s.Situation); return s }

// text writes actions in a line.
func text(a Actions) string {
	var out []string
	for _, k := range a.Kill {
		out = append(out, fmt.Sprintf("kill %s in %v", k.ID, k.Grace))
	}
	for _, id := range a.Remove {
		out = append(out, "remove "+id)
	}
	for _, id := range a.StopSandbox {
		out = append(out, "stop "+id)
	}
	for _, id := range a.RemoveSandbox {
		out = append(out, "rm "+id)
	}
	if a.CreateSandbox {
		out = append(out, fmt.Sprintf("sandbox#%d", a.Attempt))
	}
	for _, s := range a.Start {
		out = append(out, fmt.Sprintf("start %s#%d", s.Container.Name, s.Attempt))
	}
	for _, name := range []string{"a", "b", "i", "j"} {
		if h, ok := a.Hold[name]; ok {
			out = append(out, fmt.Sprintf("hold %s %s", name, h.Reason))
		}
	}
	if !a.Wake.IsZero() {
		out = append(out, fmt.Sprintf("wake %v", a.Wake.Sub(noon)))
	}
	if a.Finished {
		out = append(out, "finished")
	}
	return strings.Join(out, ", ")
}

const (
	always    = v1.RestartPolicyAlways
	onFailure = v1.RestartPolicyOnFailure
	never     = v1.RestartPolicyNever
)

func TestDecideRunning(t *testing.T) {
	tests := map[string]struct {
		scene *scene
		want  string
	}{
		"a new pod gets a sandbox first":                    {newScene(always, "a", "b"), "sandbox#0"},
		"then all its containers":                           {newScene(always, "a", "b").sandbox(true), "start a#0, start b#0"},
		"what runs is left alone":                           {newScene(always, "a", "b").sandbox(true).ran("a", -1), "start b#0"},
		"all is well":                                       {newScene(always, "a").sandbox(true).ran("a", -1), ""},
		"a first crash is restarted at once":                {newScene(always, "a").sandbox(true).ran("a", 1), "start a#1"},
		"success restarts too under Always":                 {newScene(always, "a").sandbox(true).ran("a", 0), "start a#1"},
		"success stays under OnFailure, beside one running": {newScene(onFailure, "a", "b").sandbox(true).ran("a", 0).ran("b", -1), ""},
		"failure restarts under OnFailure":                  {newScene(onFailure, "a").sandbox(true).ran("a", 1), "start a#1"},
		"failure stays under Never, beside one running":     {newScene(never, "a", "b").sandbox(true).ran("a", 1).ran("b", -1), ""},
		"a container that was never started is made again":  {newScene(always, "a").sandbox(true).ran("a", -1).state("a", runtimeapi.ContainerState_CONTAINER_CREATED), "remove a0, start a#0"},
		"the previous attempt is kept, older ones are not":  {newScene(always, "a").sandbox(true).ran("a", 1).ran("a", 1).ran("a", -1), "remove a0"},
		"an unknown state is ended first":                   {newScene(always, "a").sandbox(true).ran("a", -1).state("a", runtimeapi.ContainerState_CONTAINER_UNKNOWN), "kill a0 in 30s"},
		"a failed liveness probe ends the container":        {newScene(always, "a").sandbox(true).ran("a", -1).health("a0", Health{Started: true, LivenessFailed: true}), "kill a0 in 30s"},
		"the probe's own grace period counts": {newScene(always, "a").sandbox(true).ran("a", -1).health("a0", Health{StartupFailed: true}).change(func(s *Situation) {
			n := int64(3)
			s.Pod.Spec.Containers[0].StartupProbe = &v1.Probe{TerminationGracePeriodSeconds: &n}
		}), "kill a0 in 3s"},
		"a changed image replaces the container": {newScene(always, "a").sandbox(true).ran("a", -1).change(func(s *Situation) { s.Pod.Spec.Containers[0].Image = "other" }), "kill a0 in 30s"},
		"a second crash waits 10 s from its end": {newScene(always, "a").sandbox(true).ran("a", 1).change(func(s *Situation) {
			s.Backoff["a"] = Backoff{Delay: 10 * time.Second, At: noon.Add(-2 * time.Second)}
		}), "hold a CrashLoopBackOff, wake 9s"},
		"and restarts when that is over": {newScene(always, "a").sandbox(true).ran("a", 1).change(func(s *Situation) {
			s.Backoff["a"] = Backoff{Delay: 10 * time.Second, At: noon.Add(-2 * time.Second)}
			s.Now = noon.Add(9 * time.Second)
		}), "start a#1"},
		"ten good minutes make the crash a first one": {newScene(always, "a").sandbox(true).ran("a", 1).change(func(s *Situation) {
			s.Backoff["a"] = Backoff{Delay: 300 * time.Second, At: noon.Add(-11 * time.Minute)}
		}), "start a#1"},
		"what failed to start waits": {newScene(always, "a").sandbox(true).change(func(s *Situation) {
			s.Failed["a"] = Hold{Reason: "ErrImagePull", Until: noon.Add(time.Second)}
		}), "hold a ErrImagePull, wake 1s"},
		"the API's count goes on where the runtime lost the container": {newScene(always, "a").sandbox(true).change(func(s *Situation) {
			s.Pod.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "a", ContainerID: "gantry://x", RestartCount: 4}}
		}), "start a#5"},
		"a container's own restart rule wins": {newScene(never, "a", "b").sandbox(true).ran("a", 42).ran("b", -1).change(func(s *Situation) {
			s.Pod.Spec.Containers[0].RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestart,
				ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}
		}), "start a#1"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := text(Decide(tc.scene.Situation)); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestDecideSandboxes(t *testing.T) {
	tests := map[string]struct {
		scene *scene
		want  string
	}{
		"a lost sandbox is replaced":                      {newScene(always, "a").sandbox(false).ran("a", 255), "sandbox#1"},
		"what still runs in it goes first":                {newScene(always, "a").sandbox(false).ran("a", -1), "kill a0 in 30s"},
		"the new one starts what should run, counting on": {newScene(always, "a").sandbox(false).ran("a", 255).sandbox(true), "start a#1"},
		"but not what had finished":                       {newScene(onFailure, "a", "b").sandbox(false).ran("a", 0).ran("b", 1).sandbox(true), "start b#1"},
		"a pod that was through gets none":                {newScene(never, "a").sandbox(false).ran("a", 1), "finished"},
		"init containers run again in it":                 {newScene(always, "a").init("i", false).sandbox(false).ran("i", 0).ran("a", 255).sandbox(true), "start i#1"},
		"an old one without containers is removed":        {newScene(always, "a").sandbox(false).sandbox(true).ran("a", -1), "rm s0"},
		"without an address it is no good":                {newScene(always, "a").sandbox(true).change(func(s *Situation) { s.Seen.Sandboxes[0].Network.Ip = "" }), "stop s0, sandbox#1"},
		"on the host's network it needs none": {newScene(always, "a").sandbox(true).change(func(s *Situation) {
			s.Seen.Sandboxes[0].Network.Ip, s.Pod.Spec.HostNetwork = "", true
		}), "start a#0"},
		"a failed try waits": {newScene(always, "a").change(func(s *Situation) { s.Failed[""] = Hold{Until: noon.Add(4 * time.Second)} }), "wake 4s"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := text(Decide(tc.scene.Situation)); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestDecideInit(t *testing.T) {
	two := func() *scene { return newScene(always, "a").init("i", false).init("j", false).sandbox(true) }
	side := func() *scene { return newScene(never, "a").init("i", true).init("j", false).sandbox(true) }
	tests := map[string]struct {
		scene *scene
		want  string
	}{
		"the first alone":                          {two(), "start i#0"},
		"the second waits for it":                  {two().ran("i", -1), ""},
		"the second":                               {two().ran("i", 0), "start j#0"},
		"a failed one is tried again":              {two().ran("i", 1), "start i#1"},
		"then the containers":                      {two().ran("i", 0).ran("j", 0), "start a#0"},
		"they are not run again later":             {two().ran("a", -1), ""},
		"under Never a failed one ends the pod":    {newScene(never, "a").init("i", false).sandbox(true).ran("i", 1), "stop s0"},
		"a sidecar is started":                     {side(), "start i#0"},
		"the next waits until it has started":      {side().ran("i", -1).health("i0", Health{}), ""},
		"and then runs beside it":                  {side().ran("i", -1), "start j#0"},
		"a sidecar restarts even under Never":      {side().ran("i", 1).ran("a", -1), "start i#1"},
		"and does not hold the others up":          {side().ran("i", -1).health("i0", Health{}).ran("j", 0).ran("a", -1), ""},
		"when the containers are through it stops": {side().ran("i", -1).ran("j", 0).ran("a", 0), "kill i0 in 30s"},
		"and with it the sandbox":                  {side().ran("i", 143).ran("j", 0).ran("a", 0), "stop s0"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := text(Decide(tc.scene.Situation)); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestDecideTermination(t *testing.T) {
	tests := map[string]struct {
		scene *scene
		want  string
	}{
		"all containers at once":            {newScene(always, "a", "b").sandbox(true).ran("a", -1).ran("b", -1).ending(5 * time.Second), "kill a0 in 5s, kill b0 in 5s"},
		"no time left":                      {newScene(always, "a").sandbox(true).ran("a", -1).ending(-time.Second), "kill a0 in 0s"},
		"sidecars after them":               {newScene(always, "a").init("i", true).sandbox(true).ran("i", -1).ran("a", -1).ending(5 * time.Second), "kill a0 in 5s"},
		"the last sidecar first":            {newScene(always, "a").init("i", true).init("j", true).sandbox(true).ran("i", -1).ran("j", -1).ran("a", 0).ending(5 * time.Second), "kill j0 in 5s"},
		"then the other":                    {newScene(always, "a").init("i", true).init("j", true).sandbox(true).ran("i", -1).ran("j", 0).ran("a", 0).ending(5 * time.Second), "kill i0 in 5s"},
		"a running init container":          {newScene(always, "a").init("i", false).sandbox(true).ran("i", -1).ending(5 * time.Second), "kill i0 in 5s"},
		"then the sandbox":                  {newScene(always, "a").sandbox(true).ran("a", 0).ending(5 * time.Second), "stop s0"},
		"then it is finished":               {newScene(always, "a").sandbox(false).ran("a", 0).ending(5 * time.Second), "finished"},
		"nothing was ever there":            {newScene(always, "a").ending(5 * time.Second), "finished"},
		"nothing is started any more":       {newScene(always, "a", "b").sandbox(true).ran("a", -1).ending(5 * time.Second), "kill a0 in 5s"},
		"a final phase in the API is final": {newScene(always, "a").sandbox(true).ran("a", -1).change(func(s *Situation) { s.Pod.Status.Phase = v1.PodFailed }), "kill a0 in 30s"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := text(Decide(tc.scene.Situation)); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestBackoffDoublesToFiveMinutes(t *testing.T) {
	var b Backoff
	at := noon
	var got []string
	for range 8 {
		b = b.Next(at, at)
		got = append(got, b.Delay.String())
		at = at.Add(b.Delay)
	}
	if want := "10s 20s 40s 1m20s 2m40s 5m0s 5m0s 5m0s"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	if b = b.Next(at.Add(time.Hour), at.Add(time.Hour)); b.Delay != 10*time.Second {
		t.Errorf("after an hour: %v, want 10s", b.Delay)
	}
}

// statusFor derives the status of a scene's pod.
func statusFor(s *scene, ending bool) v1.PodStatus {
	a := Decide(s.Situation)
	return Status(StatusInput{Pod: s.Pod, Seen: s.Seen, Health: s.Health, Hold: a.Hold, Failed: s.Failed,
		StartTime: metav1.NewTime(noon), HostIP: "192.0.2.1", Ending: ending, Now: metav1.NewTime(noon)})
}

func statusLine(st v1.PodStatus) string {
	out := []string{string(st.Phase)}
	for _, c := range st.Conditions {
		if c.Type == v1.PodReady || c.Type == v1.PodInitialized {
			out = append(out, fmt.Sprintf("%s=%s %s", c.Type, c.Status, c.Reason))
		}
	}
	for _, c := range append(append([]v1.ContainerStatus{}, st.InitContainerStatuses...), st.ContainerStatuses...) {
		text := c.Name + ":"
		switch {
		case c.State.Running != nil:
			text += "running"
		case c.State.Waiting != nil:
			text += c.State.Waiting.Reason
		case c.State.Terminated != nil:
			text += c.State.Terminated.Reason
		}
		if c.LastTerminationState.Terminated != nil {
			text += "<" + c.LastTerminationState.Terminated.Reason
		}
		out = append(out, fmt.Sprintf("%s/%d", text, c.RestartCount))
	}
	return strings.ReplaceAll(strings.Join(out, ", "), " ,", ",")
}

func TestStatus(t *testing.T) {
	tests := map[string]struct {
		scene  *scene
		ending bool
		want   string
	}{
		"new": {newScene(always, "a"), false, "Pending, Initialized=True, Ready=False ContainersNotReady, a:ContainerCreating/0"},
		"initializing": {newScene(always, "a").init("i", false).sandbox(true).ran("i", -1), false,
			"Pending, Initialized=False ContainersNotInitialized, Ready=False ContainersNotReady, i:running/0, a:PodInitializing/0"},
		"running": {newScene(always, "a").sandbox(true).ran("a", -1), false, "Running, Initialized=True, Ready=True, a:running/0"},
		"not ready yet": {newScene(always, "a").sandbox(true).ran("a", -1).health("a0", Health{Started: true}), false,
			"Running, Initialized=True, Ready=False ContainersNotReady, a:running/0"},
		"one of two is not there yet": {newScene(always, "a", "b").sandbox(true).ran("a", -1), false,
			"Pending, Initialized=True, Ready=False ContainersNotReady, a:running/0, b:ContainerCreating/0"},
		"crash loop": {newScene(always, "a").sandbox(true).ran("a", 1).ran("a", 1).change(func(s *Situation) {
			s.Backoff["a"] = Backoff{Delay: 10 * time.Second, At: noon}
		}), false, "Running, Initialized=True, Ready=False ContainersNotReady, a:CrashLoopBackOff<Error/1"},
		"restarted": {newScene(always, "a").sandbox(true).ran("a", 1).ran("a", -1), false, "Running, Initialized=True, Ready=True, a:running<Error/1"},
		"succeeded": {newScene(never, "a").sandbox(true).ran("a", 0), true, "Succeeded, Initialized=True PodCompleted, Ready=False PodCompleted, a:Completed/0"},
		"failed":    {newScene(never, "a", "b").sandbox(true).ran("a", 1).ran("b", 0), true, "Failed, Initialized=True, Ready=False PodFailed, a:Error/0, b:Completed/0"},
		"init failed for good": {newScene(never, "a").init("i", false).sandbox(true).ran("i", 1), false,
			"Failed, Initialized=False ContainersNotInitialized, Ready=False PodFailed, i:Error/0, a:PodInitializing/0"},
		"init fails again and again": {newScene(always, "a").init("i", false).sandbox(true).ran("i", 1).change(func(s *Situation) {
			s.Backoff["i"] = Backoff{Delay: 10 * time.Second, At: noon}
		}), false, "Pending, Initialized=False ContainersNotInitialized, Ready=False ContainersNotReady, i:CrashLoopBackOff<Error/0, a:PodInitializing/0"},
		"deleted before it ran": {newScene(always, "a"), true, "Failed, Initialized=True, Ready=False PodFailed, a:ContainerCreating/0"},
		"lost by the runtime": {newScene(always, "a").sandbox(true).change(func(s *Situation) {
			s.Pod.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "a", ContainerID: "gantry://x", RestartCount: 2,
				State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}}}
		}), false, "Running, Initialized=True, Ready=False ContainersNotReady, a:ContainerCreating<ContainerStatusUnknown/2"},
		"a readiness gate holds it back": {newScene(always, "a").sandbox(true).ran("a", -1).change(func(s *Situation) {
			s.Pod.Spec.ReadinessGates = []v1.PodReadinessGate{{ConditionType: "x"}}
		}), false, "Running, Initialized=True, Ready=False ReadinessGatesNotReady, a:running/0"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := statusLine(statusFor(tc.scene, tc.ending)); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestStatusSettles(t *testing.T) {
	s := newScene(always, "a").init("i", false).sandbox(true).ran("i", 0).ran("a", 1).ran("a", -1)
	first := statusFor(s, false)
	s.Pod.Status = first
	s.Now = noon.Add(time.Minute)
	if again := statusFor(s, false); !SameStatus(&first, &again) {
		t.Errorf("the status of an unchanged pod changed:\n%+v\n%+v", first, again)
	}
}
