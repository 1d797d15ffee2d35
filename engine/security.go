package engine

import (
	"slices"
	"strings"

	dcontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/engine/container"
)

// security is what SecurityOpt says.
type security struct {
	noNewPrivileges bool
	seccomp         string // "" default, "unconfined", or a profile in JSON
}

// parseSecurity refuses each option that is not honoured.
func parseSecurity(options []string) (security, error) {
	var s security
	for i, option := range options {
		key, value, hasValue := strings.Cut(option, "=")
		if !hasValue {
			key, value, hasValue = strings.Cut(option, ":") // the form of old clients
		}
		switch key {
		case "no-new-privileges":
			if hasValue && value != "true" && value != "false" {
				return s, invalid("invalid --security-opt %d: %q", i+1, option)
			}
			s.noNewPrivileges = value != "false"
		case "seccomp":
			if value == "builtin" {
				value = ""
			}
			s.seccomp = value
		case "apparmor":
			if value != "unconfined" && value != "" {
				return s, unsupported("HostConfig.SecurityOpt " + option)
			}
		case "label":
			if value != "disable" {
				return s, unsupported("HostConfig.SecurityOpt " + option)
			}
		default:
			if !hasValue {
				return s, invalid("invalid --security-opt %d: %q", i+1, option)
			}
			return s, unsupported("HostConfig.SecurityOpt " + option)
		}
	}
	return s, nil
}

// seccompFor returns the filter of a container with these capabilities; nil
// means none.
func seccompFor(profile string, privileged bool, caps []string) (*specs.LinuxSeccomp, error) {
	switch {
	case profile == "unconfined", profile == "" && privileged:
		return nil, nil
	case profile == "":
		return container.DefaultSeccomp(caps)
	}
	filter, err := container.LoadSeccomp(profile, caps)
	if err != nil {
		return nil, invalid("decoding seccomp profile failed: %w", err)
	}
	return filter, nil
}

const allCapabilities = "ALL"

// capabilitiesFor returns the names of a container's capabilities. possible are
// those that this host can give.
func capabilitiesFor(h *dcontainer.HostConfig, possible []string) ([]string, error) {
	add, err := normalCapabilities(h.CapAdd)
	if err != nil {
		return nil, err
	}
	drop, err := normalCapabilities(h.CapDrop)
	if err != nil {
		return nil, err
	}
	base := container.DefaultCapabilities()
	switch {
	case h.Privileged, slices.Contains(add, allCapabilities):
		base = possible
	case slices.Contains(drop, allCapabilities):
		base, drop = nil, nil
	}
	if h.Privileged {
		return slices.Clone(base), nil
	}
	var caps []string
	for _, c := range append(slices.Clone(base), add...) {
		if c != allCapabilities && (!slices.Contains(drop, c) || slices.Contains(add, c)) && !slices.Contains(caps, c) {
			caps = append(caps, c)
		}
	}
	return caps, nil
}

func normalCapabilities(names []string) ([]string, error) {
	known := knownCapabilities()
	var normal []string
	for _, name := range names {
		c := strings.ToUpper(name)
		if c != allCapabilities && !strings.HasPrefix(c, "CAP_") {
			c = "CAP_" + c
		}
		if c != allCapabilities && !slices.Contains(known, c) {
			return nil, invalid("invalid capability: %q", name)
		}
		normal = append(normal, c)
	}
	return normal, nil
}

func knownCapabilities() []string {
	var names []string
	for _, c := range capability.ListKnown() {
		names = append(names, "CAP_"+strings.ToUpper(c.String()))
	}
	return names
}

// possibleCapabilities are those in the daemon's own bounding set: nobody can
// give more.
func possibleCapabilities() ([]string, error) {
	own, err := capability.NewPid2(0)
	if err == nil {
		err = own.Load()
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, c := range capability.ListKnown() {
		if own.Get(capability.BOUNDING, c) {
			names = append(names, "CAP_"+strings.ToUpper(c.String()))
		}
	}
	return names, nil
}
