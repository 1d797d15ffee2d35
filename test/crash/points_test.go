package crash

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// points are the fault points of the daemon, each with a scene that passes it.
var points = map[string]scene{
	"atomicfile/before-rename":         {do: wholeLife, often: true},
	"builder/cache/before-record":      {do: build},
	"builder/cachemount/before-rename": {do: build},
	"container/create/after-cgroup":    {do: life},
	"container/create/after-state":     {do: life},
	"engine/create/before-record":      {do: life},
	"engine/exit/before-delete":        {do: life},
	"engine/exit/before-record":        {do: life},
	"engine/forward/after-record":      {do: forward},
	"engine/forward/before-record":     {do: forward},
	"engine/identity/before-record":    {before: anonymize, do: info},
	"engine/remove/after-rename":       {do: life},
	"engine/remove/before-directory":   {do: life},
	"engine/start/before-exec":         {do: life},
	"engine/step/before-start":         {do: build},
	"image/blob/before-record":         {before: stored, do: pull},
	"image/blob/before-rename":         {before: stored, do: pull},
	"image/collect/before-files":       {before: spare, do: removeSpare},
	"image/install/before-commit":      {do: spare},
	"logfile/compress/packed":          {do: rotate},
	"logfile/compress/renamed":         {do: rotate},
	"network/attach/after-link":        {do: life},
	"network/create/after-record":      {do: network},
	"network/publish/before-rules":     {do: life},
	"network/remove/before-link":       {do: network},
	"registry/blob/before-commit":      {do: push},
	"registry/manifest/before-commit":  {do: push},
	"registry/pull/before-blob":        {before: stored, do: pull},
	"registry/pull/before-image":       {before: stored, do: pull},
	"volume/copy/before-exchange":      {do: life},
	"volume/create/before-record":      {do: life},
	"volume/remove/after-record":       {do: life},
}

// elsewhere are the points that the engine alone does not pass: gantry-oci's, and
// the kubelet's. Tests beside them make what a crash there leaves.
var elsewhere = regexp.MustCompile(`^(oci|engine/sandbox)/`)

// untried are the points whose operation needs a setting that the server under
// test is not given: a disk budget, a policy of signatures.
var untried = []string{"image/drop/before-files", "registry/signature/before-write"}

var faultPoint = regexp.MustCompile(`fault\.At\("([^"]*)"\)`)

func TestEveryFaultPointHasAScene(t *testing.T) {
	if os.Getenv("GANTRY_FAULT_BIN") == "" {
		t.Skip("the fault points are tried by `make crash`")
	}
	var found []string
	root := os.DirFS(filepath.Join("..", ".."))
	for _, dir := range []string{"cluster", "cmd", "engine", "internal", "push"} {
		err := fs.WalkDir(root, dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := fs.ReadFile(root, path)
			for _, m := range faultPoint.FindAllSubmatch(source, -1) {
				found = append(found, string(m[1]))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(found)
	for i, point := range found {
		if i > 0 && found[i-1] == point {
			t.Errorf("two fault points are called %s", point)
		}
		if _, ok := points[point]; !ok && !elsewhere.MatchString(point) && !slices.Contains(untried, point) {
			t.Errorf("the fault point %s has no scene in points", point)
		}
	}
	for point := range maps.Keys(points) {
		if !slices.Contains(found, point) {
			t.Errorf("the source has no fault point %s", point)
		}
	}
}
