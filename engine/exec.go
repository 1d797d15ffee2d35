package engine

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"
	devents "github.com/moby/moby/api/types/events"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/engine/container"
	"gantry/internal/problem"
)

// exec is a further process in a container. Its fields are guarded by its
// container's mu.
type exec struct {
	id      string
	req     dcontainer.ExecCreateRequest
	process specs.Process
	proc    *container.Exec // nil before the start
	started bool
	settled chan struct{} // closed when the start has succeeded or failed
	refused error         // its user is not there: as in the reference, the start says so
	over    bool
	ended   time.Time
	code    int
}

// containerGone ends an exec with its container. The caller holds mu.
func (x *exec) containerGone() {
	if !x.started || x.over {
		return
	}
	x.over, x.code, x.ended = true, 128+int(unix.SIGKILL), time.Now()
	x.settle()
	if x.proc == nil {
		return
	}
	// It may have ended by itself just before.
	select {
	case <-x.proc.Done():
		if exit, err := x.proc.Wait(context.Background()); err == nil {
			x.code = exit.Code
		}
	default:
	}
}

// settle lets those go on who wait for the start. The caller holds mu.
func (x *exec) settle() {
	select {
	case <-x.settled:
	default:
		close(x.settled)
	}
}

// ExecCreate prepares a further process in a running container.
//
// Errors: NotFound, Conflict if it does not run, Invalid, Unsupported.
func (e *Engine) ExecCreate(ctx context.Context, ref string, req dcontainer.ExecCreateRequest) (id string, err error) {
	r, err := e.find(ref)
	if err != nil {
		return "", err
	}
	x, err := e.newExec(ctx, r, req)
	if err != nil {
		return "", err
	}
	r.mu.Lock()
	old := r.forgetExecs(time.Now())
	r.execs[x.id] = x
	r.mu.Unlock()
	e.mu.Lock()
	for _, id := range old {
		delete(e.execs, id)
	}
	e.execs[x.id] = r
	e.mu.Unlock()
	e.emit(r, devents.Action("exec_create: "+strings.Join(req.Cmd, " ")), map[string]string{"execID": x.id})
	return x.id, nil
}

// execKept is how long the result of an exec can be asked for: as the reference.
const execKept = 5 * time.Minute

// forgetExecs forgets those which ended long ago, and returns their IDs. The
// caller holds mu.
func (r *record) forgetExecs(now time.Time) []string {
	var old []string
	for id, x := range r.execs {
		if x.over && now.Sub(x.ended) > execKept {
			delete(r.execs, id)
			old = append(old, id)
		}
	}
	return old
}

func (e *Engine) newExec(ctx context.Context, r *record, req dcontainer.ExecCreateRequest) (*exec, error) {
	cfg, st := r.view()
	switch {
	case r.running() == nil:
		return nil, notRunning(r.id)
	case st.Status == dcontainer.StatePaused:
		return nil, problem.New(problem.Conflict, "container %s is paused, unpause the container before exec", r.id)
	case len(req.Cmd) == 0 || req.Cmd[0] == "":
		return nil, invalid("No exec command specified")
	}
	in, root, err := e.surround(cfg)
	if err != nil {
		return nil, err
	}
	user, groups := req.User, cfg.HostConfig.GroupAdd
	if user == "" {
		user = cfg.Config.User
	}
	account, refused := root.lookUp(user, groups)
	if refused != nil && !errors.Is(refused, problem.Invalid) {
		return nil, refused
	}
	in.account = account
	// By the container: that the exec is privileged does not matter.
	if in.apparmor, err = e.confine(ctx, cfg.HostConfig); err != nil {
		return nil, err
	}
	host := *cfg.HostConfig
	host.Privileged = host.Privileged || req.Privileged
	caps, err := capabilitiesFor(&host, e.capabilities)
	if err != nil {
		return nil, err
	}
	opts, err := parseSecurity(host.SecurityOpt)
	if err != nil {
		return nil, err
	}
	in.linked, _, _ = e.linked(cfg) // none of a link whose end stopped
	env := environment(cfg.Config, in)
	if req.Tty && !cfg.Config.Tty {
		env = mergeEnv([]string{"TERM=xterm"}, env)
	}
	x := &exec{id: newID(), req: req, settled: make(chan struct{}), refused: refused}
	x.process = specs.Process{
		Terminal: req.Tty, Args: req.Cmd, Env: mergeEnv(env, req.Env), Cwd: cfg.Config.WorkingDir,
		User: in.account.User, NoNewPrivileges: opts.noNewPrivileges, ApparmorProfile: in.apparmor,
		Capabilities: capabilitySets(caps, in.account.User.UID == 0), Rlimits: rlimits(host.Ulimits),
	}
	x.process.User.Umask = host.Umask
	if req.WorkingDir != "" {
		x.process.Cwd = req.WorkingDir
	}
	if x.process.Cwd == "" {
		x.process.Cwd = "/"
	}
	if req.ConsoleSize != nil && req.Tty {
		x.process.ConsoleSize = &specs.Box{Height: req.ConsoleSize[0], Width: req.ConsoleSize[1]}
	}
	return x, nil
}

