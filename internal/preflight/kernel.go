package preflight

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/internal/instance"
	"gantry/internal/problem"
)

// apart runs f on a thread of its own that the kernel discards afterwards, so
// that f may change the thread's namespaces.
func apart(f func() error) error {
	done := make(chan error, 1) // f's one result
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- f()
	}()
	return <-done
}

var kinds = []struct {
	name string
	flag int
}{
	{"mnt", unix.CLONE_NEWNS},
	{"uts", unix.CLONE_NEWUTS},
	{"ipc", unix.CLONE_NEWIPC},
	{"pid", unix.CLONE_NEWPID},
	{"net", unix.CLONE_NEWNET},
	{"cgroup", unix.CLONE_NEWCGROUP},
}

func namespaces(instance.Config) (detail, fix string, err error) {
	for _, kind := range kinds {
		err := apart(func() error { return unix.Unshare(kind.flag) })
		if errors.Is(err, unix.ENOSPC) {
			return "", "sysctl -w user.max_" + kind.name + "_namespaces=65536", fmt.Errorf("no more %s namespaces are allowed", kind.name)
		}
		if err != nil {
			return "", "run on a kernel that has CONFIG_NAMESPACES whole, with CAP_SYS_ADMIN", fmt.Errorf("new %s namespace: %w", kind.name, err)
		}
	}
	return "mnt uts ipc pid net cgroup", "", nil
}

// overlay mounts one on the file system that will hold the containers; some
// file systems cannot be an upper layer.
func overlay(cfg instance.Config) (detail, fix string, err error) {
	fix = "put --data-dir on ext4, xfs or btrfs, and load the module: modprobe overlay"
	dir, err := os.MkdirTemp(existing(cfg.DataDir), ".gantry-preflight-*")
	if err != nil {
		return "", "make the directory writable, or name another with --data-dir", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, sub := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return "", fix, err
		}
	}
	err = apart(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		options := fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", dir, dir, dir)
		if err := unix.Mount("overlay", filepath.Join(dir, "merged"), "overlay", 0, options); err != nil {
			return err
		}
		return unix.Unmount(filepath.Join(dir, "merged"), unix.MNT_DETACH)
	})
	if err != nil {
		return "", fix, fmt.Errorf("overlay mount below %s: %w", filepath.Dir(dir), err)
	}
	return "on " + filepath.Dir(dir), "", nil
}

// existing returns the nearest ancestor of path that exists.
func existing(path string) string {
	for path != "/" {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		path = filepath.Dir(path)
	}
	return path
}

const cgroupRoot = "/sys/fs/cgroup"

func cgroups(cfg instance.Config) (detail, fix string, err error) {
	if data, err := os.ReadFile(filepath.Join(cgroupRoot, "cgroup.controllers")); err == nil {
		return cgroup2(cfg, strings.Fields(string(data)))
	}
	var missing, have []string
	for _, controller := range []string{"memory", "cpu", "pids", "devices", "freezer", "cpuset"} {
		dir := filepath.Join(cgroupRoot, controller)
		if _, err := os.Stat(filepath.Join(dir, "tasks")); err != nil {
			missing = append(missing, controller)
			continue
		}
		have = append(have, controller)
		if err := tryGroup(dir, cfg); err != nil {
			return "", "remount it writable: mount -o remount,rw " + dir, err
		}
	}
	if len(have) == 0 {
		return "", "mount -t cgroup2 none " + cgroupRoot, problem.New(problem.Unsupported, "no cgroup hierarchy is mounted below %s", cgroupRoot)
	}
	if len(missing) > 0 {
		c := missing[0]
		return "", fmt.Sprintf("mkdir -p %s/%s && mount -t cgroup -o %s cgroup %s/%s (boot with cgroup_enable=%s if the kernel has it off)", cgroupRoot, c, c, cgroupRoot, c, c),
			problem.New(problem.Unsupported, "cgroup v1 without %s", strings.Join(missing, ", "))
	}
	return "v1: " + strings.Join(have, " "), "", nil
}

