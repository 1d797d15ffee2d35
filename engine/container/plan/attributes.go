package plan

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/engine/container/program"
	"gantry/internal/problem"
)

var schedulerPolicies = map[specs.LinuxSchedulerPolicy]uint32{
	specs.SchedOther: 0, specs.SchedFIFO: 1, specs.SchedRR: 2, specs.SchedBatch: 3, specs.SchedISO: 4, specs.SchedIdle: 5, specs.SchedDeadline: 6,
}

var schedulerFlags = map[specs.LinuxSchedulerFlag]uint64{
	specs.SchedFlagResetOnFork: 0x01, specs.SchedFlagReclaim: 0x02, specs.SchedFlagDLOverrun: 0x04, specs.SchedFlagKeepPolicy: 0x08,
	specs.SchedFlagKeepParams: 0x10, specs.SchedFlagUtilClampMin: 0x20, specs.SchedFlagUtilClampMax: 0x40,
}

var ioClasses = map[specs.IOPriorityClass]int{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}

// scheduling sets the process's scheduler and I/O priority, which needs what it
// has before its capabilities are dropped.
func (p *Planner) scheduling(s *specs.Process) error {
	if c := s.Scheduler; c != nil {
		policy, ok := schedulerPolicies[c.Policy]
		if !ok {
			return invalid("process.scheduler.policy %q is unknown", c.Policy)
		}
		var flags uint64
		for _, f := range c.Flags {
			if schedulerFlags[f] == 0 {
				return invalid("process.scheduler has the unknown flag %q", f)
			}
			flags |= schedulerFlags[f]
		}
		const size = 48 // of struct sched_attr, version 0
		attr := binary.NativeEndian.AppendUint32(nil, size)
		attr = binary.NativeEndian.AppendUint32(attr, policy)
		attr = binary.NativeEndian.AppendUint64(attr, flags)
		attr = binary.NativeEndian.AppendUint32(attr, uint32(c.Nice))
		attr = binary.NativeEndian.AppendUint32(attr, uint32(c.Priority))
		for _, n := range []uint64{c.Runtime, c.Deadline, c.Period} {
			attr = binary.NativeEndian.AppendUint64(attr, n)
		}
		p.child.Doing("set the scheduler " + string(c.Policy))
		p.child.Call(unix.SYS_SCHED_SETATTR, program.Val(0), p.b.Bytes(attr), program.Val(0))
	}
	if c := s.IOPriority; c != nil {
		class := ioClasses[c.Class]
		if class == 0 {
			return invalid("process.ioPriority.class %q is unknown", c.Class)
		}
		const whoProcess = 1
		p.child.Doing("set the I/O priority " + string(c.Class))
		p.child.Call(unix.SYS_IOPRIO_SET, program.Val(whoProcess), program.Val(0), program.Val(class<<13|c.Priority))
	}
	return nil
}

var personalities = map[specs.LinuxPersonalityDomain]int{specs.PerLinux: 0, specs.PerLinux32: 8}

func (p *Planner) personality(c *specs.LinuxPersonality) {
	if c == nil {
		return
	}
	p.child.Doing("set the personality " + string(c.Domain))
	p.child.Call(unix.SYS_PERSONALITY, program.Val(personalities[c.Domain]))
}

// Security modules of the host, as they are found in its file system.
const (
	apparmorFile = "/sys/module/apparmor/parameters/enabled"
	selinuxDir   = "/sys/fs/selinux"
)

// AppArmor says whether the host has AppArmor.
func AppArmor() bool {
	text, err := os.ReadFile(apparmorFile)
	return err == nil && len(text) > 0 && text[0] == 'Y'
}

// SELinux says whether the host has SELinux.
func SELinux() bool {
	_, err := os.Stat(selinuxDir + "/enforce")
	return err == nil
}

// labels asks for the AppArmor profile and SELinux label that the program is to have.
// Not through the container's /proc, at which an image's volume may be. In a user
// namespace (user) the process may not mount a /proc without masks, and that
// is the one there is.
func (p *Planner) labels(s *specs.Process, user bool) {
	if s.ApparmorProfile == "" && s.SelinuxLabel == "" {
		return
	}
	l, proc, prefix := p.child, program.Cwd, "/proc/"
	if !user {
		context, mount := p.b.Reg(), p.b.Reg()
		l.Doing("mount a proc of its own for labels")
		l.Call(unix.SYS_FSOPEN, p.b.Str("proc"), program.Val(unix.FSOPEN_CLOEXEC)).Into(context)
		l.Call(unix.SYS_FSCONFIG, program.InReg(context), program.Val(unix.FSCONFIG_CMD_CREATE), program.Null, program.Null, program.Val(0))
		l.Call(unix.SYS_FSMOUNT, program.InReg(context), program.Val(unix.FSMOUNT_CLOEXEC), program.Val(0)).Into(mount)
		l.Call(unix.SYS_CLOSE, program.InReg(context))
		proc, prefix = program.InReg(mount), ""
	}
	write := func(file, text string) {
		fd := p.b.Reg()
		l.Call(unix.SYS_OPENAT, proc, p.b.Str(prefix+file), program.Val(unix.O_WRONLY|unix.O_CLOEXEC)).Into(fd)
		l.Call(unix.SYS_WRITE, program.InReg(fd), p.b.Str(text), program.Val(len(text)))
		l.Call(unix.SYS_CLOSE, program.InReg(fd))
	}
	if s.ApparmorProfile != "" {
		l.Doing("apply AppArmor profile " + s.ApparmorProfile)
		write("self/attr/apparmor/exec", "exec "+s.ApparmorProfile)
	}
	if s.SelinuxLabel != "" {
		l.Doing("set SELinux label " + s.SelinuxLabel)
		write("self/attr/exec", s.SelinuxLabel)
	}
	if !user {
		l.Call(unix.SYS_CLOSE, proc)
	}
}

