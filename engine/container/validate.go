package container

import (
	"path/filepath"
	"regexp"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"gantry/engine/container/plan"
	"gantry/internal/problem"
)

var validID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

func invalid(format string, args ...any) error { return problem.New(problem.Invalid, format, args...) }

// validate refuses what Create cannot do, by name.
func validate(s *Spec) error {
	switch {
	case !validID.MatchString(s.ID):
		return invalid("container id %q", s.ID)
	case !filepath.IsAbs(s.Dir):
		return invalid("directory %q of container %s is not absolute", s.Dir, s.ID)
	case s.Overlay == nil && (s.OCI == nil || s.OCI.Root == nil || !filepath.IsAbs(s.OCI.Root.Path)):
		return invalid("root.path is not absolute")
	case s.Overlay != nil && (len(s.Overlay.Lower) == 0 || (s.Overlay.Upper == "") != (s.Overlay.Work == "")):
		return invalid("an overlay needs a lower directory, and an upper with its work directory")
	case s.Overlay != nil && s.Overlay.Upper == "" && len(s.Overlay.Lower) < 2:
		return invalid("an overlay without an upper directory needs two lower ones")
	case s.Log.Format != "" && s.Log.Format != LogNone && s.Log.Format != LogJSON && s.Log.Format != LogCRI:
		return invalid("log format %q", s.Log.Format)
	}
	if err := plan.Validate(s.OCI); err != nil {
		return err
	}
	return refuse(s.OCI)
}

// refuse names the first field that gantry-oci honours and a shim, which has no
// part in it, does not; no client of the engine can ask for one.
func refuse(o *specs.Spec) error {
	l := o.Linux
	fields := []struct {
		set  bool
		name string
	}{
		{o.Hooks != nil, "hooks"},
		{len(l.NetDevices) > 0, "linux.netDevices"},
		{l.Seccomp != nil && l.Seccomp.ListenerPath != "", "linux.seccomp.listenerPath"},
		{slices.ContainsFunc(l.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace && n.Path != "" }),
			"a user namespace by path"},
	}
	for _, f := range fields {
		if f.set {
			return problem.New(problem.Unsupported, "%s is not supported", f.name)
		}
	}
	return nil
}
