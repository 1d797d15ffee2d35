package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// promise is what the server has said of one container of the load, and what
// was asked of it without an answer.
type promise struct {
	name             string
	code             int // its program's exit code
	created, started bool
	mayStart         bool // a start was asked for
	mayGo, gone      bool // a removal was asked for, was answered
}

// load makes, runs, executes in, follows and removes containers until it is
// told to stop.
type load struct {
	s     *server
	stop  chan struct{}
	done  sync.WaitGroup
	turns atomic.Int64

	mu       sync.Mutex
	promises []*promise
}

func (s *server) newLoad(round int) *load {
	l := &load{s: s, stop: make(chan struct{})}
	for i := range 3 {
		l.repeat(func(n int) { l.live(fmt.Sprintf("c-%d-%d-%d", round, i, n)) })
	}
	l.repeat(func(int) { l.execute() })
	l.repeat(func(int) { l.follow() })
	l.repeat(func(n int) { l.network(fmt.Sprintf("n-%d-%d", round, n)) })
	l.repeat(func(int) {
		// Its failure is the point.
		cmd := s.Command(context.Background(), "docker", "run", "--rm", "-v", "/anonymous", "busybox", "true")
		if s.Begin(cmd) == nil {
			_ = cmd.Wait()
		}
	})
	return l
}

// repeat calls f, with a count, until the load ends.
func (l *load) repeat(f func(n int)) {
	l.done.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-l.stop:
				return
			default:
				f(n)
				l.turns.Add(1)
			}
		}
	})
}

// end stops the load and waits for the requests under way.
func (l *load) end() {
	close(l.stop)
	l.done.Wait()
}

// live leads one container through its life, or through a part of it.
func (l *load) live(name string) {
	p := &promise{name: name, code: rand.IntN(100)}
	l.mu.Lock()
	l.promises = append(l.promises, p)
	l.mu.Unlock()
	host := map[string]any{}
	switch rand.IntN(3) {
	case 0:
		host["NetworkMode"] = "none"
	case 1:
		host["PortBindings"] = map[string]any{"80/tcp": []any{map[string]string{}}}
	}
	a, err := l.s.call(http.MethodPost, "/containers/create?name="+name, map[string]any{
		"Image": "busybox", "HostConfig": host, "ExposedPorts": map[string]any{"80/tcp": struct{}{}},
		"Cmd": []string{"sh", "-c", "echo a; echo b >&2; echo c; exit " + strconv.Itoa(p.code)},
	})
	if err != nil || a.code != http.StatusCreated {
		return
	}
	p.created, p.mayStart = true, true
	a, err = l.s.call(http.MethodPost, "/containers/"+name+"/start", nil)
	if err != nil || a.code != http.StatusNoContent {
		return
	}
	p.started = true
	if rand.IntN(2) == 0 {
		return
	}
	a, err = l.s.call(http.MethodPost, "/containers/"+name+"/wait", nil)
	if err != nil {
		return
	}
	if want := fmt.Sprintf(`"StatusCode":%d`, p.code); !strings.Contains(string(a.body), want) {
		l.s.t.Errorf("wait for %s: %s, want %s", name, a.body, want)
	}
	p.mayGo = true
	a, err = l.s.call(http.MethodDelete, "/containers/"+name+"?force=1&v=1", nil)
	p.gone = err == nil && a.code == http.StatusNoContent
}

// execute runs a program in a container that lives all the time.
func (l *load) execute() {
	code := rand.IntN(100)
	a, err := l.s.call(http.MethodPost, "/containers/steady/exec", map[string]any{
		"AttachStdout": true, "Cmd": []string{"sh", "-c", "exit " + strconv.Itoa(code)},
	})
	if err != nil || a.code != http.StatusCreated {
		return
	}
	var exec struct{ ID string }
	a.decode(l.s.t, &exec)
	if _, err := l.s.call(http.MethodPost, "/exec/"+exec.ID+"/start", map[string]any{}); err != nil {
		return
	}
	a, err = l.s.call(http.MethodGet, "/exec/"+exec.ID+"/json", nil)
	if err != nil || a.code != http.StatusOK {
		return // another life of the server may not know it
	}
	var state struct {
		Running  bool
		ExitCode *int
	}
	a.decode(l.s.t, &state)
	if !state.Running && (state.ExitCode == nil || *state.ExitCode != code) {
		l.s.t.Errorf("exec ended with %s, want %d", a.body, code)
	}
}

// follow reads the log of a container that lives all the time until the
// connection ends: the lines are counted.
func (l *load) follow() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		select {
		case <-l.stop:
		case <-ctx.Done():
		}
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/containers/steady/logs?stdout=1&follow=1&tail=20", http.NoBody)
	if err != nil {
		return
	}
	resp, err := l.s.api.Do(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return
	}
	var stream []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := resp.Body.Read(buf)
		stream = append(stream, buf[:n]...)
		if err != nil {
			break
		}
	}
	if got := lines(stream); len(got) > 0 {
		if first, err := strconv.Atoi(got[0]); err != nil {
			l.s.t.Errorf("followed log begins with %q", got[0])
		} else {
			contiguous(l.s.t, "followed log", got, first)
		}
	}
}

// network makes a network and a volume, and removes them.
func (l *load) network(name string) {
	_, _ = l.s.call(http.MethodPost, "/networks/create", map[string]any{"Name": name, "CheckDuplicate": true})
	_, _ = l.s.call(http.MethodPost, "/volumes/create", map[string]any{"Name": name})
	_, _ = l.s.call(http.MethodDelete, "/networks/"+name, nil)
	_, _ = l.s.call(http.MethodDelete, "/volumes/"+name, nil)
}

// contiguous fails the test unless the lines count from first.
func contiguous(t testing.TB, what string, lines []string, first int) {
	t.Helper()
	for i, line := range lines {
		if line != strconv.Itoa(first+i) {
			t.Errorf("line %d of the %s is %q, want %d", i, what, line, first+i)
			return
		}
	}
}
