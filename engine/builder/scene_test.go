package builder

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the expectations in testdata")

// TestScenes builds what each testdata/*.txtar describes. A scene begins with
// its story. Then come, each under "-- NAME --":
//
//	request       lines: arg NAME=VALUE, target NAME, label NAME=VALUE, file PATH, again (build twice)
//	modes         lines: 0755 PATH, PATH -> TARGET (a link), 0700 PATH/ (a directory)
//	Dockerfile    and all other files of the context
//
// and what is expected: want/output, with IDs replaced by numbers; want/config;
// want/files, those that differ from the base's; want/error.
func TestScenes(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scenes: %v", err)
	}
	for _, p := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(p), ".txtar"), func(t *testing.T) {
			source, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			story, sections := parseScene(source)
			got := playScene(t, sections)
			var want []section
			for _, s := range sections {
				if strings.HasPrefix(s.name, "want/") {
					want = append(want, s)
				}
			}
			if *update {
				kept := slices.DeleteFunc(slices.Clone(sections), func(s section) bool { return strings.HasPrefix(s.name, "want/") })
				if err := os.WriteFile(p, formatScene(story, append(kept, got...)), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(section{})); diff != "" {
				t.Errorf("%s (-want +got):\n%s", p, diff)
			}
		})
	}
}

// section is one file of a txtar archive.
type section struct{ name, body string }

var sectionLine = regexp.MustCompile(`(?m)^-- (\S+) --\n`)

func parseScene(b []byte) (story string, sections []section) {
	at := sectionLine.FindAllSubmatchIndex(b, -1)
	if len(at) == 0 {
		return string(b), nil
	}
	for i, m := range at {
		end := len(b)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		sections = append(sections, section{string(b[m[2]:m[3]]), string(b[m[1]:end])})
	}
	return string(b[:at[0][0]]), sections
}

func formatScene(story string, sections []section) []byte {
	var b bytes.Buffer
	b.WriteString(story)
	for _, s := range sections {
		fmt.Fprintf(&b, "-- %s --\n%s", s.name, s.body)
	}
	return b.Bytes()
}

func playScene(t *testing.T, sections []section) []section {
	b := newBench(t)
	b.busybox()
	before := b.listing("busybox")
	req := Request{Tags: []string{"scene"}, BuildArgs: map[string]*string{}, Labels: map[string]string{}}
	again := false
	modes := map[string]int64{}
	var files []file
	for _, s := range sections {
		switch {
		case s.name == "request":
			again = readRequest(t, &req, s.body)
		case s.name == "modes":
			files = append(files, readModes(t, modes, s.body)...)
		case !strings.HasPrefix(s.name, "want/"):
			files = append(files, file{name: s.name, body: s.body})
		}
	}
	for i := range files {
		if m, ok := modes[files[i].name]; ok {
			files[i].mode = m
		}
	}
	out, err := b.build(req, "", files...)
	if again && err == nil {
		out, err = b.build(req, "", files...)
	}
	got := []section{{"want/output", numbered(out)}}
	if err != nil {
		return append(got, section{"want/error", err.Error() + "\n"})
	}
	img, err := b.images.Resolve(ctx, "scene")
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.MarshalIndent(img.Config.Config, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, section{"want/config", string(config) + "\n"})
	var changed strings.Builder
	for line := range strings.Lines(b.listing("scene")) {
		if !strings.Contains(before, line) {
			changed.WriteString(line)
		}
	}
	return append(got, section{"want/files", times.ReplaceAllString(changed.String(), " NOW ")})
}

// times are those of files that a command wrote while the test ran.
var times = regexp.MustCompile(` 20(2[4-9]|[3-9]\d)-\d\d-\d\d `)

func readRequest(t *testing.T, req *Request, body string) (again bool) {
	for line := range strings.Lines(body) {
		verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, value, _ := strings.Cut(rest, "=")
		switch verb {
		case "arg":
			req.BuildArgs[name] = &value
		case "label":
			req.Labels[name] = value
		case "target":
			req.Target = rest
		case "file":
			req.Dockerfile = rest
		case "again":
			again = true
		default:
			t.Fatalf("request: %q", line)
		}
	}
	return again
}

func readModes(t *testing.T, modes map[string]int64, body string) (files []file) {
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		if name, target, ok := strings.Cut(line, " -> "); ok {
			files = append(files, file{name: name, link: target})
			continue
		}
		mode, name, _ := strings.Cut(line, " ")
		n, err := strconv.ParseInt(mode, 8, 64)
		if err != nil {
			t.Fatalf("modes: %q: %v", line, err)
		}
		modes[name] = n
		if strings.HasSuffix(name, "/") {
			files = append(files, file{name: name})
		}
	}
	return files
}

var hexID = regexp.MustCompile(`\b[0-9a-f]{12}\b`)

// numbered replaces each ID by a number of its own, in order.
func numbered(out string) string {
	seen := map[string]string{}
	return hexID.ReplaceAllStringFunc(out, func(id string) string {
		if seen[id] == "" {
			seen[id] = fmt.Sprintf("ID%d", len(seen)+1)
		}
		return seen[id]
	})
}
