package kubelet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"

	"gantry/cluster/apiserver/apitest"
	"gantry/engine/cri/critest"
)

func TestMain(m *testing.M) { os.Exit(critest.Main(m)) }

// realBed is a kubelet over the real API server and the real engine.
type realBed struct {
	*bed
	host *critest.Host
}

func newRealBed(t *testing.T) *realBed {
	t.Helper()
	host := critest.New(t)
	dir, err := os.MkdirTemp("/tmp", "gk")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	b := &realBed{host: host, bed: &bed{t: t, client: apitest.Start(t).Client, dir: dir}}
	b.startReal()
	t.Cleanup(func() { b.stop() })
	b.prepare()
	return b
}

func (b *realBed) startReal() {
	b.t.Helper()
	level := slog.LevelWarn
	if testing.Verbose() {
		level = slog.LevelInfo
	}
	k, err := New(Config{
		Client: b.client, Informers: informers.NewSharedInformerFactory(b.client, 0),
		Runtime: b.host.CRI, Images: b.host.CRI, Streams: b.host.CRI.Streams(),
		NodeName: nodeName, NodeIP: netip.MustParseAddr("127.0.0.1"), RootDir: filepath.Join(b.dir, "root"), RunDir: filepath.Join(b.dir, "run"),
		LogDir: filepath.Join(b.dir, "logs"), ClusterDNS: netip.MustParseAddr("10.43.0.10"),
		Logger: slog.New(slog.NewTextHandler(b.t.Output(), &slog.HandlerOptions{Level: level})),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.run(k)
}

func realPod(name, script string, change ...func(*v1.Pod)) *v1.Pod {
	p := pod(name, change...)
	for i := range p.Spec.Containers {
		p.Spec.Containers[i].Image = critest.Image
	}
	p.Spec.Containers[0].Command = []string{"sh", "-c", script}
	return p
}

const serve = `trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done`

// get asks the kubelet's handler.
func (b *bed) get(path string) (int, string) {
	rec := httptest.NewRecorder()
	b.kubelet.Handler().ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
	return rec.Code, rec.Body.String()
}

// exec runs a command in a container as kubectl does, over SPDY or WebSocket.
func (b *realBed) exec(pod, stdin string, websocket bool, cmd ...string) (stdout, stderr string, err error) {
	b.t.Helper()
	server := httptest.NewServer(b.kubelet.Handler())
	defer server.Close()
	u, err := url.Parse(server.URL + "/exec/default/" + pod + "/app")
	if err != nil {
		b.t.Fatal(err)
	}
	q := url.Values{"command": cmd, "output": {"1"}, "error": {"1"}, "stdout": {"true"}, "stderr": {"true"}}
	if stdin != "" {
		q.Set("input", "1")
		q.Set("stdin", "true")
	}
	u.RawQuery = q.Encode()
	var ex remotecommand.Executor
	if websocket {
		ex, err = remotecommand.NewWebSocketExecutor(&rest.Config{Host: server.URL}, "GET", u.String())
	} else {
		ex, err = remotecommand.NewSPDYExecutor(&rest.Config{Host: server.URL}, "POST", u)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var out, errOut bytes.Buffer
	opts := remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut}
	if stdin != "" {
		opts.Stdin = strings.NewReader(stdin)
	}
	err = ex.StreamWithContext(ctx, opts)
	return out.String(), errOut.String(), err
}

func TestRealPod(t *testing.T) {
	b := newRealBed(t)
	begin := time.Now()
	p := b.create(realPod("web", `hostname; cat /etc/hosts /etc/resolv.conf; echo "ip=$IP greeting=$GREETING mem=$MEM"; cat /conf/a /data/x; id -u; `+serve, func(p *v1.Pod) {
		p.Spec.Hostname, p.Spec.Subdomain = "host1", "sub"
		p.Spec.HostAliases = []v1.HostAlias{{IP: "10.1.2.3", Hostnames: []string{"alias"}}}
		p.Spec.Volumes = []v1.Volume{
			{Name: "conf", VolumeSource: v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{Items: []v1.DownwardAPIVolumeFile{
				{Path: "a", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}}},
			{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
			{Name: "mem", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}},
		}
		user := int64(1000)
		c := &p.Spec.Containers[0]
		c.SecurityContext = &v1.SecurityContext{RunAsUser: &user}
		c.VolumeMounts = []v1.VolumeMount{{Name: "conf", MountPath: "/conf"}, {Name: "data", MountPath: "/data", SubPath: "below"}, {Name: "mem", MountPath: "/mem"}}
		c.Env = []v1.EnvVar{
			{Name: "IP", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
			{Name: "GREETING", Value: "hello $(IP)"},
			{Name: "MEM", ValueFrom: &v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}}},
		}
		c.Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi"), v1.ResourceCPU: resource.MustParse("500m")}
		p.Spec.InitContainers = []v1.Container{{Name: "init", Image: critest.Image, Command: []string{"sh", "-c", "echo from-init >/data/below/x"},
			VolumeMounts: []v1.VolumeMount{{Name: "data", MountPath: "/data"}, {Name: "data", MountPath: "/unused", SubPath: "below"}}}}
	}))
	got := b.until("web", "ready", ready)
	t.Logf("ready after %v", time.Since(begin))
	if got.Status.QOSClass != v1.PodQOSBurstable { // the init container has no limits
		t.Errorf("QOS class %s", got.Status.QOSClass)
	}
	want := []string{"host1\n", got.Status.PodIP + "\thost1.sub.default.svc.cluster.local\thost1\n", "10.1.2.3\talias\n",
		"nameserver 10.43.0.10", "search default.svc.cluster.local svc.cluster.local cluster.local", "ndots:5",
		"ip=" + got.Status.PodIP + " greeting=hello " + got.Status.PodIP + " mem=64\n", "webfrom-init\n", "1000\n", "up\n"}
	b.eventually("log complete", func() bool { _, log := b.get("/containerLogs/default/web/app"); return strings.HasSuffix(log, "up\n") })
	_, log := b.get("/containerLogs/default/web/app")
	for _, w := range want {
		if !strings.Contains(log, w) {
			t.Errorf("log lacks %q:\n%s", w, log)
		}
	}
	for _, websocket := range []bool{false, true} {
		out, errOut, err := b.exec("web", "typed", websocket, "sh", "-c", "cat; echo err >&2; exit 5")
		var exit utilexec.CodeExitError
		if out != "typed" || errOut != "err\n" || !errors.As(err, &exit) || exit.Code != 5 {
			t.Errorf("exec (websocket %v): %q, %q, %v", websocket, out, errOut, err)
		}
	}
	b.delete("web", 10)
	begin = time.Now()
	b.gone(p)
	t.Logf("gone after %v", time.Since(begin))
	if n := len(b.host.Engine.Sandboxes(context.Background())) + len(b.host.Engine.Containers(context.Background())); n != 0 {
		t.Errorf("%d sandboxes and containers left", n)
	}
}

func TestRealCrashLoop(t *testing.T) {
	b := newRealBed(t)
	p := b.create(realPod("web", "echo attempt; echo because >/dev/termination-log; exit 3"))
	got := b.until("web", "crash looping", func(p *v1.Pod) bool {
		return waits(p, "CrashLoopBackOff")
	})
	st := got.Status.ContainerStatuses[0]
	if last := st.LastTerminationState.Terminated; st.RestartCount != 1 || last == nil || last.ExitCode != 3 || last.Message != "because\n" || last.Reason != "Error" {
		t.Errorf("status %+v", st)
	}
	if code, log := b.get("/containerLogs/default/web/app"); code != 200 || log != "attempt\n" {
		t.Errorf("logs: %d %q", code, log)
	}
	b.delete("web", 0)
	b.gone(p)

	p = b.create(realPod("bad", "", func(p *v1.Pod) {}))
	b.delete("bad", 0)
	b.gone(p)
	broken := pod("broken")
	broken.Spec.Containers[0].Image, broken.Spec.Containers[0].Command = critest.Image, []string{"/no/such/program"}
	p = b.create(broken)
	got = b.until("broken", "refused", func(p *v1.Pod) bool {
		return app(p).LastTerminationState.Terminated != nil
	})
	st = got.Status.ContainerStatuses[0]
	if st.LastTerminationState.Terminated.Reason != "StartError" || st.State.Waiting == nil || !strings.Contains(st.State.Waiting.Message+st.LastTerminationState.Terminated.Message, "/no/such/program") {
		t.Errorf("status %+v", st)
	}
	b.delete("broken", 0)
	b.gone(p)
}

func TestRealProbes(t *testing.T) {
	b := newRealBed(t)
	begin := time.Now()
	p := b.create(realPod("web", `mkdir -p /www/cgi-bin; echo ok >/www/ok; sleep 0.3; httpd -p 8080 -h /www; `+serve, func(p *v1.Pod) {
		c := &p.Spec.Containers[0]
		c.Ports = []v1.ContainerPort{{Name: "http", ContainerPort: 8080}}
		c.ReadinessProbe = &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/ok", Port: intstr.FromString("http")}}}
		c.LivenessProbe = &v1.Probe{PeriodSeconds: 1, FailureThreshold: 1, InitialDelaySeconds: 1,
			ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"test", "!", "-e", "/tmp/sick"}}}}
	}))
	b.until("web", "ready", ready)
	took := time.Since(begin)
	t.Logf("ready after %v", took)
	if took > 3*time.Second {
		t.Errorf("ready only after %v: the early tries do not work", took)
	}
	if out, errOut, err := b.exec("web", "", true, "touch", "/tmp/sick"); err != nil {
		t.Fatalf("exec: %q %q %v", out, errOut, err)
	}
	b.until("web", "restarted", func(p *v1.Pod) bool { return ready(p) && app(p).RestartCount == 1 })
	b.event("Unhealthy", "Liveness probe failed")
	b.delete("web", 0)
	b.gone(p)
}

