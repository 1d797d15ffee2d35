package cri

import (
	"context"
	"errors"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"gantry/internal/problem"
)

// Serve answers the interface's gRPC calls on l until ctx ends. Exec, Attach
// and PortForward, which need a streaming server of their own, are refused
// there; ExecSync works.
func (s *Service) Serve(ctx context.Context, l net.Listener) error {
	g := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			resp, err := next(ctx, req)
			return resp, toStatus(err)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return toStatus(next(srv, stream))
		}))
	runtimeapi.RegisterRuntimeServiceServer(g, &runtimeServer{s: s})
	runtimeapi.RegisterImageServiceServer(g, &imageServer{s: s})
	stop := context.AfterFunc(ctx, g.Stop)
	defer stop()
	if err := g.Serve(l); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// toStatus maps the error kinds to gRPC's codes.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	for _, m := range []struct {
		kind error
		code codes.Code
	}{
		{problem.NotFound, codes.NotFound}, {problem.Exists, codes.AlreadyExists}, {problem.Conflict, codes.FailedPrecondition},
		{problem.Invalid, codes.InvalidArgument}, {problem.Denied, codes.PermissionDenied}, {problem.Unavailable, codes.Unavailable},
		{problem.Unsupported, codes.Unimplemented}, {problem.NoSpace, codes.ResourceExhausted},
		{context.Canceled, codes.Canceled}, {context.DeadlineExceeded, codes.DeadlineExceeded},
	} {
		if errors.Is(err, m.kind) {
			return status.Error(m.code, err.Error())
		}
	}
	return err
}

// runtimeServer gives Service the shape of the generated server. The methods
// that it does not have answer Unimplemented.
type runtimeServer struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	s *Service
}

func (r *runtimeServer) Version(ctx context.Context, q *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return r.s.Version(ctx, q.Version)
}

func (r *runtimeServer) Status(ctx context.Context, q *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	return r.s.Status(ctx, q.Verbose)
}

func (r *runtimeServer) RuntimeConfig(ctx context.Context, _ *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	return r.s.RuntimeConfig(ctx)
}

func (r *runtimeServer) UpdateRuntimeConfig(ctx context.Context, q *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	return &runtimeapi.UpdateRuntimeConfigResponse{}, r.s.UpdateRuntimeConfig(ctx, q.RuntimeConfig)
}

func (r *runtimeServer) RunPodSandbox(ctx context.Context, q *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	id, err := r.s.RunPodSandbox(ctx, q.Config, q.RuntimeHandler)
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, err
}

func (r *runtimeServer) StopPodSandbox(ctx context.Context, q *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	return &runtimeapi.StopPodSandboxResponse{}, r.s.StopPodSandbox(ctx, q.PodSandboxId)
}

func (r *runtimeServer) RemovePodSandbox(ctx context.Context, q *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	return &runtimeapi.RemovePodSandboxResponse{}, r.s.RemovePodSandbox(ctx, q.PodSandboxId)
}

func (r *runtimeServer) PodSandboxStatus(ctx context.Context, q *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	return r.s.PodSandboxStatus(ctx, q.PodSandboxId, q.Verbose)
}

func (r *runtimeServer) ListPodSandbox(ctx context.Context, q *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	items, err := r.s.ListPodSandbox(ctx, q.Filter)
	return &runtimeapi.ListPodSandboxResponse{Items: items}, err
}

func (r *runtimeServer) CreateContainer(ctx context.Context, q *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	id, err := r.s.CreateContainer(ctx, q.PodSandboxId, q.Config, q.SandboxConfig)
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, err
}

func (r *runtimeServer) StartContainer(ctx context.Context, q *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	return &runtimeapi.StartContainerResponse{}, r.s.StartContainer(ctx, q.ContainerId)
}

func (r *runtimeServer) StopContainer(ctx context.Context, q *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	return &runtimeapi.StopContainerResponse{}, r.s.StopContainer(ctx, q.ContainerId, q.Timeout)
}

func (r *runtimeServer) RemoveContainer(ctx context.Context, q *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	return &runtimeapi.RemoveContainerResponse{}, r.s.RemoveContainer(ctx, q.ContainerId)
}

func (r *runtimeServer) ListContainers(ctx context.Context, q *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	list, err := r.s.ListContainers(ctx, q.Filter)
	return &runtimeapi.ListContainersResponse{Containers: list}, err
}

func (r *runtimeServer) ContainerStatus(ctx context.Context, q *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	return r.s.ContainerStatus(ctx, q.ContainerId, q.Verbose)
}

