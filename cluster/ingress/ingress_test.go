package ingress

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// bed is a running Router, fed by a fake API.
type bed struct {
	t       testing.TB
	client  *fake.Clientset
	router  *Router
	address string
	stop    func()
}

func newBed(t testing.TB) *bed {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{t: t, client: fake.NewClientset(), address: l.Addr().String()}
	factory := informers.NewSharedInformerFactory(b.client, 0)
	b.router, err = New(Config{Client: b.client, Informers: factory, Listener: l, Address: "192.0.2.1"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	done := make(chan error, 1)
	go func() { done <- b.router.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		factory.Shutdown()
	})
	t.Cleanup(b.stop)
	return b
}

// service makes a Service with an endpoint for each address.
func (b *bed) service(name string, addresses ...string) {
	b.t.Helper()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
	if _, err := b.client.CoreV1().Services("default").Create(b.t.Context(), s, metav1.CreateOptions{}); err != nil {
		b.t.Fatal(err)
	}
	for i, a := range addresses {
		b.endpoint(fmt.Sprintf("%s-%d", name, i), name, a)
	}
}

func (b *bed) endpoint(slice, service, address string) {
	b.t.Helper()
	if _, err := b.client.DiscoveryV1().EndpointSlices("default").Create(b.t.Context(), sliceOf(slice, service, address), metav1.CreateOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

func sliceOf(name, service, address string) *discoveryv1.EndpointSlice {
	host, port, _ := net.SplitHostPort(address)
	portName, number := "http", int32(0)
	fmt.Sscan(port, &number)
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &number}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{host}}},
	}
}

func (b *bed) ingress(in *networkingv1.Ingress) {
	b.t.Helper()
	in.Namespace = "default"
	if _, err := b.client.NetworkingV1().Ingresses("default").Create(b.t.Context(), in, metav1.CreateOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

// rule is "HOST PATH TYPE SERVICE".
func ingressOf(name string, rules ...string) *networkingv1.Ingress {
	in := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	for _, text := range rules {
		f := strings.Fields(text)
		host, kind := strings.TrimPrefix(f[0], "-"), networkingv1.PathType(f[2])
		backend := networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: f[3], Port: networkingv1.ServiceBackendPort{Number: 80}}}
		in.Spec.Rules = append(in.Spec.Rules, networkingv1.IngressRule{Host: host, IngressRuleValue: networkingv1.IngressRuleValue{
			HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{Path: f[1], PathType: &kind, Backend: backend}}}}})
	}
	return in
}

// server is an endpoint that answers with its name.
func server(t testing.TB, name string) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, name)
	}))
	t.Cleanup(s.Close)
	return s
}

func address(s *httptest.Server) string { return s.Listener.Addr().String() }

// do sends a request to the router as if it were host.
func (b *bed) do(method, host, path string, body io.Reader) (int, string, error) {
	req, err := http.NewRequest(method, "http://"+b.address+path, body)
	if err != nil {
		return 0, "", err
	}
	req.Host = host
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, strings.TrimSpace(string(text)), err
}

// eventually waits until a GET is answered so.
func (b *bed) eventually(host, path string, code int, text string) {
	b.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		gotCode, gotText, err := b.do(http.MethodGet, host, path, nil)
		if err == nil && gotCode == code && strings.Contains(gotText, text) {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%s%s: %d %q, %v; want %d %q", host, path, gotCode, gotText, err, code, text)
		}
		<-tick.C
	}
}

func TestRequestsFollowRules(t *testing.T) {
	b := newBed(t)
	b.service("web", address(server(t, "web")))
	b.service("api", address(server(t, "api")))
	b.service("idle")
	b.ingress(ingressOf("all", "hello.localhost / Prefix web", "hello.localhost /api Prefix api", "hello.localhost /idle Prefix idle", "hello.localhost /lost Prefix lost"))
	other := "nginx"
	foreign := ingressOf("foreign", "foreign.localhost / Prefix web")
	foreign.Spec.IngressClassName = &other
	b.ingress(foreign)
	b.eventually("hello.localhost", "/", 200, "web")
	b.eventually("HELLO.localhost:8080", "/x", 200, "web")
	b.eventually("hello.localhost", "/api/x", 200, "api")
	b.eventually("hello.localhost", "/idle", 503, "Service default/idle has no ready endpoints")
	b.eventually("hello.localhost", "/lost", 503, "Service default/lost cannot be used: there is no such Service")
	b.eventually("foreign.localhost", "/", 404, `no Ingress has a rule for host "foreign.localhost" and path "/"`)
}

