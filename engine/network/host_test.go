package network

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"gantry/internal/instance"
	"gantry/internal/testenv"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { os.Exit(testenv.Isolate(m)) }

// bed is a Host that runs, and is purged at the test's end.
type bed struct {
	*Host
	t    testing.TB
	cfg  Config
	stop func()
	live Live

	logged *logBuffer
}

// logBuffer is a log that is read while it is written.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newBed(t testing.TB) *bed {
	t.Helper()
	testenv.NeedRoot(t)
	b := &bed{t: t, logged: &logBuffer{}}
	b.cfg = Config{Logger: slog.New(slog.NewTextHandler(b.logged, nil)), Instance: instance.Config{Name: instance.Default, DataDir: t.TempDir(), RunDir: t.TempDir()}}
	b.start()
	t.Cleanup(func() {
		b.crash()
		h, err := New(b.cfg)
		if err == nil {
			err = h.Purge(context.Background())
		}
		if err != nil {
			t.Errorf("purge: %v", err)
		}
	})
	return b
}

// start restores and runs a Host over what is live.
func (b *bed) start() {
	b.t.Helper()
	h, err := New(b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := h.Restore(b.t.Context(), b.live); err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	b.Host = h
	b.stop = func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("Run: %v", err)
		}
		if err := h.Close(); err != nil {
			b.t.Errorf("Close: %v", err)
		}
	}
}

// crash stops the Host without telling the kernel anything.
func (b *bed) crash() {
	if b.stop != nil {
		b.stop()
		b.stop = nil
	}
}

// container attaches a namespace to a network.
func (b *bed) container(id, network string) Endpoint {
	b.t.Helper()
	path, err := b.NewNamespace(b.t.Context(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	ep, err := b.Attach(b.t.Context(), AttachRequest{Namespace: path, Container: id, Network: network})
	if err != nil {
		b.t.Fatal(err)
	}
	b.live.Namespaces = append(b.live.Namespaces, id)
	b.live.Endpoints = append(b.live.Endpoints, ep)
	return ep
}

func (b *bed) publish(ep Endpoint, ports ...PortBinding) []PortBinding {
	b.t.Helper()
	p := Publication{Container: ep.Container, Name: ep.Container, Network: ep.Network, Address: ep.Address.Addr(), Ports: ports}
	got, err := b.Publish(b.t.Context(), p)
	if err != nil {
		b.t.Fatal(err)
	}
	p.Ports = got
	b.live.Publications = append(b.live.Publications, p)
	return got
}

// inside runs do on a thread of the namespace at path; "" is the host's.
func inside(t testing.TB, path string, do func() error) error {
	t.Helper()
	if path == "" {
		return do()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		f, err := os.Open(path)
		if err == nil {
			defer f.Close()
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = do()
		}
		done <- err
	}()
	return <-done
}

// serve answers HTTP in the namespace with the client's address as it is seen.
func serve(t testing.TB, path, address string) {
	t.Helper()
	var l net.Listener
	err := inside(t, path, func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprint(w, host)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
}

// get asks address from the namespace and returns the answer.
func get(t testing.TB, path, address string) (string, error) {
	t.Helper()
	var answer string
	err := inside(t, path, func() error {
		// A dial resolves nothing and is done on this thread: the socket belongs
		// to its namespace.
		c, err := (&net.Dialer{Timeout: time.Second}).Dial("tcp", address)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
			return err
		}
		all, err := io.ReadAll(c)
		if i := len(all) - 1; i > 0 {
			for j := i; j >= 0; j-- {
				if all[j] == '\n' {
					answer = string(all[j+1:])
					break
				}
			}
		}
		return err
	})
	return answer, err
}

// outsider is a machine beyond the host's uplink.
func (b *bed) outsider() (path string, host netip.Addr) {
	b.t.Helper()
	path, err := b.NewNamespace(b.t.Context(), "outside")
	if err != nil {
		b.t.Fatal(err)
	}
	n, err := b.enter(path)
	if err != nil {
		b.t.Fatal(err)
	}
	defer n.close()
	up := &Network{Name: "uplink", Link: "uplink0", Subnet: netip.MustParsePrefix("203.0.113.0/24"), Gateway: netip.MustParseAddr("203.0.113.1"),
		IPv6: Stack{Subnet: netip.MustParsePrefix("fd99::/64"), Gateway: netip.MustParseAddr("fd99::1")}}
	if err := b.links.raiseBridge("test", up); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if l, err := openLinks(); err == nil {
			_ = l.remove("uplink0")
			l.close()
		}
	})
	// An uplink is no bridge of ours.
	if err := setSysctl("ipv4/conf/uplink0/route_localnet", "0"); err != nil {
		b.t.Fatal(err)
	}
	bridge, err := b.links.LinkByName("uplink0")
	if err != nil {
		b.t.Fatal(err)
	}
	ep := &Endpoint{Interface: "eth0", Address: netip.MustParsePrefix("203.0.113.9/24"), Gateway: up.Gateway,
		Address6: netip.MustParsePrefix("fd99::9/64"), Gateway6: up.IPv6.Gateway}
	link := "up" + newID()[:8]
	err = b.links.addPair(pair{host: link, inside: "eth0", bridge: bridge.Attrs().Index, namespace: n.space, mac: hardwareAddr(ep.Address.Addr())})
	if err == nil {
		err = n.configure(ep, false, AttachRequest{})
	}
	if err == nil {
		_, err = b.links.waitUp(b.t.Context(), link)
	}
	if err == nil {
		_, err = b.links.waitUp(b.t.Context(), up.Link)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.live.Namespaces = append(b.live.Namespaces, "outside")
	return path, up.Gateway
}

func wantAnswer(t *testing.T, what, from, address, want string) {
	t.Helper()
	got, err := get(t, from, address)
	for begin := time.Now(); err != nil && time.Since(begin) < 30*time.Second; { // a busy machine may lose a packet
		got, err = get(t, from, address)
	}
	if err != nil || want != "" && got != want {
		t.Errorf("%s: %s answered %q, %v; want %q", what, address, got, err, want)
	}
}

func wantNone(t *testing.T, what, from, address string) {
	t.Helper()
	if got, err := get(t, from, address); err == nil {
		t.Errorf("%s: %s answered %q, want no connection", what, address, got)
	}
}
