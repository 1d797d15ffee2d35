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

	"gantry/internal/preflight"
	"gantry/internal/problem"
)

// socketGroup may use the sockets without being root, where the host has it.
const socketGroup = "gantry"

// listenUnix listens at path, which a server that was killed may have left.
// The caller holds the lock of the instance's data directory; a socket on
// which someone still answers belongs to another instance and is refused.
func listenUnix(path string) (net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		_ = conn.Close()
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
	l, err = net.Listen("tcp", address)
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