func TestEndpointsTakeTurnsAndLeaveAtOnce(t *testing.T) {
	b := newBed(t)
	one, two := server(t, "one"), server(t, "two")
	b.service("web", address(one), address(two))
	b.ingress(ingressOf("web", "web.localhost / Prefix web"))
	b.eventually("web.localhost", "/", 200, "two")
	count := map[string]int{}
	for range 20 {
		_, text, _ := b.do(http.MethodGet, "web.localhost", "/", nil)
		count[text]++
	}
	if count["one"] != 10 || count["two"] != 10 {
		t.Errorf("answers by %v, want ten each", count)
	}
	if err := b.client.DiscoveryV1().EndpointSlices("default").Delete(t.Context(), "web-0", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	b.eventually("web.localhost", "/", 200, "two")
	b.eventually("web.localhost", "/", 200, "two")
	for range 10 {
		if _, text, err := b.do(http.MethodGet, "web.localhost", "/", nil); text != "two" {
			t.Errorf("answered by %q, %v", text, err)
		}
	}
}

func TestAnEndpointThatRefusesIsPassedOver(t *testing.T) {
	b := newBed(t)
	dead := server(t, "dead")
	dead.Close()
	b.service("web", address(dead), address(server(t, "alive")))
	b.ingress(ingressOf("web", "web.localhost / Prefix web"))
	b.eventually("web.localhost", "/", 200, "alive")
	for i := range 10 {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			var body io.Reader
			if method == http.MethodPost {
				body = strings.NewReader(strings.Repeat("x", 100_000))
			}
			if code, text, err := b.do(method, "web.localhost", "/", body); code != 200 || text != "alive" {
				t.Errorf("%s %d: %d %q, %v", method, i, code, text, err)
			}
		}
	}
}

// breaker takes connections and closes them once a request has begun.
func breaker(t *testing.T) (address string, taken *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	taken = new(atomic.Int32)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			taken.Add(1)
			_, _ = bufio.NewReader(c).ReadString('\n')
			_ = c.Close()
		}
	}()
	return l.Addr().String(), taken
}

func TestOnlyIdempotentRequestsAreSentTwice(t *testing.T) {
	b := newBed(t)
	broken, taken := breaker(t)
	b.service("web", broken, address(server(t, "alive")))
	b.service("only", broken)
	b.ingress(ingressOf("web", "web.localhost / Prefix web", "only.localhost / Prefix only"))
	b.eventually("web.localhost", "/", 200, "alive")
	for range 10 {
		if code, text, err := b.do(http.MethodGet, "web.localhost", "/", nil); code != 200 {
			t.Errorf("GET: %d %q, %v", code, text, err)
		}
	}
	before := taken.Load()
	code, text, err := b.do(http.MethodPost, "only.localhost", "/", strings.NewReader("order"))
	if code != 502 || !strings.Contains(text, "Service default/only did not answer") {
		t.Errorf("POST: %d %q, %v; want 502", code, text, err)
	}
	if n := taken.Load() - before; n != 1 {
		t.Errorf("the POST was sent %d times", n)
	}
}

func TestForwardingHeadersAreOurs(t *testing.T) {
	seen := make(chan http.Header, 10)
	hosts := make(chan string, 10)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header; hosts <- r.Host }))
	defer s.Close()
	b := newBed(t)
	b.service("web", address(s))
	b.ingress(ingressOf("web", "web.localhost / Prefix web"))
	b.eventually("web.localhost", "/", 200, "")
	<-seen
	<-hosts
	req, _ := http.NewRequest(http.MethodGet, "http://"+b.address+"/", nil)
	req.Host = "web.localhost"
	req.Header.Set("X-Forwarded-For", "203.0.113.1")
	req.Header.Set("X-Forwarded-Proto", "https")
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	h := <-seen
	_, port, _ := net.SplitHostPort(b.address)
	for key, want := range map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Real-Ip": "127.0.0.1", "X-Forwarded-Proto": "http",
		"X-Forwarded-Host": "web.localhost", "X-Forwarded-Port": port} {
		if got := strings.Join(h.Values(key), ","); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	if host := <-hosts; host != "web.localhost" {
		t.Errorf("Host: %q", host)
	}
}

