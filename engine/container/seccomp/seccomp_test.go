package seccomp

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/internal/problem"
)

// call is a system call as a filter sees it.
type call struct {
	arch, nr uint32
	args     [6]uint64
}

// evaluate runs a filter as the kernel does: classic BPF over struct
// seccomp_data, which on the supported machines is little-endian.
func evaluate(t *testing.T, program []unix.SockFilter, c call) uint32 {
	t.Helper()
	data := binary.LittleEndian.AppendUint32(nil, c.nr)
	data = binary.LittleEndian.AppendUint32(data, c.arch)
	data = append(data, make([]byte, 8)...)
	for _, a := range c.args {
		data = binary.LittleEndian.AppendUint64(data, a)
	}
	var acc uint32
	for pc := 0; pc < len(program); pc++ {
		i := program[pc]
		branch := func(yes bool) {
			if yes {
				pc += int(i.Jt)
			} else {
				pc += int(i.Jf)
			}
		}
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = binary.LittleEndian.Uint32(data[i.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= i.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			branch(acc == i.K)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			branch(acc > i.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			branch(acc >= i.K)
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(i.K)
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		default:
			t.Fatalf("instruction %d is %+v", pc, i)
		}
	}
	t.Fatal("the filter ends without a return")
	return 0
}

const (
	eperm  = retErrno | uint32(unix.EPERM)
	enosys = retErrno | uint32(unix.ENOSYS)
)

func arg(index uint, op specs.LinuxSeccompOperator, value, two uint64) specs.LinuxSeccompArg {
	return specs.LinuxSeccompArg{Index: index, Op: op, Value: value, ValueTwo: two}
}

func rule(action specs.LinuxSeccompAction, names []string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
	return specs.LinuxSyscall{Names: names, Action: action, Args: args}
}

func compileFor(t *testing.T, profile *specs.LinuxSeccomp) []unix.SockFilter {
	t.Helper()
	var c Compiler
	f, err := c.compile(profile, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	return f.Program
}

func TestActionsAndArchitectures(t *testing.T) {
	profile := &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
		Syscalls: []specs.LinuxSyscall{
			rule(specs.ActAllow, []string{"read", "write", "close", "clone3", "no_such_call"}),
			rule(specs.ActKillProcess, []string{"reboot"}),
			{Names: []string{"mount"}, Action: specs.ActErrno, ErrnoRet: ptr(uint(unix.EACCES))},
			rule(specs.ActLog, []string{"getpid"}),
		},
	}
	program := compileFor(t, profile)
	const x64, x86 = unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386
	cases := map[string]struct {
		call call
		want uint32
	}{
		"a named call":                              {call{arch: x64, nr: 0}, retAllow},
		"the next number":                           {call{arch: x64, nr: 2}, eperm},
		"a number of its own on x86":                {call{arch: x86, nr: 3}, retAllow},
		"x86-64's number means another call on x86": {call{arch: x86, nr: 0}, eperm},
		"kill":                                   {call{arch: x64, nr: 169}, retKillProcess},
		"an errno of its own":                    {call{arch: x64, nr: 165}, retErrno | uint32(unix.EACCES)},
		"log":                                    {call{arch: x64, nr: 39}, retLog},
		"the last that the profile knows":        {call{arch: x64, nr: 435}, retAllow},
		"newer than all that the profile knows":  {call{arch: x64, nr: 436}, enosys},
		"x32 calls get the default":              {call{arch: x64, nr: x32Bit}, eperm},
		"another architecture kills the process": {call{arch: unix.AUDIT_ARCH_AARCH64, nr: 63}, retKillProcess},
	}
	for name, c := range cases {
		if got := evaluate(t, program, c.call); got != c.want {
			t.Errorf("%s: %+v gives %#x, want %#x", name, c.call, got, c.want)
		}
	}
}

func ptr[T any](v T) *T { return &v }

func TestArguments(t *testing.T) {
	const big = 0x1_0000_0002
	values := []uint64{0, 1, 2, 3, big - 1, big, big + 1, 1 << 40, ^uint64(0)}
	operators := map[specs.LinuxSeccompOperator]func(a, v, two uint64) bool{
		specs.OpEqualTo:      func(a, v, _ uint64) bool { return a == v },
		specs.OpNotEqual:     func(a, v, _ uint64) bool { return a != v },
		specs.OpLessThan:     func(a, v, _ uint64) bool { return a < v },
		specs.OpLessEqual:    func(a, v, _ uint64) bool { return a <= v },
		specs.OpGreaterThan:  func(a, v, _ uint64) bool { return a > v },
		specs.OpGreaterEqual: func(a, v, _ uint64) bool { return a >= v },
		specs.OpMaskedEqual:  func(a, v, two uint64) bool { return a&v == two&v },
	}
	for op, holds := range operators {
		for _, v := range values {
			two := v & 0x1_0000_0003
			program := compileFor(t, &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
				rule(specs.ActAllow, []string{"socket"}, arg(0, op, v, two), arg(2, specs.OpEqualTo, 7, 0))}})
			for _, a := range values {
				for _, third := range []uint64{7, 8} {
					want := eperm
					if holds(a, v, two) && third == 7 {
						want = retAllow
					}
					got := evaluate(t, program, call{arch: unix.AUDIT_ARCH_X86_64, nr: unix.SYS_SOCKET, args: [6]uint64{a, 0, third}})
					if got != want {
						t.Errorf("%s %#x: argument %#x (third %d) gives %#x, want %#x", op, v, a, third, got, want)
					}
				}
			}
		}
	}
}

