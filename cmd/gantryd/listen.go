package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"gantry/internal/preflight"
	"gantry/internal/problem"
)

// socketGroup may use the sockets without being root, where the host has it.
const socketGroup = "gantry"

// listenUnix listens at path, which a server that was killed may have left.
// The caller holds the lock of the instance's data directory; a socket on
// which someone still answers belongs to another instance and is refused.
func listenUnix(path string) (net.Listener, error) {
	if answers(path) {
		return nil, &problem.UserError{
			Op: "listen", Object: path,
			Err: problem.New(problem.Conflict, "another server answers there"),
			Try: "give this server its own --run-dir",
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := restrict(path); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// answers tells whether someone listens at path.
func answers(path string) bool {
	return patiently(2*time.Second, func() bool {
		conn, err := net.Dial("unix", path)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

// listenTCP is net.Listen with patience.
func listenTCP(address string) (l net.Listener, err error) {
	patiently(100*time.Millisecond, func() bool {
		l, err = net.Listen("tcp", address)
		return errors.Is(err, syscall.EADDRINUSE)
	})
	return l, err
}

// patiently asks until it is busy no more, but not beyond limit, and returns what
// it was told last. A server that was killed while it forked leaves its sockets to
// its child, until that executes its program: some milliseconds, of which no event
// tells the end.
func patiently(limit time.Duration, busy func() bool) bool {
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	end := time.NewTimer(limit)
	defer end.Stop()
	for busy() {
		select {
		case <-again.C:
		case <-end.C:
			return true
		}
	}
	return false
}

// restrict gives the socket mode 0660 and, where it exists, the group.
func restrict(path string) error {
	if err := os.Chmod(path, 0o660); err != nil {
		return err
	}
	group, err := user.LookupGroup(socketGroup)
	if err != nil {
		return nil // root alone may connect
	}
	gid, err := strconv.Atoi(group.Gid)
	if err != nil {
		return nil
	}
	return os.Chown(path, 0, gid)
}

// fallbacks are tried in order when the ingress's port is taken, so that a
// host with a web server of its own still shows its apps.
var fallbacks = []string{"8080", "8081", "8082", "8888", "0"}

// listenHTTP listens at address or, if another process has its port, at the
// next of fallbacks; note then says so, and by whom it is taken.
func listenHTTP(address string) (l net.Listener, note string, err error) {
	l, err = listenTCP(address)
	if err == nil {
		return l, "", nil
	}
	host, port, splitErr := net.SplitHostPort(address)
	if splitErr != nil || !errors.Is(err, syscall.EADDRINUSE) {
		return nil, "", &problem.UserError{Op: "listen", Object: address, Err: err, Try: "name another address with --http-listen"}
	}
	for _, next := range fallbacks {
		l, err = net.Listen("tcp", net.JoinHostPort(host, next))
		if err == nil {
			_, got, _ := net.SplitHostPort(l.Addr().String())
			return l, fmt.Sprintf("port %s is taken by %s: the ingress listens on port %s", port, preflight.PortOwner(port), got), nil
		}
	}
	return nil, "", &problem.UserError{Op: "listen", Object: address, Err: err, Try: "name another address with --http-listen"}
}
