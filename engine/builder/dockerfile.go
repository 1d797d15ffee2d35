package builder

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"gantry/internal/problem"
)

// defaultDockerfile is the Dockerfile when the request names none.
const defaultDockerfile = "Dockerfile"

// maxDockerfile bounds the length of a Dockerfile.
const maxDockerfile = 4 << 20

// dockerfile is a Dockerfile, parsed.
type dockerfile struct {
	name     string
	source   []byte
	escape   rune
	args     []instructions.ArgCommand // those before the first FROM
	stages   []instructions.Stage
	warnings []parser.Warning
}

// SyntaxError says where a Dockerfile is wrong. Its text begins as the
// reference's does; the second line shows the place.
type SyntaxError struct {
	File   string
	Line   int // from 1; 0 when the place is unknown
	Column int // from 1
	Source string
	Step   bool // it came up when the instruction was carried out
	Err    error
}

// Error returns two lines, or one if the place is unknown.
func (e *SyntaxError) Error() string {
	if e.Step {
		return fmt.Sprintf("%v\n%s:%d:%d: %s", e.Err, e.File, e.Line, e.Column, e.Source)
	}
	if e.Line == 0 {
		return fmt.Sprintf("dockerfile parse error: %v", e.Err)
	}
	return fmt.Sprintf("dockerfile parse error on line %d: %v\n%s:%d:%d: %s", e.Line, e.Err, e.File, e.Line, e.Column, e.Source)
}

// Unwrap returns the cause; what is wrong in itself is Invalid.
func (e *SyntaxError) Unwrap() []error {
	if e.Step {
		return []error{e.Err}
	}
	return []error{problem.Invalid, e.Err}
}

// parse parses a Dockerfile. Errors are of type SyntaxError. rules may be nil.
func parse(name string, source []byte, rules *linter.Linter) (*dockerfile, error) {
	if len(bytes.TrimSpace(source)) == 0 {
		return nil, problem.New(problem.Invalid, "The Dockerfile (%s) cannot be empty", name)
	}
	result, err := parser.Parse(bytes.NewReader(source))
	if err != nil {
		return nil, syntaxError(name, source, err)
	}
	f := &dockerfile{name: name, source: source, escape: result.EscapeToken, warnings: result.Warnings}
	if rules == nil {
		rules = silent()
	}
	f.stages, f.args, err = instructions.Parse(result.AST, rules)
	if err != nil {
		return nil, syntaxError(name, source, err)
	}
	if len(f.stages) == 0 {
		return nil, syntaxError(name, source, errors.New("no build stage in current context"))
	}
	return f, nil
}

// silent returns rules that report nothing. The parser takes nil for that too,
// until it meets a comment with check options.
func silent() *linter.Linter { return linter.New(&linter.Config{}) }

// linePrefix is what the parser puts before some of its errors.
var linePrefix = regexp.MustCompile(`^dockerfile parse error on line \d+: `)

// syntaxError gives err the place that it is about.
func syntaxError(name string, source []byte, err error) error {
	var located *parser.LocationError
	e := &SyntaxError{File: path.Base(name), Err: errors.New(linePrefix.ReplaceAllString(err.Error(), ""))}
	if !errors.As(err, &located) || len(located.Locations) == 0 || len(located.Locations[0]) == 0 {
		return e
	}
	return placed(e, source, located.Locations[0])
}

// placed fills in the place of an error in the lines of one instruction.
func placed(e *SyntaxError, source []byte, lines []parser.Range) error {
	all := strings.Split(string(source), "\n")
	first := max(1, lines[0].Start.Line)
	message := e.Err.Error()
	if exit := new(ExitError); errors.As(e.Err, &exit) {
		message = "" // it quotes all of the instruction
	}
	for _, r := range lines {
		n := max(1, r.Start.Line)
		if n > len(all) {
			break
		}
		line := strings.TrimRight(all[n-1], "\r")
		if column := columnOf(line, message); column > 0 {
			e.Line, e.Column, e.Source = n, column, line
			return e
		}
	}
	first = min(first, len(all))
	line := strings.TrimRight(all[first-1], "\r")
	e.Line, e.Source = first, line
	e.Column = 1 + len(line) - len(strings.TrimLeft(line, " \t"))
	return e
}

// quoted finds the parts of an error message that may be quoted from the
// source, surest first.
var quoted = []*regexp.Regexp{
	regexp.MustCompile("\"([^\"]+)\"|'([^']+)'|`([^`]+)`"),
	regexp.MustCompile(`stat (\S+):|\(([^()]+)\)`),
	regexp.MustCompile(`(?:flag|instruction|image|user|group|signal|containerPort|proto|value|ADD of|type)[:=]? (\S+)`),
	regexp.MustCompile(`(--[a-z]\S*)|: (\S+)`),
}

// columnOf returns where in line that is what the message quotes, or 0.
func columnOf(line, message string) int {
	upper := strings.ToUpper(line)
	for _, re := range quoted {
		for _, m := range re.FindAllStringSubmatch(message, -1) {
			for _, word := range m[1:] {
				if i := wordIndex(upper, strings.ToUpper(strings.TrimRight(word, ":,"))); i >= 0 {
					return i + 1
				}
			}
		}
	}
	return 0
}

// wordIndex finds word in line where it does not begin or end within another.
func wordIndex(line, word string) int {
	inWord := func(c byte) bool { return c == '_' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' }
	for at := 0; word != ""; {
		i := strings.Index(line[at:], word)
		if i < 0 {
			break
		}
		i += at
		end := i + len(word)
		before := i > 0 && inWord(line[i-1]) && inWord(word[0])
		after := end < len(line) && inWord(line[end]) && inWord(word[len(word)-1])
		if !before && !after {
			return i
		}
		at = i + 1
	}
	return -1
}

// at gives an error that came up while an instruction was worked on its place.
func (f *dockerfile) at(lines []parser.Range, err error) error {
	if err == nil || len(lines) == 0 {
		return err
	}
	return placed(&SyntaxError{File: path.Base(f.name), Step: true, Err: err}, f.source, lines)
}

// text returns an instruction as it is written, on one line.
func text(c instructions.Command) string {
	if s, ok := c.(fmt.Stringer); ok {
		return s.String()
	}
	return strings.ToUpper(c.Name())
}
