// Package harness starts a real Gantry from the built programs, in a temporary
// directory and a network namespace of its own, and drives it as a user would:
// by gantry, and the stock docker and kubectl.
//
// The programs are those in the directory that GANTRY_BIN names. Everything
// that a test starts is gone when it ends: the server is purged, and the
// namespace with what is in it removed.
package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"gantry/internal/instance"
	"gantry/internal/testenv"
)

// serial makes instance names unique among the tests of one process.
var serial atomic.Int32

// Options is what a test wants otherwise than by default.
type Options struct {
	// HostNetwork runs the server in the host's network namespace, where
	// containers reach what the host reaches. Otherwise it has one of its own,
	// with nothing but loopback.
	HostNetwork bool
	// Namespace is the network namespace of another Server to share.
	Namespace *Server
	// Args go to `gantry up`.
	Args []string
	// Stopped leaves the start to the test.
	Stopped bool
}

// Server is one instance of Gantry.
type Server struct {
	t    testing.TB
	bin  string
	dir  string
	ns   netns.NsHandle // closed: the test's own
	args []string
	// Config is what the server was started with.
	Config instance.Config
}

// Start makes an instance and, unless o says otherwise, brings it up.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	testenv.NeedRoot(t)
	bin := os.Getenv("GANTRY_BIN")
	if bin == "" {
		t.Skip("GANTRY_BIN does not name the built programs: run `make test`")
	}
	// Short: a socket's path has at most 107 bytes.
	dir, err := os.MkdirTemp("", "gt")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, bin: bin, dir: dir, ns: netns.None(), args: o.Args}
	s.Config, err = instance.Config{
		Name:    fmt.Sprintf("t%d-%d", os.Getpid(), serial.Add(1)),
		DataDir: filepath.Join(dir, "data"),
		RunDir:  filepath.Join(dir, "run"),
	}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case o.Namespace != nil:
		s.ns = o.Namespace.ns
	case !o.HostNetwork:
		s.ns = newNamespace(t)
	}
	t.Cleanup(s.purge)
	if !o.Stopped {
		s.Up()
	}
	return s
}

// newNamespace returns a network namespace in which loopback is up.
func newNamespace(t testing.TB) netns.NsHandle {
	t.Helper()
	var ns netns.NsHandle
	err := onThread(func() error {
		var err error
		if ns, err = netns.New(); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Errorf("close the network namespace: %v", err)
		}
	})
	return ns
}

// onThread runs f on a thread that ends with it, so f may change its
// namespaces.
func onThread(f func() error) error {
	done := make(chan error, 1) // one value, sent by the one goroutine below
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		done <- f()
	}()
	return <-done
}

// Inside runs f on a thread in the server's network namespace.
func (s *Server) Inside(f func() error) error {
	return onThread(func() error {
		if s.ns.IsOpen() {
			if err := unix.Setns(int(s.ns), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter the network namespace: %w", err)
			}
		}
		return f()
	})
}

// Result is what a command did.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Command prepares a program in the server's namespace and environment.
// Use Begin to start it.
func (s *Server) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if !strings.Contains(name, "/") {
		if _, err := os.Stat(filepath.Join(s.bin, name)); err == nil {
			name = filepath.Join(s.bin, name)
		}
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(os.Environ(),
		"GANTRY_INSTANCE="+s.Config.Name,
		"DOCKER_HOST=unix://"+s.Config.DockerSocket(),
		"DOCKER_CONFIG="+filepath.Join(s.dir, "docker"),
		"DOCKER_BUILDKIT=0",
		"KUBECONFIG="+s.Config.Kubeconfig(),
		// What push keeps goes with the test; what the compiler keeps is shared.
		"XDG_CACHE_HOME="+filepath.Join(s.dir, "cache"),
		"GOCACHE="+goCache(),
	)
	return cmd
}

// goCache is where the go command keeps what it has compiled.
func goCache() string {
	if dir := os.Getenv("GOCACHE"); dir != "" {
		return dir
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return filepath.Join(os.TempDir(), "go-build")
	}
	return filepath.Join(cache, "go-build")
}

// Begin starts cmd inside the server's network namespace.
func (s *Server) Begin(cmd *exec.Cmd) error {
	return s.Inside(cmd.Start)
}

