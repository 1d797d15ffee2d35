// Package seccomp compiles the seccomp profile of a runtime-spec to a BPF
// filter, in pure Go, and keeps what it compiled.
//
// The filter first tells the architectures apart, then finds the system call by
// a binary search over ranges of numbers with the same outcome, then looks at
// arguments. A call of an architecture that the profile does not name kills the
// process; x32 calls get the default action. As in runc, a call that is newer
// than all that the profile knows gets ENOSYS where the default is an errno,
// because programs probe for new calls and fall back on ENOSYS only.
package seccomp

import (
	"crypto/sha256"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/internal/atomicfile"
	"gantry/internal/problem"
)

//go:generate go run generate.go

//go:embed table/*.txt
var tables embed.FS

// Filter is a compiled profile.
type Filter struct {
	Key     string // names it to Load
	Program []unix.SockFilter
	Flags   uint64 // of seccomp(2)
}

// Compiler compiles profiles and keeps the results, which are small, in memory
// and in files filter-KEY in Dir. It may be used concurrently.
type Compiler struct {
	Dir string // exists when Compile is called

	mu      sync.Mutex
	filters map[string]*Filter
	numbers map[string]map[string]uint32 // by architecture, by name
}

// generation is part of the keys; it changes with what the compiler makes.
const generation = "2 "

// Compile returns the filter of profile, nil for none.
//
// Errors: Invalid, Unsupported.
func (c *Compiler) Compile(profile *specs.LinuxSeccomp) (*Filter, error) {
	if profile == nil {
		return nil, nil
	}
	text, err := json.Marshal(profile)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append([]byte(generation+runtime.GOARCH+" "), text...))
	key := hex.EncodeToString(sum[:16])
	if f, err := c.Load(key); err == nil {
		return f, nil
	}
	// Not there, or torn: made again.
	c.mu.Lock()
	defer c.mu.Unlock()
	f, err := c.compile(profile, runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	f.Key = key
	if err := atomicfile.Write(c.path(key), f.encode(), 0o600); err != nil {
		return nil, err
	}
	c.keepLocked(f)
	return f, nil
}

// Load returns the filter that Compile made under key, nil for no key.
//
// Errors: NotFound.
func (c *Compiler) Load(key string) (*Filter, error) {
	if key == "" {
		return nil, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.filters[key]; f != nil {
		return f, nil
	}
	data, err := os.ReadFile(c.path(key))
	if err != nil {
		return nil, problem.New(problem.NotFound, "seccomp filter %s: %w", key, err)
	}
	f, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("seccomp filter %s: %w", c.path(key), err)
	}
	f.Key = key
	c.keepLocked(f)
	return f, nil
}

func (c *Compiler) keepLocked(f *Filter) {
	if c.filters == nil {
		c.filters = map[string]*Filter{}
	}
	c.filters[f.Key] = f
}

func (c *Compiler) path(key string) string { return filepath.Join(c.Dir, "filter-"+key) }

// encode is the flags, and eight bytes for each instruction, as the kernel has them.
func (f *Filter) encode() []byte {
	b := binary.LittleEndian.AppendUint64(nil, f.Flags)
	for _, i := range f.Program {
		b = append(b, byte(i.Code), byte(i.Code>>8), i.Jt, i.Jf)
		b = binary.LittleEndian.AppendUint32(b, i.K)
	}
	return b
}

func decode(b []byte) (*Filter, error) {
	if len(b) < 16 || len(b)%8 != 0 || len(b)/8 > maxInstructions+1 {
		return nil, errors.New("torn")
	}
	f := &Filter{Flags: binary.LittleEndian.Uint64(b)}
	for b = b[8:]; len(b) > 0; b = b[8:] {
		f.Program = append(f.Program, unix.SockFilter{Code: binary.LittleEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.LittleEndian.Uint32(b[4:])})
	}
	return f, nil
}

// architecture is what the filter compares the call's with.
type architecture struct {
	name  string // of the table: Go's
	audit uint32 // AUDIT_ARCH_*
}

var architectures = map[specs.Arch]architecture{
	specs.ArchX86_64:  {"amd64", unix.AUDIT_ARCH_X86_64},
	specs.ArchX86:     {"386", unix.AUDIT_ARCH_I386},
	specs.ArchAARCH64: {"arm64", unix.AUDIT_ARCH_AARCH64},
	specs.ArchARM:     {"arm", unix.AUDIT_ARCH_ARM},
}

