package builder

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/engine/image"
	"gantry/internal/problem"
)

// proxyArgs may be given as build arguments without being declared. They are
// seen by RUN and are in neither history nor cache keys.
var proxyArgs = map[string]bool{
	"HTTP_PROXY": true, "http_proxy": true, "HTTPS_PROXY": true, "https_proxy": true,
	"FTP_PROXY": true, "ftp_proxy": true, "NO_PROXY": true, "no_proxy": true, "ALL_PROXY": true, "all_proxy": true,
}

// variable is a name with a value.
type variable struct{ name, value string }

// arguments are the build arguments of a build, and which were used.
type arguments struct {
	given   map[string]*string
	globals []variable        // ARGs before the first FROM
	known   map[string]string // those that every build has
	target  ocispec.Platform
}

// newArguments applies the build arguments to the ARGs before the first FROM.
func newArguments(f *dockerfile, req Request, target ocispec.Platform) (*arguments, error) {
	a := &arguments{given: req.BuildArgs, known: platformArgs(target), target: target}
	a.known["TARGETSTAGE"] = cmp.Or(req.Target, f.stages[len(f.stages)-1].Name, "default")
	for name := range a.known {
		if v := req.BuildArgs[name]; v != nil {
			a.known[name] = *v
		}
	}
	lex := shell.NewLex(f.escape)
	for i := range f.args {
		for _, arg := range f.args[i].Args {
			v, ok, err := a.expanded(arg, nil, lex, a.fromEnv())
			if err != nil {
				return nil, f.at(f.args[i].Location(), err)
			}
			if ok {
				a.globals = set(a.globals, arg.Key, v)
			}
		}
	}
	return a, nil
}

// expanded is value, with the variables in the default replaced if that is used.
func (a *arguments) expanded(arg instructions.KeyValuePairOptional, inherited []variable, lex *shell.Lex, env shell.EnvGetter) (string, bool, error) {
	if _, given := a.given[arg.Key]; arg.Value != nil && !given {
		v, _, err := lex.ProcessWord(*arg.Value, env)
		if err != nil {
			return "", false, problem.New(problem.Invalid, "failed to process %q: %w", *arg.Value, err)
		}
		arg.Value = &v
	}
	v, ok := a.value(arg, inherited)
	return v, ok, nil
}

// fromEnv is the environment of FROM.
func (a *arguments) fromEnv() shell.EnvGetter {
	return shell.EnvsFromSlice(append(assignments(sorted(a.known)), assignments(a.globals)...))
}

// value returns the value that an ARG instruction gives its name: the build
// argument, else the default, else what the name has before the first FROM.
func (a *arguments) value(arg instructions.KeyValuePairOptional, inherited []variable) (string, bool) {
	if v, ok := a.given[arg.Key]; ok {
		if v == nil {
			return "", false
		}
		return *v, true
	}
	if arg.Value != nil {
		return *arg.Value, true
	}
	for _, v := range inherited {
		if v.name == arg.Key {
			return v.value, true
		}
	}
	v, ok := a.known[arg.Key]
	return v, ok
}

// unused returns the names of build arguments that no ARG of the Dockerfile
// asks for, sorted.
func (a *arguments) unused(f *dockerfile) []string {
	declared := map[string]bool{epochArgument: true, checkArgument: true, inlineArgument: true}
	for _, c := range f.args {
		for _, arg := range c.Args {
			declared[arg.Key] = true
		}
	}
	for _, s := range f.stages {
		for _, c := range s.Commands {
			if c, ok := c.(*instructions.ArgCommand); ok {
				for _, arg := range c.Args {
					declared[arg.Key] = true
				}
			}
		}
	}
	var unused []string
	for _, name := range slices.Sorted(maps.Keys(a.given)) {
		if !declared[name] && !proxyArgs[name] {
			unused = append(unused, name)
		}
	}
	return unused
}

// platformArgs are the predefined arguments about platforms.
func platformArgs(target ocispec.Platform) map[string]string {
	args := map[string]string{}
	for prefix, p := range map[string]ocispec.Platform{"BUILD": image.Host(), "TARGET": target} {
		args[prefix+"PLATFORM"] = image.FormatPlatform(p)
		args[prefix+"OS"] = p.OS
		args[prefix+"OSVERSION"] = p.OSVersion
		args[prefix+"ARCH"] = p.Architecture
		args[prefix+"VARIANT"] = p.Variant
	}
	return args
}

// set gives name a value in vars, in its place if it is there.
func set(vars []variable, name, value string) []variable {
	for i := range vars {
		if vars[i].name == name {
			vars = slices.Clone(vars)
			vars[i].value = value
			return vars
		}
	}
	return append(slices.Clip(vars), variable{name, value})
}

func sorted(m map[string]string) []variable {
	var out []variable
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, variable{k, m[k]})
	}
	return out
}

func assignments(vars []variable) []string {
	out := make([]string, 0, len(vars))
	for _, v := range vars {
		out = append(out, v.name+"="+v.value)
	}
	return out
}

// setEnv returns env, a list of assignments, with name set to value.
func setEnv(env []string, name, value string) []string {
	assignment := name + "=" + value
	for i, e := range env {
		if k, _, _ := strings.Cut(e, "="); k == name {
			env = slices.Clone(env)
			env[i] = assignment
			return env
		}
	}
	return append(slices.Clip(env), assignment)
}

func hasEnv(env []string, name string) bool {
	return slices.ContainsFunc(env, func(e string) bool {
		k, _, _ := strings.Cut(e, "=")
		return k == name
	})
}
