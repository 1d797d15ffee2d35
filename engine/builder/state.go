package builder

import (
	"encoding/json"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/sys/signal"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/engine/image"
	"gantry/internal/problem"
)

// state is what the steps of a stage have made so far. Steps replace its slices
// and maps, they do not write into them, so a copy is a fork.
type state struct {
	spec    image.Spec
	layers  []digest.Digest
	args    []variable // ARGs in scope
	created time.Time  // newest of all that went in
	cmdSet  bool       // CMD was given in this stage
}

// scratchState is the state before the first step of FROM scratch.
func scratchState(p ocispec.Platform) state {
	st := state{created: time.Unix(0, 0).UTC()}
	st.spec.Platform = ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
	return st
}

// imageState is the state after FROM of an image.
func imageState(img image.Image) state {
	st := state{spec: img.Config, layers: slices.Clip(slices.Clone(img.Layers)), created: img.Created().UTC()}
	st.spec.History = slices.Clip(slices.Clone(st.spec.History))
	st.spec.Config.Labels = maps.Clone(st.spec.Config.Labels)
	st.spec.Config.ExposedPorts = maps.Clone(st.spec.Config.ExposedPorts)
	st.spec.Config.Volumes = maps.Clone(st.spec.Config.Volumes)
	return st
}

// fork is the state with which a stage begins that is FROM this one. Arguments
// are inherited.
func (st state) fork() state {
	st.cmdSet = false
	return st
}

// defaultPath sets PATH if it is not, so that ENV can add to it.
func (st *state) defaultPath() {
	if c := &st.spec.Config; !hasEnv(c.Env, "PATH") {
		c.Env = append(slices.Clip(c.Env), "PATH="+image.DefaultPath)
	}
}

// id is the ID that an image of this state would have.
func (st state) id() (digest.Digest, error) {
	spec := st.final()
	spec.RootFS.Type, spec.RootFS.DiffIDs = "layers", slices.Clone(st.layers)
	b, err := json.Marshal(spec)
	return digest.FromBytes(b), err
}

// final is the configuration of an image of this state.
func (st state) final() image.Spec {
	spec := st.spec
	created := st.created
	spec.Created = &created
	return spec
}

// expander replaces variables in words. ENV wins over ARG.
func (st state) expander(lex *shell.Lex) instructions.SingleWordExpander {
	env := st.environment()
	return func(word string) (string, error) {
		out, _, err := lex.ProcessWord(word, env)
		return out, err
	}
}

func (st state) environment() shell.EnvGetter {
	return shell.EnvsFromSlice(append(assignments(st.args), st.spec.Config.Env...))
}

// shell is the command that runs the shell form.
func (st state) shell() []string {
	if len(st.spec.Config.Shell) > 0 {
		return slices.Clone(st.spec.Config.Shell)
	}
	return []string{"/bin/sh", "-c"}
}

func (st state) command(line instructions.ShellDependantCmdLine) []string {
	if line.PrependShell {
		return append(st.shell(), strings.Join(line.CmdLine, " "))
	}
	return slices.Clone(line.CmdLine)
}

// note adds a line to the history.
func (st *state) note(by string, layer bool) {
	created := st.created
	st.spec.History = append(slices.Clip(st.spec.History), ocispec.History{Created: &created, CreatedBy: by, EmptyLayer: !layer})
}

// resolve returns a path in the image, relative ones from the working directory.
func (st state) resolve(p string) string {
	if path.IsAbs(p) {
		return path.Clean(p)
	}
	return path.Join("/", st.spec.Config.WorkingDir, p)
}

// workdir carries out WORKDIR, and returns the directory. As in the reference,
// the configuration has an absolute path as it is written.
func (st *state) workdir(p string) string {
	dir := st.resolve(p)
	st.spec.Config.WorkingDir = dir
	if path.IsAbs(p) {
		st.spec.Config.WorkingDir = p
	}
	return dir
}

// describe carries out an instruction that changes the configuration alone. It
// reports false for instructions that do more.
func (st *state) describe(cmd instructions.Command, a *arguments, lex *shell.Lex) (bool, error) {
	c := &st.spec.Config
	switch cmd := cmd.(type) {
	case *instructions.EnvCommand:
		for _, kv := range cmd.Env {
			c.Env = setEnv(c.Env, kv.Key, kv.Value)
		}
	case *instructions.MaintainerCommand:
		st.spec.Author = cmd.Maintainer
	case *instructions.LabelCommand:
		c.Labels = maps.Clone(c.Labels)
		if c.Labels == nil {
			c.Labels = map[string]string{}
		}
		for _, kv := range cmd.Labels {
			c.Labels[kv.Key] = kv.Value
		}
	case *instructions.ExposeCommand:
		return true, st.expose(cmd, lex)
	case *instructions.UserCommand:
		c.User = cmd.User
	case *instructions.VolumeCommand:
		c.Volumes = addKeys(c.Volumes, cmd.Volumes)
	case *instructions.StopSignalCommand:
		return true, st.stopSignal(cmd.Signal)
	case *instructions.HealthCheckCommand:
		c.Healthcheck = cmd.Health
	case *instructions.ShellCommand:
		c.Shell = cmd.Shell
	case *instructions.CmdCommand:
		c.Cmd, st.cmdSet = st.command(cmd.ShellDependantCmdLine), true
	case *instructions.EntrypointCommand:
		c.Entrypoint = st.command(cmd.ShellDependantCmdLine)
		if !st.cmdSet {
			c.Cmd = nil // it was meant for the entry point of the base
		}
	case *instructions.OnbuildCommand:
		c.OnBuild = append(slices.Clip(c.OnBuild), cmd.Expression)
	case *instructions.ArgCommand:
		for _, arg := range cmd.Args {
			v, ok, err := a.expanded(arg, a.globals, lex, st.environment())
			if err != nil {
				return true, err
			}
			if ok {
				st.args = set(st.args, arg.Key, v)
			}
		}
	default:
		return false, nil
	}
	return true, nil
}

func addKeys(m map[string]struct{}, keys []string) map[string]struct{} {
	m = maps.Clone(m)
	if m == nil {
		m = map[string]struct{}{}
	}
	for _, k := range keys {
		m[k] = struct{}{}
	}
	return m
}

func (st *state) expose(cmd *instructions.ExposeCommand, lex *shell.Lex) error {
	var ports []string
	for _, word := range cmd.Ports {
		words, err := lex.ProcessWords(word, st.environment())
		if err != nil {
			return err
		}
		for _, w := range words {
			expanded, err := parsePorts(w)
			if err != nil {
				return err
			}
			ports = append(ports, expanded...)
		}
	}
	st.spec.Config.ExposedPorts = addKeys(st.spec.Config.ExposedPorts, ports)
	return nil
}

func (st *state) stopSignal(s string) error {
	if _, err := signal.ParseSignal(s); err != nil {
		return problem.New(problem.Invalid, "%w", err)
	}
	st.spec.Config.StopSignal = s
	return nil
}
