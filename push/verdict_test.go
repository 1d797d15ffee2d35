package push

import (
	"strings"
	"testing"
	"time"

	"gantry/push/kube"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// scene is a roll-out of web:2 with two replicas, one of which is odd.
func scene(odd func(*kube.Pod)) progress {
	want := settings{name: "web", image: "web:2", replicas: 2, port: 80, portFrom: exposed, probed: true}
	pod := func(name string) kube.Pod {
		p := kube.Pod{Metadata: kube.Meta{Name: name}, Spec: want.deployment().value.(kube.Deployment).Spec.Template.Spec}
		p.Status.Phase = "Running"
		return p
	}
	ready, other := pod("web-1"), pod("web-2")
	ready.Status.Conditions = []kube.Condition{{Type: "Ready", Status: "True"}}
	if odd != nil {
		odd(&other)
	}
	d := want.deployment().value.(kube.Deployment)
	d.Metadata.Generation = 2
	d.Status = &kube.DeploymentStatus{ObservedGeneration: 2, Replicas: 3, UpdatedReplicas: 2, AvailableReplicas: 2}
	return progress{
		generation: 2, want: want, deployment: d, begun: start, limit: time.Minute,
		pods: map[string]kube.Pod{"web-1": ready, "web-2": other}, stuck: map[string]time.Time{"web-2": start}, warnings: map[string]string{},
	}
}

func waiting(reason, message string, ended *kube.Terminated) func(*kube.Pod) {
	return func(p *kube.Pod) {
		p.Status.ContainerStatuses = []kube.ContainerStatus{{
			Name: "web", State: kube.ContainerState{Waiting: &kube.Waiting{Reason: reason, Message: message}}, LastState: kube.ContainerState{Terminated: ended},
		}}
	}
}

func unschedulable(p *kube.Pod) {
	p.Status.Conditions = []kube.Condition{{Type: "PodScheduled", Status: "False", Reason: "Unschedulable", Message: "0/1 nodes are available: 1 Insufficient cpu."}}
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		rule    string
		scene   progress
		after   time.Duration
		failure string // a part of it; empty: none
	}{
		{"old replicas that leave are waited for", scene(nil), time.Second, ""},
		{"a container that is being created is waited for", scene(waiting("ContainerCreating", "", nil)), time.Second, ""},
		{"a crash loop fails with the exit code", scene(waiting("CrashLoopBackOff", "back-off", &kube.Terminated{ExitCode: 3})), 0, "web-2 ends again and again: exit code 3"},
		{"a kill for memory is named", scene(waiting("CrashLoopBackOff", "", &kube.Terminated{ExitCode: 137, Reason: "OOMKilled"})), 0, "exit code 137, out of memory"},
		{"an image that is missing fails", scene(waiting("ErrImagePull", "No such image: web:2", nil)), 0, "ErrImagePull: No such image: web:2"},
		{"no room is waited for a while", scene(unschedulable), time.Second, ""},
		{"no room after a while fails with the scheduler's reason", scene(unschedulable), 3 * time.Second, "Insufficient cpu"},
		{"time over", scene(nil), time.Minute, "only 1 of 2 replicas are ready after 1m0s"},
	} {
		v := judge(c.scene, start.Add(c.after))
		switch {
		case v.complete:
			t.Errorf("%s: complete", c.rule)
		case c.failure == "" && v.failure != nil:
			t.Errorf("%s: failed: %v", c.rule, v.failure)
		case c.failure != "" && (v.failure == nil || !strings.Contains(v.failure.Error(), c.failure)):
			t.Errorf("%s: %v, want %q", c.rule, v.failure, c.failure)
		case c.failure == "" && v.again <= 0:
			t.Errorf("%s: it is never looked at again", c.rule)
		}
	}
}

func TestJudgeCompletesWhenTheOldReplicasAreGone(t *testing.T) {
	p := scene(nil)
	p.deployment.Status.Replicas = 2
	if v := judge(p, start); !v.complete {
		t.Errorf("not complete: %+v", v)
	}
	p.deployment.Status.ObservedGeneration = 1
	if v := judge(p, start); v.complete {
		t.Error("complete by the status of the generation before")
	}
}

func TestTheReplicasOfTheVersionBeforeDoNotCount(t *testing.T) {
	p := scene(func(pod *kube.Pod) {
		waiting("CrashLoopBackOff", "", nil)(pod)
		pod.Spec.Containers[0].Image = "web:1"
	})
	if v := judge(p, start); v.failure != nil {
		t.Errorf("failed: %v", v.failure)
	}
}

func TestAFailingProbeIsTheReasonWhenTimeIsOver(t *testing.T) {
	p := scene(nil)
	p.warnings["web-2"] = "Readiness probe failed: dial tcp 10.42.0.5:80: connect: connection refused"
	if v := judge(p, start.Add(time.Minute)); v.failure == nil || !strings.Contains(v.failure.Error(), "connection refused") || v.failure.pod != "web-2" {
		t.Errorf("failure = %+v", v.failure)
	}
}

func TestACountThatIsAbsentIsZero(t *testing.T) {
	f := &follower{}
	for _, text := range []string{
		`{"status":{"observedGeneration":1,"updatedReplicas":4,"replicas":4}}`,
		`{"status":{"observedGeneration":2,"replicas":4}}`,
	} {
		if err := f.sawDeployment(kube.Event{Type: "MODIFIED", Object: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.state.deployment.Status.UpdatedReplicas; got != 0 {
		t.Errorf("%d replicas are updated, want none", got)
	}
}
