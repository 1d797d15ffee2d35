// Package structure holds what is checked of the tree itself: which directory
// may import which, and the rules of the style guide that a machine can see.
package structure

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// layer is one row of the tree: packages under Dir may import, of the module's
// own packages, those under May and plumbing (internal/) alone.
type layer struct {
	Dir string
	May []string
}

// layers lists every directory that holds a noun. The longest Dir that is a
// prefix of a package's path decides; a package under none of them fails the
// test, so a new noun has to be entered here and in docs/architecture.md.
var layers = []layer{
	{"cmd", []string{"engine", "cluster", "push", "web"}},
	{"test", []string{"engine", "cluster", "push", "web", "test"}},
	{"examples", nil},
	{"internal", nil},
	{"web", nil},

	{"engine/image", nil},
	{"engine/container", nil},
	{"engine/network", nil},
	{"engine/volume", nil},
	{"engine/registry", []string{"engine/image"}},
	{"engine/builder", []string{"engine/image"}},
	{"engine", []string{"engine/builder", "engine/registry", "engine/container", "engine/network", "engine/volume", "engine/image"}},
	{"engine/budget", []string{"engine", "engine/builder", "engine/image"}},
	{"engine/dockerapi", []string{"engine"}},
	{"engine/cri", []string{"engine"}},

	{"cluster/resource", nil},
	{"cluster/store", nil},
	{"cluster/apiserver", []string{"cluster/store", "cluster/resource"}},
	{"cluster/controller", nil},
	{"cluster/scheduler", nil},
	{"cluster/kubelet", nil},
	{"cluster/proxy", nil},
	{"cluster/dns", nil},
	{"cluster/ingress", nil},
	{"cluster/internal", []string{"cluster/apiserver", "cluster/controller", "cluster/scheduler", "cluster/store"}},
	{"push", nil},
}

// upstreamForbidden are modules' packages that would bring in what Gantry is
// itself: see the design's decisions on the API server and the runtime.
var upstreamForbidden = []string{
	"k8s.io/apiserver/pkg/server/filters",
	"k8s.io/kubernetes/pkg/controller",
	"k8s.io/kubernetes/pkg/kubelet",
	"k8s.io/kubernetes/pkg/proxy",
	"k8s.io/kubernetes/pkg/registry",
	"k8s.io/kubernetes/pkg/scheduler",
	"github.com/opencontainers/runc",
	"github.com/docker/docker/daemon",
}

type pkg struct {
	ImportPath   string
	Dir          string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,TestImports,XTestImports,Deps", "gantry/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// under reports whether the package path is dir or below it.
func under(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}

func layerOf(path string) (layer, bool) {
	best, found := layer{}, false
	for _, l := range layers {
		if under(path, l.Dir) && len(l.Dir) > len(best.Dir) {
			best, found = l, true
		}
	}
	return best, found
}

// allowed reports whether a package in layer from may import path.
func allowed(from layer, path string) bool {
	to, ok := layerOf(path)
	if !ok {
		return false
	}
	if to.Dir == "internal" || to.Dir == from.Dir || to.Dir == "cluster/internal" && under(from.Dir, "cluster") {
		return true
	}
	for _, dir := range from.May {
		// A whole wing may be named by its top; inside a wing each layer is
		// named by itself.
		if to.Dir == dir || (from.Dir == "cmd" || from.Dir == "test") && under(path, dir) {
			return true
		}
	}
	// dockerapi and cri stand on the engine and on what the engine stands on.
	if from.Dir == "engine/dockerapi" || from.Dir == "engine/cri" {
		engine, _ := layerOf("engine")
		return allowed(engine, path)
	}
	return false
}

func TestImportsFollowTheLayers(t *testing.T) {
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, "gantry/")
		from, ok := layerOf(path)
		if !ok {
			t.Errorf("%s belongs to no layer: name it in this test and in docs/architecture.md", path)
			continue
		}
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, "gantry/")
			if ours && !allowed(from, to) {
				t.Errorf("%s imports %s: layer %s may import %v", path, to, from.Dir, from.May)
			}
		}
	}
}

func TestUpstreamsOwnServersStayOut(t *testing.T) {
	for _, p := range packages(t) {
		if !strings.HasPrefix(p.ImportPath, "gantry/engine") && !strings.HasPrefix(p.ImportPath, "gantry/cluster") {
			continue
		}
		for _, dep := range p.Deps {
			for _, bad := range upstreamForbidden {
				if under(dep, bad) {
					t.Errorf("%s depends on %s", p.ImportPath, dep)
				}
			}
		}
	}
}

// TestClientsStayLight holds what keeps `gantry` starting in milliseconds and
// the shim small: modules whose initialisation alone costs more than that.
func TestClientsStayLight(t *testing.T) {
	heavy := map[string][]string{
		"gantry/cmd/gantry":      {"k8s.io", "go.etcd.io", "github.com/docker/cli", "gantry/engine", "gantry/cluster"},
		"gantry/cmd/gantry-oci":  {"k8s.io", "net/http", "text/template", "github.com/vishvananda", "github.com/spf13", "gantry/engine"},
		"gantry/cmd/gantry-shim": {"k8s.io", "net/http", "encoding/json", "fmt", "github.com/opencontainers/cgroups", "github.com/vishvananda"},
	}
	seen := 0
	for _, p := range packages(t) {
		for _, dep := range p.Deps {
			for _, bad := range heavy[p.ImportPath] {
				if bad == "gantry/engine" && under(dep, "gantry/engine/container") {
					continue
				}
				if under(dep, bad) {
					t.Errorf("%s depends on %s", p.ImportPath, dep)
				}
			}
		}
		if heavy[p.ImportPath] != nil {
			seen++
		}
	}
	if seen != len(heavy) {
		t.Errorf("found %d of the %d clients", seen, len(heavy))
	}
}
