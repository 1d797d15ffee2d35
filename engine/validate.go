package engine

import (
	"path"
	"regexp"
	"slices"
	"strings"

	dcontainer "github.com/moby/moby/api/types/container"
	dmount "github.com/moby/moby/api/types/mount"
	dnetwork "github.com/moby/moby/api/types/network"
	"github.com/moby/sys/signal"

	"gantry/internal/problem"
)

func invalid(format string, args ...any) error {
	return problem.New(problem.Invalid, format, args...)
}

// unsupported refuses a field by its name on the wire.
func unsupported(field string) error {
	return problem.New(problem.Unsupported, "%s is not supported by this version of Gantry", field)
}

var validHostname = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?$`)

// validateConfig refuses what is wrong in the portable half of a request.
func validateConfig(c *dcontainer.Config) error {
	for _, env := range c.Env {
		if name, _, _ := strings.Cut(env, "="); name == "" {
			return invalid("invalid environment variable: %s", env)
		}
	}
	if c.WorkingDir != "" && !path.IsAbs(c.WorkingDir) {
		return invalid("the working directory '%s' is invalid, it needs to be an absolute path", c.WorkingDir)
	}
	if c.StopSignal != "" {
		if _, err := signal.ParseSignal(c.StopSignal); err != nil {
			return invalid("%w", err)
		}
	}
	return validateHealth(c.Healthcheck)
}

func validateHealth(h *dcontainer.HealthConfig) error {
	if h == nil {
		return nil
	}
	for _, d := range []struct {
		name  string
		value int64
	}{
		{"Interval", int64(h.Interval)}, {"Timeout", int64(h.Timeout)},
		{"StartPeriod", int64(h.StartPeriod)}, {"StartInterval", int64(h.StartInterval)},
	} {
		if d.value != 0 && d.value < int64(dcontainer.MinimumDuration) {
			return invalid("%s in Healthcheck cannot be less than %s", d.name, dcontainer.MinimumDuration)
		}
	}
	if h.Retries < 0 {
		return invalid("Retries in Healthcheck cannot be negative")
	}
	if len(h.Test) > 0 && !slices.Contains([]string{"NONE", "CMD", "CMD-SHELL"}, h.Test[0]) {
		return invalid("unknown type of Healthcheck: %q", h.Test[0])
	}
	return nil
}

// validateHost refuses what is wrong or not supported in the other half.
func validateHost(h *dcontainer.HostConfig) error {
	checks := []func(*dcontainer.HostConfig) error{
		refuseFields, validateModes, validateLimits, validateLog, validateRestart, validatePorts, validateSysctls,
	}
	for _, check := range checks {
		if err := check(h); err != nil {
			return err
		}
	}
	return nil
}

// refuseFields names the fields which Gantry does not honour.
func refuseFields(h *dcontainer.HostConfig) error {
	for _, f := range []struct {
		set  bool
		name string
	}{
		{h.VolumeDriver != "" && h.VolumeDriver != "local", "VolumeDriver"},
		{h.Cgroup != "", "Cgroup"},
		{h.CPUCount != 0, "CpuCount"},
	} {
		if f.set {
			return unsupported("HostConfig." + f.name)
		}
	}
	for _, m := range h.Mounts {
		if m.Type == dmount.TypeNamedPipe || m.Type == dmount.TypeCluster {
			return unsupported("HostConfig.Mounts.Type " + string(m.Type))
		}
	}
	if h.Runtime != "" && h.Runtime != RuntimeName {
		return invalid("unknown or invalid runtime name: %s", h.Runtime)
	}
	return nil
}

// RuntimeName is the only OCI runtime that a container can ask for.
const RuntimeName = "gantry"

func validateModes(h *dcontainer.HostConfig) error {
	switch {
	case !h.IpcMode.Valid():
		return invalid("invalid IPC mode: %v", h.IpcMode)
	case !h.PidMode.Valid():
		return invalid("invalid PID mode: %v", h.PidMode)
	case !h.UTSMode.Valid():
		return invalid("invalid UTS mode: %v", h.UTSMode)
	case !h.UsernsMode.Valid():
		return invalid("invalid userns mode: %v", h.UsernsMode)
	case !h.CgroupnsMode.Valid():
		return invalid("invalid cgroup namespace mode: %v", h.CgroupnsMode)
	case h.NetworkMode.IsContainer() && h.NetworkMode.ConnectedContainer() == "":
		return invalid("invalid network mode: invalid container format container:<name|id>")
	}
	return validatePlatform(h)
}

// validatePlatform refuses what no Linux host has, or not with this store.
func validatePlatform(h *dcontainer.HostConfig) error {
	if !h.Isolation.IsDefault() {
		return invalid("invalid isolation: %q - linux only supports 'default'", h.Isolation)
	}
	for name := range h.StorageOpt {
		if name != "size" {
			return invalid("Unknown option %s", name)
		}
		return invalid("--storage-opt is supported only for overlay over xfs with 'pquota' mount option")
	}
	return nil
}

func validateRestart(h *dcontainer.HostConfig) error {
	if err := dcontainer.ValidateRestartPolicy(h.RestartPolicy); err != nil {
		return invalid("%w", err)
	}
	if h.AutoRemove && !h.RestartPolicy.IsNone() {
		return invalid("can't create 'AutoRemove' container with restart policy")
	}
	return nil
}

func validatePorts(h *dcontainer.HostConfig) error {
	for port, bindings := range h.PortBindings {
		switch port.Proto() {
		case dnetwork.TCP, dnetwork.UDP, dnetwork.SCTP:
		default:
			return invalid("invalid protocol in port specification: %s", port)
		}
		if port.Num() == 0 {
			return invalid("invalid port specification: %q", port.String())
		}
		for _, b := range bindings {
			if _, _, err := hostPorts(b.HostPort); err != nil {
				return err
			}
		}
	}
	return nil
}

// hostPorts parses a host port: "" (any), "80", or a range "8000-8010".
func hostPorts(spec string) (first, last uint16, err error) {
	if spec == "" {
		return 0, 0, nil
	}
	r, err := dnetwork.ParsePortRange(spec)
	if err != nil || strings.Contains(spec, "/") {
		return 0, 0, invalid("invalid port specification: %q", spec)
	}
	if r.Start() == r.End() {
		return r.Start(), 0, nil
	}
	return r.Start(), r.End(), nil
}

// validateSysctls refuses a sysctl that would change the host.
func validateSysctls(h *dcontainer.HostConfig) error {
	for name := range h.Sysctls {
		key := strings.ReplaceAll(name, "/", ".")
		ipc := strings.HasPrefix(key, "kernel.msg") || strings.HasPrefix(key, "kernel.sem") ||
			strings.HasPrefix(key, "kernel.shm") || strings.HasPrefix(key, "fs.mqueue.")
		switch {
		case ipc && h.IpcMode.IsHost():
			return invalid("sysctl %q not allowed in host IPC namespace", name)
		case strings.HasPrefix(key, "net.") && h.NetworkMode.IsHost():
			return invalid("sysctl %q not allowed in host network namespace", name)
		case !ipc && !strings.HasPrefix(key, "net."):
			return invalid("sysctl %q is not in a separate kernel namespace", name)
		}
	}
	return nil
}
