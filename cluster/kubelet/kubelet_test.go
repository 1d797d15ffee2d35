package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	utilexec "k8s.io/utils/exec"

	"gantry/cluster/apiserver/apitest"
)

const nodeName = "n1"

// bed is a kubelet against a real API server and a fake runtime.
type bed struct {
	t       *testing.T
	client  kubernetes.Interface
	runtime *fakeRuntime
	dir     string
	kubelet *Kubelet
	stop    func()
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{t: t, client: apitest.Start(t).Client, runtime: newFakeRuntime(), dir: t.TempDir()}
	b.start()
	t.Cleanup(func() { b.stop() })
	b.prepare()
	return b
}

// prepare makes what controllers would: pods get a token volume.
func (b *bed) prepare() {
	b.t.Helper()
	ctx := context.Background()
	if _, err := b.client.CoreV1().ServiceAccounts("default").Create(ctx, &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		b.t.Fatal(err)
	}
	ca := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": "-"}}
	if _, err := b.client.CoreV1().ConfigMaps("default").Create(ctx, ca, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		b.t.Fatal(err)
	}
}

// start starts a kubelet over what an earlier one left.
func (b *bed) start() {
	b.t.Helper()
	level := slog.LevelWarn
	if testing.Verbose() {
		level = slog.LevelDebug
	}
	k, err := New(Config{
		Client: b.client, Informers: informers.NewSharedInformerFactory(b.client, 0), Runtime: b.runtime, Images: b.runtime,
		NodeName: nodeName, NodeIP: netip.MustParseAddr("127.0.0.1"), RootDir: filepath.Join(b.dir, "root"), RunDir: filepath.Join(b.dir, "run"),
		LogDir: filepath.Join(b.dir, "logs"), Logger: slog.New(slog.NewTextHandler(b.t.Output(), &slog.HandlerOptions{Level: level})),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.run(k)
}

func (b *bed) run(k *Kubelet) {
	b.kubelet = k
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	b.stop = func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("Run: %v", err)
		}
		b.stop = func() {}
	}
}

// pod is a pod of one container "app" on the node.
func pod(name string, change ...func(*v1.Pod)) *v1.Pod {
	zero := int64(5)
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: v1.PodSpec{
		NodeName: nodeName, TerminationGracePeriodSeconds: &zero,
		Containers: []v1.Container{{Name: "app", Image: "img", ImagePullPolicy: v1.PullIfNotPresent}},
	}}
	for _, c := range change {
		c(p)
	}
	return p
}

func (b *bed) create(p *v1.Pod) *v1.Pod {
	b.t.Helper()
	made, err := b.client.CoreV1().Pods(p.Namespace).Create(context.Background(), p, metav1.CreateOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	return made
}

// until watches the pod until cond holds, and returns it.
func (b *bed) until(name, what string, cond func(*v1.Pod) bool) *v1.Pod {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	selector := fields.OneTermEqualSelector("metadata.name", name).String()
	list, err := b.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{FieldSelector: selector})
	if err != nil {
		b.t.Fatal(err)
	}
	var last *v1.Pod
	if len(list.Items) > 0 {
		last = &list.Items[0]
	}
	if last != nil && cond != nil && cond(last) {
		return last
	}
	w, err := b.client.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{FieldSelector: selector, ResourceVersion: list.ResourceVersion})
	if err != nil {
		b.t.Fatal(err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		p, ok := e.Object.(*v1.Pod)
		if !ok {
			b.t.Fatalf("watch: %v", e.Object)
		}
		last = p
		if e.Type == "DELETED" {
			last = nil
		}
		if last == nil && cond == nil || last != nil && cond != nil && cond(last) {
			return last
		}
	}
	if cond == nil && last == nil {
		return nil
	}
	b.t.Fatalf("pod %s never was %s; last seen: %+v", name, what, statusText(last))
	return nil
}

