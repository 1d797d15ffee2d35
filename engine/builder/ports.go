package builder

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"gantry/internal/problem"
)

// portSpec is a word of EXPOSE: [[IP:]HOST:]PORT[-PORT][/PROTOCOL]. Address and
// port of the host mean nothing, and are checked as the reference does.
type portSpec struct {
	ip, host, port string
	protocol       string // as written; "tcp" where nothing is
}

func splitPort(s string) (portSpec, error) {
	parts := strings.Split(s, ":")
	n := len(parts)
	p := portSpec{port: parts[n-1]}
	if n > 1 {
		p.host = parts[n-2]
		p.ip = strings.Join(parts[:n-2], ":")
	}
	p.port, p.protocol, _ = strings.Cut(p.port, "/")
	if p.protocol == "" {
		p.protocol = "tcp"
	}
	if p.port == "" {
		return p, problem.New(problem.Invalid, "invalid port: %q: no port specified", s)
	}
	switch strings.ToLower(p.protocol) {
	case "tcp", "udp", "sctp":
		return p, nil
	}
	return p, problem.New(problem.Invalid, "invalid port: %q: invalid proto: %s", s, p.protocol)
}

// parsePorts expands "80", "53/udp" and "3000-3005/tcp".
func parsePorts(s string) ([]string, error) {
	p, err := splitPort(s)
	if err != nil {
		return nil, err
	}
	if ip := strings.TrimSuffix(strings.TrimPrefix(p.ip, "["), "]"); ip != "" && net.ParseIP(ip) == nil {
		return nil, problem.New(problem.Invalid, "invalid IP address: %s", ip)
	}
	first, last, err := portRange(p.port)
	if err != nil {
		return nil, problem.New(problem.Invalid, "invalid containerPort: %s", p.port)
	}
	if p.host != "" {
		from, to, err := portRange(p.host)
		if err != nil {
			return nil, problem.New(problem.Invalid, "invalid hostPort: %s", p.host)
		}
		if last != first && last-first != to-from {
			return nil, problem.New(problem.Invalid, "invalid ranges specified for container and host Ports: %s and %s", p.port, p.host)
		}
	}
	var out []string
	for n := first; n <= last; n++ {
		out = append(out, fmt.Sprintf("%d/%s", n, strings.ToLower(p.protocol)))
	}
	return out, nil
}

func portRange(s string) (first, last uint64, err error) {
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	first, err1 := strconv.ParseUint(from, 10, 16)
	last, err2 := strconv.ParseUint(to, 10, 16)
	if err1 == nil && err2 == nil && last < first {
		err2 = errors.New("it ends before it begins")
	}
	return first, last, errors.Join(err1, err2)
}
