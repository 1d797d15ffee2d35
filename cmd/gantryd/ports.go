package main

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"gantry/internal/control"
)

// listening returns the ports on which processes in pid's network namespace
// listen, lowest first, from the kernel's socket tables (proc_net_tcp).
func listening(pid int) ([]control.Port, error) {
	var ports []control.Port
	for _, table := range []string{"tcp", "tcp6"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if os.IsNotExist(err) && table == "tcp6" {
			continue // the host has no IPv6
		}
		if err != nil {
			return nil, err
		}
		found, err := parseSockets(f)
		_ = f.Close() // read only
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		ports = append(ports, found...)
	}
	// The same port may be bound several times; one that is reachable from
	// outside counts.
	slices.SortFunc(ports, func(a, b control.Port) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(rank(a), rank(b)))
	})
	return slices.CompactFunc(ports, func(a, b control.Port) bool { return a.Port == b.Port }), nil
}

func rank(p control.Port) int {
	if p.Loopback {
		return 1
	}
	return 0
}

// stateListen is TCP_LISTEN of the kernel's include/net/tcp_states.h.
const stateListen = "0A"

// parseSockets reads a table of the form of /proc/net/tcp and returns its
// listening sockets.
func parseSockets(r io.Reader) ([]control.Port, error) {
	var ports []control.Port
	lines := bufio.NewScanner(r)
	for first := true; lines.Scan(); first = false {
		fields := strings.Fields(lines.Text())
		if first || len(fields) < 4 || fields[3] != stateListen {
			continue
		}
		local, err := parseEndpoint(fields[1])
		if err != nil {
			return nil, err
		}
		ports = append(ports, control.Port{Port: local.Port(), Protocol: "tcp", Loopback: local.Addr().Unmap().IsLoopback()})
	}
	return ports, lines.Err()
}

// parseEndpoint reads ADDRESS:PORT in hexadecimal; the address is in words of
// 32 bits in the host's byte order.
func parseEndpoint(s string) (netip.AddrPort, error) {
	host, port, ok := strings.Cut(s, ":")
	words, err := hex.DecodeString(host)
	if !ok || err != nil || (len(words) != 4 && len(words) != 16) {
		return netip.AddrPort{}, fmt.Errorf("malformed socket address %q", s)
	}
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("malformed port in %q", s)
	}
	for i := 0; i < len(words); i += 4 {
		binary.BigEndian.PutUint32(words[i:], binary.NativeEndian.Uint32(words[i:]))
	}
	addr, _ := netip.AddrFromSlice(words) // 4 or 16 bytes: checked above
	return netip.AddrPortFrom(addr, uint16(n)), nil
}
