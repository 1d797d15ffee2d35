package network

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// hold is a socket that keeps a host port taken.
type hold struct{ socket io.Closer }

func (h *hold) close() {
	if h != nil && h.socket != nil {
		_ = h.socket.Close() // nothing was ever written
	}
}

// holdPort binds a port, 0 for one that the kernel chooses, with a socket that
// no packet reaches: DNAT takes them elsewhere, and its filter drops the rest.
// SCTP ports are not held, and not chosen by the kernel either. A TCP port of
// [::] or [::1] lets in what means [::1], and relays it to target.
func holdPort(protocol string, ip netip.Addr, port uint16, target func() netip.AddrPort) (*hold, uint16, error) {
	lc := net.ListenConfig{Control: dropAll}
	relayed := protocol == TCP && (ip == netip.IPv6Unspecified() || ip == netip.IPv6Loopback())
	if relayed {
		lc.Control = keepLoopback
	}
	lc.SetMultipathTCP(false)
	address, digit := netip.AddrPortFrom(ip, port).String(), "4"
	if ip.Is6() {
		digit = "6"
	}
	switch protocol {
	case TCP:
		l, err := lc.Listen(context.Background(), "tcp"+digit, address) // does not block
		if err != nil {
			return nil, 0, err
		}
		chosen := uint16(l.Addr().(*net.TCPAddr).Port)
		if relayed {
			return &hold{relayLoopback(l, target)}, chosen, nil
		}
		return &hold{l}, chosen, nil
	case UDP:
		c, err := lc.ListenPacket(context.Background(), "udp"+digit, address)
		if err != nil {
			return nil, 0, err
		}
		return &hold{c}, uint16(c.LocalAddr().(*net.UDPAddr).Port), nil
	}
	if port == 0 {
		return nil, 0, errors.New("an SCTP port needs a number")
	}
	return nil, port, nil
}

// dropAll attaches a filter that keeps nothing of any packet.
func dropAll(_, _ string, c syscall.RawConn) error {
	return attachFilter(c, []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}})
}

func attachFilter(c syscall.RawConn, program []unix.SockFilter) error {
	var err error
	cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	})
	return errors.Join(cerr, err)
}

// whoListens names the process that has a port of the host, as `process NAME
// (pid N)`, or returns "" when it cannot be told.
func whoListens(protocol string, ip netip.Addr, port uint16) string {
	inodes := make(map[string]bool)
	for _, suffix := range []string{"", "6"} {
		f, err := os.Open("/proc/thread-self/net/" + protocol + suffix)
		if err != nil {
			continue
		}
		for _, s := range parseSockets(f) {
			if s.port == port && (s.ip == ip || s.ip.IsUnspecified() || ip.IsUnspecified()) && s.bound(protocol) {
				inodes["socket:["+s.inode+"]"] = true
			}
		}
		_ = f.Close()
	}
	if len(inodes) == 0 {
		return ""
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is well formed
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && inodes[target] {
			pid := strings.Split(link, "/")[2]
			name, _ := os.ReadFile("/proc/" + pid + "/comm")
			return fmt.Sprintf("process %s (pid %s)", strings.TrimSpace(string(name)), pid)
		}
	}
	return ""
}

// socket is a line of /proc/net/tcp and the like.
type socket struct {
	ip    netip.Addr
	port  uint16
	state uint8
	inode string
}

// Socket states (net/tcp_states.h).
const stateListen = 10

func (s socket) bound(protocol string) bool { return protocol != TCP || s.state == stateListen }

// parseSockets reads /proc/net/{tcp,udp}{,6}; lines it cannot read are left out.
func parseSockets(r io.Reader) []socket {
	var list []socket
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 {
			continue
		}
		address, port, ok := strings.Cut(f[1], ":")
		ip, good := parseHexAddr(address)
		number, err := strconv.ParseUint(port, 16, 16)
		state, err2 := strconv.ParseUint(f[3], 16, 8)
		if !ok || !good || err != nil || err2 != nil {
			continue
		}
		list = append(list, socket{ip: ip, port: uint16(number), state: uint8(state), inode: f[9]})
	}
	return list
}

// parseHexAddr reads an address as /proc prints it: four-byte words in the
// host's order, which is little endian wherever this runs.
func parseHexAddr(s string) (netip.Addr, bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 4 && len(b) != 16 {
		return netip.Addr{}, false
	}
	for i := 0; i < len(b); i += 4 {
		b[i], b[i+1], b[i+2], b[i+3] = b[i+3], b[i+2], b[i+1], b[i]
	}
	a, ok := netip.AddrFromSlice(b)
	return a.Unmap(), ok
}
