package cri

import (
	"context"
	"errors"
	"net/netip"
	"strconv"

	dnetwork "github.com/moby/moby/api/types/network"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"gantry/engine"
	"gantry/internal/problem"
)

// RunPodSandbox makes a pod's namespaces, address and cgroup. Nothing runs in
// it until a container does.
func (s *Service) RunPodSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig, handler string) (string, error) {
	spec, err := sandboxSpec(config, handler)
	if err != nil {
		return "", err
	}
	sb, err := s.cfg.Engine.CreateSandbox(ctx, spec)
	return sb.ID, err
}

// sandboxSpec translates a sandbox's configuration.
func sandboxSpec(c *runtimeapi.PodSandboxConfig, handler string) (engine.SandboxSpec, error) {
	m, linux := c.GetMetadata(), c.GetLinux()
	opts := linux.GetSecurityContext().GetNamespaceOptions()
	switch {
	case m.GetName() == "" || m.GetNamespace() == "" || m.GetUid() == "":
		return engine.SandboxSpec{}, problem.New(problem.Invalid, "sandbox metadata needs name, namespace and uid")
	case handler != "":
		return engine.SandboxSpec{}, problem.New(problem.Invalid, "no runtime for %q is configured", handler)
	case opts != nil && opts.Pid == runtimeapi.NamespaceMode_POD:
		return engine.SandboxSpec{}, unsupported("a process namespace shared by the containers of a pod (shareProcessNamespace)")
	case opts.GetUsernsOptions().GetMode() == runtimeapi.NamespaceMode_POD && len(opts.GetUsernsOptions().GetUids()) > 0:
		return engine.SandboxSpec{}, unsupported("a user namespace (hostUsers: false)")
	}
	spec := engine.SandboxSpec{
		Name: m.Name, Namespace: m.Namespace, UID: m.Uid, Attempt: m.Attempt,
		Hostname: c.Hostname, Labels: c.Labels, Annotations: c.Annotations, LogDirectory: c.LogDirectory,
		CgroupParent: linux.GetCgroupParent(), Resources: resources(linux.GetResources()), Sysctls: linux.GetSysctls(),
		HostNetwork: opts.GetNetwork() == runtimeapi.NamespaceMode_NODE,
		HostIPC:     opts.GetIpc() == runtimeapi.NamespaceMode_NODE,
		HostPID:     opts.GetPid() == runtimeapi.NamespaceMode_NODE,
	}
	if d := c.DnsConfig; d != nil {
		spec.DNS = engine.DNS{Servers: d.Servers, Searches: d.Searches, Options: d.Options}
	}
	for _, p := range c.PortMappings {
		m, err := portMapping(p)
		if err != nil {
			return spec, err
		}
		spec.Ports = append(spec.Ports, m)
	}
	return spec, nil
}

func portMapping(p *runtimeapi.PortMapping) (engine.PortMapping, error) {
	m := engine.PortMapping{Protocol: dnetwork.TCP, ContainerPort: uint16(p.ContainerPort), HostPort: uint16(p.HostPort)}
	switch p.Protocol {
	case runtimeapi.Protocol_UDP:
		m.Protocol = dnetwork.UDP
	case runtimeapi.Protocol_SCTP:
		m.Protocol = dnetwork.SCTP
	}
	if p.HostIp != "" {
		ip, err := netip.ParseAddr(p.HostIp)
		if err != nil {
			return m, problem.New(problem.Invalid, "host address of port %d: %w", p.ContainerPort, err)
		}
		m.HostIP = ip
	}
	return m, nil
}

// StopPodSandbox kills what runs in a sandbox and gives its resources back.
func (s *Service) StopPodSandbox(ctx context.Context, id string) error {
	return ignoreMissing(s.cfg.Engine.StopSandbox(ctx, id))
}

// RemovePodSandbox removes a sandbox and its containers.
func (s *Service) RemovePodSandbox(ctx context.Context, id string) error {
	return ignoreMissing(s.cfg.Engine.RemoveSandbox(ctx, id))
}

func ignoreMissing(err error) error {
	if errors.Is(err, problem.NotFound) {
		return nil
	}
	return err
}