func statusText(p *v1.Pod) string {
	if p == nil {
		return "none"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s (rv %s)", p.Status.Phase, p.ResourceVersion)
	for _, st := range append(append([]v1.ContainerStatus{}, p.Status.InitContainerStatuses...), p.Status.ContainerStatuses...) {
		fmt.Fprintf(&b, "; %s: state %+v last %+v ready %v restarts %d", st.Name, st.State, st.LastTerminationState.Terminated, st.Ready, st.RestartCount)
	}
	return b.String()
}

// app is the status of the pod's first container; empty where it has none yet.
func app(p *v1.Pod) v1.ContainerStatus {
	if len(p.Status.ContainerStatuses) == 0 {
		return v1.ContainerStatus{}
	}
	return p.Status.ContainerStatuses[0]
}

// waits tells whether that container waits, for that reason.
func waits(p *v1.Pod, reason string) bool {
	w := app(p).State.Waiting
	return w != nil && w.Reason == reason
}

func ready(p *v1.Pod) bool {
	c := findCondition(p.Status.Conditions, v1.PodReady)
	return c != nil && c.Status == v1.ConditionTrue
}

// gone waits until the pod is not in the API, and the kubelet has forgotten it.
func (b *bed) gone(p *v1.Pod) {
	b.t.Helper()
	if _, err := b.client.CoreV1().Pods("default").Get(context.Background(), p.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		b.until(p.Name, "gone", nil)
	}
	b.eventually("forgotten", func() bool { return b.kubelet.state(p.UID) == nil })
}

// eventually waits for what no event tells of.
func (b *bed) eventually(what string, cond func() bool) {
	b.t.Helper()
	deadline := time.After(15 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			b.t.Fatalf("never: %s", what)
		}
	}
}