func (r *runtimeServer) UpdateContainerResources(ctx context.Context, q *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	return &runtimeapi.UpdateContainerResourcesResponse{}, r.s.UpdateContainerResources(ctx, q.ContainerId, &runtimeapi.ContainerResources{Linux: q.Linux})
}

func (r *runtimeServer) ReopenContainerLog(ctx context.Context, q *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	return nil, r.s.ReopenContainerLog(ctx, q.ContainerId)
}

func (r *runtimeServer) ExecSync(ctx context.Context, q *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	stdout, stderr, err := r.s.ExecSync(ctx, q.ContainerId, q.Cmd, time.Duration(q.Timeout)*time.Second)
	resp := &runtimeapi.ExecSyncResponse{Stdout: stdout, Stderr: stderr}
	if exit, ok := errors.AsType[interface {
		error
		ExitStatus() int
	}](err); ok {
		resp.ExitCode = int32(exit.ExitStatus())
		return resp, nil
	}
	return resp, err
}

func (r *runtimeServer) Exec(ctx context.Context, q *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	return r.s.Exec(ctx, q)
}

func (r *runtimeServer) Attach(ctx context.Context, q *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	return r.s.Attach(ctx, q)
}

func (r *runtimeServer) PortForward(ctx context.Context, q *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	return r.s.PortForward(ctx, q)
}

func (r *runtimeServer) ContainerStats(ctx context.Context, q *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	st, err := r.s.ContainerStats(ctx, q.ContainerId)
	return &runtimeapi.ContainerStatsResponse{Stats: st}, err
}

func (r *runtimeServer) ListContainerStats(ctx context.Context, q *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	list, err := r.s.ListContainerStats(ctx, q.Filter)
	return &runtimeapi.ListContainerStatsResponse{Stats: list}, err
}

func (r *runtimeServer) PodSandboxStats(ctx context.Context, q *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	st, err := r.s.PodSandboxStats(ctx, q.PodSandboxId)
	return &runtimeapi.PodSandboxStatsResponse{Stats: st}, err
}

func (r *runtimeServer) ListPodSandboxStats(ctx context.Context, q *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	list, err := r.s.ListPodSandboxStats(ctx, q.Filter)
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: list}, err
}

// eventsBuffer takes a burst while the client reads.
const eventsBuffer = 64

// GetContainerEvents sends events as Service does, with the states that a
// remote client wants in them.
func (r *runtimeServer) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	events := make(chan *runtimeapi.ContainerEventResponse, eventsBuffer)
	done := make(chan error, 1)
	go func() { done <- r.s.GetContainerEvents(ctx, events, nil) }()
	for {
		select {
		case e := <-events:
			r.s.fill(ctx, e)
			if err := stream.Send(e); err != nil {
				cancel()
				<-done
				return err
			}
		case err := <-done:
			return err
		}
	}
}

// fill adds what is known of the event's pod at this moment.
func (s *Service) fill(ctx context.Context, e *runtimeapi.ContainerEventResponse) {
	uid := e.PodSandboxStatus.Metadata.Uid
	for _, sb := range s.cfg.Engine.Sandboxes(ctx) {
		if sb.UID == uid {
			e.PodSandboxStatus = sandboxStatus(&sb)
			break // newest first
		}
	}
	for _, c := range s.cfg.Engine.Containers(ctx) {
		if c.Sandbox != "" && c.Sandbox == e.PodSandboxStatus.Id {
			e.ContainersStatuses = append(e.ContainersStatuses, containerStatus(&c))
		}
	}
}

// imageServer is the same for images.
type imageServer struct {
	runtimeapi.UnimplementedImageServiceServer
	s *Service
}

func (i *imageServer) ListImages(ctx context.Context, q *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	list, err := i.s.ListImages(ctx, q.Filter)
	return &runtimeapi.ListImagesResponse{Images: list}, err
}

func (i *imageServer) ImageStatus(ctx context.Context, q *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	return i.s.ImageStatus(ctx, q.Image, q.Verbose)
}

func (i *imageServer) PullImage(ctx context.Context, q *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	id, err := i.s.PullImage(ctx, q.Image, q.Auth, q.SandboxConfig)
	return &runtimeapi.PullImageResponse{ImageRef: id}, err
}

func (i *imageServer) RemoveImage(ctx context.Context, q *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	return &runtimeapi.RemoveImageResponse{}, i.s.RemoveImage(ctx, q.Image)
}

func (i *imageServer) ImageFsInfo(ctx context.Context, _ *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	return i.s.ImageFsInfo(ctx)
}

func (r *runtimeServer) UpdatePodSandboxResources(ctx context.Context, q *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	return r.s.UpdatePodSandboxResources(ctx, q)
}
