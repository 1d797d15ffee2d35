package cri

import (
	"path/filepath"
	"strconv"
	"strings"

	dcontainer "github.com/moby/moby/api/types/container"
	dmount "github.com/moby/moby/api/types/mount"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"gantry/engine"
	"gantry/engine/internal/apparmor"
	"gantry/internal/problem"
)

// The annotations in which this package keeps what the engine has no field for.
const (
	ownPrefix         = "io.gantry.cri/"
	annotationName    = ownPrefix + "name"
	annotationAttempt = ownPrefix + "attempt"
	annotationImage   = ownPrefix + "image" // as the pod has it

)

// createRequest translates a container's configuration.
func createRequest(c *runtimeapi.ContainerConfig, sandbox *engine.Sandbox) (engine.CreateRequest, error) {
	m := c.GetMetadata()
	if m.GetName() == "" || c.GetImage().GetImage() == "" {
		return engine.CreateRequest{}, problem.New(problem.Invalid, "container needs a name and an image")
	}
	if err := refuse(c); err != nil {
		return engine.CreateRequest{}, err
	}
	host, err := hostConfig(c, sandbox)
	if err != nil {
		return engine.CreateRequest{}, err
	}
	config := &dcontainer.Config{
		Image: c.Image.Image, Entrypoint: c.Command, Cmd: c.Args, WorkingDir: c.WorkingDir, Labels: map[string]string{},
		OpenStdin: c.Stdin, StdinOnce: c.StdinOnce, Tty: c.Tty, User: user(c.GetLinux().GetSecurityContext()),
		AttachStdout: true, AttachStderr: true, Healthcheck: &dcontainer.HealthConfig{Test: []string{"NONE"}}, // pods have probes
	}
	for _, e := range c.Envs {
		config.Env = append(config.Env, e.Key+"="+string(e.Value))
	}
	for k, v := range c.Labels {
		config.Labels[k] = v
	}
	for k, v := range podLabels(sandbox) {
		config.Labels[k] = v
	}
	if c.StopSignal != runtimeapi.Signal_RUNTIME_DEFAULT {
		config.StopSignal = signalName(c.StopSignal)
	}
	req := engine.CreateRequest{
		Name: containerName(m.Name, m.Attempt, sandbox), Config: config, HostConfig: host, Sandbox: sandbox.ID, LogFormat: "none",
		Annotations: map[string]string{annotationName: m.Name, annotationAttempt: strconv.FormatUint(uint64(m.Attempt), 10)},
	}
	if img := c.Image.UserSpecifiedImage; img != "" {
		req.Annotations[annotationImage] = img
	}
	for k, v := range c.Annotations {
		req.Annotations[k] = v
	}
	if c.LogPath != "" && sandbox.LogDirectory != "" {
		req.LogPath, req.LogFormat = filepath.Join(sandbox.LogDirectory, c.LogPath), "cri"
	}
	return req, nil
}

// refuse names what cannot be honoured.
func refuse(c *runtimeapi.ContainerConfig) error {
	sc, r := c.GetLinux().GetSecurityContext(), c.GetLinux().GetResources()
	switch {
	case len(c.CDIDevices) > 0:
		return unsupported("CDI_devices")
	case len(r.GetHugepageLimits()) > 0 && hugePages(r):
		return unsupported("resources.hugepage_limits")
	case len(r.GetUnified()) > 0:
		return unsupported("resources.unified")
	case seLinux(sc.GetSelinuxOptions()):
		return unsupported("security_context.selinux_options")
	case sc.GetSeccomp().GetProfileType() == runtimeapi.SecurityProfile_Localhost && sc.GetSeccomp() != nil:
		return unsupported("security_context.seccomp of type Localhost")
	case len(sc.GetCapabilities().GetAddAmbientCapabilities()) > 0:
		return unsupported("security_context.capabilities.add_ambient_capabilities")
	case sc.GetSupplementalGroupsPolicy() == runtimeapi.SupplementalGroupsPolicy_Strict:
		return unsupported("security_context.supplemental_groups_policy Strict")
	case sc.GetNamespaceOptions().GetPid() == runtimeapi.NamespaceMode_POD && sc.GetNamespaceOptions() != nil:
		return unsupported("a process namespace shared by the containers of a pod (shareProcessNamespace)")
	}
	for _, m := range c.Mounts {
		switch {
		case m.Image != nil && m.Image.Image != "":
			return unsupported("a mount of an image")
		case len(m.UidMappings)+len(m.GidMappings) > 0:
			return unsupported("an idmapped mount")
		case m.RecursiveReadOnly:
			return unsupported("mounts.recursive_read_only")
		}
	}
	return nil
}

// appArmor is what the engine is asked for; nothing is its default. A profile by
// name is refused, in containerd's words, where the host has no AppArmor.
func appArmor(sc *runtimeapi.LinuxContainerSecurityContext, host apparmor.Support) ([]string, error) {
	const localhost = "localhost/"
	p := sc.GetApparmor()
	switch name := strings.TrimPrefix(p.GetLocalhostRef(), localhost); {
	case p == nil || p.ProfileType == runtimeapi.SecurityProfile_RuntimeDefault:
		return nil, nil
	case p.ProfileType == runtimeapi.SecurityProfile_Unconfined:
		return []string{"apparmor=" + apparmor.Unconfined}, nil
	case !host.Enabled:
		return nil, problem.New(problem.Unsupported, "apparmor is not supported")
	case name == "":
		return nil, problem.New(problem.Invalid, "security_context.apparmor of type Localhost names no profile")
	default:
		return []string{"apparmor=" + name}, nil
	}
}

