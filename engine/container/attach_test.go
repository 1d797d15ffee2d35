package container

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/internal/problem"
)

func TestDetachKeys(t *testing.T) {
	cases := map[string]struct {
		in     []string
		want   string
		detach bool
	}{
		"none":                               {[]string{"abc"}, "abc", false},
		"both at once":                       {[]string{"ab\x10\x11cd"}, "ab", true},
		"over two reads":                     {[]string{"a\x10", "\x11"}, "a", true},
		"the first alone is sent after all":  {[]string{"\x10", "x"}, "\x10x", false},
		"the first twice, then the second":   {[]string{"\x10\x10\x11"}, "\x10", true},
		"the second alone":                   {[]string{"\x11"}, "\x11", false},
		"held back while more may come":      {[]string{"a\x10"}, "a", false},
		"begun anew after something else":    {[]string{"\x10a\x10\x11"}, "\x10a", true},
		"nothing more after they were found": {[]string{"\x10\x11", "x"}, "", true},
		"keys that begin within themselves":  {[]string{"aaab"}, "a", true},
	}
	for name, c := range cases {
		d := detacher{keys: []byte{16, 17}}
		if strings.HasPrefix(name, "keys that") {
			d.keys = []byte("aab")
		}
		var got []byte
		detach := false
		for _, in := range c.in {
			var send []byte
			if send, detach = d.filter([]byte(in)); detach {
				got = append(got, send...)
				break
			}
			got = append(got, send...)
		}
		if string(got) != c.want || detach != c.detach {
			t.Errorf("%s: %q gave %q, %v; want %q, %v", name, c.in, got, detach, c.want, c.detach)
		}
	}
}

// terminal is a client of a terminal: it types, and waits for what it expects.
type terminal struct {
	t     *testing.T
	in    io.WriteCloser
	lines chan string
	ended chan error
	seen  string // read, and not yet expected
}

func attachTerminal(t *testing.T, attach func(context.Context, Streams, func()) error, keys []byte) *terminal {
	t.Helper()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	term := &terminal{t: t, in: inW, lines: make(chan string, 100), ended: make(chan error, 1)}
	attached := make(chan struct{})
	ctx := testContext(t)
	go func() {
		err := attach(ctx, Streams{Stdin: inR, Stdout: outW, DetachKeys: keys}, func() { close(attached) })
		outW.Close()
		inR.Close()
		term.ended <- err
	}()
	go func() {
		defer close(term.lines)
		buf := make([]byte, 4096)
		for {
			n, err := outR.Read(buf)
			if n > 0 {
				term.lines <- string(buf[:n])
			}
			if err != nil {
				return
			}
		}
	}()
	select {
	case <-attached:
	case err := <-term.ended:
		t.Fatalf("attach: %v", err)
	}
	return term
}

func (term *terminal) typeText(text string) {
	term.t.Helper()
	if _, err := io.WriteString(term.in, text); err != nil {
		term.t.Fatal(err)
	}
}

// expect waits until the output contains text after what was expected before.
func (term *terminal) expect(text string) {
	term.t.Helper()
	for !strings.Contains(term.seen, text) {
		more, ok := <-term.lines
		if !ok {
			term.t.Fatalf("the terminal ended at %q; want %q", term.seen, text)
		}
		term.seen += more
	}
	_, term.seen, _ = strings.Cut(term.seen, text)
}

func TestTerminal(t *testing.T) {
	r := testRuntime(t)
	ctx := testContext(t)
	s := testSpec(t, busybox(t), "sh")
	s.OCI.Process.Terminal, s.OpenStdin = true, true
	s.OCI.Process.ConsoleSize = &specs.Box{Height: 11, Width: 22}
	s.OCI.Process.Env = append(s.OCI.Process.Env, "PS1=> ")
	c := create(t, r, s)
	term := attachTerminal(t, c.Attach, []byte{16, 17})
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	term.typeText("stty size; tty; ls -l /dev/console | head -c1\n")
	term.expect("11 22\r\n/dev/pts/0\r\nc")
	if err := c.Resize(ctx, 33, 44); err != nil {
		t.Fatal(err)
	}
	term.typeText("stty size\n")
	term.expect("33 44")
	// ^C reaches the foreground process through the terminal.
	term.typeText("sh -c 'trap \"echo interr\"\"upted; exit\" INT; echo star\"\"ted; while :; do usleep 10000; done'\n")
	term.expect("started")
	term.typeText("\x03")
	term.expect("interrupted")
	term.typeText("\x10\x11")
	if err := <-term.ended; !errors.Is(err, ErrDetached) {
		t.Fatalf("after the detach keys: %v", err)
	}
	again := attachTerminal(t, c.Attach, nil)
	again.typeText("echo ag''ain; exit 9\n")
	again.expect("again")
	if err := <-again.ended; err != nil {
		t.Error(err)
	}
	if exit, err := c.Wait(ctx); err != nil || exit.Code != 9 {
		t.Errorf("exit %+v, %v; want code 9", exit, err)
	}
}

