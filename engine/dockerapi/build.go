package dockerapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"

	"github.com/distribution/reference"
	"github.com/docker/go-units"
	dbuild "github.com/moby/moby/api/types/build"
	dcontainer "github.com/moby/moby/api/types/container"
	devents "github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/jsonstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/engine/builder"
	"gantry/engine/registry"
	"gantry/internal/problem"
)

// buildQuery lists the parameters of a build that the classic client sends.
const buildQuery = "dockerfile t extrahosts remote q nocache cachefrom pull rm forcerm memory memswap cpushares cpusetcpus " +
	"cpusetmems cpuperiod cpuquota buildargs shmsize squash labels networkmode target outputs platform version buildid " +
	"cgroupparent isolation securityopt ulimits"

// build builds an image of the context in the body.
func (c *call) build() error {
	if c.cfg.Builder == nil {
		return problem.New(problem.Unsupported, "building is turned off")
	}
	if err := c.query.refuse("session"); err != nil { // BuildKit's
		return err
	}
	req, err := buildRequest(c.query)
	if err != nil {
		return err
	}
	req.Context = c.r.Body
	ctx, done := c.builds.begin(c.r.Context(), c.query.Get("buildid"))
	defer done()
	out := c.progress()
	quiet := c.query.bool("q")
	if req.Fetch, err = c.fetcher(out, quiet); err != nil {
		return err
	}
	var shown io.Writer = streamWriter{out}
	held := &heldOutput{} // shown when the build fails, as the reference does
	if quiet {
		shown = held
	}
	text := builder.NewClassic(shown)
	id, err := c.cfg.Builder.Build(ctx, req, func(ev builder.Event) {
		text.Event(ev)
		if ev.Kind == builder.Built && !quiet {
			out.aux(dbuild.Result{ID: ev.Image})
		}
		if ev.Kind == builder.Tagged {
			c.cfg.Engine.Emit(devents.ImageEventType, devents.ActionTag, ev.Image, map[string]string{"name": ev.Text})
		}
	})
	err = errors.Join(err, text.Close())
	switch {
	case err == nil && quiet:
		out.send(jsonstream.Message{Stream: id.String() + "\n"})
	case held.len() > 0:
		out.send(jsonstream.Message{Stream: held.String()})
	}
	return out.end(err)
}

// exitCode is that of the command of a build that failed; the client ends with
// it. 0: there is none.
func exitCode(err error) int {
	var exit *builder.ExitError
	if errors.As(err, &exit) {
		return exit.Code
	}
	return 0
}

// heldOutput keeps the end of what is written.
type heldOutput struct{ text []byte }

// maxHeld bounds the output of a quiet build that is kept.
const maxHeld = 64 << 10

func (h *heldOutput) Write(p []byte) (int, error) {
	h.text = append(h.text, p...)
	if n := len(h.text); n > 2*maxHeld {
		h.text = append(h.text[:0], h.text[n-maxHeld:]...)
	}
	return len(p), nil
}

func (h *heldOutput) len() int { return len(h.text) }

func (h *heldOutput) String() string { return string(h.text[max(0, len(h.text)-maxHeld):]) }

// fetcher returns what pulls the images of FROM.
func (c *call) fetcher(out *progress, quiet bool) (func(context.Context, reference.Named, ocispec.Platform) error, error) {
	if c.cfg.Registry == nil {
		return nil, nil
	}
	credentials, err := c.allCredentials()
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, name reference.Named, p ocispec.Platform) error {
		req := registry.PullRequest{Ref: name, Platform: &p, Credentials: credentials[reference.Domain(name)]}
		if quiet {
			_, err := c.cfg.Registry.Pull(ctx, req, nil)
			return err
		}
		return c.pull(ctx, c.cfg.Registry, req, out)
	}, nil
}

// streamWriter sends each write as a message.
type streamWriter struct{ out *progress }

func (s streamWriter) Write(p []byte) (int, error) {
	s.out.send(jsonstream.Message{Stream: string(p)})
	return len(p), s.out.failed
}

var _ io.Writer = streamWriter{}

