package push

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"gantry/internal/problem"
	"gantry/push/kube"
)

// progress is what is known of a roll-out at one moment.
type progress struct {
	generation int64 // the one that is waited for
	want       settings
	deployment kube.Deployment
	pods       map[string]kube.Pod  // by name; of all versions of the app
	stuck      map[string]time.Time // since when a pod has not been ready, by its name
	warnings   map[string]string    // the last warning about a pod, by its name
	begun      time.Time
	limit      time.Duration
}

// verdict is what follows from it.
type verdict struct {
	complete bool
	failure  *failure      // nil: none so far
	detail   string        // for a person who waits
	again    time.Duration // when to decide anew although nothing changed; 0: never
}

// failure is why a roll-out cannot complete.
type failure struct {
	pod      string // the pod whose log tells more; may be empty
	previous bool   // the log of the run before the present one
	text     string
	advice   string
	log      []string // the last lines, once they are fetched
}

// Error is the reason with the last lines of the log.
func (f *failure) Error() string {
	if len(f.log) == 0 {
		return f.text
	}
	return f.text + "; its last lines:\n    " + strings.Join(f.log, "\n    ")
}

// Is makes a failure an Unavailable problem: what was asked for is well formed.
func (f *failure) Is(target error) bool { return target == problem.Unavailable }

func advice(err error) string {
	if f, ok := err.(*failure); ok {
		return f.advice
	}
	return problem.Try(err)
}

// patience is how long a state may last that often mends itself, such as no
// room while a pod of the old version leaves.
const patience = 3 * time.Second

// judge decides whether a roll-out is complete or has failed. It is pure.
func judge(p progress, now time.Time) verdict {
	if complete(p) {
		return verdict{complete: true}
	}
	v := verdict{again: p.begun.Add(p.limit).Sub(now)}
	if f := deploymentFailure(p.deployment); f != nil {
		v.failure = f
		return v
	}
	var ready, total int32
	for _, name := range sortedNames(p.pods) {
		pod := p.pods[name]
		if pod.Metadata.DeletionTimestamp != nil || !current(pod, p.want) {
			continue
		}
		total++
		if pod.Ready() {
			ready++
		}
		f, wait := podFailure(pod, now.Sub(p.stuck[name]))
		if f != nil {
			v.failure = f
			return v
		}
		if wait > 0 {
			v.again = min(v.again, wait)
		}
	}
	v.detail = fmt.Sprintf("%d of %d replicas are ready", ready, p.want.replicas)
	if now.Sub(p.begun) >= p.limit {
		v.failure = overdue(p, v.detail)
	}
	return v
}

func sortedNames(pods map[string]kube.Pod) []string {
	var names []string
	for name := range pods {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func complete(p progress) bool {
	s := p.deployment.Status
	want := p.want.replicas
	return s != nil && s.ObservedGeneration >= p.generation &&
		s.UpdatedReplicas == want && s.AvailableReplicas == want && s.Replicas == want
}

// current reports whether a pod is of the version that is wanted.
func current(pod kube.Pod, want settings) bool {
	for _, c := range pod.Spec.Containers {
		if c.Name != want.name {
			continue
		}
		probed := c.ReadinessProbe != nil
		return c.Image == want.image && probed == want.probed && sameEnv(c.Env, want.env) &&
			(!probed || c.ReadinessProbe.TCPSocket != nil && c.ReadinessProbe.TCPSocket.Port == want.port)
	}
	return false
}

func sameEnv(a, b []kube.EnvVar) bool {
	return slices.EqualFunc(a, b, func(x, y kube.EnvVar) bool { return reflect.DeepEqual(x, y) })
}

func deploymentFailure(d kube.Deployment) *failure {
	if d.Status == nil || d.Status.ObservedGeneration < d.Metadata.Generation {
		return nil
	}
	for _, c := range d.Status.Conditions {
		if c.Type == "ReplicaFailure" && c.Status == "True" {
			return &failure{text: c.Message}
		}
	}
	return nil
}

// hopeless are the reasons for waiting that waiting does not mend.
var hopeless = []string{
	"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName",
	"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError",
}

// podFailure returns why a pod cannot get ready, or when to look again.
func podFailure(pod kube.Pod, stuck time.Duration) (f *failure, again time.Duration) {
	for _, c := range pod.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil {
			if w.Reason == "CrashLoopBackOff" {
				return crash(pod, c), 0
			}
			if slices.Contains(hopeless, w.Reason) {
				return &failure{pod: pod.Metadata.Name, text: fmt.Sprintf("replica %s does not start: %s", pod.Metadata.Name, message(w.Reason, w.Message))}, 0
			}
		}
	}
	if pod.Status.Phase == "Failed" {
		return &failure{pod: pod.Metadata.Name, text: fmt.Sprintf("replica %s has failed: %s", pod.Metadata.Name, message(pod.Status.Reason, pod.Status.Message))}, 0
	}
	for _, c := range pod.Status.Conditions {
		if c.Type != "PodScheduled" || c.Status != "False" || c.Reason != "Unschedulable" {
			continue
		}
		if stuck < patience {
			return nil, patience - stuck
		}
		return &failure{text: "no node takes replica " + pod.Metadata.Name + ": " + c.Message, advice: "free some room, or push fewer --replicas"}, 0
	}
	return nil, 0
}

func crash(pod kube.Pod, c kube.ContainerStatus) *failure {
	f := &failure{pod: pod.Metadata.Name, previous: c.State.Running != nil, text: fmt.Sprintf("replica %s ends again and again", pod.Metadata.Name)}
	ended := c.LastState.Terminated
	if ended == nil {
		return f
	}
	f.text += fmt.Sprintf(": exit code %d", ended.ExitCode)
	switch {
	case ended.Reason == "OOMKilled":
		f.text += ", out of memory"
	case ended.Message != "":
		f.text += ", " + ended.Message
	case ended.ExitCode == 0:
		f.advice = "let the program go on running: a service that ends is started again"
	}
	return f
}

func message(reason, text string) string {
	if text == "" {
		return reason
	}
	return reason + ": " + text
}

// overdue explains a roll-out that has taken too long by what is known of the
// pods that are not ready.
func overdue(p progress, detail string) *failure {
	f := &failure{text: fmt.Sprintf("only %s after %s", detail, p.limit)}
	for _, name := range sortedNames(p.pods) {
		pod := p.pods[name]
		if pod.Ready() || pod.Metadata.DeletionTimestamp != nil || !current(pod, p.want) {
			continue
		}
		f.pod = name
		if w := p.warnings[name]; w != "" {
			f.text += ": replica " + name + ": " + w
			return f
		}
	}
	return f
}
