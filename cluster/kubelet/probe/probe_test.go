package probe

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	healthgrpc "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilexec "k8s.io/utils/exec"
)

// scripted is a container whose exec probes give the next result of a script
// each time: '.' good, 'x' bad; the last one for ever.
type scripted struct {
	mu     sync.Mutex
	script string
	at     []time.Duration // since the start
	begin  time.Time
	failed []string
	notes  int
}

func (s *scripted) exec(context.Context, string, []string, time.Duration) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = append(s.at, time.Since(s.begin))
	r := s.script[0]
	if len(s.script) > 1 {
		s.script = s.script[1:]
	}
	if r == '.' {
		return nil, nil
	}
	return []byte("bad"), utilexec.CodeExitError{Code: 1, Err: errors.New("exit 1")}
}

func (s *scripted) set() *Set {
	return New(Config{Exec: s.exec, Notify: func(Target) { s.mu.Lock(); s.notes++; s.mu.Unlock() },
		Failed: func(_ Target, kind Kind, output string) {
			s.mu.Lock()
			s.failed = append(s.failed, string(kind)+" "+output)
			s.mu.Unlock()
		}})
}

func execProbe(p v1.Probe) *v1.Probe {
	p.Exec = &v1.ExecAction{Command: []string{"check"}}
	return &p
}

// after runs the probes of c for d of fake time and returns their health.
func after(t *testing.T, s *scripted, c *v1.Container, d time.Duration) (h Health) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s.begin = time.Now()
		set := s.set()
		set.Watch(ctx, Target{Pod: &v1.Pod{}, Container: c, ID: "id", StartedAt: s.begin})
		time.Sleep(d) // of the bubble
		synctest.Wait()
		h = set.Health("id")
		cancel()
		set.Wait()
	})
	return h
}

func TestTiming(t *testing.T) {
	tests := map[string]struct {
		script string
		c      v1.Container
		run    time.Duration
		want   Health
		at     string
	}{
		"no probes: ready at once":            {".", v1.Container{}, 0, Health{Started: true, Ready: true}, ""},
		"readiness asks at once":              {".", v1.Container{ReadinessProbe: execProbe(v1.Probe{PeriodSeconds: 10})}, time.Second, Health{Started: true, Ready: true}, "0s"},
		"then each period":                    {".", v1.Container{ReadinessProbe: execProbe(v1.Probe{PeriodSeconds: 10})}, 21 * time.Second, Health{Started: true, Ready: true}, "0s 10s 20s"},
		"after the initial delay":             {".", v1.Container{ReadinessProbe: execProbe(v1.Probe{InitialDelaySeconds: 3, PeriodSeconds: 10})}, 14 * time.Second, Health{Started: true, Ready: true}, "3s 13s"},
		"not ready before the first success":  {"x.", v1.Container{ReadinessProbe: execProbe(v1.Probe{PeriodSeconds: 5})}, 4 * time.Second, Health{Started: true}, "0s"},
		"successThreshold":                    {".", v1.Container{ReadinessProbe: execProbe(v1.Probe{PeriodSeconds: 5, SuccessThreshold: 2})}, 4 * time.Second, Health{Started: true}, "0s"},
		"two failures of three do not matter": {".xx.", v1.Container{ReadinessProbe: execProbe(v1.Probe{PeriodSeconds: 1})}, 2500 * time.Millisecond, Health{Started: true, Ready: true}, "0s 1s 2s"},
		"the third does":                      {".xxx", v1.Container{ReadinessProbe: execProbe(v1.Probe{PeriodSeconds: 1})}, 3500 * time.Millisecond, Health{Started: true}, "0s 1s 2s 3s"},
		"liveness ends with its verdict":      {".xx", v1.Container{LivenessProbe: execProbe(v1.Probe{PeriodSeconds: 1, FailureThreshold: 2})}, time.Minute, Health{Started: true, Ready: true, LivenessFailed: true}, "0s 1s 2s"},
		"startup failure":                     {"x", v1.Container{StartupProbe: execProbe(v1.Probe{PeriodSeconds: 1, FailureThreshold: 3})}, time.Minute, Health{Ready: true, StartupFailed: true}, "0s 1s 2s"},
		"liveness waits for startup":          {"xx.", v1.Container{StartupProbe: execProbe(v1.Probe{PeriodSeconds: 2}), LivenessProbe: execProbe(v1.Probe{PeriodSeconds: 10})}, 5 * time.Second, Health{Started: true, Ready: true}, "0s 2s 4s 4s"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := &scripted{script: tc.script}
			got := after(t, s, &tc.c, tc.run)
			var at []string
			for _, d := range s.at {
				at = append(at, d.Truncate(time.Millisecond).String())
			}
			if got != tc.want || strings.Join(at, " ") != tc.at {
				t.Errorf("got %+v, asked at %v; want %+v, %s", got, at, tc.want, tc.at)
			}
		})
	}
}

func TestTerminatingStopsLivenessOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := &scripted{script: "x", begin: time.Now()}
		set := s.set()
		set.Watch(ctx, Target{Pod: &v1.Pod{}, Container: &v1.Container{LivenessProbe: execProbe(v1.Probe{PeriodSeconds: 1, InitialDelaySeconds: 5}),
			ReadinessProbe: execProbe(v1.Probe{PeriodSeconds: 1})}, ID: "id", StartedAt: s.begin})
		set.Terminating("id")
		time.Sleep(time.Minute + time.Second/2) // of the bubble, and between two probes
		synctest.Wait()
		if h := set.Health("id"); h.LivenessFailed || len(s.at) < 50 {
			t.Errorf("health %+v after %d probes", h, len(s.at))
		}
		set.Forget("id")
		if h := set.Health("id"); h != (Health{}) {
			t.Errorf("forgotten container: %+v", h)
		}
		set.Wait()
		cancel()
	})
}

func TestEarlyTries(t *testing.T) {
	c := counter{settings: settingsOf(Readiness, &v1.Probe{PeriodSeconds: 1, ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{}}}), quickWait: quickest}
	var waits []string
	for range 6 {
		wait, v, counted := c.add(false)
		if v == undecided && counted {
			waits = append(waits, wait.String()+"!")
			continue
		}
		waits = append(waits, wait.String())
	}
	if got := strings.Join(waits, " "); got != "100ms 200ms 400ms 800ms 1s! 1s!" {
		t.Errorf("waits %s", got)
	}
	if _, v, _ := c.add(false); v != failed {
		t.Errorf("the third counted failure decides nothing")
	}
}

func target(t *testing.T, addr string) (Target, intstr.IntOrString) {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, _ := strconv.Atoi(port)
	return Target{IP: host, Container: &v1.Container{Ports: []v1.ContainerPort{{Name: "web", ContainerPort: int32(n)}}}}, intstr.FromInt32(int32(n))
}

func TestHTTPGet(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow":
			<-r.Context().Done()
		case "/away":
			http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
		case "/near":
			http.Redirect(w, r, "/bad", http.StatusFound)
		case "/bad":
			w.WriteHeader(http.StatusInternalServerError)
		case "/headers":
			if r.Host != "name" || r.Header.Get("X-A") != "1" || !strings.HasPrefix(r.UserAgent(), "kube-probe/") || r.URL.RawQuery != "q=1" {
				w.WriteHeader(http.StatusTeapot)
			}
		}
	}))
	defer server.Close()
	tg, port := target(t, server.Listener.Addr().String())
	named := intstr.FromString("web")
	tests := map[string]struct {
		get  v1.HTTPGetAction
		want string
	}{
		"good":                     {v1.HTTPGetAction{Path: "/", Port: port}, ""},
		"named port, no slash":     {v1.HTTPGetAction{Path: "x", Port: named}, ""},
		"bad":                      {v1.HTTPGetAction{Path: "/bad", Port: port}, "HTTP probe failed with statuscode: 500"},
		"redirect within the host": {v1.HTTPGetAction{Path: "/near", Port: port}, "HTTP probe failed with statuscode: 500"},
		"redirect elsewhere is as good as it gets": {v1.HTTPGetAction{Path: "/away", Port: port}, ""},
		"headers":        {v1.HTTPGetAction{Path: "/headers?q=1", Port: port, HTTPHeaders: []v1.HTTPHeader{{Name: "Host", Value: "name"}, {Name: "X-A", Value: "1"}}}, ""},
		"timeout":        {v1.HTTPGetAction{Path: "/slow", Port: port}, "context deadline exceeded"},
		"no such port":   {v1.HTTPGetAction{Path: "/", Port: intstr.FromString("nope")}, "couldn't find port: nope"},
		"nobody listens": {v1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(1)}, "connection refused"},
	}
	for name, tc := range tests {
		err := HTTPGet(t.Context(), &tc.get, tg.Container, tg.IP, 300*time.Millisecond)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func TestTCPAndGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	h := healthgrpc.NewServer()
	h.SetServingStatus("sick", healthpb.HealthCheckResponse_NOT_SERVING)
	healthpb.RegisterHealthServer(server, h)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() { server.Stop(); <-served }()
	tg, port := target(t, l.Addr().String())
	set := New(Config{})
	sick := "sick"
	for name, tc := range map[string]struct {
		p    v1.ProbeHandler
		ok   bool
		want string
	}{
		"tcp":            {v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: port}}, true, ""},
		"tcp refused":    {v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt32(1)}}, false, "connection refused"},
		"grpc":           {v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: port.IntVal}}, true, ""},
		"grpc sick":      {v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: port.IntVal, Service: &sick}}, false, `service unhealthy (responded with "NOT_SERVING")`},
		"grpc no server": {v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: 1}}, false, "timeout: failed to connect service"},
	} {
		ok, output := set.once(t.Context(), tg, &v1.Probe{ProbeHandler: tc.p}, 500*time.Millisecond)
		if ok != tc.ok || !strings.Contains(output, tc.want) {
			t.Errorf("%s: %v %q, want %v %q", name, ok, output, tc.ok, tc.want)
		}
	}
}
