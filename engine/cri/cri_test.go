package cri_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"

	"gantry/engine/cri/critest"
	"gantry/engine/image"
	"gantry/engine/registry"
	"gantry/engine/registry/server"
)

func TestMain(m *testing.M) { os.Exit(critest.Main(m)) }

func sandboxConfig(t testing.TB, name string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "uid-" + name, Attempt: 0},
		Hostname:     name,
		LogDirectory: t.TempDir(),
		Labels:       map[string]string{"io.kubernetes.pod.uid": "uid-" + name, "app": name},
		DnsConfig:    &runtimeapi.DNSConfig{Servers: []string{"10.0.0.10"}, Searches: []string{"default.svc.cluster.local"}, Options: []string{"ndots:5"}},
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}}},
	}
}

func containerConfig(name, script string) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name, Attempt: 1}, Image: &runtimeapi.ImageSpec{Image: critest.Image},
		Command: []string{"sh", "-c", script}, Envs: []*runtimeapi.KeyValue{{Key: "COLOUR", Value: []byte("green")}},
		Labels: map[string]string{"io.kubernetes.pod.uid": "uid-web", "role": "main"}, Annotations: map[string]string{"note": "kept"},
		LogPath: name + "/0.log",
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}}},
	}
}

func TestLifeOfAPod(t *testing.T) {
	h := critest.New(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	events := make(chan *runtimeapi.ContainerEventResponse, 64)
	eventCtx, stopEvents := context.WithCancel(ctx)
	eventsDone := make(chan error, 1)
	registered := make(chan struct{})
	go func() {
		eventsDone <- h.CRI.GetContainerEvents(eventCtx, events, func(runtimeapi.RuntimeService_GetContainerEventsClient) { close(registered) })
	}()
	<-registered

	sc := sandboxConfig(t, "web")
	sandbox, err := h.CRI.RunPodSandbox(ctx, sc, "")
	if err != nil {
		t.Fatal(err)
	}
	st, err := h.CRI.PodSandboxStatus(ctx, sandbox, false)
	if err != nil || st.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY || net.ParseIP(st.Status.Network.Ip) == nil {
		t.Fatalf("sandbox: %v, %v", st, err)
	}
	if err := os.MkdirAll(filepath.Join(sc.LogDirectory, "app"), 0o755); err != nil {
		t.Fatal(err)
	}
	id, err := h.CRI.CreateContainer(ctx, sandbox, containerConfig("app", "hostname; cat /etc/resolv.conf; echo $COLOUR; trap 'exit 7' TERM; while :; do sleep 0.05; done"), sc)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.CRI.StartContainer(ctx, id); err != nil {
		t.Fatal(err)
	}
	list, err := h.CRI.ListContainers(ctx, &runtimeapi.ContainerFilter{PodSandboxId: sandbox, LabelSelector: map[string]string{"role": "main"}})
	if err != nil || len(list) != 1 || list[0].Id != id || list[0].State != runtimeapi.ContainerState_CONTAINER_RUNNING ||
		list[0].Metadata.Name != "app" || list[0].Metadata.Attempt != 1 || list[0].Annotations["note"] != "kept" || len(list[0].Annotations) != 1 {
		t.Fatalf("list: %v, %v", list, err)
	}
	out, _, err := h.CRI.ExecSync(ctx, id, []string{"sh", "-c", "echo out; echo err >&2; exit 3"}, 10*time.Second)
	var exit utilexec.ExitError
	if string(out) != "out\n" || !errors.As(err, &exit) || exit.ExitStatus() != 3 {
		t.Errorf("ExecSync: %q, %v", out, err)
	}
	if _, _, err := h.CRI.ExecSync(ctx, id, []string{"sleep", "30"}, 100*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ExecSync with a timeout: %v", err)
	}
	if s, err := h.CRI.ContainerStats(ctx, id); err != nil || s.Memory.UsageBytes.Value == 0 {
		t.Errorf("stats: %v, %v", s, err)
	}
	if err := h.CRI.StopContainer(ctx, id, 10); err != nil {
		t.Fatal(err)
	}
	cs, err := h.CRI.ContainerStatus(ctx, id, false)
	if err != nil || cs.Status.State != runtimeapi.ContainerState_CONTAINER_EXITED || cs.Status.ExitCode != 7 || cs.Status.Reason != "Error" {
		t.Errorf("status: %v, %v", cs, err)
	}
	log, err := os.ReadFile(filepath.Join(sc.LogDirectory, "app/0.log"))
	for _, want := range []string{" stdout F web\n", "nameserver 10.0.0.10\n", "search default.svc.cluster.local\n", "ndots:5", " stdout F green\n"} {
		if err != nil || !strings.Contains(string(log), want) {
			t.Errorf("log %q, %v: no %q", log, err, want)
		}
	}
	if err := errors.Join(h.CRI.StopPodSandbox(ctx, sandbox), h.CRI.StopPodSandbox(ctx, sandbox), h.CRI.RemovePodSandbox(ctx, sandbox), h.CRI.RemovePodSandbox(ctx, sandbox), h.CRI.RemoveContainer(ctx, id)); err != nil {
		t.Error(err)
	}
	var kinds []string
	deadline := time.After(time.Minute)
	for last := ""; last != "DELETED"; {
		select {
		case e := <-events:
			if e.PodSandboxStatus.Metadata.Uid != "uid-web" || e.ContainerId != id {
				t.Errorf("event of another: %v", e)
			}
			last = strings.TrimSuffix(strings.TrimPrefix(e.ContainerEventType.String(), "CONTAINER_"), "_EVENT")
			kinds = append(kinds, last)
		case <-deadline:
			t.Fatalf("no event of the removal after %v", kinds)
		}
	}
	stopEvents()
	<-eventsDone
	if got := strings.Join(kinds, " "); got != "CREATED STARTED STOPPED DELETED" {
		t.Errorf("events: %s", got)
	}
}

// What a crash leaves before a sandbox's record is written, or after it is removed.
func TestAHalfMadeSandboxGoes(t *testing.T) {
	h := critest.New(t)
	ctx := context.Background()
	id, err := h.CRI.RunPodSandbox(ctx, sandboxConfig(t, "half"), "")
	if err != nil {
		t.Fatal(err)
	}
	h.Stop()
	dir := filepath.Join(h.DataDir(), "sandboxes", id)
	if err := os.Remove(filepath.Join(dir, "config.json")); err != nil {
		t.Fatal(err)
	}
	h.Start()
	if list, err := h.CRI.ListPodSandbox(ctx, nil); err != nil || len(list) > 0 {
		t.Errorf("sandboxes %v, %v", list, err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory: %v", err)
	}
	for _, err := range h.Engine.Check(ctx) {
		t.Errorf("check: %v", err)
	}
}

func TestWhatCannotStartCountsAsEnded(t *testing.T) {
	h := critest.New(t)
	ctx := context.Background()
	sc := sandboxConfig(t, "web")
	sandbox, err := h.CRI.RunPodSandbox(ctx, sc, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(sc.LogDirectory, "app"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := containerConfig("app", "")
	c.Command = []string{"/no/such/program"}
	id, err := h.CRI.CreateContainer(ctx, sandbox, c, sc)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.CRI.StartContainer(ctx, id); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("start: %v", err)
	}
	cs, err := h.CRI.ContainerStatus(ctx, id, false)
	if err != nil || cs.Status.State != runtimeapi.ContainerState_CONTAINER_EXITED || cs.Status.Reason != "StartError" || cs.Status.ExitCode == 0 ||
		!strings.Contains(cs.Status.Message, "/no/such/program") {
		t.Errorf("status: %v, %v", cs, err)
	}
}

func TestUnsupportedFieldsAreRefusedByName(t *testing.T) {
	h := critest.New(t)
	ctx := context.Background()
	sc := sandboxConfig(t, "web")
	sandbox, err := h.CRI.RunPodSandbox(ctx, sc, "")
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*runtimeapi.ContainerConfig){
		"CDI_devices": func(c *runtimeapi.ContainerConfig) { c.CDIDevices = []*runtimeapi.CDIDevice{{Name: "x"}} },
		"resources.unified": func(c *runtimeapi.ContainerConfig) {
			c.Linux.Resources = &runtimeapi.LinuxContainerResources{Unified: map[string]string{"a": "b"}}
		},
		"seccomp of type Localhost": func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost}
		},
		"shareProcessNamespace": func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
		},
		"mounts.recursive_read_only": func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{HostPath: "/", ContainerPath: "/h", RecursiveReadOnly: true}}
		},
	} {
		c := containerConfig("app", "true")
		change(c)
		if _, err := h.CRI.CreateContainer(ctx, sandbox, c, sc); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestImages(t *testing.T) {
	h := critest.New(t)
	ctx := context.Background()
	list, err := h.CRI.ListImages(ctx, nil)
	if err != nil || len(list) != 1 || list[0].RepoTags[0] != critest.Image || list[0].Size == 0 {
		t.Fatalf("images: %v, %v", list, err)
	}
	if r, err := h.CRI.ImageStatus(ctx, &runtimeapi.ImageSpec{Image: "nothing"}, false); err != nil || r.Image != nil {
		t.Errorf("a missing image: %v, %v", r, err)
	}
	if id, err := h.CRI.PullImage(ctx, &runtimeapi.ImageSpec{Image: critest.Image}, nil, nil); err != nil || id != list[0].Id {
		t.Errorf("pull of a local image: %s, %v", id, err)
	}
	if _, err := h.CRI.PullImage(ctx, &runtimeapi.ImageSpec{Image: "127.0.0.1:1/nothing"}, nil, nil); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("pull of a missing image: %v", err)
	}
	if err := errors.Join(h.CRI.RemoveImage(ctx, &runtimeapi.ImageSpec{Image: critest.Image}), h.CRI.RemoveImage(ctx, &runtimeapi.ImageSpec{Image: critest.Image})); err != nil {
		t.Error(err)
	}
	if r, err := h.CRI.ImageFsInfo(ctx); err != nil || r.ImageFilesystems[0].UsedBytes.Value == 0 {
		t.Errorf("file system: %v, %v", r, err)
	}
}

