package structure

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestModulesAreExplained compares go.mod's direct requirements with the list
// that says what each is for.
func TestModulesAreExplained(t *testing.T) {
	listed := names(t, "docs/modules.md", `(?m)^\| (\S+\.\S+/\S+) \|`)
	required := names(t, "go.mod", `(?m)^\t(\S+) v\S+$`) // an indirect one ends in a comment
	for name := range required {
		if !listed[name] {
			t.Errorf("docs/modules.md does not say what %s is for", name)
		}
	}
	for name := range listed {
		if !required[name] {
			t.Errorf("docs/modules.md lists %s, which go.mod does not require directly", name)
		}
	}
}

func names(t *testing.T, file, pattern string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
		found[m[1]] = true
	}
	if len(found) == 0 {
		t.Fatalf("%s names no module", file)
	}
	return found
}
