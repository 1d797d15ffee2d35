package builder

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"gantry/engine/image"
)

// FuzzDockerfile parses any bytes and plans the build: it must not crash, and
// errors must have a place that exists.
func FuzzDockerfile(f *testing.F) {
	for _, seed := range []string{
		"FROM scratch\nCOPY a b\n", "ARG A=1\nFROM x${A} AS y\nRUN <<EOF\n#!/x\nEOF\nFROM y\nCOPY --from=y /a /b\n",
		"# escape=`\nFROM scratch\nENV A=`\n B\n", "FROM scratch\nHEALTHCHECK --interval=1s CMD x\nONBUILD RUN y\nEXPOSE 1-3/udp\n",
		"# check=skip=all;error=true\nFROM scratch\n# check=skip=x\nEXPOSE [::1]:1-3:4/UDP $X\nONBUILD RUN y\nARG K=$Z\n",
		reproducible, runOnce,
	} {
		f.Add([]byte(seed), "A", "v")
	}
	f.Fuzz(func(t *testing.T, source []byte, arg, value string) {
		given := map[string]*string{arg: &value}
		l, err := newLint(source, given)
		if err != nil {
			return
		}
		file, err := parse("Dockerfile", source, l.rules)
		if err == nil {
			var args *arguments
			args, err = newArguments(file, Request{BuildArgs: given}, image.Host())
			if err == nil {
				var g *graph
				g, err = newGraph(file, "", args.fromEnv(), nil)
				if err == nil {
					g.number()
					l.file(file)
					l.bases(file, args.fromEnv(), args.fromEnv())
					l.stages(file, g, args, nil)
					describeAll(file, args)
					if g.steps < 1 || !g.stages[g.target].needed {
						t.Errorf("%s", g)
					}
				}
			}
		}
		var syntax *SyntaxError
		if errors.As(err, &syntax) && syntax.Line > 0 {
			lines := strings.Split(string(source), "\n")
			if syntax.Line > len(lines) || syntax.Column < 1 || syntax.Column > len(lines[syntax.Line-1])+1 {
				t.Errorf("%d:%d is no place in %q", syntax.Line, syntax.Column, source)
			}
		}
	})
}

// describeAll carries out what needs no file system.
func describeAll(f *dockerfile, args *arguments) {
	for _, s := range f.stages {
		st := scratchState(image.Host())
		lex := shell.NewLex(f.escape)
		for _, c := range s.Commands {
			_, _ = st.describe(c, args, lex)
		}
	}
}

// FuzzContext reads any bytes as a context, ignores by any patterns, and copies
// by any pattern: what is selected must be there.
func FuzzContext(f *testing.F) {
	seed := archive(f, []file{{name: "a/b/c", body: "x"}, {name: "l", link: "a/../b"}, {name: "loop", link: "loop"}, {name: "a", body: "file"}})
	f.Add(seed, "**/c\n!a/b\n", "a*/?")
	f.Add(seed, "*", "l")
	f.Fuzz(func(t *testing.T, in []byte, patterns, pattern string) {
		c, err := receive(ctx, bytes.NewReader(in), t.TempDir(), nil)
		if err != nil {
			return
		}
		defer c.Close()
		if err := c.ignore(strings.Split(patterns, "\n")); err != nil {
			return
		}
		origins, err := copyRequest{verb: "ADD", src: c, context: true, paths: []string{pattern}}.selectFiles()
		if err != nil {
			return
		}
		if _, err := contentKey(origins); err != nil {
			t.Errorf("key: %v", err)
		}
		for _, o := range origins {
			for _, it := range o.files {
				if _, err := c.lookup(it.path); err != nil {
					t.Errorf("selected %q: %v", it.path, err)
				}
			}
		}
	})
}
