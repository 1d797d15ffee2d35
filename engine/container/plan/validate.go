package plan

import (
	"path"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"gantry/internal/problem"
)

func invalid(format string, args ...any) error { return problem.New(problem.Invalid, format, args...) }

// Validate refuses what Container cannot do, by name.
func Validate(o *specs.Spec) error {
	if o == nil || o.Linux == nil || o.Process == nil {
		return invalid("the runtime-spec needs linux and process")
	}
	if err := refuse(o); err != nil {
		return err
	}
	if err := validateNamespaces(o.Linux); err != nil {
		return err
	}
	if p := o.Linux.RootfsPropagation; p != "" && propagations[p] == 0 {
		return invalid("rootfsPropagation=%v is not supported", p)
	}
	if err := validateLinux(o.Linux); err != nil {
		return err
	}
	return ValidateProcess(o.Process)
}

func validateNamespaces(l *specs.Linux) error {
	seen := map[specs.LinuxNamespaceType]bool{}
	user := false
	for _, n := range l.Namespaces {
		switch {
		case seen[n.Type]:
			return invalid("linux.namespaces has two of %s", n.Type)
		case namespaceFlags[n.Type] == 0:
			return problem.New(problem.Unsupported, "namespace %q is not supported", n.Type)
		case n.Path != "" && !filepath.IsAbs(n.Path):
			return invalid("path %q of the %s namespace is not absolute", n.Path, n.Type)
		}
		seen[n.Type] = true
		user = user || n.Type == specs.UserNamespace && n.Path == ""
	}
	if !seen[specs.MountNamespace] {
		return invalid("a container needs a mount namespace of its own")
	}
	mapped := len(l.UIDMappings) > 0 && len(l.GIDMappings) > 0
	if user != mapped && (user || !seen[specs.UserNamespace]) {
		return invalid("a user namespace and linux.uidMappings and gidMappings go together")
	}
	return nil
}

// refuse names the first field that is set and not supported.
func refuse(o *specs.Spec) error {
	l := o.Linux
	fields := []struct {
		set  bool
		name string
	}{
		{o.Solaris != nil || o.Windows != nil || o.VM != nil || o.ZOS != nil || o.FreeBSD != nil, "a platform other than linux"},
		{l.IntelRdt != nil, "linux.intelRdt"},
	}
	for _, f := range fields {
		if f.set {
			return problem.New(problem.Unsupported, "%s is not supported", f.name)
		}
	}
	return nil
}

// validateLinux looks at the values of fields that are supported.
func validateLinux(l *specs.Linux) error {
	if p := l.Personality; p != nil {
		if _, ok := personalities[p.Domain]; !ok {
			return invalid("linux.personality.domain %q is unknown", p.Domain)
		}
		if len(p.Flags) > 0 {
			return invalid("additional flags not supported for personality")
		}
	}
	var clocks bool
	for _, n := range l.Namespaces {
		clocks = clocks || n.Type == specs.TimeNamespace && n.Path == ""
	}
	for clock := range l.TimeOffsets {
		if clock != "monotonic" && clock != "boottime" {
			return invalid("linux.timeOffsets: clock %q is unknown", clock)
		}
	}
	if len(l.TimeOffsets) > 0 && !clocks {
		return invalid("time namespace offsets specified, but time namespace isn't enabled in the config")
	}
	private := slices.ContainsFunc(l.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	if len(l.NetDevices) > 0 && !private {
		return invalid("unable to move network devices without a private NET namespace")
	}
	if l.MountLabel != "" && !SELinux() {
		return problem.New(problem.Unsupported, "selinux label is specified in config, but selinux is disabled or not supported")
	}
	return nil
}

// ValidateProcess refuses what Exec cannot do, by name.
func ValidateProcess(p *specs.Process) error {
	switch {
	case p.ApparmorProfile != "" && !AppArmor():
		return problem.New(problem.Unsupported, "apparmor: config provided but apparmor not supported")
	case p.SelinuxLabel != "" && !SELinux():
		return problem.New(problem.Unsupported, "selinux label is specified in config, but selinux is disabled or not supported")
	case len(p.Args) == 0 || p.Args[0] == "":
		return invalid("process.args is empty")
	case p.Cwd != "" && !path.IsAbs(p.Cwd):
		return invalid("cwd %q is not absolute", p.Cwd)
	}
	return nil
}