func (b *bed) delete(name string, grace int64) {
	b.t.Helper()
	if err := b.client.CoreV1().Pods("default").Delete(context.Background(), name, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) event(reason, text string) {
	b.t.Helper()
	b.eventually("event "+reason+" "+text, func() bool {
		list, err := b.client.CoreV1().Events("default").List(context.Background(), metav1.ListOptions{})
		if err != nil {
			return false
		}
		for _, e := range list.Items {
			if e.Reason == reason && strings.Contains(e.Message, text) {
				return true
			}
		}
		return false
	})
}

func TestPodRunsAndIsDeletedGracefully(t *testing.T) {
	b := newBed(t)
	begin := time.Now()
	p := b.create(pod("web"))
	got := b.until("web", "ready", ready)
	t.Logf("ready after %v", time.Since(begin))
	if got.Status.Phase != v1.PodRunning || got.Status.PodIP == "" || got.Status.HostIP != "127.0.0.1" || got.Status.QOSClass != v1.PodQOSBestEffort {
		t.Errorf("status: %s", statusText(got))
	}
	st := got.Status.ContainerStatuses[0]
	if st.ContainerID != "gantry://"+b.runtime.running("app") || st.ImageID != "sha256:1" || st.Image != "img" || st.Started == nil || !*st.Started {
		t.Errorf("container status: %+v", st)
	}
	for _, reason := range []string{"Pulled", "Created", "Started"} {
		b.event(reason, "ontainer")
	}
	rec := httptest.NewRecorder()
	b.kubelet.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/containerLogs/default/web/app?tailLines=1", nil))
	if rec.Code != 200 || !strings.HasPrefix(rec.Body.String(), "hello from app") {
		t.Errorf("logs: %d %q", rec.Code, rec.Body)
	}
	b.delete("web", 3)
	b.event("Killing", "Stopping container app")
	b.gone(p)
	if n := len(b.runtime.sandboxes) + len(b.runtime.containers); n != 0 {
		t.Errorf("%d sandboxes and containers left", n)
	}
	for _, dir := range []string{"root/pods", "run/pods", "logs"} {
		entries, _ := os.ReadDir(filepath.Join(b.dir, dir))
		if len(entries) != 0 {
			t.Errorf("%s still holds %v", dir, entries)
		}
	}
}

func TestCrashingContainerIsRestartedWithBackoff(t *testing.T) {
	b := newBed(t)
	p := b.create(pod("web"))
	b.until("web", "ready", ready)
	first := b.runtime.running("app")
	b.runtime.exit(first, 3)
	b.until("web", "restarted", func(p *v1.Pod) bool { return ready(p) && app(p).RestartCount == 1 })
	b.runtime.exit(b.runtime.running("app"), 3)
	got := b.until("web", "crash looping", func(p *v1.Pod) bool {
		return waits(p, "CrashLoopBackOff")
	})
	st := got.Status.ContainerStatuses[0]
	want := fmt.Sprintf("back-off 10s restarting failed container=app pod=web_default(%s)", p.UID)
	if st.State.Waiting.Message != want || st.LastTerminationState.Terminated.ExitCode != 3 || got.Status.Phase != v1.PodRunning {
		t.Errorf("status %+v, phase %s; want message %q", st, got.Status.Phase, want)
	}
	b.event("BackOff", "Back-off restarting failed container app in pod web_default")
	rec := httptest.NewRecorder()
	b.kubelet.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/containerLogs/default/web/app?previous=true", nil))
	if rec.Code != 200 || !strings.HasPrefix(rec.Body.String(), "hello from app") {
		t.Errorf("previous logs: %d %q", rec.Code, rec.Body)
	}
	b.delete("web", 0)
	b.gone(p)
}

func TestRunToCompletion(t *testing.T) {
	b := newBed(t)
	p := b.create(pod("job", func(p *v1.Pod) {
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		p.Spec.InitContainers = []v1.Container{{Name: "init", Image: "img"}}
	}))
	b.eventually("init runs", func() bool { return b.runtime.running("init") != "" })
	b.until("job", "initializing", func(p *v1.Pod) bool {
		return len(p.Status.InitContainerStatuses) == 1 && p.Status.InitContainerStatuses[0].State.Running != nil &&
			waits(p, "PodInitializing") && p.Status.Phase == v1.PodPending
	})
	b.runtime.exit(b.runtime.running("init"), 0)
	b.eventually("app runs", func() bool { return b.runtime.running("app") != "" })
	app := b.runtime.running("app")
	if err := os.WriteFile(b.kubelet.messageFile(p.UID, "app", 0), []byte("all done"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.runtime.exit(app, 0)
	got := b.until("job", "succeeded", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodSucceeded })
	term := got.Status.ContainerStatuses[0].State.Terminated
	if term == nil || term.Reason != "Completed" || term.Message != "all done" {
		t.Errorf("terminated: %+v", term)
	}
	if c := findCondition(got.Status.Conditions, v1.PodReady); c.Status != v1.ConditionFalse || c.Reason != "PodCompleted" {
		t.Errorf("Ready: %+v", c)
	}
	b.eventually("volumes gone", func() bool { _, err := os.Stat(b.kubelet.podDir(p.UID)); return errors.Is(err, os.ErrNotExist) })
	rv := got.ResourceVersion
	b.stop()
	b.start() // a restarted kubelet changes nothing about it
	rec := httptest.NewRecorder()
	b.eventually("logs again", func() bool {
		rec = httptest.NewRecorder()
		b.kubelet.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/containerLogs/default/job/app", nil))
		return rec.Code == 200
	})
	b.eventually("settled", func() bool { return b.kubelet.queue.Len() == 0 })
	if again := b.until("job", "there", func(*v1.Pod) bool { return true }); again.ResourceVersion != rv {
		t.Errorf("status was written again: %s", statusText(again))
	}
	b.delete("job", 0)
	b.gone(p)
}

func TestAdoptionRestartsNothing(t *testing.T) {
	b := newBed(t)
	p := b.create(pod("web", func(p *v1.Pod) {
		p.Spec.Containers[0].ReadinessProbe = &v1.Probe{PeriodSeconds: 1, ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"check"}}}}
	}))
	orphan := b.create(pod("orphan"))
	b.until("orphan", "ready", ready)
	before := b.until("web", "ready", ready)
	b.stop()
	b.delete("orphan", 0)
	b.start()
	b.eventually("orphan's containers gone", func() bool {
		b.runtime.mu.Lock()
		defer b.runtime.mu.Unlock()
		return len(b.runtime.containers) == 1 && len(b.runtime.sandboxes) == 1
	})
	b.eventually("orphan forgotten", func() bool { return b.kubelet.state(orphan.UID) == nil })
	after := b.until("web", "ready", ready)
	if after.ResourceVersion != before.ResourceVersion {
		t.Errorf("its status was written: %s", statusText(after))
	}
	if after.Status.ContainerStatuses[0].ContainerID != before.Status.ContainerStatuses[0].ContainerID || after.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("restarted: %s", statusText(after))
	}

	// A reboot: the runtime's containers ended, its sandboxes are not ready.
	b.stop()
	b.runtime.exit(b.runtime.running("app"), 255)
	for id := range b.runtime.sandboxes {
		if err := b.runtime.StopPodSandbox(context.Background(), id); err != nil {
			t.Fatal(err)
		}
	}
	b.start()
	got := b.until("web", "back", func(p *v1.Pod) bool { return ready(p) && app(p).RestartCount == 1 })
	if got.Status.ContainerStatuses[0].LastTerminationState.Terminated == nil {
		t.Errorf("no last state: %s", statusText(got))
	}
	b.delete("web", 0)
	b.gone(p)
}

