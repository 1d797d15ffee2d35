package builder

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"golang.org/x/sys/unix"

	"gantry/engine/image"
	"gantry/internal/problem"
)

// ExitError says that a step's command failed. Its text is Docker's; the place
// in the Dockerfile is that of the SyntaxError around it.
type ExitError struct {
	Command string // the words of the command, joined by spaces
	Code    int
}

// Error returns Docker's wording.
func (e *ExitError) Error() string {
	return fmt.Sprintf("The command '%s' returned a non-zero code: %d", e.Command, e.Code)
}

// runPlan is a RUN instruction, decided but for its layers.
type runPlan struct {
	args    []string
	env     []string // for the command
	keyEnv  []string // what of it counts for the cache
	history string
	network string
	mounts  []runMount
	script  string // content of the file that is run; empty: none
}

// scriptPath is where a heredoc that begins with #! is mounted.
const scriptPath = "/dev/pipes/"

// planRun decides what a RUN instruction runs.
func (st state) planRun(c *instructions.RunCommand, a *arguments, network string) (runPlan, error) {
	p := runPlan{network: network}
	if err := p.flags(c, st); err != nil {
		return p, err
	}
	line := c.ShellDependantCmdLine
	if err := p.heredocs(&line); err != nil {
		return p, err
	}
	if p.script == "" {
		p.args = st.command(line)
	}
	if len(p.args) == 0 {
		return p, errors.New("RUN requires at least one argument")
	}
	p.env = slices.Clone(st.spec.Config.Env)
	var used []string
	for _, v := range st.args {
		if hasEnv(st.spec.Config.Env, v.name) {
			continue
		}
		p.env = setEnv(p.env, v.name, v.value)
		if !proxyArgs[v.name] {
			used = append(used, v.name+"="+v.value)
		}
	}
	slices.Sort(used)
	p.keyEnv = append(slices.Clone(st.spec.Config.Env), used...)
	for _, name := range slices.Sorted(maps.Keys(a.given)) {
		if v := a.given[name]; v != nil && proxyArgs[name] && !hasEnv(p.env, name) {
			p.env = setEnv(p.env, name, *v)
		}
	}
	if !hasEnv(p.env, "PATH") {
		p.env = append(p.env, "PATH="+image.DefaultPath)
	}
	p.history = "RUN " + strings.Join(p.args, " ")
	if len(used) > 0 {
		p.history = fmt.Sprintf("RUN |%d %s %s", len(used), strings.Join(used, " "), strings.Join(p.args, " "))
	}
	return p, nil
}

// flags reads the flags of RUN, and refuses those that are not supported.
func (p *runPlan) flags(c *instructions.RunCommand, st state) error {
	if s := instructions.GetSecurity(c); s != instructions.SecuritySandbox {
		// The entitlement is for who starts the build to give, and POST /build
		// has no way to.
		return problem.New(problem.Denied, "security.%s is not allowed", s)
	}
	if len(instructions.GetDevices(c)) > 0 {
		return unsupported("RUN --device is not supported")
	}
	if slices.Contains(c.FlagsUsed, "network") {
		p.network = string(instructions.GetNetwork(c))
	}
	var err error
	p.mounts, err = st.planMounts(c)
	return err
}

// heredocs turns RUN <<EOF into a command: the content is given to the shell, or
// is run by the program that its first line names.
func (p *runPlan) heredocs(line *instructions.ShellDependantCmdLine) error {
	if len(line.Files) == 0 {
		return nil
	}
	if len(line.CmdLine) != 1 || !line.PrependShell {
		return fmt.Errorf("a heredoc needs the shell form of RUN")
	}
	file := line.Files[0]
	if parser.MustParseHeredoc(line.CmdLine[0]) == nil {
		// The shell knows heredocs itself.
		full := line.CmdLine[0]
		for _, f := range line.Files {
			full += "\n" + f.Data + f.Name
		}
		line.CmdLine = []string{full}
		return nil
	}
	content := file.Data
	if file.Chomp {
		content = parser.ChompHeredocContent(content)
	}
	if strings.HasPrefix(content, "#!") {
		p.script = content
		p.args = []string{scriptPath + file.Name}
		return nil
	}
	line.CmdLine = []string{content}
	return nil
}

// key is the cache key of the run over layers.
func (p runPlan) key(st state, epoch string) cacheKey {
	var mounts []string
	for _, m := range p.mounts {
		mounts = append(mounts, m.key())
	}
	return key("run", chain(st.layers), strings.Join(p.args, "\x00"), strings.Join(p.keyEnv, "\x00"), p.script,
		st.spec.Config.User, st.resolve("."), p.network, strings.Join(mounts, "\x00"), st.spec.Architecture, epoch)
}

// run carries out a RUN instruction.
func (x *stageRun) run(ctx context.Context, s step, p runPlan) (_ result, err error) {
	b := x.build
	if b.cfg.Runner == nil {
		return result{}, unsupported("RUN is not supported: this builder cannot run commands")
	}
	if err := x.checkPlatform(); err != nil {
		return result{}, err
	}
	scratch, err := b.cfg.Images.Scratch()
	if err != nil {
		return result{}, err
	}
	defer func() { err = errors.Join(err, scratch.Close()) }()
	lower, err := b.cfg.Images.LayerDirs(x.st.layers)
	if err != nil {
		return result{}, err
	}
	mounts, release, err := x.mounts(ctx, p, scratch.Dir)
	defer release()
	if err != nil {
		return result{}, err
	}
	stubs, err := x.prepare(p, mounts)
	if err != nil {
		return result{}, err
	}
	spec := RunSpec{
		ID: randomID(), Lower: lower, Upper: scratch.Upper, Work: scratch.Work,
		Args: p.args, Env: p.env, Dir: x.st.resolve("."), User: x.st.spec.Config.User, Network: p.network, Hosts: b.req.ExtraHosts, Mounts: mounts,
		Stdout: x.output(s, false), Stderr: x.output(s, true), Limits: b.req.Limits,
	}
	x.event(s, Event{Kind: Running, Container: spec.ID})
	code, err := b.cfg.Runner.Run(ctx, spec)
	if ctx.Err() != nil {
		return result{}, context.Cause(ctx)
	}
	if err != nil {
		return result{}, cmp.Or(x.checkExecutable(p), err)
	}
	x.event(s, Event{Kind: Removed, Container: spec.ID})
	if code != 0 {
		return result{}, &ExitError{Command: strings.Join(p.args, " "), Code: code}
	}
	if err := stubs.remove(scratch.Upper); err != nil {
		return result{}, err
	}
	created := time.Now().UTC()
	if !b.epoch.IsZero() {
		created = b.epoch
		if err := clampTimes(scratch.Upper, b.epoch); err != nil {
			return result{}, err
		}
	}
	layer, err := b.cfg.Images.CommitLayer(ctx, b.lease, scratch.Upper)
	return result{Layer: layer.DiffID, Created: created}, err
}

// checkExecutable says of a command that did not start whether it is made for
// another CPU.
func (x *stageRun) checkExecutable(p runPlan) error {
	root, err := x.build.cfg.Images.OpenRoot(x.st.layers)
	if err != nil {
		return nil // why the command did not start says more
	}
	defer root.Close()
	return image.CheckExecutable(root, x.stage.label(), p.args, p.env, x.st.resolve("."))
}

// clampTimes sets times after latest back to it, below dir.
func clampTimes(dir string, latest time.Time) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil || !info.ModTime().After(latest) {
			return err
		}
		ts := unix.NsecToTimespec(latest.UnixNano())
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	})
}

func randomID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
