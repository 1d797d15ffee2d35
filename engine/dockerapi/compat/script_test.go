package compat

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// step is one call of a scene:
//
//	[shape ]METHOD PATH[?NAME=VALUE&...] [BODY]
//	[shape ]docker ARGUMENTS
//	  NAME = FIELD
//
// PATH begins with the version; values of a query are written plainly. BODY is
// JSON to the line's end, or @busybox for an archive; indented lines go on with
// it. NAME = FIELD saves a field of the answer; $NAME stands for it later.
// shape compares the kinds of values instead of the values. "-" before the
// first word plays the step without comparing; settle repeats it while the
// answer has "Running":true.
type step struct {
	label  string
	shape  bool
	silent bool
	settle bool
	method string // empty: the stock client
	target string // path and query, or the client's arguments
	body   string
	saves  [][2]string // name, field
}

var saveLine = regexp.MustCompile(`^\s+(\w+) = (\S+)$`)

func readScene(path string) ([]step, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var steps []step
	seen := map[string]int{}
	for n, line := range strings.Split(string(data), "\n") {
		trimmed := strings.TrimSpace(line)
		if trimmed == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if line[0] == ' ' || line[0] == '\t' {
			if len(steps) == 0 {
				return nil, fmt.Errorf("%s:%d: no step to continue", path, n+1)
			}
			last := &steps[len(steps)-1]
			if m := saveLine.FindStringSubmatch(line); m != nil {
				last.saves = append(last.saves, [2]string{m[1], m[2]})
			} else {
				last.body += trimmed
			}
			continue
		}
		st, err := parseStep(trimmed)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n+1, err)
		}
		if seen[st.label]++; seen[st.label] > 1 {
			st.label += fmt.Sprintf(" (%d)", seen[st.label])
		}
		steps = append(steps, st)
	}
	return steps, nil
}

func parseStep(line string) (step, error) {
	var st step
	line, st.shape = strings.CutPrefix(line, "shape ")
	line, st.settle = strings.CutPrefix(line, "settle ")
	line, st.silent = strings.CutPrefix(line, "- ")
	if rest, ok := strings.CutPrefix(line, "docker "); ok {
		st.label, st.target = line, rest
		return st, nil
	}
	method, rest, ok := strings.Cut(line, " ")
	if !ok {
		return st, fmt.Errorf("no path: %q", line)
	}
	st.method = method
	// A query may have spaces in its values; a body begins with one of these.
	if at := bodyBegin.FindStringIndex(rest); at != nil {
		rest, st.body = rest[:at[0]], rest[at[0]+1:]
	}
	st.target = rest
	st.label = method + " " + rest
	if st.body != "" && st.body[0] != '@' {
		st.label += " " + st.body
	}
	return st, nil
}

var bodyBegin = regexp.MustCompile(` ([{@!]|\["x"\]|\["a=b"\])`)

// expand replaces each $NAME.
func expand(text string, vars map[string]string) string {
	return variable.ReplaceAllStringFunc(text, func(name string) string {
		if value, ok := vars[name[1:]]; ok {
			return value
		}
		return name
	})
}

var variable = regexp.MustCompile(`\$[a-z]\w*`)
