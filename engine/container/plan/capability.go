package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/engine/container/program"
	"gantry/internal/problem"
)

// capabilityNames are in the order of their numbers.
var capabilityNames = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
	"CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN",
	"CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
	"CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// AllCapabilities returns the names of all capabilities, as a privileged
// container asks for. A plan grants those that the host has.
func AllCapabilities() []string { return slices.Clone(capabilityNames) }

// capabilitySet is a process's capabilities as masks.
type capabilitySet struct {
	bounding, effective, permitted, inheritable, ambient uint64
}

// capabilities reads the sets, without what this host has not got to give.
func (p *Planner) capabilities(c *specs.LinuxCapabilities, user bool) (capabilitySet, error) {
	var set capabilitySet
	if c == nil {
		return set, nil
	}
	missing, unknown := map[string]bool{}, map[string]bool{}
	var err error
	mask := func(names []string) (m uint64) {
		for _, name := range names {
			n := slices.Index(capabilityNames, strings.ToUpper(name))
			if n < 0 && p.Direct != nil {
				unknown[name] = true // runtime-spec 1.1 and later ask for a warning
				continue
			}
			if n < 0 {
				err = problem.New(problem.Invalid, "capability %q is unknown", name)
				return 0
			}
			if !user && p.Limits.capabilities&(1<<n) == 0 {
				missing[capabilityNames[n]] = true
				continue
			}
			m |= 1 << n
		}
		return m
	}
	set = capabilitySet{bounding: mask(c.Bounding), effective: mask(c.Effective), permitted: mask(c.Permitted),
		inheritable: mask(c.Inheritable), ambient: mask(c.Ambient)}
	// The kernel grants ambient ones only out of both.
	set.ambient &= set.permitted & set.inheritable
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		p.warn("%s: this host has not got it to give", name)
	}
	for _, name := range slices.Sorted(maps.Keys(unknown)) {
		p.warn("%s: this capability is unknown and ignored", name)
	}
	return set, err
}

func (p *Planner) dropBounding(keep uint64) {
	p.child.Doing("drop capabilities")
	for n := range p.Limits.lastCapability + 1 {
		if keep&(1<<n) == 0 {
			p.child.Call(unix.SYS_PRCTL, program.Val(unix.PR_CAPBSET_DROP), program.Val(n), program.Null, program.Null, program.Null)
		}
	}
}

func (p *Planner) setCapabilities(c capabilitySet) {
	const version3 = 0x20080522
	l := p.child
	l.Doing("set capabilities")
	header := p.b.Halves(version3, 0)
	values := p.b.Halves(uint32(c.effective), uint32(c.permitted), uint32(c.inheritable),
		uint32(c.effective>>32), uint32(c.permitted>>32), uint32(c.inheritable>>32))
	l.Call(unix.SYS_CAPSET, header, values)
	for n := range capabilityNames {
		if c.ambient&(1<<n) != 0 {
			l.Doing(fmt.Sprintf("raise ambient %s", capabilityNames[n]))
			l.Call(unix.SYS_PRCTL, program.Val(unix.PR_CAP_AMBIENT), program.Val(unix.PR_CAP_AMBIENT_RAISE), program.Val(n), program.Null, program.Null)
		}
	}
}
