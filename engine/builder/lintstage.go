package builder

import (
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/suggest"
	"github.com/moby/patternmatcher"
)

// stageLint goes through the instructions of one stage as the build will, as
// far as the configuration goes, and applies the rules to each.
type stageLint struct {
	*lint
	args    *arguments
	escape  rune
	ignored *patternmatcher.PatternMatcher // what .dockerignore excludes, or nil

	st       state
	declared map[string]bool // by ARG, with a value or not
	workdir  bool            // there was one
	once     map[string][]parser.Range
}

// stages applies the rules to the stages that are to be built. f is the
// Dockerfile, parsed once more: replacing variables changes the instructions.
func (l *lint) stages(f *dockerfile, g *graph, a *arguments, ignored *patternmatcher.PatternMatcher) {
	all := make([]*stageLint, len(g.stages))
	for i, s := range g.stages {
		if !s.needed {
			continue
		}
		x := &stageLint{lint: l, args: a, escape: f.escape, ignored: ignored, declared: map[string]bool{}, once: map[string][]parser.Range{}}
		all[i] = x
		switch {
		case s.from >= 0:
			from := all[s.from]
			x.st, x.workdir = from.st.fork(), from.workdir
			for name := range from.declared {
				x.declared[name] = true
			}
		case s.base == scratch:
			x.st = scratchState(a.target)
		default:
			x.st = imageState(s.image)
		}
		x.st.defaultPath()
		place := f.stages[i].Location
		for _, t := range s.triggers {
			if cmd, err := parseTrigger(t.source); err == nil {
				x.instruction(cmd, place)
			}
		}
		for _, cmd := range f.stages[i].Commands {
			x.instruction(cmd, cmd.Location())
		}
	}
}

// instruction applies the rules to one instruction. What is wrong with it
// otherwise is for the build to say.
func (x *stageLint) instruction(cmd instructions.Command, at []parser.Range) {
	rules := x.rules.WithMergedConfigFromComments(cmd.Comments())
	lex := shell.NewLex(x.escape)
	if arg, ok := cmd.(*instructions.ArgCommand); ok {
		x.arg(arg, rules, at, lex)
		return
	}
	if e, ok := cmd.(instructions.SupportsSingleWordExpansion); ok && e.Expand(x.expander(lex, rules, at)) != nil {
		return
	}
	if e, ok := cmd.(instructions.SupportsSingleWordExpansionRaw); ok {
		raw := shell.NewLex('\\')
		raw.SkipProcessQuotes = true
		if e.ExpandRaw(x.expander(raw, rules, at)) != nil {
			return
		}
	}
	switch cmd := cmd.(type) {
	case *instructions.EnvCommand:
		x.keyValues(cmd.Name(), cmd.Env, rules, at)
		for _, kv := range cmd.Env {
			if isSecret(kv.Key) {
				rules.Run(&linter.RuleSecretsUsedInArgOrEnv, at, linter.RuleSecretsUsedInArgOrEnv.Format("ENV", kv.Key))
			}
		}
	case *instructions.LabelCommand:
		x.keyValues(cmd.Name(), cmd.Labels, rules, at)
	case *instructions.CmdCommand:
		x.command(cmd.Name(), cmd.PrependShell, rules, at)
	case *instructions.EntrypointCommand:
		x.command(cmd.Name(), cmd.PrependShell, rules, at)
	case *instructions.HealthCheckCommand:
		x.usedOnce(cmd.Name(), rules, at)
	case *instructions.WorkdirCommand:
		if !x.workdir && !path.IsAbs(cmd.Path) {
			rules.Run(&linter.RuleWorkdirRelativePath, at, linter.RuleWorkdirRelativePath.Format(cmd.Path))
		}
		x.workdir = true
	case *instructions.ExposeCommand:
		x.expose(cmd.Ports, rules, at, lex)
	case *instructions.CopyCommand:
		if cmd.From == "" {
			x.copied("Copy", cmd.SourcePaths, rules, at)
		}
	case *instructions.AddCommand:
		x.copied("Add", cmd.SourcePaths, rules, at)
	}
	_, _ = x.st.describe(cmd, x.args, lex)
}