var memoryModes = map[specs.MemoryPolicyModeType]uint64{
	specs.MpolDefault: 0, specs.MpolPreferred: 1, specs.MpolBind: 2, specs.MpolInterleave: 3, specs.MpolLocal: 4,
	specs.MpolPreferredMany: 5, specs.MpolWeightedInterleave: 6,
}

var memoryFlags = map[specs.MemoryPolicyFlagType]uint64{
	specs.MpolFStaticNodes: 1 << 15, specs.MpolFRelativeNodes: 1 << 14, specs.MpolFNumaBalancing: 1 << 13,
}

// MemoryPolicies lists the modes and flags of memory policies.
func MemoryPolicies() (modes, flags []string) {
	for mode := range memoryModes {
		modes = append(modes, string(mode))
	}
	for flag := range memoryFlags {
		flags = append(flags, string(flag))
	}
	slices.Sort(modes)
	slices.Sort(flags)
	return modes, flags
}

func (p *Planner) memoryPolicy(c *specs.LinuxMemoryPolicy) error {
	if c == nil {
		return nil
	}
	mode, ok := memoryModes[c.Mode]
	if !ok {
		return invalid("linux.memoryPolicy.mode %q is unknown", c.Mode)
	}
	for _, f := range c.Flags {
		if memoryFlags[f] == 0 {
			return invalid("linux.memoryPolicy has the unknown flag %q", f)
		}
		mode |= memoryFlags[f]
	}
	nodes, err := parseSet(c.Nodes)
	if err != nil {
		return invalid("linux.memoryPolicy.nodes: %w", err)
	}
	mask, bits := program.Null, 0
	if c.Nodes != "" {
		mask, bits = p.b.Words(nodes...), 64*len(nodes)
	}
	p.child.Doing("set the memory policy " + string(c.Mode))
	p.child.Call(unix.SYS_SET_MEMPOLICY, program.Val(mode), mask, program.Val(bits))
	return nil
}

// affinity binds the process to the processors that of names.
func (p *Planner) affinity(c *specs.CPUAffinity, of func(*specs.CPUAffinity) string) error {
	if c == nil || of(c) == "" {
		return nil
	}
	cpus, err := parseSet(of(c))
	if err != nil {
		return invalid("process.execCPUAffinity: %w", err)
	}
	p.child.Doing("set the CPU affinity " + of(c))
	p.child.Call(unix.SYS_SCHED_SETAFFINITY, program.Val(0), program.Val(8*len(cpus)), p.b.Words(cpus...))
	return nil
}

// parseSet reads a list as "0-3,7" to a mask.
func parseSet(list string) ([]uint64, error) {
	const most = 1024
	mask := make([]uint64, most/64)
	if strings.TrimSpace(list) == "" {
		return mask, nil
	}
	for _, part := range strings.Split(list, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 16)
		if err != nil {
			return nil, err
		}
		to, err := strconv.ParseUint(last, 10, 16)
		if err != nil {
			return nil, err
		}
		if to < from || to >= most {
			return nil, problem.New(problem.Invalid, "range %q", part)
		}
		for n := from; n <= to; n++ {
			mask[n/64] |= 1 << (n % 64)
		}
	}
	return mask, nil
}

// clocks makes a time namespace, which the process enters with its exec.
func (p *Planner) clocks(o *specs.Spec) {
	l := p.child
	if Namespaces(o, false)&unix.CLONE_NEWTIME == 0 {
		return
	}
	l.Doing("unshare the time namespace")
	l.Call(unix.SYS_UNSHARE, program.Val(unix.CLONE_NEWTIME))
	if len(o.Linux.TimeOffsets) == 0 {
		return
	}
	var text strings.Builder
	for _, clock := range []string{"monotonic", "boottime"} {
		if t, ok := o.Linux.TimeOffsets[clock]; ok {
			fmt.Fprintf(&text, "%s %d %d\n", clock, t.Secs, t.Nanosecs)
		}
	}
	fd := p.b.Reg()
	l.Doing("set the clocks' offsets")
	l.Call(unix.SYS_OPENAT, program.Cwd, p.b.Str("/proc/self/timens_offsets"), program.Val(unix.O_WRONLY|unix.O_CLOEXEC)).Into(fd)
	l.Call(unix.SYS_WRITE, program.InReg(fd), p.b.Str(text.String()), program.Val(text.Len()))
	l.Call(unix.SYS_CLOSE, program.InReg(fd))
}
