package plan

import (
	"path"
	"path/filepath"

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
	switch p := o.Linux.RootfsPropagation; p {
	case "", "private", "rprivate", "slave", "rslave":
	default:
		return problem.New(problem.Unsupported, "linux.rootfsPropagation %q is not supported", p)
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
		case n.Path != "" && (n.Type == specs.MountNamespace || n.Type == specs.UserNamespace):
			return problem.New(problem.Unsupported, "a %s namespace by path is not supported", n.Type)
		case n.Path != "" && !filepath.IsAbs(n.Path):
			return invalid("path %q of the %s namespace is not absolute", n.Path, n.Type)
		}
		seen[n.Type] = true
		user = user || n.Type == specs.UserNamespace
	}
	if !seen[specs.MountNamespace] {
		return invalid("a container needs a mount namespace of its own")
	}
	if user != (len(l.UIDMappings) > 0 && len(l.GIDMappings) > 0) {
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
		{o.Hooks != nil, "hooks"},
		{o.Solaris != nil || o.Windows != nil || o.VM != nil || o.ZOS != nil || o.FreeBSD != nil, "a platform other than linux"},
		{l.IntelRdt != nil, "linux.intelRdt"},
		{l.MountLabel != "", "linux.mountLabel"},
		{l.Personality != nil, "linux.personality"},
		{len(l.TimeOffsets) > 0, "linux.timeOffsets"},
		{len(l.NetDevices) > 0, "linux.netDevices"},
		{l.MemoryPolicy != nil, "linux.memoryPolicy"},
	}
	for _, f := range fields {
		if f.set {
			return problem.New(problem.Unsupported, "%s is not supported", f.name)
		}
	}
	return nil
}

// ValidateProcess refuses what Exec cannot do, by name.
func ValidateProcess(p *specs.Process) error {
	fields := []struct {
		set  bool
		name string
	}{
		{p.ApparmorProfile != "", "process.apparmorProfile"},
		{p.SelinuxLabel != "", "process.selinuxLabel"},
		{p.Scheduler != nil, "process.scheduler"},
		{p.IOPriority != nil, "process.ioPriority"},
		{p.ExecCPUAffinity != nil, "process.execCPUAffinity"},
	}
	for _, f := range fields {
		if f.set {
			return problem.New(problem.Unsupported, "%s is not supported", f.name)
		}
	}
	if len(p.Args) == 0 || p.Args[0] == "" {
		return invalid("process.args is empty")
	}
	if p.Cwd != "" && !path.IsAbs(p.Cwd) {
		return invalid("cwd %q is not absolute", p.Cwd)
	}
	return nil
}
