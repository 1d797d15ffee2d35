// Package push takes a source directory to a running service: it finds out what
// the directory holds (source.go), builds an image of it (gobuild.go, context.go),
// writes a Deployment, a Service and an Ingress (objects.go), follows the
// roll-out (follow.go, verdict.go), and finds the port that the app listens on
// where nobody said it (port.go).
//
// It is a client of the two public APIs, Docker's and Kubernetes', never of the
// insides; what it creates is standard and readable by kubectl, and written by
// server-side apply, so that fields which others manage are left alone. A push
// of unchanged source changes nothing. A push that fails leaves what ran before
// serving, and undoes what it has written itself.
//
// A setting that is not given keeps its value from the push before: replicas,
// environment, port and host.
//
// Its goroutines end with the call that started them.
package push

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gantry/internal/control"
	"gantry/internal/problem"
	"gantry/push/docker"
	"gantry/push/kube"
)

// Request is one push.
type Request struct {
	Dir      string            // the source; empty means the working directory
	Name     string            // of the app; empty means the directory's
	Replicas *int32            // nil: as many as there are, at first DefaultReplicas
	Env      map[string]string // added to what the app has
	Port     int               // 0: what the image exposes or the process listens on
	Host     string            // empty: what the app has, at first NAME.localhost
	Timeout  time.Duration     // of the roll-out; 0 means a minute
}

// DefaultReplicas is how many replicas a new app gets: with two, a roll-out and
// the loss of one process interrupt nothing.
const DefaultReplicas = 2

// Namespace is where apps are.
const Namespace = "default"

// Config is what pushes go to. All fields are required.
type Config struct {
	Docker  *docker.Client
	Kube    *kube.Client
	Ports   func(ctx context.Context, containerID string) ([]control.Port, error)
	Ingress string // host:port at which the ingress listens
	Report  Reporter
}

// Reporter shows the steps of a push as they happen, one after the other.
type Reporter interface {
	Begin(step string)                 // a step begins
	Detail(format string, args ...any) // how far the step is; replaces the last detail
	Output(text string)                // output of a tool, to be shown if the step fails
	Done(format string, args ...any)   // the step has ended well
	Fail()                             // the step has ended badly; shows its output
}

// Result is what a push has come to.
type Result struct {
	App       string
	Image     string
	Replicas  int32
	Address   string // URL; empty when the app listens on no port
	Note      string // what a person should know about it; may be empty
	Unchanged bool   // nothing was written
}

// Pusher pushes to one server.
type Pusher struct {
	cfg Config
}

// New returns a Pusher. It does not connect.
func New(cfg Config) *Pusher { return &Pusher{cfg: cfg} }

// Run pushes, and returns when the roll-out is complete.
//
// A roll-out that fails is a *problem.UserError with the reason; what ran
// before goes on serving. When ctx ends, the roll-out goes on by itself.
func (p *Pusher) Run(ctx context.Context, req Request) (Result, error) {
	app, err := p.prepare(ctx, req)
	if err != nil {
		return Result{}, err
	}
	result, err := p.roll(ctx, app)
	if err != nil {
		return Result{}, err
	}
	return result, nil
}

// Render builds the image and returns the objects that Run would write. The
// Service and the Ingress are missing while the port is unknown.
func (p *Pusher) Render(ctx context.Context, req Request) ([]any, error) {
	app, err := p.prepare(ctx, req)
	if err != nil {
		return nil, err
	}
	return app.want.objects(), nil
}

// app is one push on its way.
type app struct {
	before *kube.Deployment // nil at first
	had    settings         // of before; zero at first
	want   settings
	limit  time.Duration
}

// prepare finds the source, reads what the app has, and builds its image.
func (p *Pusher) prepare(ctx context.Context, req Request) (*app, error) {
	source, err := find(ctx, req.Dir)
	if err != nil {
		return nil, err
	}
	name := req.Name
	if name == "" {
		name = source.name
	}
	if err := validate(name, req); err != nil {
		return nil, err
	}
	a := &app{limit: req.Timeout}
	if a.limit == 0 {
		a.limit = time.Minute
	}
	if err := p.readBefore(ctx, name, a); err != nil {
		return nil, err
	}
	image, exposed, err := p.build(ctx, source, name)
	if err != nil {
		return nil, err
	}
	a.want = merge(a.had, name, image, exposed, req)
	return a, nil
}

