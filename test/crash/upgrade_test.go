package crash

import (
	"os"
	"path/filepath"
	"testing"

	"gantry/internal/testenv"
)

// A container that one build has started is the other's as much.
func TestUpgradeAndDowngrade(t *testing.T) {
	bin := os.Getenv("GANTRY_LATER_BIN")
	if bin == "" {
		t.Skip("GANTRY_LATER_BIN does not name programs of a later version: run `make crash`")
	}
	testenv.NeedCommand(t, "docker")
	s := newServer(t)
	s.start()
	s.ImportBusybox()
	lives := map[string]string{}
	begin := func(name string) {
		s.Docker("run", "-d", "--name", name, "busybox", "sh", "-c", "trap 'exit 7' TERM; "+count)
		lives[name] = s.life(name)
	}
	begin("earlier")
	for _, program := range []string{filepath.Join(bin, "gantryd"), "gantryd"} {
		s.program = program
		s.kill()
		s.start()
		for name, life := range lives {
			if now := s.life(name); now != life {
				t.Errorf("%s: %s was %s and is %s", program, name, life, now)
			}
			if out := s.Docker("exec", name, "echo", "here"); out != "here\n" {
				t.Errorf("%s: exec in %s printed %q", program, name, out)
			}
		}
		s.check()
		if program != "gantryd" {
			begin("later")
		}
	}
	for name := range lives {
		s.Docker("stop", name)
		if c := s.inspect(name); c.State.ExitCode != 7 {
			t.Errorf("%s ended with %d", name, c.State.ExitCode)
		}
		log := lines(s.must("GET", "/containers/"+name+"/logs?stdout=1", nil).body)
		contiguous(t, "log of "+name, log, 0)
	}
}