func TestConfigMapAndSecretReachThePod(t *testing.T) {
	b := newBed(t)
	ctx := context.Background()
	p := b.create(pod("web", func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{
			{Name: "conf", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}}}},
		}
		p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "conf", MountPath: "/conf"}}
		p.Spec.Containers[0].Env = []v1.EnvVar{{Name: "PASSWORD", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{
			LocalObjectReference: v1.LocalObjectReference{Name: "pw"}, Key: "password"}}}}
	}))
	b.event("FailedMount", `MountVolume.SetUp failed for volume "conf" : configmap "conf" not found`)
	begin := time.Now()
	cm := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "conf"}, Data: map[string]string{"a": "1"}}
	if _, err := b.client.CoreV1().ConfigMaps("default").Create(ctx, cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	b.until("web", "refused for its secret", func(p *v1.Pod) bool {
		w := app(p).State.Waiting
		return w != nil && w.Reason == "CreateContainerConfigError" && w.Message == `secret "pw" not found`
	})
	secret := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "pw"}, Data: map[string][]byte{"password": []byte("hunter2")}}
	if _, err := b.client.CoreV1().Secrets("default").Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	b.until("web", "ready", ready)
	t.Logf("ready %v after its ConfigMap", time.Since(begin))
	c := b.runtime.containers[b.runtime.running("app")]
	var password string
	for _, e := range c.config.Envs {
		if e.Key == "PASSWORD" {
			password = string(e.Value)
		}
	}
	file := filepath.Join(c.config.Mounts[0].HostPath, "a")
	data, err := os.ReadFile(file)
	if password != "hunter2" || err != nil || string(data) != "1" {
		t.Errorf("password %q, file %q, %v", password, data, err)
	}
	cm.Data["a"] = "2"
	if _, err := b.client.CoreV1().ConfigMaps("default").Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	b.eventually("file changed", func() bool { data, _ := os.ReadFile(file); return string(data) == "2" })
	b.delete("web", 0)
	b.gone(p)
}

func TestLivenessFailureRestarts(t *testing.T) {
	b := newBed(t)
	b.runtime.exec = func(id string, cmd []string) ([]byte, error) {
		if strings.HasSuffix(id, "2") { // the first attempt
			return []byte("sick"), utilexec.CodeExitError{Code: 1, Err: errors.New("exit 1")}
		}
		return nil, nil
	}
	p := b.create(pod("web", func(p *v1.Pod) {
		p.Spec.Containers[0].LivenessProbe = &v1.Probe{PeriodSeconds: 1, FailureThreshold: 1,
			ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"check"}}}}
	}))
	b.until("web", "restarted", func(p *v1.Pod) bool { return ready(p) && app(p).RestartCount == 1 })
	b.event("Unhealthy", "Liveness probe failed: sick")
	b.event("Killing", "Container app failed liveness probe, will be restarted")
	b.delete("web", 0)
	b.gone(p)
}

func TestImageErrors(t *testing.T) {
	b := newBed(t)
	b.create(pod("never", func(p *v1.Pod) {
		p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = "other", v1.PullNever
	}))
	b.create(pod("pull", func(p *v1.Pod) { p.Spec.Containers[0].Image = "other" }))
	got := b.until("never", "refused", func(p *v1.Pod) bool {
		return waits(p, "ErrImageNeverPull")
	})
	if m := got.Status.ContainerStatuses[0].State.Waiting.Message; m != `Container image "other" is not present with pull policy of Never` {
		t.Errorf("message %q", m)
	}
	b.until("pull", "ErrImagePull", func(p *v1.Pod) bool {
		return waits(p, "ErrImagePull")
	})
	got = b.until("pull", "backing off", func(p *v1.Pod) bool {
		return waits(p, "ImagePullBackOff")
	})
	if m := got.Status.ContainerStatuses[0].State.Waiting.Message; m != `Back-off pulling image "other": ErrImagePull: no registry has other` {
		t.Errorf("message %q", m)
	}
	rec := httptest.NewRecorder()
	b.kubelet.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/containerLogs/default/pull/app", nil))
	if body, _ := io.ReadAll(rec.Body); rec.Code != 400 || !strings.Contains(string(body), `container "app" in pod "pull" is waiting to start: trying and failing to pull image`) {
		t.Errorf("logs: %d %q", rec.Code, body)
	}
}

func TestShorterGraceHastensTheEnd(t *testing.T) {
	b := newBed(t)
	b.runtime.ignoreTerm = true
	p := b.create(pod("web"))
	b.until("web", "ready", ready)
	b.delete("web", 60)
	b.event("Killing", "Stopping container app")
	b.delete("web", 1)
	begin := time.Now()
	b.gone(p)
	if took := time.Since(begin); took > 8*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestManyPodsAtOnce(t *testing.T) {
	b := newBed(t)
	begin := time.Now()
	const n = 50
	for i := range n {
		b.create(pod(fmt.Sprintf("p%d", i), func(p *v1.Pod) {
			p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse("1m")}
		}))
	}
	for i := range n {
		b.until(fmt.Sprintf("p%d", i), "ready", ready)
	}
	t.Logf("%d pods ready after %v", n, time.Since(begin))
}
