package logsink

import (
	"slices"
	"strconv"
	"time"
)

// Formats of a syslog message. The empty one is RFC 3164 without the host.
const (
	FormatLocal        = ""
	FormatRFC3164      = "rfc3164"
	FormatRFC5424      = "rfc5424"
	FormatRFC5424Micro = "rfc5424micro"
)

// KnownFormat tells whether name is one of the formats.
func KnownFormat(name string) bool {
	return slices.Contains([]string{FormatLocal, FormatRFC3164, FormatRFC5424, FormatRFC5424Micro}, name)
}

// encode makes m a message of the format, which ends with a newline. The time is
// that at which the line was printed.
func (s *Syslog) encode(format string, m *Message) []byte {
	b := make([]byte, 0, 128+len(m.Line))
	b = append(b, '<')
	b = strconv.AppendInt(b, int64(s.cfg.Facility<<3|m.severity()), 10)
	b = append(b, '>')
	at := m.Time.Local()
	switch format {
	case FormatRFC5424, FormatRFC5424Micro:
		layout := time.RFC3339
		if format == FormatRFC5424Micro {
			layout = "2006-01-02T15:04:05.000000Z07:00"
		}
		b = append(b, "1 "...)
		b = at.AppendFormat(b, layout)
		// The tag is the application's name, by which rsyslog sorts, and the message's.
		b = append(b, ' ')
		b = append(b, s.cfg.Hostname+" "+s.cfg.Tag+" "...)
		b = strconv.AppendInt(b, int64(s.cfg.PID), 10)
		b = append(b, " "+s.cfg.Tag+" - "...)
	default:
		b = at.AppendFormat(b, time.Stamp)
		b = append(b, ' ')
		if format == FormatRFC3164 {
			b = append(b, s.cfg.Hostname+" "...)
		}
		b = append(b, s.cfg.Tag+"["...)
		b = strconv.AppendInt(b, int64(s.cfg.PID), 10)
		b = append(b, "]: "...)
	}
	b = append(b, m.Line...)
	return append(b, '\n')
}

// frame puts a message's length before it: RFC 5425, section 4.3.
func frame(message []byte) []byte {
	return append(strconv.AppendInt(nil, int64(len(message)), 10), append([]byte{' '}, message...)...)
}