func TestRealAdoption(t *testing.T) {
	b := newRealBed(t)
	p := b.create(realPod("web", serve))
	before := b.until("web", "ready", ready)
	b.stop()
	b.host.Stop()
	b.host.Start()
	b.startReal()
	b.eventually("kubelet at rest", func() bool { return b.kubelet.state(p.UID) != nil && b.kubelet.queue.Len() == 0 })
	out, _, err := b.exec("web", "", false, "echo", "alive")
	if err != nil || out != "alive\n" {
		t.Errorf("exec after adoption: %q, %v", out, err)
	}
	after := b.until("web", "ready", ready)
	if a, c := before.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]; a.ContainerID != c.ContainerID || c.RestartCount != 0 {
		t.Errorf("restarted: %+v, then %+v", a, c)
	}
	b.delete("web", 5)
	b.gone(p)
}

func TestRealLogsFollow(t *testing.T) {
	b := newRealBed(t)
	p := b.create(realPod("web", `i=0; while [ $i -lt 5 ]; do echo line $i; i=$((i+1)); sleep 0.1; done`, func(p *v1.Pod) { p.Spec.RestartPolicy = v1.RestartPolicyNever }))
	b.until("web", "started", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodRunning || p.Status.Phase == v1.PodSucceeded })
	server := httptest.NewServer(b.kubelet.Handler())
	defer server.Close()
	res, err := http.Get(server.URL + "/containerLogs/default/web/app?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if want := "line 0\nline 1\nline 2\nline 3\nline 4\n"; string(body) != want || err != nil {
		t.Errorf("followed %q, %v; want %q", body, err, want)
	}
	b.until("web", "succeeded", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodSucceeded })
	b.delete("web", 0)
	b.gone(p)
}

