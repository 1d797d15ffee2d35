package kubelet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fakeRuntime stands in for the engine where a test is about the kubelet's own
// logic: containers are records, and the test says when they end.
type fakeRuntime struct {
	internalapi.RuntimeService // nil: a call that no test expects panics
	internalapi.ImageManagerService

	mu         sync.Mutex
	next       int
	sandboxes  map[string]*runtimeapi.PodSandboxStatus
	containers map[string]*fakeContainer
	listeners  map[chan *runtimeapi.ContainerEventResponse]context.Context
	images     map[string]*runtimeapi.Image
	ignoreTerm bool
	startErr   error
	exec       func(id string, cmd []string) ([]byte, error)
}

type fakeContainer struct {
	status  *runtimeapi.ContainerStatus
	config  *runtimeapi.ContainerConfig
	sandbox string
	logPath string
	stops   []int64
}

func newFakeRuntime() *fakeRuntime {
	return &fakeRuntime{sandboxes: map[string]*runtimeapi.PodSandboxStatus{}, containers: map[string]*fakeContainer{},
		listeners: map[chan *runtimeapi.ContainerEventResponse]context.Context{},
		images:    map[string]*runtimeapi.Image{"img": {Id: "sha256:1", RepoTags: []string{"img:latest"}, Size: 10}}}
}

func (f *fakeRuntime) Close(context.Context) error { return nil }

func (f *fakeRuntime) Version(context.Context, string) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: "fake", RuntimeVersion: "1"}, nil
}

func (f *fakeRuntime) Status(context.Context, bool) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: runtimeapi.RuntimeReady, Status: true}, {Type: runtimeapi.NetworkReady, Status: true}}}}, nil
}

func (f *fakeRuntime) id(kind string) string {
	f.next++
	return fmt.Sprintf("%s%d", kind, f.next)
}

func (f *fakeRuntime) RunPodSandbox(_ context.Context, c *runtimeapi.PodSandboxConfig, _ string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := f.id("sandbox")
	f.sandboxes[id] = &runtimeapi.PodSandboxStatus{Id: id, Metadata: c.Metadata, Labels: c.Labels, Annotations: map[string]string{"logs": c.LogDirectory},
		CreatedAt: time.Now().UnixNano(), Network: &runtimeapi.PodSandboxNetworkStatus{Ip: fmt.Sprintf("127.0.0.%d", 10+f.next)}}
	return id, nil
}

func (f *fakeRuntime) StopPodSandbox(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if sb := f.sandboxes[id]; sb != nil {
		sb = cloneSandbox(sb)
		sb.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
		sb.Network = &runtimeapi.PodSandboxNetworkStatus{}
		f.sandboxes[id] = sb
	}
	return nil
}

func cloneSandbox(sb *runtimeapi.PodSandboxStatus) *runtimeapi.PodSandboxStatus {
	return &runtimeapi.PodSandboxStatus{Id: sb.Id, Metadata: sb.Metadata, State: sb.State, Labels: sb.Labels, Annotations: sb.Annotations, CreatedAt: sb.CreatedAt, Network: sb.Network}
}

func (f *fakeRuntime) RemovePodSandbox(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.sandboxes, id)
	for cid, c := range f.containers {
		if c.sandbox == id {
			delete(f.containers, cid)
		}
	}
	return nil
}

func (f *fakeRuntime) PodSandboxStatus(_ context.Context, id string, _ bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	sb := f.sandboxes[id]
	if sb == nil {
		return nil, fmt.Errorf("no sandbox %s", id)
	}
	return &runtimeapi.PodSandboxStatusResponse{Status: cloneSandbox(sb)}, nil
}

