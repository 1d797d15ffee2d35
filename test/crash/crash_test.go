package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"gantry/internal/control"
	"gantry/internal/testenv"
)

// rounds is how often the server is killed; GANTRY_CRASH_ROUNDS says otherwise.
const rounds = 15

// steady are the containers that live all the time, with their log's options.
var steady = map[string]map[string]string{
	"steady":  nil,
	"rotated": {"max-size": "8k", "max-file": "1000"},
}

const count = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done"

func TestKillAtAnyMoment(t *testing.T) {
	testenv.NeedCommand(t, "docker")
	n := rounds
	if wish, err := strconv.Atoi(os.Getenv("GANTRY_CRASH_ROUNDS")); err == nil {
		n = wish
	}
	s := newServer(t)
	s.start()
	s.ImportBusybox()
	lives := map[string]string{}
	for name, opts := range steady {
		s.must(http.MethodPost, "/containers/create?name="+name, map[string]any{
			"Image": "busybox", "Cmd": []string{"sh", "-c", count},
			"HostConfig": map[string]any{"LogConfig": map[string]any{"Type": "json-file", "Config": opts}},
		})
		s.must(http.MethodPost, "/containers/"+name+"/start", nil)
		lives[name] = s.life(name)
	}
	for round := range n {
		l := s.newLoad(round)
		s.doze(time.Duration(20+rand.IntN(600)) * time.Millisecond)
		s.kill()
		if rand.IntN(3) == 0 { // once more, while it starts
			s.begin()
			s.doze(time.Duration(rand.IntN(200)) * time.Millisecond)
			s.kill()
		}
		s.start()
		l.end()
		for name, life := range lives {
			if now := s.life(name); now != life {
				t.Fatalf("round %d: %s was %s and is %s", round, name, life, now)
			}
		}
		s.keeps(l.promises)
		s.check()
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
		s.clear()
	}
	for name := range steady {
		got := lines(s.must(http.MethodGet, "/containers/"+name+"/logs?stdout=1", nil).body)
		if len(got) < 100 {
			t.Errorf("log of %s has %d lines", name, len(got))
		}
		contiguous(t, "log of "+name, got, 0)
	}
}

func (s *server) start() {
	s.t.Helper()
	if s.begin(); !s.ready() {
		s.t.Fatal("the server does not start")
	}
}

// doze waits: the moment of the kill is the one thing that no event tells.
func (s *server) doze(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}

// inspected is what the test reads of a container.
type inspected struct {
	State struct {
		Status, StartedAt string
		Pid, ExitCode     int
	}
}

func (s *server) inspect(name string) inspected {
	s.t.Helper()
	var c inspected
	s.must(http.MethodGet, "/containers/"+name+"/json", nil).decode(s.t, &c)
	return c
}

// life identifies one run of a container.
func (s *server) life(name string) string {
	s.t.Helper()
	c := s.inspect(name)
	return fmt.Sprint(c.State.Status, " ", c.State.Pid, " since ", c.State.StartedAt)
}

func (s *server) names() []string {
	s.t.Helper()
	var list []struct{ Names []string }
	s.must(http.MethodGet, "/containers/json?all=1", nil).decode(s.t, &list)
	var names []string
	for _, c := range list {
		names = append(names, c.Names[0][1:])
	}
	return names
}

// keeps compares what is there with what was promised.
func (s *server) keeps(promises []*promise) {
	s.t.Helper()
	names := s.names()
	for _, p := range promises {
		there := slices.Contains(names, p.name)
		switch {
		case there && p.gone:
			s.t.Errorf("%s was removed, and is there", p.name)
		case !there && p.created && !p.mayGo:
			s.t.Errorf("%s was created, and is gone", p.name)
		}
		if there {
			s.settled(p)
		}
	}
}

// settled waits for the container's end, if it was started, and compares it.
func (s *server) settled(p *promise) {
	s.t.Helper()
	c := s.inspect(p.name)
	if c.State.Status == "created" {
		if p.started {
			s.t.Errorf("%s was started, and is created", p.name)
		}
		return
	}
	if !p.mayStart {
		s.t.Errorf("%s was never to be started, and is %s", p.name, c.State.Status)
		return
	}
	var end struct{ StatusCode int }
	s.must(http.MethodPost, "/containers/"+p.name+"/wait", nil).decode(s.t, &end)
	if end.StatusCode != p.code || s.inspect(p.name).State.ExitCode != p.code {
		s.t.Errorf("%s ended with %d, want %d (start answered: %t)", p.name, end.StatusCode, p.code, p.started)
	}
	got := lines(s.must(http.MethodGet, "/containers/"+p.name+"/logs?stdout=1&stderr=1", nil).body)
	slices.Sort(got)
	if want := []string{"a", "b", "c"}; !slices.Equal(got, want) {
		s.t.Errorf("log of %s is %q, want %q", p.name, got, want)
	}
}

// check has the server look at all that it keeps.
func (s *server) check() {
	s.t.Helper()
	found, err := control.NewClient(s.Config.ControlSocket()).Check(context.Background())
	if err != nil {
		s.t.Errorf("check: %v", err)
	}
	for _, v := range found {
		s.t.Errorf("check: %s: %s", v.Part, v.Problem)
	}
}

// clear removes what the load has left: no volume stays behind.
func (s *server) clear() {
	s.t.Helper()
	for _, name := range s.names() {
		if _, ok := steady[name]; !ok {
			s.must(http.MethodDelete, "/containers/"+name+"?force=1&v=1", nil)
		}
	}
	s.must(http.MethodPost, "/networks/prune", nil)
	s.must(http.MethodPost, "/volumes/prune?filters="+url.QueryEscape(`{"all":["true"]}`), nil)
	var volumes struct{ Volumes []struct{ Name string } }
	s.must(http.MethodGet, "/volumes", nil).decode(s.t, &volumes)
	if len(volumes.Volumes) > 0 {
		s.t.Errorf("volumes are left: %v", volumes.Volumes)
	}
}
