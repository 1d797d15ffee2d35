package dockerapi_test

import (
	"bytes"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
)

// terminal runs a command on a terminal of 33 rows and 101 columns, lets play
// speak with it, and compares its exit code.
func terminal(t *testing.T, cmd *exec.Cmd, play func(in io.Writer, expect func(string)), code int) {
	t.Helper()
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 101})
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	output := make(chan []byte, 16) // the reader may be a little ahead
	go func() {
		defer close(output)
		for {
			buf := make([]byte, 4096)
			n, err := tty.Read(buf)
			if n > 0 {
				output <- buf[:n]
			}
			if err != nil {
				return
			}
		}
	}()
	var seen bytes.Buffer
	expect := func(want string) {
		t.Helper()
		deadline := time.After(time.Minute)
		for !strings.Contains(seen.String(), want) {
			select {
			case data, ok := <-output:
				if !ok {
					t.Fatalf("%v ended before it said %q; it said %q", cmd.Args[1:], want, seen.String())
				}
				seen.Write(data)
			case <-deadline:
				t.Fatalf("%v does not say %q; it said %q", cmd.Args[1:], want, seen.String())
			}
		}
		rest := seen.String()[strings.Index(seen.String(), want)+len(want):]
		seen.Reset()
		seen.WriteString(rest)
	}
	play(tty, expect)
	go func() {
		for range output { // what nobody waits for
		}
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("%v: exit %d, want %d; it said %q", cmd.Args[1:], got, code, seen.String())
	}
}
