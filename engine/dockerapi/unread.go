package dockerapi

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel has no event for "the peer has read it". These are how often it is
// asked, and for how long at most.
const (
	unreadInterval = time.Millisecond
	unreadLimit    = 10 * time.Second
)

// awaitRead waits until the client has read what was written to it so far.
//
// docker-py reads an answer's head through a buffer, and what follows past it:
// output that arrives together with the head is lost to it. The reference is slow
// enough that this hardly happens. Docker's own client reads all from one buffer
// and need not be waited for.
func awaitRead(conn *net.UnixConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return // closed
	}
	unread := func() (bytes int) {
		var ioctlErr error
		err := raw.Control(func(fd uintptr) { bytes, ioctlErr = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		if err != nil || ioctlErr != nil {
			return 0
		}
		return bytes
	}
	tick, limit := time.NewTicker(unreadInterval), time.NewTimer(unreadLimit)
	defer tick.Stop()
	defer limit.Stop()
	for unread() > 0 {
		select {
		case <-tick.C:
		case <-limit.C:
			return
		}
	}
}