func (p *Pusher) readBefore(ctx context.Context, name string, a *app) error {
	var d kube.Deployment
	err := p.cfg.Kube.Get(ctx, kube.Deployments.Object(Namespace, name), &d)
	if errors.Is(err, problem.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if d.Metadata.Labels[managedLabel] != managedValue {
		return &problem.UserError{
			Op: "push", Object: name,
			Err: problem.New(problem.Conflict, "there is a deployment %s that was not made by push", name),
			Try: "give the app another name with --name",
		}
	}
	a.before, a.had = &d, read(d)
	var ingress kube.Ingress
	err = p.cfg.Kube.Get(ctx, kube.Ingresses.Object(Namespace, name), &ingress)
	if err == nil && len(ingress.Spec.Rules) > 0 {
		a.had.host = ingress.Spec.Rules[0].Host
	}
	if errors.Is(err, problem.NotFound) {
		err = nil
	}
	return err
}

// roll writes the objects and follows the roll-out.
func (p *Pusher) roll(ctx context.Context, a *app) (Result, error) {
	result := Result{App: a.want.name, Image: a.want.image, Replicas: a.want.replicas}
	p.cfg.Report.Begin("roll out")
	deployment, changed, err := p.apply(ctx, a.want.deployment())
	if err != nil {
		p.cfg.Report.Fail()
		return result, fmt.Errorf("push %s: %w", a.want.name, err)
	}
	f := &follower{cfg: p.cfg, app: a, generation: deployment.Metadata.Generation}
	if failure := f.wait(ctx); failure != nil {
		p.cfg.Report.Fail()
		if ctx.Err() != nil {
			return result, fmt.Errorf("push %s: %w: the roll-out goes on without us", a.want.name, context.Cause(ctx))
		}
		return result, errors.Join(p.failed(a, changed, failure)...)
	}
	if changed {
		p.cfg.Report.Done("%d of %d replicas are ready", a.want.replicas, a.want.replicas)
	} else {
		p.cfg.Report.Done("unchanged: %d of %d replicas are ready", a.want.replicas, a.want.replicas)
	}
	routed, err := p.route(ctx, a, &result)
	if err != nil {
		return result, err
	}
	result.Unchanged = !changed && !routed
	return result, nil
}

// failed undoes a roll-out and explains it. It works on although the push's
// context may be over, but not for ever.
func (p *Pusher) failed(a *app, changed bool, failure error) []error {
	explained := &problem.UserError{Op: "push", Object: a.want.name, Err: failure, Try: advice(failure)}
	if !changed {
		return []error{explained}
	}
	const enough = 10 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), enough)
	defer cancel()
	if a.before == nil {
		err := p.cfg.Kube.Delete(ctx, kube.Deployments.Object(Namespace, a.want.name))
		if err != nil {
			return []error{explained, fmt.Errorf("remove the deployment: %w", err)}
		}
		return []error{explained}
	}
	if _, _, err := p.apply(ctx, a.had.deployment()); err != nil {
		return []error{explained, fmt.Errorf("go back to %s: %w", a.had.image, err)}
	}
	explained.Err = fmt.Errorf("%w\n  the version before goes on serving", failure)
	return []error{explained}
}

// route finds the port, writes the Service and the Ingress, and waits until
// the address answers.
func (p *Pusher) route(ctx context.Context, a *app, result *Result) (changed bool, err error) {
	if a.want.port == 0 {
		p.cfg.Report.Begin("find the port")
		port, note, err := p.observe(ctx, a)
		if err != nil {
			p.cfg.Report.Fail()
			return false, err
		}
		if port == 0 {
			p.cfg.Report.Done("none")
			result.Note = note
			return false, nil
		}
		p.cfg.Report.Done("the app listens on %d", port)
		a.want.port, a.want.portFrom = port, observed
		result.Note = note
		if _, changed, err = p.apply(ctx, a.want.deployment()); err != nil {
			return false, err
		}
	}
	p.cfg.Report.Begin("route")
	_, serviceChanged, err := p.apply(ctx, a.want.service())
	if err != nil {
		p.cfg.Report.Fail()
		return false, err
	}
	_, ingressChanged, err := p.apply(ctx, a.want.ingress())
	if err != nil {
		p.cfg.Report.Fail()
		return false, err
	}
	changed = changed || serviceChanged || ingressChanged
	result.Address = address(a.want.host, p.cfg.Ingress)
	if err := p.answers(ctx, a.want.host); err != nil {
		p.cfg.Report.Fail()
		return changed, &problem.UserError{Op: "push", Object: a.want.name, Err: fmt.Errorf("%s does not answer: %w", result.Address, err),
			Try: "look at \"gantry logs " + a.want.name + "\" and \"gantry status\""}
	}
	p.cfg.Report.Done("%s", result.Address)
	return changed, nil
}

// apply writes an object and reports whether that changed anything.
func (p *Pusher) apply(ctx context.Context, o object) (after kube.Deployment, changed bool, err error) {
	var before kube.Deployment // any kind has the metadata that is looked at
	err = p.cfg.Kube.Get(ctx, o.path, &before)
	if err != nil && !errors.Is(err, problem.NotFound) {
		return after, false, err
	}
	if err := p.cfg.Kube.Apply(ctx, o.path, fieldManager, o.value, &after); err != nil {
		return after, false, err
	}
	return after, before.Metadata.ResourceVersion != after.Metadata.ResourceVersion, nil
}
