package main

import (
	"encoding/json"
	"net"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"gantry/internal/control"
)

// notify tells systemd the state of the service (sd_notify(3)); without
// systemd it does nothing.
func notify(state string) {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return // systemd reports a service that stays silent
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state))
}

// statusFD is the environment variable by which "gantry up" hands over a pipe.
// Each change of the Status of a start is written to it as a line of JSON, the
// last with phase Running or Failed.
const statusFD = "GANTRYD_STATUS_FD"

// reporter writes statuses to the pipe of "gantry up", if there is one.
type reporter struct {
	mu   sync.Mutex
	pipe *os.File // nil when there is no pipe, or no more
}

func newReporter() *reporter {
	fd, err := strconv.Atoi(os.Getenv(statusFD))
	if err != nil {
		return new(reporter)
	}
	_ = os.Unsetenv(statusFD)
	unix.CloseOnExec(fd)
	return &reporter{pipe: os.NewFile(uintptr(fd), "status")}
}

func (r *reporter) report(s control.Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pipe == nil {
		return
	}
	err := json.NewEncoder(r.pipe).Encode(s)
	if err != nil || s.Phase == control.Running || s.Phase == control.Failed { // err: the reader has gone
		_ = r.pipe.Close()
		r.pipe = nil
	}
}
