package names

import (
	"context"
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// poller waits for many sockets in one goroutine: an epoll instance which
// itself is waited for as Go waits for files.
type poller struct {
	file *os.File
	raw  syscall.RawConn
	fd   int
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // by which os.NewFile knows what to do
		return nil, errors.Join(err, unix.Close(fd))
	}
	p := &poller{file: os.NewFile(uintptr(fd), "epoll"), fd: fd}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, p.file.Close())
	}
	return p, nil
}

// add begins to wait for fd; closing fd ends it.
func (p *poller) add(fd int) error {
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &event))
}

func (p *poller) close() { _ = p.file.Close() }

// wait calls ready for each descriptor that can be read, until ctx is done.
func (p *poller) wait(ctx context.Context, ready func(fd int)) error {
	stop := context.AfterFunc(ctx, func() { _ = p.file.Close() }) // ends the read
	defer stop()
	events := make([]unix.EpollEvent, 64)
	for {
		n := 0
		var failed error
		err := p.raw.Read(func(fd uintptr) bool {
			n, failed = unix.EpollWait(int(fd), events, 0)
			return n != 0
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case failed != nil && !errors.Is(failed, unix.EINTR):
			return os.NewSyscallError("epoll_wait", failed)
		}
		for _, event := range events[:max(n, 0)] {
			ready(int(event.Fd))
		}
	}
}
