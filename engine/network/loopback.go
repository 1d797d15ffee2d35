package network

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// relay carries connections of this host's processes to [::1] into a container.
// The kernel leads those of 127.0.0.1 there, but for IPv6 it has no
// route_localnet. Everybody else's take the kernel's way.
type relay struct {
	listener net.Listener
	target   func() netip.AddrPort // where they go now

	work sync.WaitGroup
	mu   sync.Mutex
	open map[net.Conn]bool // nil once closed
}

// relayLoopback serves a listener that holds a port.
func relayLoopback(l net.Listener, target func() netip.AddrPort) *relay {
	r := &relay{listener: l, target: target, open: make(map[net.Conn]bool)}
	r.work.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				r.work.Go(func() { r.carry(c) })
			}
		}
	})
	return r
}

// Close ends the relay and its connections.
func (r *relay) Close() error {
	err := r.listener.Close()
	r.mu.Lock()
	for c := range r.open {
		_ = c.Close()
	}
	r.open = nil
	r.mu.Unlock()
	r.work.Wait()
	return err
}

// track takes charge of c, unless the relay is closed.
func (r *relay) track(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == nil {
		_ = c.Close()
		return false
	}
	r.open[c] = true
	return true
}

func (r *relay) drop(c net.Conn) {
	_ = c.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, c)
}

func (r *relay) carry(client net.Conn) {
	if !r.track(client) {
		return
	}
	defer r.drop(client)
	server, err := net.Dial("tcp", r.target().String()) // the container is next door: it answers or refuses
	if err != nil || !r.track(server) {
		return
	}
	defer r.drop(server)
	var back sync.WaitGroup
	back.Go(func() { copyHalf(client, server) })
	copyHalf(server, client)
	back.Wait()
}

// copyHalf copies one direction, and passes its end on.
func copyHalf(to, from net.Conn) {
	_, _ = io.Copy(to, from) // an error ends the direction as an end does
	if half, ok := to.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
}

// keepLoopback attaches a filter that keeps packets to ::1 alone.
func keepLoopback(_, _ string, c syscall.RawConn) error {
	const destination = 24 // in an IPv6 header
	var program []unix.SockFilter
	for i := range uint32(4) {
		want := uint32(0)
		if i == 3 {
			want = 1
		}
		program = append(program,
			unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: netOffset + destination + 4*i},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: uint8(2*(3-i) + 1), K: want})
	}
	program = append(program, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 18}, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K})
	return attachFilter(c, program)
}

// netOffset is SKF_NET_OFF: offsets from here are in the network header.
const netOffset = 0xfff00000
