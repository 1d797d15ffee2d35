package logsink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// SyslogConfig is where a syslog is and what its messages say.
type SyslogConfig struct {
	Network, Address string // of ParseAddress
	TLS              TLSFiles
	Facility         int
	Format           string
	Tag              string
	Hostname         string
	PID              int
}

// Syslog is a connection to a syslog service. It begins unconnected.
type Syslog struct {
	cfg  SyslogConfig
	conn net.Conn // nil: none

	local bool          // conn is to the host's own service
	lost  chan struct{} // closed when the other side has closed conn; nil for datagrams
}

// NewSyslog returns a sink that connects at its first message.
func NewSyslog(cfg SyslogConfig) *Syslog { return &Syslog{cfg: cfg} }

// Limits of one try, after which the service counts as away.
const (
	dialLimit  = 10 * time.Second
	writeLimit = time.Minute
)

// Send sends one message. A nil error tells that the kernel has it: syslog has no
// acknowledgements.
//
// Errors: ErrTooLong; any other: try again later.
func (s *Syslog) Send(ctx context.Context, m Message) error {
	select {
	case <-s.lost: // never, if nil
		s.Close()
	default:
	}
	if s.conn == nil {
		if err := s.dial(ctx); err != nil {
			return err
		}
	}
	format := s.cfg.Format
	if s.local {
		format = FormatLocal
	}
	message := s.encode(format, &m)
	if s.cfg.Network == networkTLS && (format == FormatRFC5424 || format == FormatRFC5424Micro) {
		message = frame(message)
	}
	err := s.conn.SetWriteDeadline(time.Now().Add(writeLimit))
	if err == nil {
		conn := s.conn
		stop := context.AfterFunc(ctx, func() { _ = conn.SetWriteDeadline(time.Unix(1, 0)) })
		_, err = conn.Write(message)
		stop()
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EMSGSIZE):
		return fmt.Errorf("%w: %w", ErrTooLong, err)
	}
	s.Close()
	return err
}

// Close ends the connection, if there is one. Send makes a new one.
func (s *Syslog) Close() {
	if s.conn == nil {
		return
	}
	s.conn.Close()
	if s.lost != nil {
		<-s.lost
	}
	s.conn, s.lost = nil, nil
}

func (s *Syslog) dial(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	var d net.Dialer
	network := s.cfg.Network
	s.local = network == ""
	switch network {
	case "":
		network, s.conn, err = dialLocal(ctx)
	case networkTLS:
		var cfg *tls.Config
		if cfg, err = s.cfg.TLS.Config(); err != nil {
			return err
		}
		s.conn, err = (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", s.cfg.Address)
	default:
		s.conn, err = d.DialContext(ctx, network, s.cfg.Address)
		if network == "unix" && errors.Is(err, unix.EPROTOTYPE) { // as /dev/log is
			network = "unixgram"
			s.conn, err = d.DialContext(ctx, network, s.cfg.Address)
		}
	}
	if err != nil {
		s.conn = nil // not an interface of a nil pointer
		return err
	}
	if network == "udp" || network == "unixgram" {
		return nil
	}
	conn, lost := s.conn, make(chan struct{})
	s.lost = lost
	go func() {
		defer close(lost)
		_, _ = io.Copy(io.Discard, conn) // until either side closes
	}()
	return nil
}

// dialLocal connects to the host's own service, wherever its socket is.
func dialLocal(ctx context.Context) (string, net.Conn, error) {
	var d net.Dialer
	for _, network := range []string{"unixgram", "unix"} {
		for _, path := range []string{"/dev/log", "/var/run/syslog", "/var/run/log"} {
			if conn, err := d.DialContext(ctx, network, path); err == nil {
				return network, conn, nil
			}
		}
	}
	return "", nil, errors.New("no syslog service listens on this host")
}