// aux sends what a program reads and no person sees.
func (p *progress) aux(v any) {
	data, err := json.Marshal(v)
	if err != nil {
		p.failed = errors.Join(p.failed, err)
		return
	}
	raw := json.RawMessage(data)
	p.send(jsonstream.Message{Aux: &raw})
}

// buildRequest translates a build's parameters, and refuses those that are not
// supported.
func buildRequest(q query) (builder.Request, error) {
	req := builder.Request{
		Dockerfile: q.Get("dockerfile"), Target: q.Get("target"), NoCache: q.bool("nocache"), Pull: q.bool("pull"),
		Platform: q.Get("platform"), Network: q.Get("networkmode"), Remote: q.Get("remote"),
		ExtraHosts: q.Values["extrahosts"],
	}
	// What would be kept of failed steps (rm, forcerm) never is.
	if err := q.refuse("outputs"); err != nil {
		return req, err
	}
	if q.bool("squash") {
		return req, invalid("squash is only supported with experimental mode")
	}
	if len(q.Values["securityopt"]) > 0 {
		return req, invalid("The daemon on this platform does not support setting security options on build")
	}
	if i := dcontainer.Isolation(q.Get("isolation")); !i.IsDefault() {
		return req, invalid("invalid isolation (%s): linux has the default one only", i)
	}
	if v := q.Get("version"); v != "" && v != string(dbuild.BuilderV1) {
		return req, problem.New(problem.Unsupported, "BuildKit is not supported by this version of Gantry; set DOCKER_BUILDKIT=0")
	}
	for _, tag := range q.Values["t"] {
		name, err := nameAndTag(tag, "")
		if err != nil {
			return req, err
		}
		if name != "" && !slices.Contains(req.Tags, name) {
			req.Tags = append(req.Tags, name)
		}
	}
	if err := jsonParameter(q, "buildargs", &req.BuildArgs); err != nil {
		return req, err
	}
	if err := jsonParameter(q, "labels", &req.Labels); err != nil {
		return req, err
	}
	if err := jsonParameter(q, "cachefrom", &req.CacheFrom); err != nil {
		return req, err
	}
	return req, buildLimits(q, &req.Limits)
}

func jsonParameter(q query, name string, out any) error {
	text := q.Get(name)
	if text == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(text), out); err != nil {
		return invalid("query parameter %s: %w", name, err)
	}
	return nil
}

func buildLimits(q query, l *builder.Limits) error {
	for name, field := range map[string]*int64{
		"memory": &l.Memory, "memswap": &l.MemorySwap, "cpushares": &l.CPUShares,
		"cpuperiod": &l.CPUPeriod, "cpuquota": &l.CPUQuota, "shmsize": &l.ShmSize,
	} {
		n, err := q.int(name)
		if err != nil {
			return err
		}
		*field = n
	}
	l.Cgroup = q.Get("cgroupparent")
	l.CPUSet, l.CPUSetMems = q.Get("cpusetcpus"), q.Get("cpusetmems")
	var ulimits []*units.Ulimit
	if err := jsonParameter(q, "ulimits", &ulimits); err != nil {
		return err
	}
	for _, u := range ulimits {
		l.Ulimits = append(l.Ulimits, builder.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	return nil
}

// runningBuilds are the builds that their clients have named.
type runningBuilds struct {
	mu      sync.Mutex
	cancels map[string]context.CancelFunc
}

// begin names a build, unless the name is empty, until done.
func (b *runningBuilds) begin(ctx context.Context, id string) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancel(ctx)
	if id == "" {
		return ctx, cancel
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cancels == nil {
		b.cancels = map[string]context.CancelFunc{}
	}
	b.cancels[id] = cancel
	return ctx, func() {
		cancel()
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.cancels, id)
	}
}

// cancelBuild ends a build that its client has named. As in the reference, a
// build that nobody knows has ended.
func (c *call) cancelBuild() error {
	id := c.query.Get("id")
	if id == "" {
		return invalid("build ID not provided")
	}
	c.builds.mu.Lock()
	cancel := c.builds.cancels[id]
	c.builds.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	c.begun = true
	c.w.WriteHeader(http.StatusOK)
	return nil
}
