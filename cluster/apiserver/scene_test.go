package apiserver_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gantry/cluster/apiserver/apitest"
	"gantry/internal/testenv"
)

var updateGolden = flag.Bool("update", false, "rewrite the golden files")

// TestKubectlScenes plays testdata/*.txtar: a story, then commands that begin
// with "$ " and what they print, then the files that they use. The stock
// kubectl speaks to a server of the scene's own over TLS.
func TestKubectlScenes(t *testing.T) {
	testenv.NeedCommand(t, "kubectl")
	scenes, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(scenes) == 0 {
		t.Fatalf("no scenes: %v", err)
	}
	for _, path := range scenes {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(text))
			if *updateGolden {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(text), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", path, diff)
			}
		})
	}
}

// play runs a scene and returns it with the output that there was.
func play(t *testing.T, scene string) string {
	s := apitest.Start(t)
	dir := t.TempDir()
	script, files, _ := strings.Cut(scene, "\n-- ")
	for part := range strings.SplitSeq(files, "\n-- ") {
		name, content, ok := strings.Cut(part, " --\n")
		if !ok {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out strings.Builder
	begun := false
	for line := range strings.Lines(script) {
		command, ok := strings.CutPrefix(line, "$ ")
		if !ok {
			if !begun {
				out.WriteString(line)
			}
			continue
		}
		begun = true
		out.WriteString(line)
		out.WriteString(run(t, s, dir, strings.TrimSpace(command)))
	}
	text := strings.TrimRight(out.String(), "\n") + "\n"
	if files != "" {
		text += "\n-- " + files
	}
	return text
}

// run returns what a command prints, without what differs from run to run.
func run(t *testing.T, s *apitest.Server, dir, command string) string {
	cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.Kubeconfig, "HOME="+dir)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	text := scrub(out.String(), s.Addr())
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		text += "[exit " + strconv.Itoa(exit.ExitCode()) + "]\n"
	} else if err != nil {
		t.Fatal(err)
	}
	return text
}

var scrubs = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`), "UID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`), "TIME"},
	{regexp.MustCompile(`\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d \+0000`), "TIME"},
	{regexp.MustCompile(`(?m)\b\d+s( +\S+ +\S+ +\S+)?$`), "AGE$1"},
	{regexp.MustCompile(`resourceVersion: "\d+"`), `resourceVersion: "REV"`},
	{regexp.MustCompile(`10\.43\.(?:\d+\.\d\d+|[1-9]\d*\.\d+)`), "CLUSTER-IP"},
	{regexp.MustCompile(`kube-api-access-\w{5}`), "kube-api-access-XXXXX"},
	{regexp.MustCompile(`:3\d{4}/TCP`), ":NODEPORT/TCP"},
	// What kubectls of different versions word differently.
	{regexp.MustCompile(`(?m)^(Client|Kustomize) Version: .*$`), "$1 Version: CLIENT"},
	{regexp.MustCompile(`(?m)^(.* deleted) from \S+ namespace$`), "$1"},
	{regexp.MustCompile(`(?m)^(?:Error from server \(BadRequest\)|error: unable to upgrade connection): (pod \S+ does not have)`), "Error from server: $1"},
	{regexp.MustCompile(`(?m) +$`), ""},
	{regexp.MustCompile(`(\S)  +`), "$1  "}, // columns are as wide as what was scrubbed
}

func scrub(text, addr string) string {
	text = strings.ReplaceAll(text, addr, "SERVER")
	for _, s := range scrubs {
		text = s.pattern.ReplaceAllString(text, s.with)
	}
	return text
}
