package builder

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/suggest"

	"gantry/engine/image"
	"gantry/internal/problem"
)

// checkArgument is the build argument that wins over a Dockerfile's check
// directive.
const checkArgument = "BUILDKIT_DOCKERFILE_CHECK"

// lint collects what the rules of the reference find in a Dockerfile, in its
// words. Rules that look at an instruction with its variables replaced are in
// stageLint.
type lint struct {
	rules *linter.Linter
	found []finding
}

type finding struct {
	line int
	text string
}

// newLint reads which rules are to be kept: from the build argument, else from
// the Dockerfile's directive ("# check=skip=NAME,...;experimental=NAME;error=true").
func newLint(source []byte, given map[string]*string) (*lint, error) {
	options, _, _, _ := parser.ParseDirective("check", source)
	from := "check options"
	if v := given[checkArgument]; v != nil {
		options, from = *v, "build-arg:"+checkArgument
	}
	config, err := linter.ParseLintOptions(options)
	if err != nil {
		return nil, problem.New(problem.Invalid, "failed to parse %s: %w", from, err)
	}
	l := &lint{}
	config.Warn = func(rule, _, _, text string, at []parser.Range) {
		f := finding{}
		if len(at) > 0 {
			f.line = at[0].Start.Line
		}
		f.text = linter.LintFormatShort(rule, text, f.line)
		l.found = append(l.found, f)
	}
	l.rules = linter.New(config)
	return l, nil
}

// warnings returns what was found, in the order of the Dockerfile.
func (l *lint) warnings() []string {
	found := slices.Clone(l.found)
	slices.SortStableFunc(found, func(a, b finding) int { return cmp.Compare(a.line, b.line) })
	var out []string
	for _, f := range slices.Compact(found) {
		out = append(out, f.text)
	}
	return out
}

// err is the error of a Dockerfile that wants its warnings to be errors.
func (l *lint) err() error {
	if !l.rules.ReturnAsError || len(*l.rules.CalledRules) == 0 {
		return nil
	}
	rules := slices.Compact(slices.Sorted(slices.Values(*l.rules.CalledRules)))
	return problem.New(problem.Invalid, "lint violation found for rules: %s", strings.Join(rules, ", "))
}

// file applies the rules about the Dockerfile as a whole.
func (l *lint) file(f *dockerfile) {
	for _, w := range f.warnings {
		if w.URL == linter.RuleNoEmptyContinuation.URL && w.Location != nil {
			l.rules.Run(&linter.RuleNoEmptyContinuation, []parser.Range{*w.Location}, linter.RuleNoEmptyContinuation.Format())
		}
	}
	names := map[string]bool{}
	for _, s := range f.stages {
		if s.Name == scratch || s.Name == "context" {
			l.rules.Run(&linter.RuleReservedStageName, s.Location, linter.RuleReservedStageName.Format(s.Name))
		}
		if names[s.Name] {
			l.rules.Run(&linter.RuleDuplicateStageName, s.Location, linter.RuleDuplicateStageName.Format(s.Name))
		}
		names[s.Name] = s.Name != ""
	}
	l.casing(f)
}

// casing wants all instructions to be written like most.
func (l *lint) casing(f *dockerfile) {
	type word struct {
		name string
		at   []parser.Range
	}
	var words []word
	for _, s := range f.stages {
		words = append(words, word{s.OrigCmd, s.Location})
		for _, c := range s.Commands {
			words = append(words, word{c.Name(), c.Location()})
		}
	}
	lower, upper := 0, 0
	for _, w := range words {
		switch w.name {
		case strings.ToLower(w.name):
			lower++
		case strings.ToUpper(w.name):
			upper++
		}
	}
	right, wording := strings.ToUpper, "uppercase"
	if lower > upper {
		right, wording = strings.ToLower, "lowercase"
	}
	for _, w := range words {
		if w.name != right(w.name) {
			l.rules.Run(&linter.RuleConsistentInstructionCasing, w.at, linter.RuleConsistentInstructionCasing.Format(w.name, wording))
		}
	}
}

// bases applies the rules about FROM. env is its environment, defaults what that
// is without build arguments.
func (l *lint) bases(f *dockerfile, env, defaults shell.EnvGetter) {
	lex := shell.NewLex(f.escape)
	names := env.Keys()
	for _, a := range f.args {
		for _, kv := range a.Args {
			names = append(names, kv.Key)
		}
	}
	for _, s := range f.stages {
		if base, _, err := lex.ProcessWord(s.BaseName, defaults); err == nil {
			if _, err := reference.ParseNormalizedNamed(base); err != nil {
				l.rules.Run(&linter.RuleInvalidDefaultArgInFrom, s.Location, linter.RuleInvalidDefaultArgInFrom.Format(s.BaseName))
			}
		}
		rules := l.rules.WithMergedConfigFromComments(s.Comments)
		l.expandFrom(rules, s, s.BaseName, env, names)
		if s.Platform == "" {
			continue
		}
		match := l.expandFrom(rules, s, s.Platform, env, names)
		if target, _ := env.Get("TARGETPLATFORM"); has(match.Matched, "TARGETPLATFORM") && len(match.Matched) == 1 &&
			len(match.Unmatched) == 0 && match.Result == target {
			rules.Run(&linter.RuleRedundantTargetPlatform, s.Location, linter.RuleRedundantTargetPlatform.Format(s.Platform))
		}
		if len(match.Matched)+len(match.Unmatched) > 0 {
			continue
		}
		if p, err := image.ParsePlatform(match.Result); err == nil && !strings.Contains(s.Name, p.OS) && !strings.Contains(s.Name, p.Architecture) {
			rules.Run(&linter.RuleFromPlatformFlagConstDisallowed, s.Location, linter.RuleFromPlatformFlagConstDisallowed.Format(match.Result))
		}
	}
}

// expandFrom replaces the variables in a word of FROM, and reports those that
// nobody declared.
func (l *lint) expandFrom(rules *linter.Linter, s instructions.Stage, word string, env shell.EnvGetter, declared []string) shell.ProcessWordResult {
	match, err := shell.NewLex('\\').ProcessWordWithMatches(word, env)
	if err != nil {
		return shell.ProcessWordResult{}
	}
	for _, name := range sortedKeys(match.Unmatched) {
		if slices.Contains(declared, name) {
			continue
		}
		meant, _ := suggest.Search(name, declared, true)
		rules.Run(&linter.RuleUndefinedArgInFrom, s.Location, linter.RuleUndefinedArgInFrom.Format(name, meant))
	}
	return match
}

// What the names of secrets contain, and of what is none after all.
var (
	secretName = regexp.MustCompile(`(?i)(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)`)
	publicName = regexp.MustCompile(`(?i)(?:_|^)(?:public|file|version)(?:_|$)`)
)

func isSecret(name string) bool { return secretName.MatchString(name) && !publicName.MatchString(name) }

func has(m map[string]struct{}, name string) bool {
	_, ok := m[name]
	return ok
}

func sortedKeys(m map[string]struct{}) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
