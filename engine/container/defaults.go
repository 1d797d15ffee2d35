package container

import (
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"gantry/engine/container/plan"
)

// AllCapabilities returns the names of all capabilities, as a privileged
// container asks for. Create grants those that the host has.
func AllCapabilities() []string { return plan.AllCapabilities() }

// DefaultCapabilities returns Docker's default capability set.
func DefaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// DefaultMaskedPaths returns the paths that Docker hides in a container.
func DefaultMaskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
		"/sys/devices/virtual/powercap",
	}
}

// DefaultReadonlyPaths returns the paths that Docker makes read-only.
func DefaultReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// DefaultSeccomp returns Docker's default profile for a process whose bounding
// set is caps.
func DefaultSeccomp(caps []string) (*specs.LinuxSeccomp, error) {
	return seccomp.GetDefaultProfile(&specs.Spec{
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}},
	})
}

// LoadSeccomp decodes a profile in Docker's JSON form for a process whose
// bounding set is caps.
func LoadSeccomp(profile string, caps []string) (*specs.LinuxSeccomp, error) {
	return seccomp.LoadProfile(profile, &specs.Spec{
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}},
	})
}
