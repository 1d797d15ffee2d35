// Package logsink sends what containers print to the log services of hosts and
// networks: syslog (RFC 3164, RFC 5424, RFC 5425) and systemd's journal.
//
// A sink is one connection, made when there is something to send and made again
// after it broke. It repeats nothing: who sends decides when to try again. No
// sink may be used concurrently.
//
// A syslog over a stream has one goroutine, which notices that the other side
// has closed; Close ends it.
package logsink

import (
	"errors"
	"time"
)

// ErrTooLong tells that a message is longer than the way to the service takes,
// now and later.
var ErrTooLong = errors.New("message is too long")

// Message is one line that a container has printed, or one piece of a line that
// was too long.
type Message struct {
	Time   time.Time
	Stderr bool
	Line   []byte // without its newline
	Piece  Piece
}

// Piece tells which part of a line a message is; the zero value: all of it.
type Piece struct {
	ID      string // the same for all pieces of a line
	Ordinal int    // from 1
	Last    bool
}

// severity is that of RFC 5424, section 6.2.1: error or informational.
func (m *Message) severity() int {
	if m.Stderr {
		return 3
	}
	return 6
}