func TestServedOnASocket(t *testing.T) {
	h := critest.New(t)
	ctx, cancel := context.WithCancel(context.Background())
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "cri.sock"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- h.CRI.Serve(ctx, l) }()
	conn, err := grpc.NewClient("unix://"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	rt := runtimeapi.NewRuntimeServiceClient(conn)
	if v, err := rt.Version(ctx, &runtimeapi.VersionRequest{}); err != nil || v.RuntimeName != "gantry" {
		t.Errorf("version: %v, %v", v, err)
	}
	if _, err := rt.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: "none"}); status.Code(err) != codes.NotFound {
		t.Errorf("status of nothing: %v", err)
	}
	if _, err := rt.Exec(ctx, &runtimeapi.ExecRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("exec: %v", err)
	}
	images, err := runtimeapi.NewImageServiceClient(conn).ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil || len(images.Images) != 1 {
		t.Errorf("images: %v, %v", images, err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestPullImageFromARegistry(t *testing.T) {
	h := critest.New(t)
	far, err := image.Open(image.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	users := filepath.Join(t.TempDir(), "users.yaml")
	// The password is "secret".
	list := "users: [{name: ann, password: $2b$04$F4PcK7zfVNI6WLW68lX.zuD3KSOoGI1cAeq1RBZVbmpfWu4X8G1Sq, push: ['*']}]"
	if err := os.WriteFile(users, []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	known, err := server.ReadUsers(users)
	if err != nil {
		t.Fatal(err)
	}
	handler, err := server.Open(server.Config{Dir: t.TempDir(), Images: far, Users: known})
	if err != nil {
		t.Fatal(err)
	}
	defer handler.Close()
	web := httptest.NewServer(handler)
	defer web.Close()
	var archive bytes.Buffer
	if err := tar.NewWriter(&archive).Close(); err != nil {
		t.Fatal(err)
	}
	id, err := far.Import(t.Context(), &archive, image.ImportOptions{Ref: "box:1"})
	if err != nil {
		t.Fatal(err)
	}
	spec := &runtimeapi.ImageSpec{Image: strings.TrimPrefix(web.URL, "http://") + "/box:1"}
	if _, err := h.CRI.PullImage(t.Context(), spec, nil, nil); err == nil || !strings.Contains(err.Error(), "pull access denied") {
		t.Errorf("without credentials: %v", err)
	}
	for name, auth := range map[string]*runtimeapi.AuthConfig{
		"name and password": {Username: "ann", Password: "secret"},
		"auth":              {Auth: base64.StdEncoding.EncodeToString([]byte("ann:secret"))},
	} {
		got, err := h.CRI.PullImage(t.Context(), spec, auth, nil)
		if err != nil || got != id.String() {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	status, err := h.CRI.ImageStatus(t.Context(), spec, false)
	if err != nil || status.Image.GetId() != id.String() {
		t.Errorf("after the pull: %v, %v", status, err)
	}
	// What is here alone is what its name means, whatever a registry has.
	if _, err := h.Images.Resolve(t.Context(), critest.Image); err != nil {
		t.Fatal(err)
	}
	if _, err := h.CRI.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: critest.Image}, nil, nil); err != nil {
		t.Errorf("a local image: %v", err)
	}
}

func TestImagesThatThePolicyRefuses(t *testing.T) {
	h := critest.New(t)
	ctx := context.Background()
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte("rules: [{images: ['*'], refuse: true}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	policy, err := registry.ReadPolicy(file)
	if err != nil {
		t.Fatal(err)
	}
	h.Stop()
	h.Policy = policy
	h.Start()
	sc := sandboxConfig(t, "web")
	sandbox, err := h.CRI.RunPodSandbox(ctx, sc, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.CRI.CreateContainer(ctx, sandbox, containerConfig("app", "true"), sc); err == nil || !strings.Contains(err.Error(), "signature policy") {
		t.Errorf("CreateContainer: %v", err)
	}
	if _, err := h.CRI.PullImage(ctx, &runtimeapi.ImageSpec{Image: critest.Image}, nil, nil); err == nil || !strings.HasPrefix(err.Error(), "SignatureValidationFailed: ") {
		t.Errorf("PullImage: %v", err)
	}
	if err := errors.Join(h.CRI.StopPodSandbox(ctx, sandbox), h.CRI.RemovePodSandbox(ctx, sandbox)); err != nil {
		t.Error(err)
	}
}
