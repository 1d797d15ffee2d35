package kubelet

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"gantry/engine/cri/critest"
)

func TestRealSidecarAndHooks(t *testing.T) {
	b := newRealBed(t)
	shared := filepath.Join(b.dir, "shared")
	always := v1.ContainerRestartPolicyAlways
	kind := v1.HostPathDirectoryOrCreate
	mount := []v1.VolumeMount{{Name: "s", MountPath: "/s"}}
	p := b.create(realPod("web", `test -e /s/side || exit 9; trap 'echo term >>/s/order; exit 0' TERM; while :; do sleep 0.05; done`, func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{{Name: "s", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: shared, Type: &kind}}}}
		c := &p.Spec.Containers[0]
		c.VolumeMounts = mount
		c.Lifecycle = &v1.Lifecycle{
			PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"sh", "-c", "echo post >>/s/order"}}},
			PreStop:   &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"sh", "-c", "echo pre >>/s/order"}}},
		}
		p.Spec.InitContainers = []v1.Container{{Name: "side", Image: critest.Image, RestartPolicy: &always, VolumeMounts: mount,
			Command:      []string{"sh", "-c", `sleep 0.2; echo >/s/side; trap 'echo side >>/s/order; exit 0' TERM; while :; do sleep 0.05; done`},
			StartupProbe: &v1.Probe{PeriodSeconds: 1, ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"test", "-e", "/s/side"}}}}}}
	}))
	got := b.until("web", "ready", ready)
	if got.Status.ContainerStatuses[0].RestartCount != 0 || !got.Status.InitContainerStatuses[0].Ready {
		t.Errorf("the container did not wait for its sidecar: %s", statusText(got))
	}
	b.delete("web", 10)
	b.gone(p)
	order, err := os.ReadFile(filepath.Join(shared, "order"))
	if want := "post\npre\nterm\nside\n"; string(order) != want {
		t.Errorf("order %q, %v; want %q", order, err, want)
	}
	if _, err := os.Stat(filepath.Join(shared, "side")); err != nil {
		t.Errorf("the host's directory was touched: %v", err)
	}
}

func TestRealFailedPostStartIsRestarted(t *testing.T) {
	b := newRealBed(t)
	p := b.create(realPod("web", serve, func(p *v1.Pod) {
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"false"}}}}
	}))
	b.event("FailedPostStartHook", "PostStartHook failed")
	b.until("web", "in back-off", func(p *v1.Pod) bool {
		return waits(p, "CrashLoopBackOff")
	})
	b.delete("web", 0)
	b.gone(p)
}

func TestRealHostNamespaces(t *testing.T) {
	b := newRealBed(t)
	p := b.create(realPod("web", `echo "init is $(tr '\0' ' ' </proc/1/cmdline)"; head -1 /etc/hosts; `+serve, func(p *v1.Pod) {
		p.Spec.HostNetwork, p.Spec.HostPID, p.Spec.HostIPC = true, true, true
	}))
	got := b.until("web", "ready", ready)
	if got.Status.PodIP != "127.0.0.1" {
		t.Errorf("address %s, want the node's", got.Status.PodIP)
	}
	b.eventually("log complete", func() bool { _, log := b.get("/containerLogs/default/web/app"); return strings.HasSuffix(log, "up\n") })
	if _, log := b.get("/containerLogs/default/web/app"); strings.Contains(log, "init is sh") || !strings.Contains(log, "# Kubernetes-managed hosts file (host network).\n") {
		t.Errorf("log %q", log)
	}
	b.delete("web", 5)
	b.gone(p)
}

func TestRealSecurity(t *testing.T) {
	b := newRealBed(t)
	yes, no := true, false
	user, group := int64(1000), int64(2000)
	p := b.create(realPod("web", `id; touch /x 2>&1; grep -E '^(NoNewPrivs|CapEff|Seccomp):' /proc/self/status; `+serve, func(p *v1.Pod) {
		p.Spec.SecurityContext = &v1.PodSecurityContext{RunAsUser: &user, RunAsGroup: &group, RunAsNonRoot: &yes, SupplementalGroups: []int64{3000}}
		p.Spec.Containers[0].SecurityContext = &v1.SecurityContext{ReadOnlyRootFilesystem: &yes, AllowPrivilegeEscalation: &no,
			Capabilities: &v1.Capabilities{Drop: []v1.Capability{"ALL"}}}
	}))
	b.until("web", "ready", ready)
	b.eventually("log complete", func() bool { _, log := b.get("/containerLogs/default/web/app"); return strings.HasSuffix(log, "up\n") })
	_, log := b.get("/containerLogs/default/web/app")
	for _, want := range []string{"uid=1000 gid=2000 groups=2000,3000", "Read-only file system", "NoNewPrivs:\t1\n", "CapEff:\t0000000000000000\n", "Seccomp:\t2\n"} {
		if !strings.Contains(log, want) {
			t.Errorf("log lacks %q:\n%s", want, log)
		}
	}
	b.delete("web", 0)
	b.gone(p)

	p = b.create(realPod("root", serve, func(p *v1.Pod) { p.Spec.SecurityContext = &v1.PodSecurityContext{RunAsNonRoot: &yes} }))
	got := b.until("root", "refused", func(p *v1.Pod) bool {
		return waits(p, "CreateContainerConfigError")
	})
	if m := got.Status.ContainerStatuses[0].State.Waiting.Message; !strings.HasPrefix(m, "container has runAsNonRoot and image will run as root") {
		t.Errorf("message %q", m)
	}
	b.delete("root", 0)
	b.gone(p)

	p = b.create(realPod("shared", serve, func(p *v1.Pod) { p.Spec.ShareProcessNamespace = &yes }))
	b.event("FailedCreatePodSandBox", "shareProcessNamespace")
	b.delete("shared", 0)
	b.gone(p)
}

func TestRealOutOfMemory(t *testing.T) {
	b := newRealBed(t)
	p := b.create(realPod("hog", `x=x; while :; do x=$x$x; done`, func(p *v1.Pod) {
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		p.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("16Mi")}
	}))
	got := b.until("hog", "failed", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
	if term := got.Status.ContainerStatuses[0].State.Terminated; term.Reason != "OOMKilled" || term.ExitCode != 137 {
		t.Errorf("terminated %+v", term)
	}
	b.delete("hog", 0)
	b.gone(p)
}

func TestRealDeadline(t *testing.T) {
	b := newRealBed(t)
	seconds := int64(1)
	p := b.create(realPod("web", serve, func(p *v1.Pod) { p.Spec.ActiveDeadlineSeconds = &seconds }))
	begin := time.Now()
	got := b.until("web", "failed", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
	if got.Status.Reason != "DeadlineExceeded" || time.Since(begin) > 8*time.Second {
		t.Errorf("reason %q after %v", got.Status.Reason, time.Since(begin))
	}
	b.eventually("container stopped", func() bool {
		for _, c := range b.host.Engine.Containers(context.Background()) {
			if c.Pid != 0 {
				return false
			}
		}
		return true
	})
	b.delete("web", 0)
	b.gone(p)
}