// upgrade asks for another protocol and returns the connection in it.
func (b *bed) upgrade(host string) (net.Conn, *bufio.Reader, error) {
	c, err := net.Dial("tcp4", b.address)
	if err != nil {
		return nil, nil, err
	}
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", host)
	r := bufio.NewReader(c)
	response, err := http.ReadResponse(r, nil)
	if err == nil && response.StatusCode != http.StatusSwitchingProtocols {
		err = fmt.Errorf("status %s", response.Status)
	}
	return c, r, err
}

func TestUpgradedConnectionsPassAndEndWithTheRouter(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(c, rw)
	}))
	defer s.Close()
	b := newBed(t)
	b.service("web", address(s))
	b.ingress(ingressOf("web", "web.localhost / Prefix web"))
	b.eventually("web.localhost", "/", 200, "")
	c, r, err := b.upgrade("web.localhost")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintln(c, "ping")
	if line, err := r.ReadString('\n'); line != "ping\n" {
		t.Fatalf("echo %q, %v", line, err)
	}
	b.stop()
	if _, err := r.ReadString('\n'); err == nil {
		t.Error("the connection outlives the router")
	}
}

func TestRunningRequestsFinishAtTheEnd(t *testing.T) {
	begun, finish := make(chan struct{}), make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(begun)
			<-finish
		}
		fmt.Fprint(w, "done")
	}))
	defer s.Close()
	b := newBed(t)
	b.service("web", address(s))
	b.ingress(ingressOf("web", "web.localhost / Prefix web"))
	b.eventually("web.localhost", "/", 200, "done")
	result := make(chan string, 1)
	go func() {
		code, text, err := b.do(http.MethodGet, "web.localhost", "/slow", nil)
		result <- fmt.Sprint(code, text, err)
	}()
	<-begun
	stopped := make(chan struct{})
	go func() { b.stop(); close(stopped) }()
	// The listener closes while the request goes on.
	for {
		c, err := net.Dial("tcp4", b.address)
		if err != nil {
			break
		}
		_ = c.Close()
	}
	close(finish)
	if got := <-result; got != "200done<nil>" {
		t.Errorf("the running request got %s", got)
	}
	<-stopped
}

func TestHTTP2WithoutTLSReachesGRPCEndpoints(t *testing.T) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Grpc-Status")
		fmt.Fprint(w, r.Proto)
		w.Header().Set("Grpc-Status", "0")
	}))
	s.Config.Protocols = protocols
	s.Start()
	defer s.Close()
	b := newBed(t)
	b.service("web", address(s))
	b.ingress(ingressOf("web", "web.localhost / Prefix web"))
	client := &http.Client{Transport: &http.Transport{Protocols: protocols}}
	defer client.CloseIdleConnections()
	deadline := time.Now().Add(5 * time.Second)
	for {
		req, _ := http.NewRequest(http.MethodPost, "http://"+b.address+"/", strings.NewReader("x"))
		req.Host = "web.localhost"
		req.Header.Set("Content-Type", "application/grpc")
		response, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if string(text) == "HTTP/2.0" && response.Trailer.Get("Grpc-Status") == "0" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("answer %d %q, trailers %v", response.StatusCode, text, response.Trailer)
		}
	}
}

func TestStatusAndEventsAreWritten(t *testing.T) {
	b := newBed(t)
	in := ingressOf("web", "web.localhost / Prefix web")
	in.UID, in.ResourceVersion = "0123456789", "1"
	in.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{"web.localhost"}}}
	b.ingress(in)
	deadline := time.Now().Add(5 * time.Second)
	for {
		got, err := b.client.NetworkingV1().Ingresses("default").Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		events, err := b.client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Status.LoadBalancer.Ingress) == 1 && got.Status.LoadBalancer.Ingress[0].IP == "192.0.2.1" && len(events.Items) == 1 {
			if e := events.Items[0]; e.Reason != "TLSNotServed" || e.Name != "web.01234567.0.tlsnotserved" {
				t.Errorf("event %s: %s %s", e.Name, e.Reason, e.Message)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("status %+v, events %v", got.Status, events.Items)
		}
	}
}

func BenchmarkRequest(b *testing.B) {
	bd := newBed(b)
	bd.service("web", address(server(b, "one")), address(server(b, "two")))
	bd.ingress(ingressOf("web", "web.localhost / Prefix web"))
	bd.eventually("web.localhost", "/", 200, "one")
	b.ReportAllocs()
	for b.Loop() {
		if code, _, err := bd.do(http.MethodGet, "web.localhost", "/", nil); code != 200 {
			b.Fatal(code, err)
		}
	}
}
