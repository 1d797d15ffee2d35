package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gantry/cluster/proxy"
	"gantry/engine/network"
	"gantry/internal/instance"
	"gantry/internal/problem"
)

// purge removes every trace of a server that does not run: processes of its
// containers, links, rules and namespaces, mounts, cgroups, and files.
// It goes on after an error, and may be repeated.
func purge(ctx context.Context, cfg instance.Config) error {
	if os.Geteuid() != 0 {
		return &problem.UserError{Op: "purge", Object: cfg.Name, Err: problem.New(problem.Denied, "this needs root"), Try: "run it with sudo"}
	}
	for _, dir := range []string{cfg.DataDir, cfg.RunDir} {
		if err := removable(dir); err != nil {
			return err
		}
	}
	if _, err := os.Stat(cfg.DataDir); err == nil {
		lock, err := lock(cfg.DataDir)
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	groups := cgroupsOf(cfg)
	errs := []error{killAll(ctx, groups)}
	networks, err := network.New(network.Config{Instance: cfg, Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		err = networks.Purge(ctx)
	}
	errs = append(errs, proxy.Purge(ctx, servicesTable(cfg), cfg.ServiceSubnet(), cfg.PodBridge()))
	errs = append(errs, err, unmountBelow(cfg.RunDir), unmountBelow(cfg.DataDir), removeGroups(groups))
	errs = append(errs, os.RemoveAll(cfg.RunDir), os.RemoveAll(cfg.DataDir), cfg.Forget())
	return errors.Join(errs...)
}

// removable refuses to remove a directory that a server cannot have made for
// itself: --data-dir may have been mistyped.
func removable(dir string) error {
	if len(strings.Split(strings.Trim(filepath.Clean(dir), "/"), "/")) < 2 {
		return problem.New(problem.Invalid, "%s is not the directory of a server alone: it is not removed", dir)
	}
	return nil
}

// cgroupsOf returns the instance's cgroup in every hierarchy that has it.
func cgroupsOf(cfg instance.Config) []string {
	const root = "/sys/fs/cgroup"
	candidates := []string{filepath.Join(root, cfg.Cgroup())}
	hierarchies, _ := filepath.Glob(root + "/*/cgroup.procs") // the pattern is well formed
	for _, h := range hierarchies {
		candidates = append(candidates, filepath.Join(filepath.Dir(h), cfg.Cgroup()))
	}
	var groups []string
	for _, dir := range candidates {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			groups = append(groups, dir)
		}
	}
	return groups
}

// killAll kills what is in the cgroups and waits until it has ended.
func killAll(ctx context.Context, groups []string) error {
	const patience = 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// A process may fork while the list is read: once more, until it is empty.
	for {
		pids, err := processes(groups)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := killAndWait(ctx, pid); err != nil {
				return err
			}
		}
	}
}

// processes lists the processes in the cgroups and below.
func processes(groups []string) ([]int, error) {
	var pids []int
	for _, group := range groups {
		err := filepath.WalkDir(group, func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // removed while we looked
			}
			if err != nil || !e.IsDir() {
				return err
			}
			data, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			if err != nil {
				return nil // removed while we looked
			}
			for field := range strings.FieldsSeq(string(data)) {
				pid, err := strconv.Atoi(field)
				if err == nil && pid > 1 && pid != os.Getpid() && !slices.Contains(pids, pid) {
					pids = append(pids, pid)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return pids, nil
}

func killAndWait(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	deadline, _ := ctx.Deadline() // set by killAll
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(max(time.Until(deadline).Milliseconds(), 0)))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			return problem.New(problem.Unavailable, "process %d does not end", pid)
		}
		return err
	}
}

// unmountBelow unmounts what is mounted at dir and below, the deepest first.
func unmountBelow(dir string) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer f.Close()
	var points []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		const mountPoint = 4 // proc_pid_mountinfo(5)
		if len(fields) <= mountPoint {
			continue
		}
		point := unescape.Replace(fields[mountPoint])
		if point == dir || strings.HasPrefix(point, dir+"/") {
			points = append(points, point)
		}
	}
	slices.Reverse(points) // a mount is listed after what it is mounted on
	var errs []error
	for _, point := range points {
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	return errors.Join(errs...)
}

// unescape reverts the octal escapes of mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// removeGroups removes the cgroups, the deepest first.
func removeGroups(groups []string) error {
	var errs []error
	for _, group := range groups {
		var dirs []string
		err := filepath.WalkDir(group, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		errs = append(errs, err)
		slices.Reverse(dirs)
		for _, dir := range dirs {
			if err := unix.Rmdir(dir); err != nil {
				errs = append(errs, fmt.Errorf("remove cgroup %s: %w", dir, err))
			}
		}
	}
	return errors.Join(errs...)
}
