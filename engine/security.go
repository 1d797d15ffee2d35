package engine

import (
	"context"
	"slices"
	"strconv"
	"strings"

	dcontainer "github.com/moby/moby/api/types/container"
	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/engine/container"
	"gantry/engine/internal/apparmor"
)

// security is what SecurityOpt says.
type security struct {
	noNewPrivileges bool
	writableCgroups *bool  // nil: as Privileged says
	apparmor        string // name of a profile
	labels          []string
	seccomp         string // "" default, "unconfined", or a profile in JSON
}

// parseSecurity refuses each option that the reference does, in its words: the
// numbers are its own.
func parseSecurity(options []string) (security, error) {
	var s security
	for _, option := range options {
		key, value, hasValue := strings.Cut(option, "=")
		if !hasValue {
			key, value, hasValue = strings.Cut(option, ":") // the form of old clients
		}
		if !hasValue && key != "no-new-privileges" {
			return s, invalid("invalid --security-opt 1: %q", option)
		}
		switch key {
		case "no-new-privileges":
			yes, err := strconv.ParseBool(value)
			if hasValue && err != nil {
				return s, invalid("invalid --security-opt 2: %q", option)
			}
			s.noNewPrivileges = yes || !hasValue
		case "writable-cgroups":
			yes, err := strconv.ParseBool(value)
			if err != nil {
				return s, invalid("invalid --security-opt 2: %q", option)
			}
			s.writableCgroups = &yes
		case "seccomp":
			if value == "builtin" {
				value = ""
			}
			s.seccomp = value
		case "apparmor":
			s.apparmor = value
		case "label":
			s.labels = append(s.labels, value)
		default:
			return s, invalid("invalid --security-opt 2: %q", option)
		}
	}
	return s, nil
}

// refuseLabels refuses labels of SELinux on a host that has it. On others, as in
// the reference, they mean nothing.
func refuseLabels(s security, selinux bool) error {
	for _, label := range s.labels {
		if selinux && label != "disable" {
			return unsupported("HostConfig.SecurityOpt label=" + label)
		}
	}
	return nil
}

func hasSELinux() bool { return exists("/sys/fs/selinux/enforce") }

// AppArmor tells what AppArmor the host has.
func (e *Engine) AppArmor() apparmor.Support { return e.apparmor.Support }

// loadAppArmor loads the default profile. Where that fails, containers that want
// it fail to start.
func (e *Engine) loadAppArmor(ctx context.Context) {
	if e.apparmor.Enabled && !e.apparmor.Default {
		e.log.Warn("apparmor_parser is not there: containers run without the profile docker-default")
	}
	if err := e.apparmor.Ensure(ctx, e.apparmor.Profile("", false)); err != nil && ctx.Err() == nil {
		e.log.Error("load the default AppArmor profile", "err", err)
	}
}

// appArmorProfile returns the profile of a container and of what is executed in
// it; empty is none.
func (e *Engine) appArmorProfile(h *dcontainer.HostConfig) string {
	opts, err := parseSecurity(h.SecurityOpt)
	if err != nil {
		return "" // refused when the container was created
	}
	return e.apparmor.Profile(opts.apparmor, h.Privileged)
}

// confine returns the profile of a process that is to be made. Afterwards the
// default one is loaded.
func (e *Engine) confine(ctx context.Context, h *dcontainer.HostConfig) (string, error) {
	profile := e.appArmorProfile(h)
	return profile, e.apparmor.Ensure(ctx, profile)
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
		return nil, invalid("%v", err)
	}
	return filter, nil
}

const allCapabilities = "ALL"

// capabilitiesFor returns the names of a container's capabilities. possible are
// those that this host can give.
func capabilitiesFor(h *dcontainer.HostConfig, possible []string) ([]string, error) {
	add, err := normalCapabilities(h.CapAdd)
	if err != nil {
		return nil, invalid("invalid CapAdd: %v", err)
	}
	drop, err := normalCapabilities(h.CapDrop)
	if err != nil {
		return nil, invalid("invalid CapDrop: %v", err)
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
			return nil, invalid("unknown capability: %q", c)
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