// expander replaces variables, and reports those that do not exist.
func (x *stageLint) expander(lex *shell.Lex, rules *linter.Linter, at []parser.Range) instructions.SingleWordExpander {
	return func(word string) (string, error) {
		env := x.st.environment()
		out, unmatched, err := lex.ProcessWord(word, env)
		for _, name := range sortedKeys(unmatched) {
			if x.declared[name] {
				continue
			}
			meant, _ := suggest.Search(name, env.Keys(), true)
			rules.Run(&linter.RuleUndefinedVar, at, linter.RuleUndefinedVar.Format(name, meant))
		}
		return out, err
	}
}

func (x *stageLint) arg(cmd *instructions.ArgCommand, rules *linter.Linter, at []parser.Range, lex *shell.Lex) {
	for _, kv := range cmd.Args {
		if isSecret(kv.Key) {
			rules.Run(&linter.RuleSecretsUsedInArgOrEnv, at, linter.RuleSecretsUsedInArgOrEnv.Format("ARG", kv.Key))
		}
		if _, given := x.args.given[kv.Key]; kv.Value != nil && !given {
			v, err := x.expander(lex, rules, at)(*kv.Value)
			if err != nil {
				return
			}
			kv.Value = &v
		}
		if v, ok := x.args.value(kv, x.args.globals); ok {
			x.st.args = set(x.st.args, kv.Key, v)
		}
		x.declared[kv.Key] = true
	}
}

func (x *stageLint) keyValues(name string, pairs instructions.KeyValuePairs, rules *linter.Linter, at []parser.Range) {
	for _, kv := range pairs {
		if kv.NoDelim {
			rules.Run(&linter.RuleLegacyKeyValueFormat, at, linter.RuleLegacyKeyValueFormat.Format(name))
		}
	}
}

func (x *stageLint) command(name string, shellForm bool, rules *linter.Linter, at []parser.Range) {
	x.usedOnce(name, rules, at)
	if shellForm && len(x.st.spec.Config.Shell) == 0 {
		rules.Run(&linter.RuleJSONArgsRecommended, at, linter.RuleJSONArgsRecommended.Format(name))
	}
}

// usedOnce reports an instruction that a later one makes void, at its place.
func (x *stageLint) usedOnce(name string, rules *linter.Linter, at []parser.Range) {
	key := strings.ToUpper(name)
	if before := x.once[key]; before != nil {
		rules.Run(&linter.RuleMultipleInstructionsDisallowed, before, linter.RuleMultipleInstructionsDisallowed.Format(name))
	}
	x.once[key] = at
}

func (x *stageLint) expose(words []string, rules *linter.Linter, at []parser.Range, lex *shell.Lex) {
	for _, word := range words {
		ports, err := lex.ProcessWords(word, x.st.environment())
		if err != nil {
			return
		}
		for _, p := range ports {
			spec, err := splitPort(p)
			if err != nil {
				return
			}
			if spec.protocol != strings.ToLower(spec.protocol) {
				rules.Run(&linter.RuleExposeProtoCasing, at, linter.RuleExposeProtoCasing.Format(p))
			}
			if spec.ip != "" || spec.host != "" {
				rules.Run(&linter.RuleExposeInvalidFormat, at, linter.RuleExposeInvalidFormat.Format(p))
			}
		}
	}
}

// copied reports what .dockerignore excludes. With exceptions in it, that cannot
// be told: a directory may be excluded, and something in it not.
func (x *stageLint) copied(verb string, paths []string, rules *linter.Linter, at []parser.Range) {
	if x.ignored == nil || x.ignored.Exclusions() {
		return
	}
	for _, p := range paths {
		if isRemote(p) {
			continue
		}
		p = path.Clean(p)
		if (p == "." || p == "/") && !x.ignoresAll() {
			continue
		}
		if hit, err := x.ignored.MatchesOrParentMatches(p); err == nil && hit {
			rules.Run(&linter.RuleCopyIgnoredFile, at, linter.RuleCopyIgnoredFile.Format(verb, p))
		}
	}
}

func (x *stageLint) ignoresAll() bool {
	return slices.ContainsFunc(x.ignored.Patterns(), func(p *patternmatcher.Pattern) bool {
		return !p.Exclusion() && (p.String() == "*" || p.String() == "**" || p.String() == "**/*")
	})
}
