package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// requester is an rtnetlink socket for what each container's start asks of the
// kernel: few system calls, none of them through the runtime's poller. It
// belongs to the namespace of the thread that opened it; any may use it.
type requester struct {
	mu sync.Mutex // a request and its answers
	fd int
}

func openRequester() (*requester, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	return &requester{fd: fd}, nil
}

func (r *requester) close() { _ = unix.Close(r.fd) }

// batch is a list of requests that the kernel carries out in order.
type batch struct {
	data []byte
	what []string // of each, for errors
	seqs []uint32
}

// add appends a request. what says what it does, with its object.
func (b *batch) add(what string, kind, flags int, parts ...nl.NetlinkRequestData) {
	req := nl.NewNetlinkRequest(kind, flags)
	for _, part := range parts {
		req.AddData(part)
	}
	b.data = append(b.data, req.Serialize()...)
	b.data = append(b.data, make([]byte, -len(b.data)&(unix.NLMSG_ALIGNTO-1))...)
	b.what, b.seqs = append(b.what, what), append(b.seqs, req.Seq)
}

// do sends the requests in one message; the kernel is done with them when it is
// sent. Only the last asks for an answer, but each error is one. What is behind
// an error is tried all the same.
func (r *requester) do(b *batch) error {
	if len(b.seqs) == 0 {
		return nil
	}
	last := 0 // begin of the last request
	for at := 0; at < len(b.data); {
		last = at
		at += (int(binary.NativeEndian.Uint32(b.data[at:])) + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1)
	}
	const flagsAt = 6 // in a message's header
	flags := binary.NativeEndian.Uint16(b.data[last+flagsAt:])
	binary.NativeEndian.PutUint16(b.data[last+flagsAt:], flags|unix.NLM_F_ACK)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := unix.Sendto(r.fd, b.data, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("%s: %w", b.what[0], err)
	}
	var errs []error
	buf := make([]byte, 4096)
	for {
		n, _, err := unix.Recvfrom(r.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return errors.Join(append(errs, fmt.Errorf("%s: %w", b.what[0], err))...)
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		for _, m := range messages {
			done, err := b.answer(m)
			if err != nil {
				errs = append(errs, err)
			}
			if done {
				return errors.Join(errs...)
			}
		}
	}
}

// answer reads one answer and tells whether it is the last one's.
func (b *batch) answer(m syscall.NetlinkMessage) (done bool, err error) {
	if m.Header.Type != unix.NLMSG_ERROR || len(m.Data) < 4 {
		return false, nil
	}
	for i, seq := range b.seqs {
		if seq != m.Header.Seq {
			continue
		}
		if errno := -int32(binary.NativeEndian.Uint32(m.Data)); errno != 0 {
			err = fmt.Errorf("%s: %w", b.what[i], unix.Errno(errno))
		}
		return i == len(b.seqs)-1, err
	}
	return false, nil // of an earlier request that was not waited for
}

// index is that of an interface, and running tells whether it passes packets.
func (r *requester) index(name string) (index int, running bool, err error) {
	ifreq, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(r.fd, unix.SIOCGIFINDEX, ifreq)
	}
	if err != nil {
		return 0, false, fmt.Errorf("interface %s: %w", name, err)
	}
	index = int(ifreq.Uint32())
	if err := unix.IoctlIfreq(r.fd, unix.SIOCGIFFLAGS, ifreq); err != nil {
		return 0, false, fmt.Errorf("interface %s: %w", name, err)
	}
	return index, ifreq.Uint16()&unix.IFF_RUNNING != 0, nil
}

// loopbackUp brings up lo, which a namespace begins without.
func (r *requester) loopbackUp() error {
	ifreq, err := unix.NewIfreq("lo")
	if err == nil {
		ifreq.SetUint16(unix.IFF_UP)
		err = unix.IoctlIfreq(r.fd, unix.SIOCSIFFLAGS, ifreq)
	}
	if err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return nil
}

// linkUp brings an interface up.
func (b *batch) linkUp(name string, index int) {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Flags, msg.Change = int32(index), unix.IFF_UP, unix.IFF_UP
	b.add("bring up "+name, unix.RTM_NEWLINK, 0, msg)
}

// address gives an interface an address; flags are IFA_F_ bits.
func (b *batch) address(index int, p netip.Prefix, flags uint32, scope uint8) {
	msg := nl.NewIfAddrmsg(family(p.Addr()))
	msg.Index, msg.Prefixlen, msg.Scope = uint32(index), uint8(p.Bits()), scope
	ip := p.Addr().AsSlice()
	parts := []nl.NetlinkRequestData{msg, nl.NewRtAttr(unix.IFA_LOCAL, ip), nl.NewRtAttr(unix.IFA_ADDRESS, ip)}
	if p.Addr().Is4() && p.Bits() < 31 {
		parts = append(parts, nl.NewRtAttr(unix.IFA_BROADCAST, broadcast(p).AsSlice()))
	}
	if flags != 0 {
		parts = append(parts, nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(flags)))
	}
	b.add("add address "+p.String(), unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, parts...)
}

// defaultRoute makes the default route of gateway's family lead there by an
// interface, instead of where it led.
func (b *batch) defaultRoute(index int, gateway netip.Addr) {
	msg := nl.NewRtMsg()
	msg.Family, msg.Flags = uint8(family(gateway)), unix.RTNH_F_ONLINK
	b.add("default route by "+gateway.String(), unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, msg,
		nl.NewRtAttr(unix.RTA_DST, make([]byte, gateway.BitLen()/8)), nl.NewRtAttr(unix.RTA_GATEWAY, gateway.AsSlice()), nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
}

func family(a netip.Addr) int {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// writeOnce writes a setting below /proc/sys/net by the fewest system calls.
// It is of the calling thread's namespace.
func writeOnce(name, value string) error {
	path := sysctls + "/" + name
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		_, err = unix.Write(fd, []byte(value))
		err = errors.Join(err, unix.Close(fd))
	}
	if err != nil {
		return fmt.Errorf("set %s to %s: %w", path, value, err)
	}
	return nil
}
