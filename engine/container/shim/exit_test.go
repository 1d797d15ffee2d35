package shim

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gantry/engine/container/wire"
)

// The child of a start that fails ends by itself, and may be reaped before the
// start has read why.
func TestAnExitWaitsForTheOutcomeOfTheStart(t *testing.T) {
	for want, r := range map[string]wire.Reply{
		`"code":126,`: {Failure: wire.FailProgram, B: 13},
		`"code":127,`: {Failure: wire.FailProgram, B: 2},
		`"code":1,`:   {}, // the program's own
	} {
		path := filepath.Join(t.TempDir(), "exit")
		synctest.Test(t, func(t *testing.T) {
			create := &wire.Create{ExitPath: path}
			p := newProcess("", &create.Process, testLog(t, *create))
			s := &Shim{create: create, log: p.log, procs: map[string]*process{"": p}, done: make(chan struct{})}
			p.started, p.status, p.at = true, 1<<8, time.Now()
			close(p.reaped)
			close(p.drained)
			go s.watchFirst(p)
			synctest.Wait()
			p.settle(&r)
			<-s.done
		})
		if got, err := os.ReadFile(path); err != nil || !strings.Contains(string(got), want) {
			t.Errorf("exit record %q, %v; want %s", got, err, want)
		}
	}
}
