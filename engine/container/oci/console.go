package oci

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// sendFd connects to the socket at path and sends a descriptor with a message.
func sendFd(path string, message []byte, fd int) error {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	if err := unix.Connect(s, &unix.SockaddrUnix{Name: path}); err != nil {
		return fmt.Errorf("connect to %s: %w", path, err)
	}
	if err := unix.Sendmsg(s, message, unix.UnixRights(fd), nil, 0); err != nil {
		return fmt.Errorf("send a descriptor to %s: %w", path, err)
	}
	return nil
}

// sendTerminal passes the terminal to who listens at the console socket.
func sendTerminal(socket string, fd int) error {
	defer unix.Close(fd)
	return sendFd(socket, []byte("/dev/ptmx"), fd)
}
