package builder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"gantry/engine/image"
	"gantry/internal/problem"
)

// trigger is an ONBUILD instruction of a stage's base.
type trigger struct {
	source  string
	command instructions.Command
}

// resolve finds the images that the stages begin with, several at a time, and
// the triggers that come with those, which may need further stages.
func (r *run) resolve(ctx context.Context) error {
	for {
		var todo []*stage
		for _, s := range r.graph.stages {
			if s.needed && !s.resolved {
				todo = append(todo, s)
			}
		}
		if len(todo) == 0 {
			r.graph.number()
			return nil
		}
		g, ctx := errgroup.WithContext(ctx)
		for _, s := range todo {
			g.Go(func() error { return r.placed(ctx, s, r.resolveBase(ctx, s)) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for _, s := range todo {
			s.resolved = true
			if err := r.placed(ctx, s, r.graph.addTriggers(s)); err != nil {
				return err
			}
		}
	}
}

// placed gives an error about a stage its place, unless the build was stopped.
func (r *run) placed(ctx context.Context, s *stage, err error) error {
	if err == nil || context.Cause(ctx) != nil {
		return err
	}
	return r.graph.file.at(r.graph.file.stages[s.index].Location, err)
}

// wanted is the platform that a stage is for.
func (r *run) wanted(s *stage) (ocispec.Platform, error) {
	if s.platform == "" {
		return r.platform, nil
	}
	return image.ParsePlatform(s.platform)
}

// resolveBase finds the image that a stage begins with.
func (r *run) resolveBase(ctx context.Context, s *stage) error {
	want, err := r.wanted(s)
	if err != nil || s.from >= 0 || s.base == scratch {
		return err
	}
	asked := s.platform != "" || r.req.Platform != ""
	if s.image, err = r.base(ctx, s.base, want, asked); err != nil {
		return err
	}
	if p := s.image.Platform(); asked && !image.Runs(p, want) {
		return problem.New(problem.Invalid, "image %s is for %s, the build asks for %s",
			s.base, image.FormatPlatform(p), image.FormatPlatform(want))
	}
	return nil
}

// base finds an image to build on, with a lease on its layers. It is fetched
// when it is not here, when the build says so, and when the one that is here is
// for another platform than was asked for.
func (r *run) base(ctx context.Context, name string, want ocispec.Platform, asked bool) (image.Image, error) {
	img, err := r.cfg.Images.Resolve(ctx, name)
	if err != nil && !errors.Is(err, problem.NotFound) {
		return img, err
	}
	named, perr := image.ParseName(name)
	here := err == nil && !r.req.Pull && (!asked || image.Runs(img.Platform(), want))
	if byID := err == nil && strings.HasPrefix(img.ID.Encoded(), strings.TrimPrefix(name, "sha256:")); !here && !byID && r.req.Fetch != nil && perr == nil {
		if ferr := r.req.Fetch(ctx, named, want); ferr != nil && err == nil && asked && !image.Runs(img.Platform(), want) {
			return img, fmt.Errorf("image with reference %s was found but its platform (%s) does not match the specified platform (%s): %w",
				name, image.FormatPlatform(img.Platform()), image.FormatPlatform(want), ferr)
		} else if ferr != nil {
			return img, ferr
		}
		img, err = r.cfg.Images.Resolve(ctx, name)
	}
	if err == nil && r.cfg.Allowed != nil {
		err = r.cfg.Allowed(ctx, img, name)
	}
	if err != nil {
		return img, err
	}
	return img, r.cfg.Images.Lease(r.lease, img.Layers...)
}

// addTriggers reads the triggers of a stage's base, and marks the stages that
// they take from.
func (g *graph) addTriggers(s *stage) error {
	list := s.image.Config.Config.OnBuild
	if s.from >= 0 {
		for _, c := range g.file.stages[s.from].Commands {
			if c, ok := c.(*instructions.OnbuildCommand); ok {
				list = append(slices.Clip(list), c.Expression)
			}
		}
	}
	for _, source := range list {
		cmd, err := parseTrigger(source)
		if err != nil {
			return problem.New(problem.Invalid, "ONBUILD %s: %w", source, err)
		}
		s.triggers = append(s.triggers, trigger{source, cmd})
		for _, from := range sourcesOf(cmd) {
			n, ok, err := g.source(from, s.index)
			if err != nil {
				return fmt.Errorf("ONBUILD %s: %w", source, err)
			}
			if ok && !slices.Contains(s.needs, n) {
				s.needs = append(slices.Clip(s.needs), n)
				g.need(n)
			}
		}
	}
	return nil
}

func parseTrigger(source string) (instructions.Command, error) {
	ast, err := parser.Parse(strings.NewReader(source))
	if err != nil {
		return nil, err
	}
	if len(ast.AST.Children) != 1 {
		return nil, errors.New("onbuild trigger should be a single expression")
	}
	v, err := instructions.ParseInstructionWithLinter(ast.AST.Children[0], silent())
	if err != nil {
		return nil, err
	}
	cmd, ok := v.(instructions.Command)
	if !ok {
		return nil, fmt.Errorf("%T is not a command type", v)
	}
	return cmd, nil
}