func cgroup2(cfg instance.Config, controllers []string) (detail, fix string, err error) {
	for _, want := range []string{"memory", "cpu", "pids"} {
		found := false
		for _, c := range controllers {
			found = found || c == want
		}
		if !found {
			return "", "boot with cgroup_enable=" + want + " on the kernel command line", problem.New(problem.Unsupported, "cgroup v2 without the %s controller", want)
		}
	}
	if err := tryGroup(cgroupRoot, cfg); err != nil {
		return "", "remount it writable: mount -o remount,rw " + cgroupRoot, err
	}
	return "v2: " + strings.Join(controllers, " "), "", nil
}

func tryGroup(hierarchy string, cfg instance.Config) error {
	dir := filepath.Join(hierarchy, fmt.Sprintf("%s-preflight-%d", cfg.Cgroup(), os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("new cgroup: %w", err)
	}
	return os.Remove(dir)
}

func seccomp(instance.Config) (detail, fix string, err error) {
	if _, err := os.Stat("/proc/sys/kernel/seccomp/actions_avail"); err != nil {
		return "", "boot a kernel with CONFIG_SECCOMP_FILTER=y",
			problem.New(problem.Unsupported, "the kernel cannot filter system calls")
	}
	return "yes", "", nil
}

// link tries to create a link of the kind in a network namespace of its own.
func link(kind string) func(instance.Config) (detail, fix string, err error) {
	return func(instance.Config) (detail, fix string, err error) {
		err = apart(func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			return netlink(unix.NETLINK_ROUTE, newLink(kind))
		})
		if err != nil {
			return "", "modprobe " + kind, fmt.Errorf("new %s link: %w", kind, err)
		}
		return "yes", "", nil
	}
}

func nftables(instance.Config) (detail, fix string, err error) {
	err = apart(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return netlink(unix.NETLINK_NETFILTER, getGeneration())
	})
	if err != nil {
		return "", "modprobe nf_tables", fmt.Errorf("nftables: %w", err)
	}
	return "yes", "", nil
}

// newLink is an RTM_NEWLINK request (rtnetlink(7)) for a link of the kind.
func newLink(kind string) []byte {
	info := attribute(unix.IFLA_LINKINFO, attribute(unix.IFLA_INFO_KIND, []byte(kind)))
	body := append(make([]byte, unix.SizeofIfInfomsg), info...)
	return message(unix.RTM_NEWLINK, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL, body)
}

// getGeneration is an NFT_MSG_GETGEN request, which every nf_tables answers.
func getGeneration() []byte {
	const nfgenmsgBytes = 4
	return message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, unix.NLM_F_REQUEST|unix.NLM_F_ACK, make([]byte, nfgenmsgBytes))
}

func message(kind, flags uint16, body []byte) []byte {
	m := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(body))
	binary.NativeEndian.PutUint32(m[0:], uint32(unix.SizeofNlMsghdr+len(body)))
	binary.NativeEndian.PutUint16(m[4:], kind)
	binary.NativeEndian.PutUint16(m[6:], flags)
	binary.NativeEndian.PutUint32(m[8:], 1) // sequence
	return append(m, body...)
}

func attribute(kind uint16, value []byte) []byte {
	a := make([]byte, unix.SizeofRtAttr, unix.SizeofRtAttr+len(value)+3)
	binary.NativeEndian.PutUint16(a[0:], uint16(unix.SizeofRtAttr+len(value)))
	binary.NativeEndian.PutUint16(a[2:], kind)
	a = append(a, value...)
	return append(a, make([]byte, -len(a)&3)...)
}

// netlink sends the request and returns the error that the kernel answers.
func netlink(family int, request []byte) (err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, family)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 8192)
	for {
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if err != nil {
			return err
		}
		for rest := answer[:n]; len(rest) >= unix.SizeofNlMsghdr+4; {
			size := int(binary.NativeEndian.Uint32(rest))
			if binary.NativeEndian.Uint16(rest[4:]) == unix.NLMSG_ERROR {
				code := int32(binary.NativeEndian.Uint32(rest[unix.SizeofNlMsghdr:]))
				if code != 0 {
					return unix.Errno(-code)
				}
				return nil
			}
			if size < unix.SizeofNlMsghdr || size > len(rest) {
				return errors.New("malformed netlink answer")
			}
			rest = rest[min((size+3)&^3, len(rest)):]
		}
	}
}
