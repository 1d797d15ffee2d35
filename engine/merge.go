package engine

import (
	"maps"
	"slices"
	"strings"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	dcontainer "github.com/moby/moby/api/types/container"
	dnetwork "github.com/moby/moby/api/types/network"

	"gantry/internal/problem"
)

// mergeImage returns cfg with what it leaves open taken from the image, by the
// reference's rules: the image's Cmd counts only where the request names
// neither a command nor an entrypoint.
func mergeImage(cfg *dcontainer.Config, image *dockerspec.DockerOCIImageConfig) (*dcontainer.Config, error) {
	merged := *cfg
	if merged.User == "" {
		merged.User = image.User
	}
	if merged.WorkingDir == "" {
		merged.WorkingDir = image.WorkingDir
	}
	if merged.StopSignal == "" {
		merged.StopSignal = image.StopSignal
	}
	if len(merged.Shell) == 0 {
		merged.Shell = image.Shell
	}
	merged.Env = mergeEnv(image.Env, cfg.Env)
	merged.Labels = maps.Clone(image.Labels)
	if merged.Labels == nil {
		merged.Labels = map[string]string{}
	}
	maps.Copy(merged.Labels, cfg.Labels)
	if merged.Entrypoint == nil {
		merged.Entrypoint = slices.Clone(image.Entrypoint)
		if len(merged.Cmd) == 0 {
			merged.Cmd = slices.Clone(image.Cmd)
		}
	}
	// [""] is how a client asks for no entrypoint at all.
	if len(merged.Entrypoint) == 1 && merged.Entrypoint[0] == "" {
		merged.Entrypoint = nil
	}
	if err := mergePorts(&merged, image.ExposedPorts); err != nil {
		return nil, err
	}
	if len(cfg.Volumes) == 0 {
		merged.Volumes = maps.Clone(image.Volumes)
	} else if len(image.Volumes) > 0 {
		merged.Volumes = maps.Clone(image.Volumes)
		maps.Copy(merged.Volumes, cfg.Volumes)
	}
	merged.Healthcheck = mergeHealth(cfg.Healthcheck, image.Healthcheck)
	return &merged, nil
}

func mergePorts(cfg *dcontainer.Config, exposed map[string]struct{}) error {
	ports := maps.Clone(cfg.ExposedPorts)
	if ports == nil && len(exposed) > 0 {
		ports = dnetwork.PortSet{}
	}
	for spec := range exposed {
		r, err := dnetwork.ParsePortRange(spec)
		if err != nil {
			return problem.New(problem.Invalid, "the image exposes %q: %w", spec, err)
		}
		for port := range r.All() {
			ports[port] = struct{}{}
		}
	}
	cfg.ExposedPorts = ports
	return nil
}

// mergeHealth fills each setting that the request leaves open from the image.
func mergeHealth(request, image *dcontainer.HealthConfig) *dcontainer.HealthConfig {
	if request == nil || image == nil {
		if request == nil {
			return image
		}
		return request
	}
	merged := *request
	if len(merged.Test) == 0 {
		merged.Test = image.Test
	}
	if merged.Interval == 0 {
		merged.Interval = image.Interval
	}
	if merged.Timeout == 0 {
		merged.Timeout = image.Timeout
	}
	if merged.StartPeriod == 0 {
		merged.StartPeriod = image.StartPeriod
	}
	if merged.StartInterval == 0 {
		merged.StartInterval = image.StartInterval
	}
	if merged.Retries == 0 {
		merged.Retries = image.Retries
	}
	return &merged
}

// mergeEnv returns base with the variables of override replaced or appended. An
// override without "=" removes the variable.
func mergeEnv(base, override []string) []string {
	merged := slices.Clone(base)
	for _, entry := range override {
		name, _, hasValue := strings.Cut(entry, "=")
		same := func(old string) bool { return old == name || strings.HasPrefix(old, name+"=") }
		at := slices.IndexFunc(merged, same)
		switch {
		case !hasValue:
			merged = slices.DeleteFunc(merged, same)
		case at >= 0:
			merged[at] = entry
		default:
			merged = append(merged, entry)
		}
	}
	return merged
}

// imageConfig is the part of a container's configuration that an image has too.
func imageConfig(c *dcontainer.Config) *dockerspec.DockerOCIImageConfig {
	out := &dockerspec.DockerOCIImageConfig{}
	out.User, out.WorkingDir, out.StopSignal = c.User, c.WorkingDir, c.StopSignal
	out.Env, out.Entrypoint, out.Cmd, out.Labels, out.Volumes = c.Env, c.Entrypoint, c.Cmd, c.Labels, c.Volumes
	out.Healthcheck, out.Shell, out.OnBuild = c.Healthcheck, c.Shell, c.OnBuild
	for port := range c.ExposedPorts {
		if out.ExposedPorts == nil {
			out.ExposedPorts = map[string]struct{}{}
		}
		out.ExposedPorts[port.String()] = struct{}{}
	}
	return out
}
