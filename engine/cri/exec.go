package cri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"gantry/engine"
	"gantry/internal/problem"
)

// maxExecOutput is the interface's bound of what ExecSync returns.
const maxExecOutput = 16 << 20

// bounded keeps the first n bytes and swallows the rest.
type bounded struct {
	buf  bytes.Buffer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	take := min(len(p), b.left)
	b.buf.Write(p[:take])
	b.left -= take
	return len(p), nil
}

// ExecSync runs a command from beginning to end; timeout 0 means none. A
// command that ends with another status than 0 is a utilexec.ExitError.
func (s *Service) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, err error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	out, errOut := bounded{left: maxExecOutput}, bounded{left: maxExecOutput}
	code, err := s.cfg.Engine.ExecRun(ctx, id, dcontainer.ExecCreateRequest{AttachStdout: true, AttachStderr: true, Cmd: cmd},
		engine.Streams{Stdout: &out, Stderr: &errOut})
	switch {
	case ctx.Err() != nil && timeout > 0:
		err = fmt.Errorf("command %q timed out after %s: %w", cmd, timeout, context.DeadlineExceeded)
	case err == nil && code != 0:
		err = utilexec.CodeExitError{Code: code,
			Err: fmt.Errorf("command '%s' exited with %d: %s", strings.Join(cmd, " "), code, errOut.buf.Bytes())}
	}
	return out.buf.Bytes(), errOut.buf.Bytes(), err
}

// Exec, Attach and PortForward give the address of a streaming server, which
// there is none of in process: callers there use Streams.
func (s *Service) Exec(context.Context, *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	return nil, unsupported("Exec by address")
}

// Attach is refused as Exec is.
func (s *Service) Attach(context.Context, *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	return nil, unsupported("Attach by address")
}

// PortForward is refused as Exec is.
func (s *Service) PortForward(context.Context, *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	return nil, unsupported("PortForward by address")
}

// Streams returns what carries the streams of containers within the process.
func (s *Service) Streams() *Streams { return &Streams{engine: s.cfg.Engine} }

// Streams runs commands in containers, attaches to them and connects to ports
// of pods. It implements the Runtime of k8s.io/cri-streaming.
type Streams struct {
	engine *engine.Engine
}

// Exec runs a command with the given streams. It is killed when ctx, the
// client's connection, ends.
func (s *Streams) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	execID, err := s.engine.ExecCreate(ctx, id, dcontainer.ExecCreateRequest{
		AttachStdin: in != nil, AttachStdout: out != nil, AttachStderr: errOut != nil && !tty, Tty: tty, Cmd: cmd})
	if err != nil {
		return err
	}
	var code int
	err = s.withResize(ctx, resize, func(ctx context.Context, size remotecommand.TerminalSize) error {
		return s.engine.ExecResize(ctx, execID, size.Height, size.Width)
	}, func(ctx context.Context) error {
		streamErr := s.engine.ExecStart(ctx, execID, streams(in, out, errOut), nil)
		var err error
		if code, err = s.engine.ExecWait(ctx, execID); err != nil {
			return errors.Join(streamErr, err)
		}
		return nil // it ended; who could not be told its output is gone
	})
	if err == nil && code != 0 {
		return utilexec.CodeExitError{Code: code, Err: fmt.Errorf("command terminated with exit code %d", code)}
	}
	return err
}

// Attach connects the given streams to a container's own.
func (s *Streams) Attach(ctx context.Context, id string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	a, err := s.engine.Attach(ctx, id)
	if err != nil {
		return err
	}
	return s.withResize(ctx, resize, func(ctx context.Context, size remotecommand.TerminalSize) error {
		return s.engine.Resize(ctx, id, size.Height, size.Width)
	}, func(ctx context.Context) error {
		return a.Run(ctx, *streams(in, out, errOut))
	})
}

// streams leaves out what is not there: a nil *T in an interface is not nil.
func streams(in io.Reader, out, errOut io.WriteCloser) *engine.Streams {
	s := &engine.Streams{Stdin: in}
	if out != nil {
		s.Stdout = out
	}
	if errOut != nil {
		s.Stderr = errOut
	}
	return s
}

// withResize runs run, and passes the sizes that arrive meanwhile on.
func (s *Streams) withResize(ctx context.Context, sizes <-chan remotecommand.TerminalSize,
	resize func(context.Context, remotecommand.TerminalSize) error, run func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	ctx, done := context.WithCancel(ctx)
	defer done()
	g.Go(func() error {
		for {
			select {
			case size, open := <-sizes:
				if !open {
					sizes = nil
					continue
				}
				if err := resize(ctx, size); err != nil && !errors.Is(err, problem.Conflict) && !errors.Is(err, problem.NotFound) && ctx.Err() == nil {
					return err
				}
			case <-ctx.Done():
				return nil
			}
		}
	})
	g.Go(func() error {
		defer done()
		return run(ctx)
	})
	return g.Wait()
}

// PortForward copies between stream and a port of the pod's loopback.
func (s *Streams) PortForward(ctx context.Context, sandboxID string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	sb, err := s.engine.Sandbox(ctx, sandboxID)
	if err != nil {
		return err
	}
	conn, err := dialIn(ctx, sb.NetworkNamespace, port)
	if err != nil {
		return fmt.Errorf("connect to port %d of pod %s/%s: %w", port, sb.Namespace, sb.Name, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	var g errgroup.Group
	g.Go(func() error {
		_, err := io.Copy(conn, stream)
		if half, ok := conn.(*net.TCPConn); ok {
			err = errors.Join(err, half.CloseWrite())
		}
		if errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ENOTCONN) {
			return nil
		}
		return err
	})
	_, err = io.Copy(stream, conn)
	stream.Close() // ends the other direction, when the pod has nothing more to say
	return errors.Join(err, g.Wait())
}

// dialIn connects to the loopback of a network namespace; "" is the host's.
func dialIn(ctx context.Context, namespace string, port int32) (net.Conn, error) {
	var d net.Dialer
	dial := func() (net.Conn, error) {
		// A literal address: resolving a name would leave this thread.
		conn, err := d.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
		if err != nil {
			six, err6 := d.DialContext(ctx, "tcp6", net.JoinHostPort("::1", strconv.Itoa(int(port))))
			if err6 == nil {
				return six, nil
			}
		}
		return conn, err
	}
	if namespace == "" {
		return dial()
	}
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread dies with the goroutine
		fd, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- result{err: err}
			return
		}
		err = unix.Setns(fd, unix.CLONE_NEWNET)
		unix.Close(fd)
		if err != nil {
			done <- result{err: err}
			return
		}
		conn, err := dial()
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}