// native is the architecture that a profile always covers.
var native = map[string]specs.Arch{"amd64": specs.ArchX86_64, "386": specs.ArchX86, "arm64": specs.ArchAARCH64, "arm": specs.ArchARM}

// chosen lists the architectures that a profile's filter tells apart. Foreign
// ones can make no calls here, and x32 calls look like x86-64's.
func chosen(profile *specs.LinuxSeccomp, goarch string) ([]architecture, error) {
	first, ok := native[goarch]
	if !ok {
		return nil, problem.New(problem.Unsupported, "seccomp filters are not supported on %s", goarch)
	}
	list := []architecture{architectures[first]}
	second := map[string]specs.Arch{"amd64": specs.ArchX86, "arm64": specs.ArchARM}[goarch]
	for _, a := range profile.Architectures {
		if a == second {
			list = append(list, architectures[a])
		}
	}
	return list, nil
}

// table returns the numbers of an architecture's calls.
func (c *Compiler) table(arch string) (map[string]uint32, error) {
	if t := c.numbers[arch]; t != nil {
		return t, nil
	}
	text, err := tables.ReadFile("table/" + arch + ".txt")
	if err != nil {
		return nil, err
	}
	t := map[string]uint32{}
	for line := range strings.Lines(string(text)) {
		name, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("table of %s system calls: %w", arch, err)
		}
		t[name] = uint32(n)
	}
	if c.numbers == nil {
		c.numbers = map[string]map[string]uint32{}
	}
	c.numbers[arch] = t
	return t, nil
}

// The values of a filter's return.
const (
	retKillProcess = 0x80000000
	retKillThread  = 0x00000000
	retTrap        = 0x00030000
	retErrno       = 0x00050000
	retTrace       = 0x7ff00000
	retLog         = 0x7ffc0000
	retAllow       = 0x7fff0000
	retNotify      = 0x7fc00000
)

func action(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	value := uint32(unix.EPERM)
	if errno != nil {
		value = uint32(*errno)
	}
	switch a {
	case specs.ActKill, specs.ActKillThread:
		return retKillThread, nil
	case specs.ActKillProcess:
		return retKillProcess, nil
	case specs.ActTrap:
		return retTrap, nil
	case specs.ActErrno:
		return retErrno | value&0xffff, nil
	case specs.ActTrace:
		return retTrace | value&0xffff, nil
	case specs.ActLog:
		return retLog, nil
	case specs.ActAllow:
		return retAllow, nil
	case specs.ActNotify:
		return retNotify, nil
	default:
		return 0, problem.New(problem.Invalid, "seccomp action %q is unknown", a)
	}
}

func flags(profile *specs.LinuxSeccomp) (uint64, error) {
	notifies, err := notifies(profile)
	if err != nil {
		return 0, err
	}
	var flags uint64
	if notifies {
		flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	if len(profile.Flags) == 0 {
		// As runc: without it, a filter turns speculation off for the process,
		// which costs much and has not been the kernel's default since 5.16.
		return flags | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil
	}
	for _, f := range profile.Flags {
		switch f {
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case "SECCOMP_FILTER_FLAG_TSYNC":
			// The filter is set while there is one thread.
		case specs.LinuxSeccompFlagWaitKillableRecv:
			flags |= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
		default:
			return 0, problem.New(problem.Invalid, "seccomp flag %q is unknown", f)
		}
	}
	return flags, nil
}

// notifies says whether some calls are answered by who listens at listenerPath.
//
// Errors: Invalid where the process could not get so far as to be listened to.
func notifies(profile *specs.LinuxSeccomp) (bool, error) {
	if profile.DefaultAction == specs.ActNotify {
		return false, problem.New(problem.Invalid, "SCMP_ACT_NOTIFY cannot be used as default action")
	}
	any := false
	for _, rule := range profile.Syscalls {
		if rule.Action != specs.ActNotify {
			continue
		}
		any = true
		// With it the process tells of the listener.
		if slices.Contains(rule.Names, "write") {
			return false, problem.New(problem.Invalid, "SCMP_ACT_NOTIFY cannot be used for the write syscall")
		}
	}
	if any && profile.ListenerPath == "" {
		return false, problem.New(problem.Invalid, "SCMP_ACT_NOTIFY needs linux.seccomp.listenerPath")
	}
	return any, nil
}
