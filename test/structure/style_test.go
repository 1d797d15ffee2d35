package structure

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// root is the module's directory, seen from this one.
const root = "../.."

// source is one parsed file of the module.
type source struct {
	path string // relative to the module
	test bool
	text string
	file *ast.File
	fset *token.FileSet
}

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == "third_party" || d.Name() == "bin" || d.Name() == ".git") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(fset, path, text, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		all = append(all, source{rel, strings.HasSuffix(rel, "_test.go"), string(text), file, fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestEveryPackageSaysWhatItOwns(t *testing.T) {
	comment := map[string]bool{}
	for _, s := range sources(t) {
		dir := filepath.Dir(s.path)
		if s.test && strings.HasSuffix(s.file.Name.Name, "_test") {
			continue
		}
		doc := s.file.Doc.Text()
		said := strings.HasPrefix(doc, "Package "+s.file.Name.Name) || strings.HasPrefix(doc, "Command ")
		comment[dir] = comment[dir] || said
	}
	for dir, ok := range comment {
		if !ok {
			t.Errorf("%s has no package comment", dir)
		}
	}
}

func TestNothingSleepsOrStartsByItself(t *testing.T) {
	for _, s := range sources(t) {
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv == nil && n.Name.Name == "init" {
					t.Errorf("%s: func init: call it from a constructor", s.fset.Position(n.Pos()))
				}
			case *ast.SelectorExpr:
				x, ok := n.X.(*ast.Ident)
				if !ok {
					return true
				}
				if x.Name == "time" && n.Sel.Name == "Sleep" && !strings.Contains(s.text, `"testing/synctest"`) {
					t.Errorf("%s: time.Sleep: wait for the event", s.fset.Position(n.Pos()))
				}
				if x.Name == "context" && n.Sel.Name == "TODO" {
					t.Errorf("%s: context.TODO: pass the caller's", s.fset.Position(n.Pos()))
				}
			}
			return true
		})
	}
}

// The sizes at which the style guide asks for a split.
const (
	longestFile     = 500
	longestFunction = 120 // a flat switch or table; others stay under 80
)

func TestSizesStayReadable(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || strings.HasPrefix(filepath.Base(s.path), "zz_") {
			continue
		}
		if lines := strings.Count(s.text, "\n"); lines > longestFile {
			t.Errorf("%s has %d lines: is there a second noun inside?", s.path, lines)
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			lines := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line
			if lines > longestFunction {
				t.Errorf("%s: %s has %d lines: decide and do apart?", s.path, f.Name.Name, lines)
			}
		}
	}
}

var unfinished = regexp.MustCompile(`(?i)\b(TODO|FIXME|XXX|not implemented|for now)\b`)

func TestNothingIsCalledDoneThatIsNot(t *testing.T) {
	for _, s := range sources(t) {
		if s.path == filepath.Join("test", "structure", "style_test.go") {
			continue
		}
		for _, group := range s.file.Comments {
			if m := unfinished.FindString(group.Text()); m != "" {
				t.Errorf("%s: %q in a comment", s.fset.Position(group.Pos()), m)
			}
		}
		if s.test {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if text, ok := n.(*ast.BasicLit); ok && text.Kind == token.STRING {
				if m := unfinished.FindString(text.Value); m != "" {
					t.Errorf("%s: %q in a message", s.fset.Position(text.Pos()), m)
				}
			}
			return true
		})
	}
}

func TestPackageNamesAreNouns(t *testing.T) {
	bad := map[string]bool{
		"util": true, "utils": true, "common": true, "helpers": true, "misc": true,
		"manager": true, "pkg": true, "runtime": true, "net": true,
	}
	for _, s := range sources(t) {
		if bad[s.file.Name.Name] {
			t.Errorf("%s: package %s says nothing", s.path, s.file.Name.Name)
		}
	}
}

// TestFaultPointsAreNamedOnce keeps the crash suite's list unambiguous.
func TestFaultPointsAreNamedOnce(t *testing.T) {
	point := regexp.MustCompile(`fault\.At\("([^"]+)"\)`)
	seen := map[string]string{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		for _, m := range point.FindAllStringSubmatch(s.text, -1) {
			if first, ok := seen[m[1]]; ok {
				t.Errorf("fault point %s is in %s and %s", m[1], first, s.path)
			}
			seen[m[1]] = s.path
		}
	}
}