func TestStdin(t *testing.T) {
	r := testRuntime(t)
	root := busybox(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	cases := map[string]struct {
		open, once bool
		args       []string
		want       int
	}{
		"closed unless it is asked for": {false, false, []string{"wc", "-c"}, 0},
		"ends with the first client's":  {true, true, []string{"wc", "-c"}, len(big)},
		"stays open otherwise":          {true, false, []string{"sh", "-c", "head -c 1048576 | wc -c"}, len(big)},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			ctx := testContext(t)
			s := testSpec(t, root, c.args...)
			s.OpenStdin, s.StdinOnce = c.open, c.once
			ctn := create(t, r, s)
			var out buffer
			attached, ended := make(chan struct{}), make(chan error, 1)
			go func() {
				ended <- ctn.Attach(ctx, Streams{Stdin: bytes.NewReader(big), Stdout: &out}, func() { close(attached) })
			}()
			<-attached
			if err := ctn.Start(ctx); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSpace(out.String()); got != strconv.Itoa(c.want) {
				t.Errorf("it read %s bytes, want %d", got, c.want)
			}
		})
	}
}

func TestManyClientsGetTheSame(t *testing.T) {
	r := testRuntime(t)
	ctx := testContext(t)
	c := create(t, r, shell(t, busybox(t), "seq 1 50000; echo err >&2"))
	const clients = 5
	var outs [clients]buffer
	ended := make(chan error, clients)
	for i := range clients {
		attached := make(chan struct{})
		go func() { ended <- c.Attach(ctx, Streams{Stdout: &outs[i]}, func() { close(attached) }) }()
		<-attached
	}
	// One that goes away at once must not disturb the others.
	gone, cancel := context.WithCancel(ctx)
	if err := c.Attach(gone, Streams{Stdout: io.Discard}, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled attach: %v", err)
	}
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	for range clients {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	for i := range outs {
		if got := outs[i].String(); got != outs[0].String() || !strings.HasSuffix(got, "50000\n") {
			t.Errorf("client %d got %d bytes", i, len(got))
		}
	}
}

// gate is a reader of output that does not read until it is opened.
type gate struct {
	open chan struct{}
	buffer
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	return g.buffer.Write(p)
}

func TestASlowClientLosesNothingAndTheExitIsToldMeanwhile(t *testing.T) {
	r := testRuntime(t)
	ctx := testContext(t)
	// Less than what the sockets and the queue hold, so that the process ends.
	c := create(t, r, shell(t, busybox(t), "seq 1 20000"))
	slow := &gate{open: make(chan struct{})}
	attached, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- c.Attach(ctx, Streams{Stdout: slow}, func() { close(attached) }) }()
	<-attached
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	close(slow.open)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if got := slow.String(); !strings.HasSuffix(got, "\n20000\n") || strings.Count(got, "\n") != 20000 {
		t.Errorf("got %d bytes", len(got))
	}
}

// running starts a container that sleeps, and returns a maker of processes like
// its own.
func running(t *testing.T) (*Container, func(args ...string) specs.Process) {
	t.Helper()
	r := testRuntime(t)
	s := shell(t, busybox(t), "echo ready; sleep 1000")
	c := create(t, r, s)
	process := func(args ...string) specs.Process {
		p := *s.OCI.Process
		p.Args = args
		return p
	}
	if _, err := c.Exec(t.Context(), ExecSpec{ID: "early", Process: process("true")}); !errors.Is(err, problem.Conflict) {
		t.Errorf("exec before start: %v", err)
	}
	if err := c.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	waitForLog(t, c, "ready")
	return c, process
}

// runExec runs a process in c to its end.
func runExec(t *testing.T, c *Container, id string, p specs.Process, in io.Reader) (string, string, Exit) {
	t.Helper()
	ctx := testContext(t)
	e, err := c.Exec(ctx, ExecSpec{ID: id, Process: p, Stdin: in != nil})
	if err != nil {
		t.Fatal(err)
	}
	var out, errs buffer
	var startErr error
	if err := e.Attach(ctx, Streams{Stdin: in, Stdout: &out, Stderr: &errs}, func() { startErr = e.Start(ctx) }); err != nil || startErr != nil {
		t.Fatal(err, startErr)
	}
	exit, err := e.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), exit
}

