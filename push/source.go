package push

import (
	"context"
	"errors"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"gantry/internal/problem"
)

// source is what a directory holds.
type source struct {
	dir        string // absolute
	name       string // what the app is called unless named
	dockerfile bool   // else it is in a Go module
}

// find looks at a directory.
func find(ctx context.Context, dir string) (source, error) {
	path, err := filepath.Abs(dir)
	if err != nil {
		return source{}, err
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return source{}, &problem.UserError{Op: "push", Err: problem.New(problem.NotFound, "there is no directory %s", path), Try: "name the directory that holds the source: gantry push DIR"}
	}
	if err != nil {
		return source{}, err
	}
	if !info.IsDir() {
		return source{}, &problem.UserError{Op: "push", Err: problem.New(problem.Invalid, "%s is not a directory", path), Try: "name the directory that holds the source: gantry push DIR"}
	}
	s := source{dir: path, name: appName(filepath.Base(path))}
	if exists(filepath.Join(path, "Dockerfile")) {
		s.dockerfile = true
		return s, nil
	}
	if inModule(path) {
		return s, ctx.Err()
	}
	return source{}, &problem.UserError{
		Op: "push", Object: path,
		Err: problem.New(problem.Invalid, "nothing to build: there is no Dockerfile, and no go.mod there or above"),
		Try: "write a Dockerfile, or name the directory that has one",
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func inModule(dir string) bool {
	for {
		if exists(filepath.Join(dir, "go.mod")) {
			return true
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return false
		}
		dir = parent
	}
}

var notInName = regexp.MustCompile(`[^a-z0-9]+`)

// appName makes a valid name out of a directory's.
func appName(base string) string {
	name := strings.Trim(notInName.ReplaceAllString(strings.ToLower(base), "-"), "-")
	if len(name) > maxName {
		name = strings.TrimRight(name[:maxName], "-")
	}
	return name
}

// maxName leaves room for what a Deployment and a ReplicaSet append to it
// within the 63 bytes of a host name.
const maxName = 46

// validName is a DNS label that begins with a letter, as a Service's name must.
var (
	validName = regexp.MustCompile(`^[a-z]([-a-z0-9]*[a-z0-9])?$`)
	validHost = regexp.MustCompile(`^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	validEnv  = regexp.MustCompile(`^[-._a-zA-Z][-._a-zA-Z0-9]*$`)
)

func validate(name string, req Request) error {
	invalid := func(object, try, format string, args ...any) error {
		return &problem.UserError{Op: "push", Object: object, Err: problem.New(problem.Invalid, format, args...), Try: try}
	}
	if !validName.MatchString(name) || len(name) > maxName {
		return invalid("", "name it with --name", "name %q: want a lower-case letter, then letters, digits and hyphens, up to %d in all, not ending in a hyphen", name, maxName)
	}
	if req.Port < 0 || req.Port > 65535 {
		return invalid(name, "", "port %d: want 1 to 65535", req.Port)
	}
	if req.Host != "" && !validHost.MatchString(req.Host) {
		return invalid(name, "", "host %q is not a host name in lower case", req.Host)
	}
	if req.Replicas != nil && *req.Replicas < 0 {
		return invalid(name, "", "replicas %d: want 0 or more", *req.Replicas)
	}
	for key := range req.Env {
		if !validEnv.MatchString(key) {
			return invalid(name, "", "environment variable %q: want letters, digits and _ . -, not beginning with a digit", key)
		}
	}
	return nil
}

// holdsMain reports whether the Go files of dir itself are a program's. It
// spares the usual push a run of the go command; where build constraints make
// it a wrong guess, the compiler says so.
func holdsMain(dir string) bool {
	files, _ := filepath.Glob(filepath.Join(dir, "*.go")) // the pattern is well formed
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.PackageClauseOnly)
		return err == nil && f.Name.Name == "main"
	}
	return false
}

// mainPackage returns the import path of the one program in dir: dir itself, or
// the only one below it.
func mainPackage(ctx context.Context, dir string) (string, error) {
	if _, err := exec.LookPath("go"); err != nil {
		return "", &problem.UserError{Op: "build", Object: dir, Err: problem.New(problem.Unavailable, "there is no go command on PATH"), Try: "install Go, or write a Dockerfile"}
	}
	if holdsMain(dir) {
		return ".", nil
	}
	list := exec.CommandContext(ctx, "go", "list", "-e", "-f", `{{if eq .Name "main"}}{{.ImportPath}}{{end}}`, "./...")
	list.Dir = dir
	var stderr strings.Builder
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		return "", &problem.UserError{Op: "build", Object: dir, Err: errors.New(strings.TrimSpace(stderr.String()))}
	}
	var programs []string
	for line := range strings.Lines(string(out)) {
		path := strings.TrimSpace(line)
		if path != "" && !slices.Contains(programs, path) {
			programs = append(programs, path)
		}
	}
	switch len(programs) {
	case 0:
		return "", &problem.UserError{Op: "build", Object: dir, Err: problem.New(problem.Invalid, "the Go module has no package main"), Try: "name the directory of a program"}
	case 1:
		return programs[0], nil
	}
	return "", &problem.UserError{
		Op: "build", Object: dir,
		Err: problem.New(problem.Invalid, "there are several programs: %s", strings.Join(programs, ", ")),
		Try: "name the directory of one of them",
	}
}
