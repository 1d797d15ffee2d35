package compat

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// difference is one field that the daemons answer differently.
type difference struct{ path, want, got string }

const absent = "absent"

// compare appends the differences of two values. What one side lacks as a whole
// is one difference.
func compare(out []difference, path string, want, got any, shape bool) []difference {
	join := func(name string) string { return strings.TrimPrefix(path+"."+name, ".") }
	switch want := want.(type) {
	case map[string]any:
		got, ok := got.(map[string]any)
		if !ok {
			break
		}
		all := maps.Clone(want)
		maps.Copy(all, got)
		for _, name := range slices.Sorted(maps.Keys(all)) {
			w, inWant := want[name]
			g, inGot := got[name]
			switch {
			case !inWant:
				out = append(out, difference{normalText(join(name)), absent, show(join(name), g, shape)})
			case !inGot:
				out = append(out, difference{normalText(join(name)), show(join(name), w, shape), absent})
			default:
				out = compare(out, join(name), w, g, shape)
			}
		}
		return out
	case []any:
		got, ok := got.([]any)
		if ok && objects(want) && objects(got) {
			return compare(out, path, named(want), named(got), shape)
		}
	}
	if w, g := show(path, want, shape), show(path, got, shape); w != g {
		out = append(out, difference{normalText(path), w, g})
	}
	return out
}

// objects tells whether a list can be compared element by element.
func objects(list []any) bool {
	return !slices.ContainsFunc(list, func(item any) bool { _, ok := item.(map[string]any); return !ok })
}

// named gives each element of a list its name, where it has one: the order of
// such lists means nothing.
func named(list []any) map[string]any {
	out := map[string]any{}
	for i, item := range list {
		name := nameOf(item.(map[string]any))
		if _, taken := out[name]; name == "" || taken {
			name = fmt.Sprint(i)
		}
		out[name] = item
	}
	return out
}

func nameOf(object map[string]any) string {
	if port, ok := object["PrivatePort"]; ok {
		return fmt.Sprintf("%v-%v-%v", object["Type"], port, object["PublicPort"])
	}
	for _, name := range []string{"Names", "Name", "Destination", "RepoTags", "Path"} {
		if v, ok := object[name]; ok {
			return normalText(strings.Trim(fmt.Sprint(v), "[]/"))
		}
	}
	return ""
}

// show is a value in JSON, with what is volatile replaced; or its kind, if only
// shapes are compared.
func show(path string, value any, shape bool) string {
	switch value.(type) {
	case json.Number:
		if shape {
			return "a number"
		}
	case string:
		if shape {
			return "a string"
		}
	case bool:
		if shape {
			return "a bool"
		}
	case []any:
		if shape {
			return "a list"
		}
	}
	data, err := json.Marshal(value)
	if err != nil {
		panic(err) // it came from JSON
	}
	text := string(data)
	if strings.HasSuffix(path, ".Processes") {
		text = processID.ReplaceAllString(text, `["PID"`)
	}
	if volatileNumbers.MatchString(path) && text != "0" && text != "-1" && text != "null" {
		return "NUMBER"
	}
	return normalText(text)
}

// rule is a line of differences.txt:
//
//	SCENE CALL | FIELD | REFERENCE | GANTRY
//
// in which * stands for anything. The lines above it, which begin with #, are
// its reason.
type rule struct {
	line  int
	text  string
	parts [4]*regexp.Regexp
	used  int
}

func readRules(t *testing.T) []*rule {
	data, err := os.ReadFile("testdata/differences.txt")
	if err != nil {
		t.Fatal(err)
	}
	var rules []*rule
	reason := false
	for n, line := range strings.Split(string(data), "\n") {
		switch {
		case strings.HasPrefix(line, "#"):
			reason = true
			continue
		case strings.TrimSpace(line) == "":
			reason = false
			continue
		}
		fields := strings.Split(line, " | ")
		if len(fields) != 4 || !reason {
			t.Fatalf("differences.txt:%d: a rule has four fields and a reason above it: %s", n+1, line)
		}
		r := &rule{line: n + 1, text: line}
		for i, f := range fields {
			pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(f)), `\*`, ".*")
			r.parts[i] = regexp.MustCompile("(?s)^" + pattern + "$")
		}
		rules = append(rules, r)
	}
	return rules
}

func explained(rules []*rule, call string, d difference) bool {
	found := false
	for _, r := range rules {
		if r.parts[0].MatchString(call) && r.parts[1].MatchString(d.path) && r.parts[2].MatchString(d.want) && r.parts[3].MatchString(d.got) {
			r.used++
			found = true
		}
	}
	return found
}

// volatile are the values that no two daemons share.
var volatile = []struct {
	pattern *regexp.Regexp
	kind    string
}{
	{regexp.MustCompile(`[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,}(Z|[+-][0-9:]{5})`), "TIME"},
	{regexp.MustCompile(`sha256:[0-9a-f]{64}`), "DIGEST"},
	{regexp.MustCompile(`sha256:[0-9a-f]{12}`), "DIGEST12"},
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "ID"},
	{regexp.MustCompile(`\b[0-9a-f]{12}\b`), "ID12"},
	{regexp.MustCompile(`\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b`), "MAC"},
	{regexp.MustCompile(`\b172\.[0-9]+\.[0-9]+\.[0-9]+\b`), "ADDRESS"},
	{regexp.MustCompile(`/tmp/TestSameAsReference[0-9]+/[0-9]+`), "DIR"},
	{regexp.MustCompile(`/run/(gc|gt)-[0-9]+`), "RUN"},
	{regexp.MustCompile(`Up (Less than a|[0-9]+) seconds?`), "Up SECONDS"},
	{regexp.MustCompile(`(Less than a|About a|[0-9]+) seconds? ago`), "SECONDS ago"},
	{regexp.MustCompile(`\b1[6-9][0-9]{8}(\.[0-9]+)?\b`), "UNIX"},
	{regexp.MustCompile(`\b1[6-9][0-9]{17}\b`), "NANO"},
}

// processID is the first column of what top shows.
var processID = regexp.MustCompile(`\["[0-9]+"`)

const zeroTime = "0001-01-01T00:00:00Z"

func normalText(text string) string {
	text = strings.ReplaceAll(text, zeroTime, "NEVER")
	for _, v := range volatile {
		text = v.pattern.ReplaceAllString(text, v.kind)
	}
	return text
}

// volatileNumbers end the paths of numbers which depend on the moment.
var volatileNumbers = regexp.MustCompile(`(^|\.)(Pid|NGoroutines|NFd|Size|SizeRw|SizeRootFs|VirtualSize|LayersSize|SpaceReclaimed|NEventsListener)$`)