func seLinux(o *runtimeapi.SELinuxOption) bool {
	return o.GetUser()+o.GetRole()+o.GetType()+o.GetLevel() != ""
}

func hugePages(r *runtimeapi.LinuxContainerResources) bool {
	for _, h := range r.HugepageLimits {
		if h.Limit > 0 {
			return true
		}
	}
	return false
}

// user is the numeric or named user, in Docker's form.
func user(sc *runtimeapi.LinuxContainerSecurityContext) string {
	name := sc.GetRunAsUsername()
	if u := sc.GetRunAsUser(); u != nil {
		name = strconv.FormatInt(u.Value, 10)
	}
	if g := sc.GetRunAsGroup(); g != nil {
		if name == "" {
			name = "0"
		}
		name += ":" + strconv.FormatInt(g.Value, 10)
	}
	return name
}

func hostConfig(c *runtimeapi.ContainerConfig, sandbox *engine.Sandbox) (*dcontainer.HostConfig, error) {
	sc := c.GetLinux().GetSecurityContext()
	h := &dcontainer.HostConfig{
		Resources: resources(c.GetLinux().GetResources()), OomScoreAdj: int(c.GetLinux().GetResources().GetOomScoreAdj()),
		Privileged: sc.GetPrivileged(), ReadonlyRootfs: sc.GetReadonlyRootfs(),
		CapAdd: sc.GetCapabilities().GetAddCapabilities(), CapDrop: sc.GetCapabilities().GetDropCapabilities(),
		MaskedPaths: sc.GetMaskedPaths(), ReadonlyPaths: sc.GetReadonlyPaths(),
	}
	if h.MaskedPaths == nil && sc != nil {
		h.MaskedPaths = []string{} // to the engine nil means its defaults
	}
	if h.ReadonlyPaths == nil && sc != nil {
		h.ReadonlyPaths = []string{}
	}
	if sandbox.HostPID {
		h.PidMode = "host"
	}
	if opts := sc.GetNamespaceOptions(); opts.GetPid() == runtimeapi.NamespaceMode_TARGET {
		h.PidMode = dcontainer.PidMode("container:" + opts.TargetId)
	}
	if sc.GetNoNewPrivs() {
		h.SecurityOpt = append(h.SecurityOpt, "no-new-privileges")
	}
	if p := sc.GetSeccomp(); p == nil || p.ProfileType == runtimeapi.SecurityProfile_Unconfined {
		h.SecurityOpt = append(h.SecurityOpt, "seccomp=unconfined")
	}
	for _, g := range sc.GetSupplementalGroups() {
		h.GroupAdd = append(h.GroupAdd, strconv.FormatInt(g, 10))
	}
	for _, d := range c.Devices {
		h.Devices = append(h.Devices, dcontainer.DeviceMapping{PathOnHost: d.HostPath, PathInContainer: d.ContainerPath, CgroupPermissions: d.Permissions})
	}
	for _, m := range c.Mounts {
		if !filepath.IsAbs(m.HostPath) || !filepath.IsAbs(m.ContainerPath) {
			return nil, problem.New(problem.Invalid, "mount of %q at %q: paths must be absolute", m.HostPath, m.ContainerPath)
		}
		h.Mounts = append(h.Mounts, mount(m))
	}
	return h, nil
}

func mount(m *runtimeapi.Mount) dmount.Mount {
	out := dmount.Mount{Type: dmount.TypeBind, Source: m.HostPath, Target: filepath.Clean(m.ContainerPath), ReadOnly: m.Readonly,
		BindOptions: &dmount.BindOptions{Propagation: dmount.PropagationRPrivate, ReadOnlyNonRecursive: m.Readonly}}
	switch m.Propagation {
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		out.BindOptions.Propagation = dmount.PropagationRSlave
	case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		out.BindOptions.Propagation = dmount.PropagationRShared
	}
	return out
}

// resources translates limits. Pods do not swap: as much memory and swap
// together as memory alone.
func resources(r *runtimeapi.LinuxContainerResources) dcontainer.Resources {
	out := dcontainer.Resources{
		CPUShares: r.GetCpuShares(), CPUPeriod: r.GetCpuPeriod(), CPUQuota: r.GetCpuQuota(),
		CpusetCpus: r.GetCpusetCpus(), CpusetMems: r.GetCpusetMems(),
		Memory: r.GetMemoryLimitInBytes(), MemorySwap: r.GetMemorySwapLimitInBytes(),
	}
	if out.MemorySwap == 0 {
		out.MemorySwap = out.Memory
	}
	return out
}

// signalName is a CRI signal in the form that the engine parses: SIGRTMINPLUS1
// is RTMIN+1.
func signalName(s runtimeapi.Signal) string {
	name := s.String()
	name = strings.Replace(name, "RTMINPLUS", "RTMIN+", 1)
	return strings.Replace(name, "RTMAXMINUS", "RTMAX-", 1)
}
