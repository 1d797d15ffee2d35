package names

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"gantry/internal/nft"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// port is where the sockets are bound: unassigned, below the ephemeral ports,
// and the same for every process of ours, so that the rules in a namespace
// serve the next one too.
const port = 4

// inNamespace runs do on a thread in the network namespace at path, which dies
// afterwards. Sockets that do opens stay in that namespace.
func inNamespace(path string, do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- func() error {
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return &os.PathError{Op: "open", Path: path, Err: err}
			}
			defer unix.Close(fd)
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("setns: %w", err)
			}
			return do()
		}()
	}()
	return <-done
}

// listen opens the sockets of v and makes them answer at port 53.
func (v *served) listen() (err error) {
	const flags = unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	if v.udp, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|flags, 0); err != nil {
		return err
	}
	if v.tcp, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|flags, 0); err != nil {
		return errors.Join(err, unix.Close(v.udp))
	}
	defer func() {
		if err != nil {
			v.close()
		}
	}()
	at := &unix.SockaddrInet4{Port: port, Addr: Address.As4()}
	err = errors.Join(
		unix.SetsockoptInt(v.tcp, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(v.udp, at), unix.Bind(v.tcp, at),
	)
	if err == nil {
		err = unix.Listen(v.tcp, 16)
	}
	if err == nil {
		err = translate()
	}
	return err
}

// tableName is that of the table in a container's namespace.
const tableName = "gantry-names"

// translate lets the sockets answer at port 53. Both ends are on lo, so that
// rewriting a port on the way out is all it takes, without connection tracking.
func translate() (err error) {
	c, err := nft.Open(nft.IPv4, tableName)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	_, err = c.Apply(context.Background(), rules()) // one transaction; it waits for nobody
	return err
}

var here = netip.PrefixFrom(Address, 32)

func rules() *nft.Table {
	to, from := nft.Subnet(nft.DestinationAddress, nft.Is, here), nft.Subnet(nft.SourceAddress, nft.Is, here)
	var list []nft.Rule
	for _, protocol := range []uint8{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		list = append(list,
			nft.NewRule(to, nft.Proto(protocol), nft.PortIs(nft.DestinationPort, 53),
				nft.SetPort(nft.DestinationPort, protocol, port)),
			nft.NewRule(from, nft.Proto(protocol), nft.PortIs(nft.SourcePort, port),
				nft.SetPort(nft.SourcePort, protocol, 53)))
	}
	// While nobody has the sockets, silence lets a resolver ask again.
	list = append(list, nft.NewRule(from, nft.Proto(unix.IPPROTO_ICMP), nft.Drop()))
	return &nft.Table{Family: nft.IPv4, Name: tableName, Chains: map[string]nft.Chain{"output": {Hook: &nft.RawOutput, Rules: list}}}
}

// burst bounds how much is read from one socket before the others have a turn.
const burst = 32

// receive reads the queries that wait in a UDP socket.
func (s *Server) receive(ctx context.Context, v *served, buffer []byte, work *sync.WaitGroup) {
	for range burst {
		v.mu.Lock()
		if v.closed {
			v.mu.Unlock()
			return
		}
		n, from, err := unix.Recvfrom(v.udp, buffer, unix.MSG_DONTWAIT)
		v.mu.Unlock()
		if err != nil {
			return // nothing more, or the error of an answer to who is gone
		}
		query := new(dns.Msg)
		if query.Unpack(buffer[:n]) != nil {
			continue
		}
		s.spawn(work, func() { // otherwise it is dropped, and asked again
			if answer := s.serve(ctx, v.settings(), query, "udp"); answer != nil {
				v.reply(answer, query, from)
			}
		})
	}
}

// reply sends an answer, cut to what the client takes.
func (v *served) reply(answer, query *dns.Msg, to unix.Sockaddr) {
	size := dns.MinMsgSize
	if opt := query.IsEdns0(); opt != nil {
		size = max(size, int(opt.UDPSize()))
	}
	answer.Truncate(size)
	data, err := answer.Pack()
	if err != nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.closed {
		_ = unix.Sendto(v.udp, data, unix.MSG_DONTWAIT, to) // who does not get it asks again
	}
}

// idle is how long a TCP connection may be without a query.
const idle = 10 * time.Second

// accept takes the connections that wait in a TCP socket.
func (s *Server) accept(ctx context.Context, v *served, work *sync.WaitGroup) {
	for range burst {
		v.mu.Lock()
		if v.closed {
			v.mu.Unlock()
			return
		}
		fd, _, err := unix.Accept4(v.tcp, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		v.mu.Unlock()
		if err != nil {
			return
		}
		file := os.NewFile(uintptr(fd), "dns")
		c, err := net.FileConn(file)
		_ = file.Close() // c has its own
		if err != nil {
			continue
		}
		if !s.spawn(work, func() { s.converse(ctx, v, c) }) {
			_ = c.Close()
		}
	}
}

// converse answers the queries of a TCP connection, one after the other.
func (s *Server) converse(ctx context.Context, v *served, c net.Conn) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	stream := &dns.Conn{Conn: c}
	for {
		if c.SetDeadline(time.Now().Add(idle)) != nil {
			return
		}
		query, err := stream.ReadMsg()
		if err != nil {
			return
		}
		answer := s.serve(ctx, v.settings(), query, "tcp")
		if answer == nil || c.SetDeadline(time.Now().Add(idle)) != nil || stream.WriteMsg(answer) != nil {
			return
		}
	}
}