// PodSandboxStatus describes one sandbox, and its containers.
func (s *Service) PodSandboxStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	sb, err := s.cfg.Engine.Sandbox(ctx, id)
	if err != nil {
		return nil, err
	}
	r := &runtimeapi.PodSandboxStatusResponse{Status: sandboxStatus(&sb)}
	if verbose {
		r.Info = map[string]string{"networkNamespace": sb.NetworkNamespace}
	}
	return r, nil
}

func sandboxState(sb *engine.Sandbox) runtimeapi.PodSandboxState {
	if sb.State == engine.SandboxReady {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

func sandboxMetadata(sb *engine.Sandbox) *runtimeapi.PodSandboxMetadata {
	return &runtimeapi.PodSandboxMetadata{Name: sb.Name, Namespace: sb.Namespace, Uid: sb.UID, Attempt: sb.Attempt}
}

func sandboxStatus(sb *engine.Sandbox) *runtimeapi.PodSandboxStatus {
	mode := func(host bool) runtimeapi.NamespaceMode {
		if host {
			return runtimeapi.NamespaceMode_NODE
		}
		return runtimeapi.NamespaceMode_POD
	}
	pid := runtimeapi.NamespaceMode_CONTAINER
	if sb.HostPID {
		pid = runtimeapi.NamespaceMode_NODE
	}
	st := &runtimeapi.PodSandboxStatus{
		Id: sb.ID, Metadata: sandboxMetadata(sb), State: sandboxState(sb), CreatedAt: sb.Created.UnixNano(),
		Labels: sb.Labels, Annotations: sb.Annotations, Network: &runtimeapi.PodSandboxNetworkStatus{},
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: &runtimeapi.NamespaceOption{
			Network: mode(sb.HostNetwork), Ipc: mode(sb.HostIPC), Pid: pid}}},
	}
	for i, ip := range sb.IPs {
		if i == 0 {
			st.Network.Ip = ip.String()
		} else {
			st.Network.AdditionalIps = append(st.Network.AdditionalIps, &runtimeapi.PodIP{Ip: ip.String()})
		}
	}
	return st
}

// ListPodSandbox lists the sandboxes that filter selects, newest first.
func (s *Service) ListPodSandbox(ctx context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	if err := s.checkReady(); err != nil {
		return nil, err
	}
	id := filter.GetId()
	if id != "" {
		sb, err := s.cfg.Engine.Sandbox(ctx, id)
		if err != nil {
			return nil, ignoreMissing(err)
		}
		id = sb.ID
	}
	var out []*runtimeapi.PodSandbox
	for _, sb := range s.cfg.Engine.Sandboxes(ctx) {
		if id != "" && sb.ID != id || !matches(sb.Labels, filter.GetLabelSelector()) ||
			filter.GetState() != nil && filter.State.State != sandboxState(&sb) {
			continue
		}
		out = append(out, &runtimeapi.PodSandbox{Id: sb.ID, Metadata: sandboxMetadata(&sb), State: sandboxState(&sb),
			CreatedAt: sb.Created.UnixNano(), Labels: sb.Labels, Annotations: sb.Annotations})
	}
	return out, nil
}

// UpdatePodSandboxResources changes the limits of a pod as a whole. What the
// request leaves out stays as it is.
func (s *Service) UpdatePodSandboxResources(ctx context.Context, q *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	err := s.cfg.Engine.UpdateSandbox(ctx, q.PodSandboxId, resources(q.Resources))
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, err
}

// containerName is the name under which the engine knows a pod's container.
func containerName(name string, attempt uint32, sandbox *engine.Sandbox) string {
	return "k8s_" + name + "_" + sandbox.Name + "_" + sandbox.Namespace + "_" + sandbox.UID + "_" + strconv.FormatUint(uint64(attempt), 10)
}

// podLabels identify the pod of a sandbox.
func podLabels(sb *engine.Sandbox) map[string]string {
	return map[string]string{
		kubelettypes.KubernetesPodNameLabel:      sb.Name,
		kubelettypes.KubernetesPodNamespaceLabel: sb.Namespace,
		kubelettypes.KubernetesPodUIDLabel:       sb.UID,
	}
}
