package engine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	dcontainer "github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// deviceRules are the devices that every container may use: the reference's.
// Making any node is allowed, opening only these.
func deviceRules() []specs.LinuxDeviceCgroup {
	number := func(n int64) *int64 { return &n }
	rules := []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Access: "m"},
		{Allow: true, Type: "b", Access: "m"},
	}
	for _, d := range [][2]int64{
		{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, // null, zero, full, random, urandom
		{5, 0}, {5, 1}, {5, 2}, // tty, console, ptmx
	} {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: number(d[0]), Minor: number(d[1]), Access: "rwm"})
	}
	return append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: number(136), Access: "rwm"}) // pts
}

// addDevices puts into spec the devices that the request maps.
func addDevices(spec *specs.Spec, h *dcontainer.HostConfig) error {
	if h.Privileged {
		spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		return walkDevices("/dev", "/dev", func(d specs.LinuxDevice) { spec.Linux.Devices = append(spec.Linux.Devices, d) })
	}
	rules := deviceRules()
	for _, m := range h.Devices {
		access := m.CgroupPermissions
		if access == "" {
			access = "rwm"
		}
		if strings.Trim(access, "rwm") != "" {
			return invalid("invalid device mode: %s", access)
		}
		target := m.PathInContainer
		if target == "" {
			target = m.PathOnHost
		}
		found := 0
		add := func(d specs.LinuxDevice) {
			found++
			spec.Linux.Devices = append(spec.Linux.Devices, d)
			rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: access})
		}
		if err := walkDevices(m.PathOnHost, target, add); err != nil {
			return invalid("error gathering device information while adding custom device %q: %w", m.PathOnHost, err)
		}
		if found == 0 {
			return invalid("error gathering device information while adding custom device %q: not a device node", m.PathOnHost)
		}
	}
	for _, text := range h.DeviceCgroupRules {
		rule, err := parseDeviceRule(text)
		if err != nil {
			return err
		}
		rules = append(rules, rule)
	}
	spec.Linux.Resources.Devices = rules
	return nil
}

// walkDevices calls add for the device at path, or for each device below it.
func walkDevices(path, target string, add func(specs.LinuxDevice)) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		if d, ok := deviceOf(info, target); ok {
			add(d)
		}
		return nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		switch entry.Name() {
		case "pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console":
			continue // the container has its own
		}
		if entry.Type()&fs.ModeSymlink != 0 {
			continue
		}
		err := walkDevices(filepath.Join(path, entry.Name()), filepath.Join(target, entry.Name()), add)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func deviceOf(info fs.FileInfo, path string) (specs.LinuxDevice, bool) {
	if info.Mode()&fs.ModeDevice == 0 {
		return specs.LinuxDevice{}, false
	}
	st := info.Sys().(*syscall.Stat_t)
	kind := "b"
	if info.Mode()&fs.ModeCharDevice != 0 {
		kind = "c"
	}
	mode := info.Mode().Perm()
	uid, gid := st.Uid, st.Gid
	return specs.LinuxDevice{
		Path: path, Type: kind, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		FileMode: &mode, UID: &uid, GID: &gid,
	}, true
}

var deviceRule = regexp.MustCompile(`^([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})$`)

func parseDeviceRule(text string) (specs.LinuxDeviceCgroup, error) {
	parts := deviceRule.FindStringSubmatch(text)
	if parts == nil {
		return specs.LinuxDeviceCgroup{}, invalid("invalid device cgroup rule format: '%s'", text)
	}
	rule := specs.LinuxDeviceCgroup{Allow: true, Type: parts[1], Access: parts[4]}
	for i, field := range []**int64{&rule.Major, &rule.Minor} {
		if parts[2+i] == "*" {
			continue
		}
		n, err := strconv.ParseInt(parts[2+i], 10, 32)
		if err != nil {
			return specs.LinuxDeviceCgroup{}, invalid("invalid device cgroup rule format: '%s'", text)
		}
		*field = &n
	}
	return rule, nil
}