func TestRealPortForward(t *testing.T) {
	b := newRealBed(t)
	p := b.create(realPod("web", `mkdir /www; echo pong >/www/ping; httpd -p 127.0.0.1:7000 -h /www; `+serve))
	b.until("web", "ready", ready)
	id, err := b.kubelet.sandboxOf(context.Background(), p)
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	done := make(chan error, 1)
	b.eventually("listening", func() bool {
		out, _, err := b.exec("web", "", true, "sh", "-c", "netstat -ltn")
		return err == nil && strings.Contains(out, ":7000")
	})
	go func() { done <- b.host.CRI.Streams().PortForward(context.Background(), id, 7000, far) }()
	if _, err := near.Write([]byte("GET /ping HTTP/1.0\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	reply, err := io.ReadAll(near)
	if !strings.HasSuffix(string(reply), "\r\n\r\npong\n") {
		t.Errorf("reply %q, %v", reply, err)
	}
	near.Close()
	<-done
	b.delete("web", 0)
	b.gone(p)
}

func TestRealManyPods(t *testing.T) {
	b := newRealBed(t)
	const n = 50
	warm := b.create(realPod("warm", serve))
	b.until("warm", "ready", ready)
	begin := time.Now()
	one := b.create(realPod("one", serve))
	b.until("one", "ready", ready)
	t.Logf("one pod ready after %v", time.Since(begin))
	begin = time.Now()
	pods := []*v1.Pod{warm, one}
	for i := range n {
		pods = append(pods, b.create(realPod(fmt.Sprintf("p%d", i), serve)))
	}
	for i := range n {
		b.until(fmt.Sprintf("p%d", i), "ready", ready)
	}
	t.Logf("%d pods ready after %v", n, time.Since(begin))
	begin = time.Now()
	if err := b.client.CoreV1().Pods("default").DeleteCollection(context.Background(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Logf("delete collection: %v", err)
		for _, p := range pods {
			b.delete(p.Name, 2)
		}
	}
	for _, p := range pods {
		b.gone(p)
	}
	t.Logf("all gone after %v", time.Since(begin))
}
