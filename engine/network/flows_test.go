package network

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"

	"golang.org/x/sys/unix"
)

// The same client keeps sending to the same port of the host, behind which
// another container is by now: connection tracking must not lead it to the first.
func TestDatagramsFollowThePort(t *testing.T) {
	b := newBed(t)
	outside, _ := b.outsider()
	first, second := b.container("first", Bridge), b.container("second", Bridge)
	serveUDP(t, first.Namespace, ":53")
	serveUDP(t, second.Namespace, ":54")
	client := dialled(t, outside, "203.0.113.1:8053")
	to := func(ep Endpoint, port uint16) {
		t.Helper()
		b.publish(ep, PortBinding{ContainerPort: port, HostPort: 8053, Protocol: UDP})
		eventually(t, ep.Container+" answers", func() bool { return echo(client, []byte(ep.Container)) })
	}
	to(first, 53)
	if err := b.Unpublish(t.Context(), "first"); err != nil {
		t.Fatal(err)
	}
	if echo(client, []byte("x")) {
		t.Error("the first answers although its port is no longer published")
	}
	to(second, 54)
}

// sctpInit is the packet that opens an association (RFC 9260, section 3.3.2).
func sctpInit(from, to uint16) []byte {
	p := binary.BigEndian.AppendUint16(nil, from)
	p = binary.BigEndian.AppendUint16(p, to)
	p = append(p, 0, 0, 0, 0, 0, 0, 0, 0) // verification tag, checksum
	p = append(p, 1, 0, 0, 20, 0, 0, 0, 9, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 1)
	binary.LittleEndian.PutUint32(p[8:], crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)))
	return p
}

// Few kernels that build have SCTP's sockets, so its packets are made here.
func TestPublishedSCTPIsTranslated(t *testing.T) {
	b := newBed(t)
	outside, host := b.outsider()
	one := b.container("one", Bridge)
	b.publish(one, PortBinding{ContainerPort: 38412, HostPort: 8132, Protocol: SCTP})
	raw := func(path string) (fd int) {
		t.Helper()
		err := inside(t, path, func() (err error) {
			fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
			if err == nil {
				err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000})
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		return fd
	}
	client, server := raw(outside), raw(one.Namespace)
	eventually(t, "the container gets the packet", func() bool {
		if err := unix.Sendto(client, sctpInit(40000, 8132), 0, &unix.SockaddrInet4{Addr: host.As4()}); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 256)
		n, _, err := unix.Recvfrom(server, buf, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			return false
		}
		if err != nil || n < 52 {
			t.Fatalf("%d bytes, %v", n, err)
		}
		const header = 20 // without options
		from, to := binary.BigEndian.Uint16(buf[header:]), binary.BigEndian.Uint16(buf[header+2:])
		if source := [4]byte(buf[12:16]); source != [4]byte{203, 0, 113, 9} || from != 40000 || to != 38412 {
			t.Errorf("the packet came from %v:%d, to port %d", source, from, to)
		}
		return true
	})
}