func TestTheFirstConditionThatHoldsDecides(t *testing.T) {
	program := compileFor(t, &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
		rule(specs.ActKillProcess, []string{"socket"}, arg(0, specs.OpEqualTo, 1, 0)),
		rule(specs.ActLog, []string{"socket"}, arg(0, specs.OpLessEqual, 2, 0)),
		// One argument twice: either will do.
		rule(specs.ActAllow, []string{"socket"}, arg(0, specs.OpEqualTo, 5, 0), arg(0, specs.OpEqualTo, 6, 0)),
		rule(specs.ActTrap, []string{"socket"}),
	}})
	for a, want := range []uint32{retLog, retKillProcess, retLog, retTrap, retTrap, retAllow, retAllow} {
		if got := evaluate(t, program, call{arch: unix.AUDIT_ARCH_X86_64, nr: unix.SYS_SOCKET, args: [6]uint64{uint64(a)}}); got != want {
			t.Errorf("argument %d gives %#x, want %#x", a, got, want)
		}
	}
}

// The search tree is compared with the table of outcomes that it was made of.
func TestTheSearchFindsEveryCall(t *testing.T) {
	profile, err := moby.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}})
	if err != nil {
		t.Fatal(err)
	}
	var c Compiler
	program := compileFor(t, profile)
	for _, a := range []architecture{architectures[specs.ArchX86_64], architectures[specs.ArchX86]} {
		table, err := c.table(a.name)
		if err != nil {
			t.Fatal(err)
		}
		outcomes, last, err := decide(profile, table)
		if err != nil {
			t.Fatal(err)
		}
		for nr := range uint32(700) {
			o, named := outcomes[nr]
			if named && !o.plain() {
				continue
			}
			want := eperm
			switch {
			case named:
				want = o.ret
			case nr > last:
				want = enosys
			}
			if got := evaluate(t, program, call{arch: a.audit, nr: nr, args: [6]uint64{rand.Uint64(), rand.Uint64()}}); got != want {
				t.Errorf("%s call %d gives %#x, want %#x", a.name, nr, got, want)
			}
		}
	}
	if len(program) > 1500 {
		t.Errorf("Docker's default profile takes %d instructions", len(program))
	}
}

func TestBadProfilesAreRefused(t *testing.T) {
	one := func(r specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{r}}
	}
	cases := map[string]struct {
		profile *specs.LinuxSeccomp
		want    problem.Kind
	}{
		"an unknown action":         {one(rule("SCMP_ACT_NONE", []string{"read"})), problem.Invalid},
		"notify without a listener": {one(rule(specs.ActNotify, []string{"read"})), problem.Invalid},
		"notify by default":         {&specs.LinuxSeccomp{DefaultAction: specs.ActNotify, ListenerPath: "/x"}, problem.Invalid},
		"notify of write":           {&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/x", Syscalls: []specs.LinuxSyscall{rule(specs.ActNotify, []string{"write"})}}, problem.Invalid},
		"an unknown operator":       {one(rule(specs.ActKill, []string{"read"}, arg(0, "SCMP_CMP_XX", 0, 0))), problem.Invalid},
		"a seventh argument":        {one(rule(specs.ActKill, []string{"read"}, arg(6, specs.OpEqualTo, 0, 0))), problem.Invalid},
		"no default action":         {&specs.LinuxSeccomp{}, problem.Invalid},
		"an unknown flag":           {&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"X"}}, problem.Invalid},
		"more than the kernel has":  {many(), problem.Invalid},
	}
	for name, c := range cases {
		var compiler Compiler
		if f, err := compiler.compile(c.profile, "amd64"); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v; want %v", name, f, err, c.want)
		}
	}
}

func many() *specs.LinuxSeccomp {
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	for i := range uint64(2000) {
		p.Syscalls = append(p.Syscalls, rule(specs.ActAllow, []string{"socket"}, arg(0, specs.OpEqualTo, i, 0)))
	}
	return p
}

func TestFiltersAreKeptOnDisk(t *testing.T) {
	dir := t.TempDir()
	profile := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{rule(specs.ActAllow, []string{"read"})}}
	first, err := (&Compiler{Dir: dir}).Compile(profile)
	if err != nil {
		t.Fatal(err)
	}
	second, err := (&Compiler{Dir: dir}).Load(first.Key)
	if diff := cmp.Diff(first, second); diff != "" || err != nil {
		t.Errorf("loaded: %v (-want +got)\n%s", err, diff)
	}
	if _, err := (&Compiler{Dir: dir}).Load("absent"); !errors.Is(err, problem.NotFound) {
		t.Errorf("an absent filter: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "filter-"+first.Key), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (&Compiler{Dir: dir}).Load(first.Key); err == nil {
		t.Error("a torn filter was loaded")
	}
	third, err := (&Compiler{Dir: dir}).Compile(profile)
	if diff := cmp.Diff(first, third); diff != "" || err != nil {
		t.Errorf("a torn filter is made again: %v (-want +got)\n%s", err, diff)
	}
	if f, err := (&Compiler{Dir: dir}).Compile(nil); f != nil || err != nil {
		t.Errorf("no profile: %v, %v", f, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add((&Filter{Flags: 4, Program: []unix.SockFilter{ret(retAllow)}}).encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		filter, err := decode(data)
		if err != nil {
			return
		}
		if diff := cmp.Diff(data, filter.encode()); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

func BenchmarkCompileDefaultProfile(b *testing.B) {
	profile, err := moby.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		var c Compiler
		if _, err := c.compile(profile, "amd64"); err != nil {
			b.Fatal(err)
		}
	}
}
