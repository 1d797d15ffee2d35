package logsink

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// JournalSocket is where systemd's journal listens.
const JournalSocket = "/run/systemd/journal/socket"

// Journal is a connection to systemd's journal, by its native protocol
// (systemd.io/JOURNAL_NATIVE_PROTOCOL).
type Journal struct {
	path   string
	fields []byte // those of every message, encoded
	conn   *net.UnixConn
}

// NewJournal returns a sink for the journal that listens at path; fields go with
// every message.
func NewJournal(path string, fields map[string]string) *Journal {
	j := &Journal{path: path}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		j.fields = appendField(j.fields, name, []byte(fields[name]))
	}
	return j
}

// Send sends one message.
//
// Errors: ErrTooLong; any other: try again later.
func (j *Journal) Send(ctx context.Context, m Message) error {
	if j.conn == nil {
		conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: j.path, Net: "unixgram"})
		if err != nil {
			return err
		}
		j.conn = conn
	}
	err := j.conn.SetWriteDeadline(time.Now().Add(writeLimit))
	if err == nil {
		conn := j.conn
		stop := context.AfterFunc(ctx, func() { _ = conn.SetWriteDeadline(time.Unix(1, 0)) })
		err = send(conn, j.encode(&m))
		stop()
	}
	if err != nil && !errors.Is(err, ErrTooLong) {
		j.Close()
	}
	return err
}

// Close ends the connection, if there is one. Send makes a new one.
func (j *Journal) Close() {
	if j.conn != nil {
		j.conn.Close()
		j.conn = nil
	}
}

func (j *Journal) encode(m *Message) []byte {
	b := slices.Grow(slices.Clone(j.fields), len(m.Line)+256)
	b = appendField(b, "PRIORITY", strconv.AppendInt(nil, int64(m.severity()), 10))
	b = appendField(b, "SYSLOG_TIMESTAMP", m.Time.UTC().AppendFormat(nil, time.RFC3339Nano))
	if p := m.Piece; p.ID != "" {
		b = appendField(b, "CONTAINER_PARTIAL_ID", []byte(p.ID))
		b = appendField(b, "CONTAINER_PARTIAL_ORDINAL", strconv.AppendInt(nil, int64(p.Ordinal), 10))
		b = appendField(b, "CONTAINER_PARTIAL_LAST", strconv.AppendBool(nil, p.Last))
		if !p.Last {
			b = appendField(b, "CONTAINER_PARTIAL_MESSAGE", []byte("true"))
		}
	}
	return appendField(b, "MESSAGE", m.Line)
}

// appendField encodes a field; a value of several lines goes by its length.
func appendField(b []byte, name string, value []byte) []byte {
	b = append(b, name...)
	if bytes.IndexByte(value, '\n') < 0 {
		b = append(b, '=')
	} else {
		b = append(b, '\n')
		b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	}
	b = append(b, value...)
	return append(b, '\n')
}

// send sends a message as a datagram, or in sealed memory if it is too long for one.
func send(conn *net.UnixConn, message []byte) error {
	_, err := conn.Write(message)
	if !errors.Is(err, unix.EMSGSIZE) && !errors.Is(err, unix.ENOBUFS) {
		return err
	}
	fd, err := unix.MemfdCreate("journal message", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTooLong, err)
	}
	f := os.NewFile(uintptr(fd), "journal message")
	defer f.Close()
	_, err = f.Write(message)
	if err == nil {
		// Only what nobody can change any more is taken.
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE|unix.F_SEAL_SEAL)
	}
	if err == nil {
		err = sendFile(conn, f)
	}
	return err
}

// sendFile sends a descriptor and nothing else, which net does not do on a socket
// that is connected.
func sendFile(conn *net.UnixConn, f *os.File) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	rights := unix.UnixRights(int(f.Fd()))
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), nil, rights, nil, unix.MSG_NOSIGNAL)
		return !errors.Is(sent, unix.EAGAIN)
	})
	return cmp.Or(err, sent)
}

// FieldName makes a name one that the journal takes: capital letters, digits and
// underscores, of which none begins it. Empty: there is nothing left.
func FieldName(name string) string {
	field := strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z':
			return c - 'a' + 'A'
		case c >= 'A' && c <= 'Z' || c >= '0' && c <= '9':
			return c
		}
		return '_'
	}, name)
	return strings.TrimLeft(field, "_")
}
