package e2e

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"gantry/internal/testenv"
	"gantry/test/harness"
)

// suggestion is a line that the demo prints to be tried, without its comment.
var suggestion = regexp.MustCompile(`(?m)^    ((?:gantry|curl) .*?)(?:  .*)?$`)

// TestDemo runs what `make demo` runs, and every line that it suggests.
func TestDemo(t *testing.T) {
	testenv.NeedCommand(t, "curl")
	s := harness.Start(t, harness.Options{})
	bin, err := filepath.Abs(os.Getenv("GANTRY_BIN"))
	if err != nil {
		t.Fatal(err)
	}
	out := s.Run(filepath.Join(repository, "test/demo.sh"), bin)
	contains(t, out, "2 of 2 replicas are ready", "hello.localhost/ answers")
	s.ImportBusybox()
	lines := suggestion.FindAllStringSubmatch(out[strings.Index(out, "Next, with"):], -1)
	if len(lines) < 8 {
		t.Fatalf("only %d suggestions in\n%s", len(lines), out)
	}
	for _, line := range lines {
		try(t, s, strings.Fields(strings.Replace(line[1], "IMAGE", "busybox", 1)))
	}
	if _, err := os.Stat(s.Config.DataDir); !os.IsNotExist(err) {
		t.Errorf("after all of them the data directory is there: %v", err)
	}
}

// try runs one suggestion, on a terminal, for a while where it would not end.
func try(t *testing.T, s *harness.Server, line []string) {
	t.Helper()
	name := strings.Join(line, " ")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := s.Command(ctx, line[0], line[1:]...)
	if line[0] == "curl" {
		// Debian 12's curl resolves *.localhost by itself; a host's own
		// configuration could do otherwise.
		cmd.Args = append(cmd.Args, "-fsS")
	}
	var tty *os.File
	err := s.Inside(func() error {
		var err error
		tty, err = pty.Start(cmd)
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	defer tty.Close()
	screen := new(strings.Builder)
	endless := strings.Contains(name, " -f ")
	switch {
	case endless:
		first := make([]byte, 4096)
		n, err := tty.Read(first) // a line is there: the app has answered before
		if err != nil || n == 0 {
			t.Errorf("%s: %v", name, err)
		}
		_, _ = tty.Write([]byte{3}) // ctrl-c; it may have ended
	case strings.HasSuffix(name, " sh"):
		_, _ = tty.WriteString("exit 0\n") // it may have ended
	}
	_, _ = io.Copy(screen, tty) // ends with EIO when the other end is closed
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s: %v\n%s", name, err, screen)
	}
}
