package preflight

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"gantry/internal/instance"
	"gantry/internal/problem"
)

// sysctlAtLeast checks a kernel setting; below least, want is advised.
func sysctlAtLeast(name string, least, want int64) func(instance.Config) (detail, fix string, err error) {
	return func(instance.Config) (detail, fix string, err error) {
		data, err := os.ReadFile(filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/")))
		if err != nil {
			return "", "boot a kernel that has " + name, err
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		if err != nil {
			return "", "", err
		}
		if n < least {
			return "", fmt.Sprintf("sysctl -w %s=%d", name, want), fmt.Errorf("%s is %d, want %d or more", name, n, least)
		}
		return fmt.Sprintf("%s = %d", name, n), "", nil
	}
}

const leastOpenFiles = 4096

func openFiles(instance.Config) (detail, fix string, err error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return "", "", err
	}
	if limit.Max < leastOpenFiles {
		return "", "ulimit -Hn 1048576 (or LimitNOFILE=1048576 in the unit)", fmt.Errorf("the limit is %d, want %d or more", limit.Max, leastOpenFiles)
	}
	return fmt.Sprintf("up to %d", limit.Max), "", nil
}

const leastDiskBytes = 1 << 30

func disk(cfg instance.Config) (detail, fix string, err error) {
	dir := existing(cfg.DataDir)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", "", err
	}
	free := int64(st.Bavail) * st.Bsize
	switch {
	case free < leastDiskBytes:
		return "", "free some space, or name a larger file system with --data-dir", problem.New(problem.NoSpace, "%s has %d MiB left, want 1024 MiB or more", dir, free>>20)
	case st.Files > 0 && st.Ffree < 10000:
		return "", "remove files, or name another file system with --data-dir", problem.New(problem.NoSpace, "%s has %d inodes left", dir, st.Ffree)
	}
	return fmt.Sprintf("%d GiB free below %s", free>>30, dir), "", nil
}

func apiPort(cfg instance.Config) (detail, fix string, err error) {
	if cfg.Disabled("cluster") {
		return "not used", "", nil
	}
	return port(cfg, cfg.APIListen, "--api-listen")
}

func httpPort(cfg instance.Config) (detail, fix string, err error) {
	if cfg.Disabled("ingress") {
		return "not used", "", nil
	}
	return port(cfg, cfg.HTTPListen, "--http-listen")
}

func port(cfg instance.Config, address, flag string) (detail, fix string, err error) {
	fix = "stop it, or name another address with " + flag
	l, err := net.Listen("tcp", address)
	if err == nil {
		return address + " is free", "", l.Close()
	}
	_, number, splitErr := net.SplitHostPort(address)
	if splitErr != nil {
		return "", "name an address like 127.0.0.1:8080 with " + flag, splitErr
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		return "", fix, err
	}
	owner := PortOwner(number)
	if owner.PID != 0 && owner.PID == lockHolder(cfg.DataDir) {
		return address + " is this server's", "", nil
	}
	return "", fix, problem.New(problem.Conflict, "%s is taken by %s", address, owner)
}

func lockHolder(dir string) int {
	data, _ := os.ReadFile(filepath.Join(dir, "lock")) // no file: no server
	pid, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	return pid
}

// Process names the holder of a port. Its zero value is a process that could
// not be found, such as one in another pid namespace.
type Process struct {
	PID  int
	Name string
}

// String is the name with the pid, for messages.
func (p Process) String() string {
	if p.PID == 0 {
		return "another process"
	}
	return fmt.Sprintf("%s (pid %d)", p.Name, p.PID)
}

// PortOwner returns the process that listens on the TCP port in our network
// namespace.
func PortOwner(port string) Process {
	inodes := listeners(port)
	if len(inodes) == 0 {
		return Process{}
	}
	sockets, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is well formed
	for _, fd := range sockets {
		target, err := os.Readlink(fd)
		if err != nil || !inodes[target] {
			continue
		}
		dir := filepath.Dir(filepath.Dir(fd))
		pid, _ := strconv.Atoi(filepath.Base(dir)) // the pattern has digits there
		name, _ := os.ReadFile(filepath.Join(dir, "comm"))
		return Process{PID: pid, Name: strings.TrimSpace(string(name))}
	}
	return Process{}
}

// listeners returns the sockets, as links in /proc/PID/fd name them, that
// listen on port.
func listeners(port string) map[string]bool {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil
	}
	suffix := fmt.Sprintf(":%04X", n)
	inodes := make(map[string]bool)
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		data, _ := os.ReadFile(table) // a host without IPv6 has one table only
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			const listening = "0A"
			if len(f) > 9 && f[3] == listening && strings.HasSuffix(f[1], suffix) {
				inodes["socket:["+f[9]+"]"] = true
			}
		}
	}
	return inodes
}
