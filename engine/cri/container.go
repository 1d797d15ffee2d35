package cri

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"gantry/engine"
)

// CreateContainer makes a container in a sandbox.
func (s *Service) CreateContainer(ctx context.Context, sandboxID string, config *runtimeapi.ContainerConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	sb, err := s.cfg.Engine.Sandbox(ctx, sandboxID)
	if err != nil {
		return "", err
	}
	req, err := createRequest(config, &sb)
	if err != nil {
		return "", err
	}
	confined, err := appArmor(config.GetLinux().GetSecurityContext(), s.cfg.Engine.AppArmor())
	if err != nil {
		return "", err
	}
	req.HostConfig.SecurityOpt = append(req.HostConfig.SecurityOpt, confined...)
	// The name that people know, where it means the same image.
	if name := config.GetImage().GetUserSpecifiedImage(); name != "" && name != req.Config.Image {
		if img, err := s.cfg.Images.Resolve(ctx, name); err == nil && imageID(img.ID) == req.Config.Image {
			req.Config.Image = name
		}
	}
	r, err := s.cfg.Engine.Create(ctx, req)
	return r.ID, err
}

// StartContainer starts a container. One that cannot be executed counts as
// ended from then on, with the reason StartError.
func (s *Service) StartContainer(ctx context.Context, id string) error {
	err := s.cfg.Engine.Start(ctx, id)
	if errors.Is(err, engine.ErrNotModified) {
		return nil
	}
	return err
}

// StopContainer stops a container, by force after timeout seconds.
func (s *Service) StopContainer(ctx context.Context, id string, timeout int64) error {
	grace := time.Duration(timeout) * time.Second
	opts := engine.StopOptions{Timeout: &grace}
	if timeout == 0 {
		opts.Signal = "KILL"
	}
	err := s.cfg.Engine.Stop(ctx, id, opts)
	if errors.Is(err, engine.ErrNotModified) {
		return nil
	}
	return ignoreMissing(err)
}

// RemoveContainer removes a container, running or not. Its log stays.
func (s *Service) RemoveContainer(ctx context.Context, id string) error {
	return ignoreMissing(s.cfg.Engine.Remove(ctx, id, engine.RemoveOptions{Force: true, Volumes: true}))
}

// ListContainers lists the pods' containers that filter selects, newest first.
func (s *Service) ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	if err := s.checkReady(); err != nil {
		return nil, err
	}
	var out []*runtimeapi.Container
	for _, c := range s.cfg.Engine.Containers(ctx) {
		if c.Sandbox == "" || !matches(c.Config.Labels, filter.GetLabelSelector()) ||
			filter.GetPodSandboxId() != "" && !strings.HasPrefix(c.Sandbox, filter.PodSandboxId) ||
			filter.GetId() != "" && !strings.HasPrefix(c.ID, filter.Id) ||
			filter.GetState() != nil && filter.State.State != containerState(&c) {
			continue
		}
		out = append(out, &runtimeapi.Container{
			Id: c.ID, PodSandboxId: c.Sandbox, Metadata: containerMetadata(&c), Image: imageSpec(&c),
			ImageRef: imageID(c.Image), ImageId: imageID(c.Image), State: containerState(&c),
			CreatedAt: c.Created.UnixNano(), Labels: c.Config.Labels, Annotations: shown(c.Annotations),
		})
	}
	return out, nil
}

// ContainerStatus describes one container.
func (s *Service) ContainerStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error) {
	c, err := s.cfg.Engine.Container(ctx, id)
	if err != nil {
		return nil, err
	}
	r := &runtimeapi.ContainerStatusResponse{Status: containerStatus(&c)}
	if verbose {
		r.Info = map[string]string{"pid": strconv.Itoa(c.Pid), "sandboxID": c.Sandbox}
	}
	return r, nil
}

