package oci

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// moveDevices moves network devices of the host to the network namespace of the
// process pid, with their permanent global addresses, and sets them up.
//
// Spec: runtime-spec config-linux.md, "Network Devices".
func moveDevices(devices map[string]specs.LinuxNetDevice, pid int) error {
	if len(devices) == 0 {
		return nil
	}
	namespace, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/net")
	if err != nil {
		return err
	}
	defer namespace.Close()
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		if err := moveDevice(name, devices[name].Name, namespace); err != nil {
			return fmt.Errorf("move network device %s: %w", name, err)
		}
	}
	return nil
}

func moveDevice(name, newName string, namespace *os.File) error {
	device, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	addresses, err := permanentAddresses(device.Index)
	if err != nil {
		return err
	}
	if newName == "" {
		newName = name
	}
	move := linkMessage(device.Index, 0, 0)
	move = attribute(move, unix.IFLA_NET_NS_FD, binary.NativeEndian.AppendUint32(nil, uint32(namespace.Fd())))
	move = attribute(move, unix.IFLA_IFNAME, append([]byte(newName), 0))
	socket, err := newRouteSocket()
	if err != nil {
		return err
	}
	defer socket.close()
	if err := socket.request(unix.RTM_NEWLINK, 0, move); err != nil {
		return err
	}
	// A device keeps its index where nothing else has it; by its name it is found for sure.
	return inNamespace(namespace, func() error { return setUp(device.Index, newName, addresses) })
}

// setUp gives the device its addresses again, in the namespace of the thread.
func setUp(index int, name string, addresses [][]byte) error {
	if device, err := net.InterfaceByName(name); err == nil {
		index = device.Index // otherwise the kernel made the name out of a template
	}
	socket, err := newRouteSocket()
	if err != nil {
		return err
	}
	defer socket.close()
	for _, a := range addresses {
		binary.NativeEndian.PutUint32(a[4:], uint32(index)) // ifaddrmsg.ifa_index
		if err := socket.request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, a); err != nil {
			return fmt.Errorf("add an address: %w", err)
		}
	}
	return socket.request(unix.RTM_NEWLINK, 0, linkMessage(index, unix.IFF_UP, unix.IFF_UP))
}

// inNamespace runs do on a thread in another network namespace, which ends if it
// cannot be brought back.
func inNamespace(namespace *os.File, do func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			result <- err
			return
		}
		defer own.Close()
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- err
			return
		}
		err = do()
		if unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// permanentAddresses returns messages that add the device's addresses of global
// scope that were not learned, without its index.
func permanentAddresses(index int) ([][]byte, error) {
	dump, err := syscall.NetlinkRIB(unix.RTM_GETADDR, unix.AF_UNSPEC)
	if err != nil {
		return nil, err
	}
	messages, err := syscall.ParseNetlinkMessage(dump)
	if err != nil {
		return nil, err
	}
	var list [][]byte
	for i := range messages {
		m := &messages[i]
		if m.Header.Type != unix.RTM_NEWADDR || len(m.Data) < unix.SizeofIfAddrmsg {
			continue
		}
		flags, scope := m.Data[2], m.Data[3]
		if int(binary.NativeEndian.Uint32(m.Data[4:])) != index || scope != unix.RT_SCOPE_UNIVERSE || flags&unix.IFA_F_PERMANENT == 0 {
			continue
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil {
			return nil, err
		}
		a := slices.Clone(m.Data[:unix.SizeofIfAddrmsg])
		for _, attr := range attributes {
			switch attr.Attr.Type {
			case unix.IFA_ADDRESS, unix.IFA_LOCAL, unix.IFA_BROADCAST:
				a = attribute(a, attr.Attr.Type, attr.Value)
			}
		}
		list = append(list, a)
	}
	return list, nil
}

// linkMessage is a struct ifinfomsg.
func linkMessage(index int, flags, change uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], change)
	return b
}

// attribute appends a netlink attribute.
func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, -len(b)&3)...)
}

// routeSocket is a NETLINK_ROUTE socket in the namespace in which it was made.
type routeSocket struct{ fd int }

func newRouteSocket() (*routeSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	return &routeSocket{fd}, nil
}

func (s *routeSocket) close() { unix.Close(s.fd) }

// request sends a message and waits for its acknowledgement.
func (s *routeSocket) request(kind uint16, flags uint16, body []byte) error {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = binary.NativeEndian.AppendUint64(b, 1) // its number, and no port
	b = append(b, body...)
	if err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	reply := make([]byte, 8<<10)
	n, _, err := unix.Recvfrom(s.fd, reply, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(reply[4:]) != unix.NLMSG_ERROR {
		return errors.New("netlink: an answer that is no acknowledgement")
	}
	if errno := -int32(binary.NativeEndian.Uint32(reply[unix.SizeofNlMsghdr:])); errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}
