package volume

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"gantry/internal/problem"
)

// validateOptions refuses what the reference's local driver refuses.
func validateOptions(options map[string]string) error {
	invalid := func(format string, args ...any) error { return problem.New(problem.Invalid, format, args...) }
	for option := range options {
		switch option {
		case "type", "o", "device", "size":
		default:
			return invalid("invalid option: %q", option)
		}
	}
	if device := options["device"]; options["type"] == "cifs" && device != "" {
		at, err := url.Parse(device)
		if err != nil {
			return invalid("error parsing mount device url: %w", err)
		}
		if at.Port() != "" {
			return invalid("port not allowed in CIFS device URL, include 'port' in 'o='")
		}
	}
	if text, ok := options["size"]; ok {
		size, err := units.RAMInBytes(text)
		if err != nil {
			return invalid("%w", err)
		}
		if size > 0 {
			return invalid("quota size requested but no quota support")
		}
	}
	for _, need := range [][2]string{{"device", "type"}, {"type", "device"}, {"o", "device"}, {"o", "type"}} {
		_, has := options[need[0]]
		if _, ok := options[need[1]]; has && !ok {
			return invalid("missing required option: %q", need[1])
		}
	}
	return nil
}

// mountCall is the arguments of mount(2) that a volume's options stand for.
type mountCall struct {
	device, kind string
	flags        uintptr
	propagation  uintptr // MS_SHARED and so on: a call of its own; 0: none
	data         string
}

type mountFlag struct {
	clear bool
	bits  uintptr
}

// mountFlags are the options which the kernel takes as flags; others are for the
// file system.
var mountFlags = map[string]mountFlag{
	"defaults": {}, "ro": {false, unix.MS_RDONLY}, "rw": {true, unix.MS_RDONLY},
	"suid": {true, unix.MS_NOSUID}, "nosuid": {false, unix.MS_NOSUID},
	"dev": {true, unix.MS_NODEV}, "nodev": {false, unix.MS_NODEV},
	"exec": {true, unix.MS_NOEXEC}, "noexec": {false, unix.MS_NOEXEC},
	"sync": {false, unix.MS_SYNCHRONOUS}, "async": {true, unix.MS_SYNCHRONOUS},
	"dirsync": {false, unix.MS_DIRSYNC}, "remount": {false, unix.MS_REMOUNT},
	"mand": {false, unix.MS_MANDLOCK}, "nomand": {true, unix.MS_MANDLOCK},
	"atime": {true, unix.MS_NOATIME}, "noatime": {false, unix.MS_NOATIME},
	"diratime": {true, unix.MS_NODIRATIME}, "nodiratime": {false, unix.MS_NODIRATIME},
	"relatime": {false, unix.MS_RELATIME}, "norelatime": {true, unix.MS_RELATIME},
	"strictatime": {false, unix.MS_STRICTATIME}, "nostrictatime": {true, unix.MS_STRICTATIME},
	"bind": {false, unix.MS_BIND}, "rbind": {false, unix.MS_BIND | unix.MS_REC},
}

var propagationFlags = map[string]uintptr{
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC,
	"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC,
	"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
	"unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// mountCallOf translates a volume's options.
func mountCallOf(options map[string]string) mountCall {
	call := mountCall{device: options["device"], kind: options["type"]}
	var data []string
	for option := range strings.SplitSeq(options["o"], ",") {
		if flag, ok := mountFlags[option]; ok {
			if call.flags |= flag.bits; flag.clear {
				call.flags &^= flag.bits
			}
		} else if bits, ok := propagationFlags[option]; ok {
			call.propagation |= bits
		} else if option != "" {
			data = append(data, option)
		}
	}
	call.data = strings.Join(data, ",")
	return call
}

// lookup resolves a host's name to an address.
type lookup func(ctx context.Context, host string) (net.IP, error)

func lookupHost(ctx context.Context, host string) (net.IP, error) {
	found, err := net.DefaultResolver.LookupIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	return found[0], nil // there is one: else LookupIP says so
}

// withAddresses puts addresses in the place of names, which the kernel cannot
// resolve for network file systems.
func (m mountCall) withAddresses(ctx context.Context, resolve lookup) (mountCall, error) {
	if m.kind != "nfs" && m.kind != "cifs" {
		return m, nil
	}
	if name := dataValue(m.data, "addr"); name != "" && net.ParseIP(name).To4() == nil {
		ip, err := resolve(ctx, name)
		if err != nil {
			return m, fmt.Errorf("error resolving passed in network volume address: %w", err)
		}
		m.data = strings.Replace(m.data, "addr="+name, "addr="+ip.String(), 1)
		return m, nil
	}
	if m.kind != "cifs" {
		return m, nil
	}
	at, err := url.Parse(m.device)
	if err != nil {
		return m, fmt.Errorf("error parsing mount device url: %w", err)
	}
	if at.Host == "" || net.ParseIP(at.Host) != nil {
		return m, nil
	}
	ip, err := resolve(ctx, at.Host)
	if err != nil {
		return m, fmt.Errorf("error resolving passed in network volume address: %w", err)
	}
	at.Host = ip.String()
	if m.device, err = url.QueryUnescape(at.String()); err != nil {
		return m, fmt.Errorf("failed to unescape device URL: %q", at)
	}
	return m, nil
}

// dataValue returns the value of a key in mount data.
func dataValue(data, key string) string {
	for option := range strings.SplitSeq(data, ",") {
		if value, ok := strings.CutPrefix(option, key+"="); ok {
			return value
		}
	}
	return ""
}

// mount mounts on target. The error does not tell the password.
func (m mountCall) mount(target string) error {
	err := unix.Mount(m.device, target, m.kind, m.flags, m.data)
	if err != nil {
		return m.failure(m.device, target, m.flags, err)
	}
	if m.propagation != 0 {
		if err := unix.Mount("", target, "", m.propagation, ""); err != nil {
			return m.failure("", target, m.propagation, err)
		}
	}
	// A bind takes its flags in a second call only.
	if m.flags&unix.MS_BIND != 0 && m.flags&unix.MS_RDONLY != 0 {
		if err := unix.Mount("", target, "", m.flags|unix.MS_REMOUNT, ""); err != nil {
			return m.failure("", target, m.flags|unix.MS_REMOUNT, err)
		}
	}
	return nil
}

func (m mountCall) failure(source, target string, flags uintptr, err error) error {
	text := "mount " + target
	if source != "" {
		text = "mount " + source + ":" + target
	}
	if flags != 0 {
		text += ", flags: 0x" + strconv.FormatUint(uint64(flags), 16)
	}
	if m.data != "" {
		data := m.data
		if password := dataValue(data, "password"); password != "" {
			data = strings.Replace(data, "password="+password, "password=********", 1)
		}
		text += ", data: " + data
	}
	return fmt.Errorf("failed to mount local volume: %s: %w", text, err)
}
