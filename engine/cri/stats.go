package cri

import (
	"context"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"gantry/engine"
)

// ContainerStats samples the use of one container.
func (s *Service) ContainerStats(ctx context.Context, id string) (*runtimeapi.ContainerStats, error) {
	c, err := s.cfg.Engine.Container(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.sample(ctx, &c)
}

func (s *Service) sample(ctx context.Context, c *engine.Container) (*runtimeapi.ContainerStats, error) {
	st, err := s.cfg.Engine.Stats(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	now := time.Now().UnixNano()
	return &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{Id: c.ID, Metadata: containerMetadata(c), Labels: c.Config.Labels, Annotations: shown(c.Annotations)},
		Cpu:        &runtimeapi.CpuUsage{Timestamp: now, UsageCoreNanoSeconds: &runtimeapi.UInt64Value{Value: st.CPUStats.CPUUsage.TotalUsage}},
		Memory:     memory(now, st.MemoryStats),
	}, nil
}

// memory reports what counts against the limit; the working set is what is
// left when the kernel has dropped what it can.
func memory(now int64, m dcontainer.MemoryStats) *runtimeapi.MemoryUsage {
	inactive, ok := m.Stats["total_inactive_file"] // cgroup v1
	if !ok {
		inactive = m.Stats["inactive_file"]
	}
	rss, ok := m.Stats["total_rss"]
	if !ok {
		rss = m.Stats["anon"]
	}
	working := m.Usage - min(inactive, m.Usage)
	return &runtimeapi.MemoryUsage{Timestamp: now, UsageBytes: &runtimeapi.UInt64Value{Value: m.Usage},
		WorkingSetBytes: &runtimeapi.UInt64Value{Value: working}, RssBytes: &runtimeapi.UInt64Value{Value: rss}}
}

// ListContainerStats samples the running containers of pods that filter selects.
func (s *Service) ListContainerStats(ctx context.Context, filter *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	var out []*runtimeapi.ContainerStats
	for _, c := range s.cfg.Engine.Containers(ctx) {
		if c.Sandbox == "" || containerState(&c) != runtimeapi.ContainerState_CONTAINER_RUNNING ||
			filter.GetId() != "" && filter.Id != c.ID || filter.GetPodSandboxId() != "" && filter.PodSandboxId != c.Sandbox ||
			!matches(c.Config.Labels, filter.GetLabelSelector()) {
			continue
		}
		st, err := s.sample(ctx, &c)
		if err != nil {
			continue // ended between the two calls
		}
		out = append(out, st)
	}
	return out, nil
}

// PodSandboxStats sums up the containers of one sandbox.
func (s *Service) PodSandboxStats(ctx context.Context, id string) (*runtimeapi.PodSandboxStats, error) {
	sb, err := s.cfg.Engine.Sandbox(ctx, id)
	if err != nil {
		return nil, err
	}
	list, err := s.ListContainerStats(ctx, &runtimeapi.ContainerStatsFilter{PodSandboxId: sb.ID})
	if err != nil {
		return nil, err
	}
	now := time.Now().UnixNano()
	var cpu, usage, working uint64
	for _, c := range list {
		cpu += c.Cpu.GetUsageCoreNanoSeconds().GetValue()
		usage += c.Memory.GetUsageBytes().GetValue()
		working += c.Memory.GetWorkingSetBytes().GetValue()
	}
	return &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{Id: sb.ID, Metadata: sandboxMetadata(&sb), Labels: sb.Labels, Annotations: sb.Annotations},
		Linux: &runtimeapi.LinuxPodSandboxStats{Containers: list,
			Cpu: &runtimeapi.CpuUsage{Timestamp: now, UsageCoreNanoSeconds: &runtimeapi.UInt64Value{Value: cpu}},
			Memory: &runtimeapi.MemoryUsage{Timestamp: now, UsageBytes: &runtimeapi.UInt64Value{Value: usage},
				WorkingSetBytes: &runtimeapi.UInt64Value{Value: working}}},
	}, nil
}

// ListPodSandboxStats sums up the containers of each ready sandbox that filter selects.
func (s *Service) ListPodSandboxStats(ctx context.Context, filter *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	var out []*runtimeapi.PodSandboxStats
	for _, sb := range s.cfg.Engine.Sandboxes(ctx) {
		if sb.State != engine.SandboxReady || filter.GetId() != "" && filter.Id != sb.ID || !matches(sb.Labels, filter.GetLabelSelector()) {
			continue
		}
		st, err := s.PodSandboxStats(ctx, sb.ID)
		if err != nil {
			continue // removed between the two calls
		}
		out = append(out, st)
	}
	return out, nil
}

// ListMetricDescriptors is refused.
func (s *Service) ListMetricDescriptors(context.Context) ([]*runtimeapi.MetricDescriptor, error) {
	return nil, unsupported("ListMetricDescriptors")
}

// ListPodSandboxMetrics is refused.
func (s *Service) ListPodSandboxMetrics(context.Context) ([]*runtimeapi.PodSandboxMetrics, error) {
	return nil, unsupported("ListPodSandboxMetrics")
}