// Try runs a program and returns what it did, whatever its exit status.
func (s *Server) Try(input, name string, args ...string) Result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := s.Command(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	err := s.Begin(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// Run runs a program that must succeed and returns its output.
func (s *Server) Run(name string, args ...string) string {
	s.t.Helper()
	r := s.Try("", name, args...)
	if r.Code != 0 {
		s.t.Fatalf("%s %s: exit status %d\n%s%s", name, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// Fails runs a program that must fail and returns what it says.
func (s *Server) Fails(name string, args ...string) Result {
	s.t.Helper()
	r := s.Try("", name, args...)
	if r.Code == 0 {
		s.t.Fatalf("%s %s succeeded\n%s%s", name, strings.Join(args, " "), r.Stdout, r.Stderr)
	}
	return r
}

// Gantry, Docker and Kubectl run the client that they name.
func (s *Server) Gantry(args ...string) string  { s.t.Helper(); return s.Run("gantry", args...) }
func (s *Server) Docker(args ...string) string  { s.t.Helper(); return s.Run("docker", args...) }
func (s *Server) Kubectl(args ...string) string { s.t.Helper(); return s.Run("kubectl", args...) }

// UpArgs are the arguments with which this instance comes up.
func (s *Server) UpArgs() []string {
	return append([]string{"up", "--data-dir", s.Config.DataDir, "--run-dir", s.Config.RunDir}, s.args...)
}

// Up brings the server up and waits until it is ready.
func (s *Server) Up() string {
	s.t.Helper()
	return s.Gantry(s.UpArgs()...)
}

// Kill ends the server with SIGKILL and waits until it is gone.
func (s *Server) Kill() {
	s.t.Helper()
	pid, err := s.PID()
	if err != nil {
		s.t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		s.t.Fatalf("server %d: %v", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		s.t.Fatalf("kill the server: %v", err)
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(poll, 10_000)
		if err == nil {
			return
		}
		if !errors.Is(err, unix.EINTR) {
			s.t.Fatal(err)
		}
	}
}

// Reboot kills the server and every process of its containers at once, and
// empties the run directory, which a real host loses as well.
func (s *Server) Reboot() {
	s.t.Helper()
	s.Kill()
	// The shims first: they would record their containers' ends.
	for _, mine := range []func(pid int) bool{s.isShim, s.isContained} {
		for _, pid := range processes() {
			if mine(pid) {
				_ = unix.Kill(pid, unix.SIGKILL) // it may have ended meanwhile
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		s.t.Fatal(err)
	}
	lines := slices.Collect(strings.Lines(string(mounts)))
	slices.Reverse(lines) // what is mounted below comes after
	for _, line := range lines {
		if f := strings.Fields(line); strings.HasPrefix(f[1], s.Config.RunDir) {
			if err := unix.Unmount(f[1], unix.MNT_DETACH); err != nil {
				s.t.Errorf("unmount %s: %v", f[1], err)
			}
		}
	}
	if err := os.RemoveAll(s.Config.RunDir); err != nil {
		s.t.Errorf("empty the run directory: %v", err)
	}
}

func processes() []int {
	entries, _ := os.ReadDir("/proc") // always there
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (s *Server) isShim(pid int) bool {
	exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)) // "" when it ended
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return filepath.Base(exe) == "gantry-shim" && bytes.Contains(line, []byte(s.dir))
}

func (s *Server) isContained(pid int) bool {
	groups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)) // "" when it ended
	return bytes.Contains(groups, []byte("/"+s.Config.Cgroup()+"/"))
}

// PID asks the kernel which process listens on the control socket.
func (s *Server) PID() (int, error) {
	conn, err := net.Dial("unix", s.Config.ControlSocket())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *unix.Ucred
	var peerErr error
	err = raw.Control(func(fd uintptr) {
		peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, peerErr); err != nil {
		return 0, err
	}
	return int(peer.Pid), nil
}

// HTTP returns a client whose connections begin in the server's namespace, and
// which resolves every name to loopback, as *.localhost does.
func (s *Server) HTTP() *http.Client {
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		if net.ParseIP(host) == nil {
			addr = net.JoinHostPort("127.0.0.1", port)
		}
		var conn net.Conn
		err = s.Inside(func() error {
			var err error
			conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
			return err
		})
		return conn, err
	}
	return &http.Client{
		Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true},
		Timeout:   10 * time.Second,
	}
}

// purge removes all traces of the instance.
func (s *Server) purge() {
	if s.t.Failed() {
		if log, err := os.ReadFile(filepath.Join(s.Config.DataDir, "gantryd.log")); err == nil {
			s.t.Logf("the server's log ends:\n%s", tail(log, 16<<10))
		}
	}
	if r := s.Try("", "gantry", "down", "--purge"); r.Code != 0 {
		s.t.Errorf("gantry down --purge: %s%s", r.Stdout, r.Stderr)
	}
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Errorf("the purge left something: %v", err)
	}
}

func tail(b []byte, n int) []byte {
	if len(b) <= n {
		return b
	}
	return b[len(b)-n:]
}