func (e *Engine) findExec(id string) (*record, *exec, error) {
	if err := e.checkReady(); err != nil {
		return nil, nil, err
	}
	e.mu.Lock()
	r := e.execs[id]
	e.mu.Unlock()
	if r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if x := r.execs[id]; x != nil {
			return r, x, nil
		}
	}
	return nil, nil, problem.New(problem.NotFound, "No such exec instance: %s", id)
}

// ExecConfig returns what a process made by ExecCreate was asked for, if it can
// be started. Errors: NotFound, Conflict.
func (e *Engine) ExecConfig(ctx context.Context, id string) (dcontainer.ExecCreateRequest, error) {
	r, x, err := e.findExec(id)
	if err != nil {
		return dcontainer.ExecCreateRequest{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case x.over:
		return x.req, problem.New(problem.Conflict, "exec command %s has already run", id)
	case x.started:
		return x.req, problem.New(problem.Conflict, "exec command %s is already running", id)
	case r.run == nil:
		return x.req, notRunning(r.id)
	case r.st.Status == dcontainer.StatePaused:
		return x.req, problem.New(problem.Conflict, "container %s is paused, unpause the container before exec", r.id)
	}
	return x.req, nil
}

// ExecStart runs the process. With streams it returns when they are done;
// without (nil), as soon as the process runs. The end of ctx ends the
// connection, not the process. console is the first size of its terminal, rows
// and columns; nil: what ExecCreate was told.
//
// Errors: NotFound, Conflict, Invalid if there is no such program; ErrDetached.
func (e *Engine) ExecStart(ctx context.Context, id string, s *Streams, console *[2]uint) error {
	if _, err := e.ExecConfig(ctx, id); err != nil {
		return err
	}
	r, x, err := e.findExec(id)
	if err != nil {
		return err
	}
	if console != nil && x.req.Tty {
		r.mu.Lock()
		x.process.ConsoleSize = &specs.Box{Height: console[0], Width: console[1]}
		r.mu.Unlock()
	}
	_, err = e.runExec(ctx, r, x, s)
	return err
}

// runExec starts the process and, with streams, follows it.
func (e *Engine) runExec(ctx context.Context, r *record, x *exec, s *Streams) (*container.Exec, error) {
	r.mu.Lock()
	this, twice, process := r.run, x.started, x.process
	x.started = true
	r.mu.Unlock()
	if this == nil {
		return nil, notRunning(r.id)
	}
	if twice {
		return nil, problem.New(problem.Conflict, "exec command %s is already running", x.id)
	}
	if x.refused != nil {
		r.execOver(x, codeNotExecutable)
		return nil, x.refused
	}
	// A client that goes away meanwhile does not take the start back.
	whole := context.WithoutCancel(ctx)
	proc, err := this.proc.Exec(whole, container.ExecSpec{ID: x.id, Process: process, Stdin: s != nil && s.Stdin != nil, Note: r.noteOf(x)})
	if err != nil {
		r.execOver(x, codeNotExecutable)
		return nil, err
	}
	r.mu.Lock()
	x.proc = proc
	r.mu.Unlock()
	start := func() error {
		if err := proc.Start(whole); err != nil {
			return newExecFailure(r, x, err)
		}
		r.mu.Lock()
		x.settle()
		r.mu.Unlock()
		e.emit(r, devents.Action("exec_start: "+strings.Join(x.req.Cmd, " ")), map[string]string{"execID": x.id})
		e.spawn(func(ctx context.Context) { e.watchExec(ctx, r, x, proc) })
		return nil
	}
	if s == nil {
		return proc, start()
	}
	var startErr error
	begun := false
	actx, cancel := context.WithCancel(ctx)
	defer cancel()
	this.readers.enter()
	err = relay(ctx, *s, proc.Done(), func(s Streams) error {
		defer this.readers.leave()
		return proc.Attach(actx, container.Streams(s), func() {
			begun = true
			if startErr = start(); startErr != nil {
				cancel()
			}
		})
	})
	if startErr != nil {
		return nil, startErr
	}
	if !begun && ctx.Err() != nil { // the client went: it goes on without
		return proc, start()
	}
	if !begun {
		r.execOver(x, codeNotExecutable)
		return nil, errors.Join(err, proc.Close(whole))
	}
	if err == nil {
		r.awaitExit(ctx, this, x, proc)
	}
	return proc, err
}

// awaitExit records the exit that follows the end of the output: a client that
// saw the one asks for the other.
func (r *record) awaitExit(ctx context.Context, this *run, x *exec, proc *container.Exec) {
	select {
	case <-proc.Done():
		if exit, err := proc.Wait(ctx); err == nil {
			r.execOver(x, exit.Code)
		}
	case <-this.closed:
	case <-ctx.Done():
	}
}

// newExecFailure frames the runtime's error as the reference does and records
// the exit code of the convention.
func newExecFailure(r *record, x *exec, err error) error {
	code := codeNotExecutable
	if errors.Is(err, problem.NotFound) {
		code = codeNotFound
	}
	r.mu.Lock()
	x.proc = nil
	r.mu.Unlock()
	r.execOver(x, code)
	return invalid("%s", err.Error())
}

func (r *record) execOver(x *exec, code int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !x.over {
		x.over, x.code, x.ended = true, code, time.Now()
		x.settle()
	}
}

// watchExec records the exit of the process.
func (e *Engine) watchExec(ctx context.Context, r *record, x *exec, proc *container.Exec) {
	exit, err := proc.Wait(ctx)
	if err != nil {
		if ctx.Err() == nil {
			e.log.Warn("exec wait", "container", r.id, "err", err)
		}
		return
	}
	r.execOver(x, exit.Code)
	e.emit(r, devents.ActionExecDie, map[string]string{"execID": x.id, "exitCode": strconv.Itoa(exit.Code)})
}

// resizeWait is how long a resize waits for the start: as the reference.
const resizeWait = 10 * time.Second

// ExecResize sets the size of the process's terminal. It waits for a start that
// is not done yet. Errors: NotFound, Conflict, Invalid if the start failed.
func (e *Engine) ExecResize(ctx context.Context, id string, rows, cols uint16) error {
	r, x, err := e.findExec(id)
	if err != nil {
		return err
	}
	limit := time.NewTimer(resizeWait)
	defer limit.Stop()
	select {
	case <-x.settled:
	case <-limit.C:
		return errors.New("timeout waiting for exec session ready")
	case <-ctx.Done():
		return ctx.Err()
	}
	r.mu.Lock()
	proc := x.proc
	r.mu.Unlock()
	if proc == nil {
		return problem.New(problem.Invalid, "exec process is not started")
	}
	if !x.req.Tty {
		return nil // as in the reference
	}
	return proc.Resize(ctx, rows, cols)
}

// ExecInspect returns the state of a process made by ExecCreate.
func (e *Engine) ExecInspect(ctx context.Context, id string) (dcontainer.ExecInspectResponse, error) {
	r, x, err := e.findExec(id)
	if err != nil {
		return dcontainer.ExecInspectResponse{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if x.proc != nil && !x.over {
		// The exit may be known before watchExec has run.
		select {
		case <-x.proc.Done():
			if exit, err := x.proc.Wait(ctx); err == nil {
				x.over, x.code, x.ended = true, exit.Code, time.Now()
			}
		default:
		}
	}
	answer := dcontainer.ExecInspectResponse{
		ID: x.id, ContainerID: r.id, Running: x.started && !x.over,
		OpenStdin: x.req.AttachStdin, OpenStdout: x.req.AttachStdout, OpenStderr: x.req.AttachStderr,
		DetachKeys: []byte{},
		ProcessConfig: &dcontainer.ExecProcessConfig{
			Tty: x.req.Tty, Entrypoint: x.req.Cmd[0], Arguments: x.req.Cmd[1:],
			Privileged: &x.req.Privileged, User: x.req.User,
		},
	}
	if x.over {
		code := x.code
		answer.ExitCode = &code
	}
	if x.proc != nil {
		answer.Pid = x.proc.Pid()
	}
	return answer, nil
}

// ExecRun runs a further process in a container from beginning to end and
// returns its exit code. When ctx ends the process is killed.
func (e *Engine) ExecRun(ctx context.Context, ref string, req dcontainer.ExecCreateRequest, s Streams) (exitCode int, err error) {
	r, err := e.find(ref)
	if err != nil {
		return 0, err
	}
	x, err := e.newExec(ctx, r, req)
	if err != nil {
		return 0, err
	}
	proc, err := e.runExec(ctx, r, x, &s)
	if proc == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		return x.code, err
	}
	if ctx.Err() != nil {
		kill := context.WithoutCancel(ctx)
		if err := proc.Signal(kill, unix.SIGKILL); err != nil && !errors.Is(err, problem.Conflict) {
			return 0, err
		}
		if _, err := proc.Wait(kill); err != nil {
			return 0, err
		}
		return 0, ctx.Err()
	}
	if err != nil {
		return 0, err
	}
	exit, err := proc.Wait(ctx)
	return exit.Code, err
}