func TestExec(t *testing.T) {
	c, process := running(t)
	out, errs, exit := runExec(t, c, "1", process("sh", "-c", "echo out; echo err >&2; hostname; cat; exit 4"), strings.NewReader("in"))
	if out != "out\nbox\nin" || errs != "err\n" || exit.Code != 4 {
		t.Errorf("exec printed %q and %q, exit %+v", out, errs, exit)
	}
	out, _, _ = runExec(t, c, "2", process("sh", "-c", "for n in pid mnt ipc uts net cgroup; do [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] && echo same; done; grep Seccomp: /proc/self/status"), nil)
	if want := strings.Repeat("same\n", 6) + "Seccomp:\t2\n"; out != want {
		t.Errorf("namespaces of an exec: %q", out)
	}
	user := process("sh", "-c", "id -u; id -G; pwd; echo $A; grep CapEff /proc/self/status")
	user.User = specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{7}}
	user.Cwd, user.Env = "/tmp", []string{"PATH=/bin", "A=b"}
	user.Capabilities = nil
	out, _, _ = runExec(t, c, "3", user, nil)
	if diff := cmp.Diff("5\n6 7\n/tmp\nb\nCapEff:\t0000000000000000\n", out); diff != "" {
		t.Errorf("user of an exec (-want +got)\n%s", diff)
	}
}

func TestExecThatDoesNotStart(t *testing.T) {
	c, process := running(t)
	ctx := testContext(t)
	e, err := c.Exec(ctx, ExecSpec{ID: "absent", Process: process("absent")})
	if err != nil {
		t.Fatal(err)
	}
	const want = `OCI runtime exec failed: exec failed: unable to start container process: exec: "absent": executable file not found in $PATH: unknown`
	if err := e.Start(ctx); !errors.Is(err, problem.NotFound) || err.Error() != want {
		t.Errorf("exec of an absent program: %v", err)
	}
	if exit, err := e.Wait(ctx); err != nil || exit.Code != 127 {
		t.Errorf("its exit: %+v, %v", exit, err)
	}
	unstarted, err := c.Exec(ctx, ExecSpec{ID: "unstarted", Process: process("true")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(ctx, ExecSpec{ID: "unstarted", Process: process("true")}); !errors.Is(err, problem.Exists) {
		t.Errorf("a second exec of the same id: %v", err)
	}
	for range 2 {
		if err := unstarted.Close(ctx); err != nil {
			t.Error(err)
		}
	}
}

func TestExecEnds(t *testing.T) {
	c, process := running(t)
	ctx := testContext(t)
	started := func(id string) *Exec {
		t.Helper()
		e, err := c.Exec(ctx, ExecSpec{ID: id, Process: process("sleep", "1000")})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Start(ctx); err != nil {
			t.Fatal(err)
		}
		return e
	}
	first := started("1")
	if pids, err := c.Pids(ctx); err != nil || !slices.Contains(pids, first.Pid()) {
		t.Errorf("pids %v, %v; want %d among them", pids, err, first.Pid())
	}
	if err := first.Signal(ctx, unix.SIGTERM); err != nil {
		t.Error(err)
	}
	if exit, err := first.Wait(ctx); err != nil || exit.Code != 143 {
		t.Errorf("exit of a signalled exec: %+v, %v", exit, err)
	}
	second := started("2")
	if err := c.Signal(ctx, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit, err := second.Wait(ctx); err != nil || exit.Code != 137 {
		t.Errorf("exit of an exec whose container ended: %+v, %v", exit, err)
	}
	if _, err := c.Wait(ctx); err != nil {
		t.Error(err)
	}
	if _, err := c.Exec(ctx, ExecSpec{ID: "3", Process: process("true")}); !errors.Is(err, problem.Conflict) {
		t.Errorf("exec after the exit: %v", err)
	}
}

func TestExecWithATerminal(t *testing.T) {
	r := testRuntime(t)
	ctx := testContext(t)
	s := shell(t, busybox(t), "sleep 1000")
	c := create(t, r, s)
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	p := *s.OCI.Process
	p.Args, p.Terminal = []string{"sh"}, true
	e, err := c.Exec(ctx, ExecSpec{ID: "t", Process: p, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Resize(ctx, 10, 20); err != nil {
		t.Fatal(err)
	}
	term := attachTerminal(t, e.Attach, nil)
	if err := e.Start(ctx); err != nil {
		t.Fatal(err)
	}
	term.typeText("stty size; tty; exit 3\n")
	term.expect("10 20\r\n/dev/pts/0")
	if err := <-term.ended; err != nil {
		t.Error(err)
	}
	if exit, err := e.Wait(ctx); err != nil || exit.Code != 3 {
		t.Errorf("exit %+v, %v", exit, err)
	}
}