// UpdateContainerResources changes the limits of a container.
func (s *Service) UpdateContainerResources(ctx context.Context, id string, r *runtimeapi.ContainerResources) error {
	_, err := s.cfg.Engine.Update(ctx, id, dcontainer.UpdateConfig{Resources: resources(r.GetLinux())})
	return err
}

// ReopenContainerLog is refused: the engine rotates logs itself.
func (s *Service) ReopenContainerLog(context.Context, string) error {
	return unsupported("ReopenContainerLog")
}

// CheckpointContainer is refused.
func (s *Service) CheckpointContainer(context.Context, *runtimeapi.CheckpointContainerRequest) error {
	return unsupported("CheckpointContainer")
}

// startErrorCode is the exit code of what could not be executed, where the
// engine has none.
const startErrorCode = 128

// failedStart tells that a container will never run: its one start failed.
func failedStart(c *engine.Container) bool {
	return c.Status == dcontainer.StateCreated && c.Error != ""
}

func containerState(c *engine.Container) runtimeapi.ContainerState {
	switch c.Status {
	case dcontainer.StateCreated:
		if failedStart(c) {
			return runtimeapi.ContainerState_CONTAINER_EXITED
		}
		return runtimeapi.ContainerState_CONTAINER_CREATED
	case dcontainer.StateRunning, dcontainer.StatePaused, dcontainer.StateRestarting:
		return runtimeapi.ContainerState_CONTAINER_RUNNING
	case dcontainer.StateExited, dcontainer.StateDead, dcontainer.StateRemoving:
		return runtimeapi.ContainerState_CONTAINER_EXITED
	}
	return runtimeapi.ContainerState_CONTAINER_UNKNOWN
}

func containerMetadata(c *engine.Container) *runtimeapi.ContainerMetadata {
	attempt, err := strconv.ParseUint(c.Annotations[annotationAttempt], 10, 32)
	if err != nil {
		attempt = 0 // written by this package; another value was never written
	}
	return &runtimeapi.ContainerMetadata{Name: c.Annotations[annotationName], Attempt: uint32(attempt)}
}

func imageSpec(c *engine.Container) *runtimeapi.ImageSpec {
	name := c.Annotations[annotationImage]
	if name == "" {
		name = c.Config.Image
	}
	return &runtimeapi.ImageSpec{Image: name, UserSpecifiedImage: name}
}

// shown is annotations without this package's own.
func shown(annotations map[string]string) map[string]string {
	out := make(map[string]string, len(annotations))
	for k, v := range annotations {
		if !strings.HasPrefix(k, ownPrefix) {
			out[k] = v
		}
	}
	return out
}

func containerStatus(c *engine.Container) *runtimeapi.ContainerStatus {
	st := &runtimeapi.ContainerStatus{
		Id: c.ID, Metadata: containerMetadata(c), State: containerState(c), Image: imageSpec(c),
		ImageRef: imageID(c.Image), ImageId: imageID(c.Image), CreatedAt: c.Created.UnixNano(),
		StartedAt: nanos(c.StartedAt), FinishedAt: nanos(c.FinishedAt), ExitCode: int32(c.ExitCode),
		Labels: c.Config.Labels, Annotations: shown(c.Annotations), LogPath: c.LogPath,
	}
	for _, m := range c.Mounts {
		st.Mounts = append(st.Mounts, &runtimeapi.Mount{HostPath: m.Source, ContainerPath: m.Destination, Readonly: !m.RW})
	}
	if st.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		st.FinishedAt, st.ExitCode = 0, 0
		return st
	}
	switch {
	case c.Error != "":
		st.Reason, st.Message = "StartError", c.Error
		if st.ExitCode == 0 {
			st.ExitCode = startErrorCode
		}
		if st.FinishedAt == 0 {
			st.FinishedAt = st.CreatedAt
		}
	case c.OOMKilled:
		st.Reason = "OOMKilled"
	case c.ExitCode == 0:
		st.Reason = "Completed"
	default:
		st.Reason = "Error"
	}
	return st
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
