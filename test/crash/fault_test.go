package crash

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"gantry/internal/testenv"
	"gantry/test/harness"
)

// pointLimit is how long a server may take to come to a fault point after the
// client has had its answer.
const pointLimit = 30 * time.Second

// newFaultServer is a server that has fault points, with a container that lives
// all the time, beside one that keeps a registry.
func newFaultServer(t *testing.T) (s *server, steady string) {
	t.Helper()
	bin := os.Getenv("GANTRY_FAULT_BIN")
	if bin == "" {
		t.Skip("GANTRY_FAULT_BIN does not name programs with fault points: run `make crash`")
	}
	testenv.NeedCommand(t, "docker")
	s = newServer(t)
	s.program = filepath.Join(bin, "gantryd")
	harness.Start(t, harness.Options{Namespace: s.Server, Args: []string{"--disable=cluster", "--registry-listen", otherRegistry}})
	s.start()
	s.ImportBusybox()
	s.Docker("run", "-d", "--name", "steady", "busybox", "sh", "-c", count)
	return s, s.life("steady")
}

// with restarts the server with a fault, or without one. False: it died.
func (s *server) with(fault string) bool {
	s.t.Helper()
	s.kill()
	s.env = nil
	if fault != "" {
		s.env = []string{"GANTRY_FAULT=" + fault}
	}
	s.begin()
	return s.ready()
}

// dies waits for the server's death.
func (s *server) dies(limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-s.ended:
		return true
	case <-timer.C:
		return false
	}
}

// whole says that the server has what it had before the scene and no more, and
// that it can do the scene.
func (s *server) whole(sc scene, steady string) {
	s.t.Helper()
	if now := s.life("steady"); now != steady {
		s.t.Errorf("steady was %s and is %s", steady, now)
	}
	s.check()
	s.sweep()
	s.check()
	if sc.before != nil {
		if err := sc.before(s); err != nil {
			s.t.Error(err)
		}
	}
	if err := sc.do(s); err != nil {
		s.t.Errorf("afterwards: %v", err)
	}
	s.sweep()
	s.check()
}

func TestKillAtEveryFaultPoint(t *testing.T) {
	s, steady := newFaultServer(t)
	for _, point := range slices.Sorted(maps.Keys(points)) {
		sc := points[point]
		for pass := 1; ; pass++ {
			if sc.before != nil {
				if err := sc.before(s); err != nil {
					t.Fatalf("%s: %v", point, err)
				}
			}
			limit := pointLimit
			if pass > 1 {
				limit = 0
			}
			died := !s.with(point + "@" + strconv.Itoa(pass))
			if !died {
				err := sc.do(s) // what a client of a dying server sees
				if died = s.dies(limit); !died && pass == 1 {
					t.Fatalf("%s: the scene does not pass it: %v", point, err)
				}
			}
			if !s.with("") {
				t.Fatalf("%s, pass %d: the server does not start", point, pass)
			}
			s.whole(sc, steady)
			if t.Failed() {
				t.Fatalf("killed at %s, pass %d", point, pass)
			}
			if !died || !sc.often {
				break
			}
		}
	}
}

// An error at a fault point is undone by the server that lives on.
func TestFailAtEveryFaultPoint(t *testing.T) {
	s, steady := newFaultServer(t)
	for _, point := range slices.Sorted(maps.Keys(points)) {
		sc := points[point]
		if sc.before != nil {
			if err := sc.before(s); err != nil {
				t.Fatalf("%s: %v", point, err)
			}
		}
		if !s.with("error:" + point + "@1") {
			continue // in its start: that it fails is right
		}
		_ = sc.do(s) // some of it fails
		s.whole(sc, steady)
		if t.Failed() {
			t.Fatalf("failed at %s", point)
		}
	}
}