func hasLabels(labels, selector map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func (f *fakeRuntime) ListPodSandbox(_ context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*runtimeapi.PodSandbox
	for _, sb := range f.sandboxes {
		if hasLabels(sb.Labels, filter.GetLabelSelector()) {
			out = append(out, &runtimeapi.PodSandbox{Id: sb.Id, Metadata: sb.Metadata, State: sb.State, Labels: sb.Labels})
		}
	}
	return out, nil
}

func (f *fakeRuntime) CreateContainer(_ context.Context, sandbox string, c *runtimeapi.ContainerConfig, sc *runtimeapi.PodSandboxConfig) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := f.id(c.Metadata.Name)
	f.containers[id] = &fakeContainer{config: c, sandbox: sandbox, logPath: filepath.Join(sc.LogDirectory, c.LogPath), status: &runtimeapi.ContainerStatus{Id: id, Metadata: c.Metadata,
		CreatedAt: time.Now().UnixNano(), Image: c.Image, ImageId: c.Image.Image, Labels: c.Labels, Annotations: c.Annotations}}
	f.tell(id, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	return id, nil
}

func (f *fakeRuntime) StartContainer(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.startErr != nil {
		return f.startErr
	}
	c := f.containers[id]
	st := cloneStatus(c.status)
	st.State, st.StartedAt = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	c.status = st
	if err := os.WriteFile(c.logPath, []byte(time.Now().UTC().Format(time.RFC3339Nano)+" stdout F hello from "+id+"\n"), 0o600); err != nil {
		return err
	}
	f.tell(id, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	return nil
}

func cloneStatus(s *runtimeapi.ContainerStatus) *runtimeapi.ContainerStatus {
	return &runtimeapi.ContainerStatus{Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, StartedAt: s.StartedAt,
		FinishedAt: s.FinishedAt, ExitCode: s.ExitCode, Image: s.Image, ImageId: s.ImageId, Labels: s.Labels, Annotations: s.Annotations, Reason: s.Reason}
}

// exit ends a container by itself.
func (f *fakeRuntime) exit(id string, code int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[id]
	if c == nil || c.status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return
	}
	st := cloneStatus(c.status)
	st.State, st.FinishedAt, st.ExitCode = runtimeapi.ContainerState_CONTAINER_EXITED, time.Now().UnixNano(), code
	c.status = st
	f.tell(id, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

func (f *fakeRuntime) StopContainer(ctx context.Context, id string, timeout int64) error {
	f.mu.Lock()
	if c := f.containers[id]; c != nil {
		c.stops = append(c.stops, timeout)
	}
	ignore := f.ignoreTerm
	f.mu.Unlock()
	code := int32(143)
	if ignore && timeout > 0 {
		select {
		case <-time.After(time.Duration(timeout) * time.Second):
			code = 137
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f.exit(id, code)
	return nil
}

func (f *fakeRuntime) RemoveContainer(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.containers, id)
	return nil
}

func (f *fakeRuntime) ListContainers(_ context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*runtimeapi.Container
	for id, c := range f.containers {
		if hasLabels(c.status.Labels, filter.GetLabelSelector()) {
			out = append(out, &runtimeapi.Container{Id: id, PodSandboxId: c.sandbox, Metadata: c.status.Metadata, State: c.status.State, Labels: c.status.Labels, Annotations: c.status.Annotations})
		}
	}
	return out, nil
}

func (f *fakeRuntime) ContainerStatus(_ context.Context, id string, _ bool) (*runtimeapi.ContainerStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[id]
	if c == nil {
		return nil, fmt.Errorf("no container %s", id)
	}
	return &runtimeapi.ContainerStatusResponse{Status: cloneStatus(c.status)}, nil
}

func (f *fakeRuntime) ExecSync(_ context.Context, id string, cmd []string, _ time.Duration) ([]byte, []byte, error) {
	f.mu.Lock()
	exec := f.exec
	f.mu.Unlock()
	if exec == nil {
		return nil, nil, nil
	}
	out, err := exec(id, cmd)
	return out, nil, err
}

// tell is called with mu held; the listeners' buffers are larger than any test's events.
func (f *fakeRuntime) tell(id string, kind runtimeapi.ContainerEventType) {
	c := f.containers[id]
	for l := range f.listeners {
		l <- &runtimeapi.ContainerEventResponse{ContainerId: id, ContainerEventType: kind,
			PodSandboxStatus: &runtimeapi.PodSandboxStatus{Metadata: &runtimeapi.PodSandboxMetadata{Uid: c.status.Labels["io.kubernetes.pod.uid"]}}}
	}
}

func (f *fakeRuntime) GetContainerEvents(ctx context.Context, events chan *runtimeapi.ContainerEventResponse, established func(runtimeapi.RuntimeService_GetContainerEventsClient)) error {
	f.mu.Lock()
	f.listeners[events] = ctx
	f.mu.Unlock()
	established(nil)
	<-ctx.Done()
	f.mu.Lock()
	delete(f.listeners, events)
	f.mu.Unlock()
	return ctx.Err()
}

func (f *fakeRuntime) ListImages(context.Context, *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*runtimeapi.Image
	for _, img := range f.images {
		out = append(out, img)
	}
	return out, nil
}

func (f *fakeRuntime) ImageStatus(_ context.Context, s *runtimeapi.ImageSpec, _ bool) (*runtimeapi.ImageStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &runtimeapi.ImageStatusResponse{Image: f.images[s.Image]}, nil
}

func (f *fakeRuntime) PullImage(_ context.Context, s *runtimeapi.ImageSpec, _ *runtimeapi.AuthConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if img := f.images[s.Image]; img != nil {
		return img.Id, nil
	}
	return "", fmt.Errorf("no registry has %s", s.Image)
}

// running returns the ID of a container's running attempt, or "".
func (f *fakeRuntime) running(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, c := range f.containers {
		if c.status.Metadata.Name == name && c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			return id
		}
	}
	return ""
}
