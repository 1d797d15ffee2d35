package builder

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"gantry/engine/image"
	"gantry/internal/problem"
)

// scratch is the base that is nothing.
const scratch = "scratch"

// graph is what a build has to do: stages, and which need which.
type graph struct {
	file   *dockerfile
	target int
	args   []step // the ARG instructions before the first FROM
	stages []*stage
	steps  int // of all needed stages, numbered from 1
}

// step is one numbered instruction.
type step struct {
	number  int
	text    string
	command instructions.Command // nil: FROM
}

// stage is one stage of the Dockerfile.
type stage struct {
	index    int
	name     string // as written, or the index
	base     string // an image or "scratch"; empty when baseStage is set
	from     int    // stage that it begins with, or -1
	platform string
	image    image.Image // the base, once it is resolved
	resolved bool
	triggers []trigger
	steps    []step // FROM first
	needs    []int  // other stages, from included, sorted
	needed   bool
}

// newGraph decides which stages there are to build. globals is the environment
// of FROM: the ARGs before the first, build arguments applied.
func newGraph(f *dockerfile, target string, globals shell.EnvGetter, extra []instructions.Command) (*graph, error) {
	g := &graph{file: f}
	lex := shell.NewLex(f.escape)
	for i, s := range f.stages {
		st, err := g.newStage(i, s, lex, globals)
		if err != nil {
			return nil, f.at(s.Location, err)
		}
		g.stages = append(g.stages, st)
	}
	var err error
	if g.target, err = f.findTarget(target); err != nil {
		return nil, err
	}
	last := g.stages[g.target]
	for _, c := range extra {
		last.steps = append(last.steps, step{text: text(c), command: c})
	}
	g.need(g.target)
	return g, nil
}

func (g *graph) newStage(i int, s instructions.Stage, lex *shell.Lex, globals shell.EnvGetter) (*stage, error) {
	st := &stage{index: i, name: s.Name, from: -1}
	if st.name == "" {
		st.name = strconv.Itoa(i)
	}
	base, _, err := lex.ProcessWord(s.BaseName, globals)
	if err != nil {
		return nil, err
	}
	if base == "" {
		return nil, problem.New(problem.Invalid, "base name (%s) should not be blank", s.BaseName)
	}
	if st.platform, _, err = lex.ProcessWord(s.Platform, globals); err != nil {
		return nil, err
	}
	st.base = base
	if n, ok := g.earlier(base); ok {
		st.from, st.base = n, ""
		st.needs = append(st.needs, n)
	}
	st.steps = append(st.steps, step{text: s.SourceCode})
	for _, c := range s.Commands {
		st.steps = append(st.steps, step{text: text(c), command: c})
		for _, from := range sourcesOf(c) {
			if n, ok, err := g.source(from, i); err != nil {
				return nil, err
			} else if ok {
				st.needs = append(st.needs, n)
			}
		}
	}
	slices.Sort(st.needs)
	st.needs = slices.Compact(st.needs)
	return st, nil
}

// sourcesOf returns the stages and images that an instruction takes from.
func sourcesOf(c instructions.Command) []string {
	switch c := c.(type) {
	case *instructions.CopyCommand:
		if c.From != "" {
			return []string{c.From}
		}
	case *instructions.RunCommand:
		return mountSources(c)
	}
	return nil
}

// earlier finds a stage by name among those so far; the last of a name wins.
func (g *graph) earlier(name string) (int, bool) {
	return g.before(len(g.stages), name)
}

// before finds a stage by name among the first n.
func (g *graph) before(n int, name string) (int, bool) {
	for i := n - 1; i >= 0; i-- {
		if strings.EqualFold(g.file.stages[i].Name, name) {
			return i, true
		}
	}
	return -1, false
}

// source finds the stage that --from in stage number user means: a name, or an
// index. If it is neither, it is an image.
func (g *graph) source(from string, user int) (int, bool, error) {
	if n, ok := g.before(user, from); ok {
		return n, true, nil
	}
	if n, err := strconv.Atoi(from); err == nil {
		if n < 0 || n >= user {
			return -1, false, problem.New(problem.Invalid, "invalid from flag value %s: refers to current build stage or to one that does not exist yet", from)
		}
		return n, true, nil
	}
	if strings.EqualFold(g.file.stages[user].Name, from) {
		return -1, false, problem.New(problem.Invalid, "invalid from flag value %s: refers to current build stage", from)
	}
	return -1, false, nil
}

func (f *dockerfile) findTarget(target string) (int, error) {
	if target == "" {
		return len(f.stages) - 1, nil
	}
	for i := len(f.stages) - 1; i >= 0; i-- {
		if strings.EqualFold(f.stages[i].Name, target) {
			return i, nil
		}
	}
	if n, err := strconv.Atoi(target); err == nil && n >= 0 && n < len(f.stages) {
		return n, nil
	}
	return 0, problem.New(problem.Invalid, "failed to reach build target %s in Dockerfile", target)
}

// need marks a stage and what it needs.
func (g *graph) need(i int) {
	if g.stages[i].needed {
		return
	}
	g.stages[i].needed = true
	for _, n := range g.stages[i].needs {
		g.need(n)
	}
}

// number numbers the steps that are to be done, in the order of the Dockerfile.
func (g *graph) number() {
	for i := range g.file.args {
		g.steps++
		g.args = append(g.args, step{number: g.steps, text: text(&g.file.args[i])})
	}
	for _, s := range g.stages {
		if !s.needed {
			continue
		}
		for i := range s.steps {
			g.steps++
			s.steps[i].number = g.steps
		}
	}
}

// String describes the graph, for tests and logs.
func (g *graph) String() string {
	var b strings.Builder
	for _, s := range g.stages {
		from := s.base
		if s.from >= 0 {
			from = fmt.Sprintf("stage %d", s.from)
		}
		fmt.Fprintf(&b, "stage %d %s: from %s, needs %v, needed %v\n", s.index, s.name, from, s.needs, s.needed)
		for _, st := range s.steps {
			fmt.Fprintf(&b, "  %d/%d %s\n", st.number, g.steps, st.text)
		}
	}
	return b.String()
}
