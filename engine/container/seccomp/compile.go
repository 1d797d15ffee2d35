package seccomp

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/internal/problem"
)

// condition is what the arguments of a call must be for a rule to apply.
type condition struct {
	args []specs.LinuxSeccompArg // all of them
	ret  uint32
}

// outcome is what happens to one call: the first condition that holds decides,
// else ret.
type outcome struct {
	conditions []condition
	ret        uint32
}

func (o outcome) plain() bool { return len(o.conditions) == 0 }

// maxInstructions is the kernel's BPF_MAXINSNS.
const maxInstructions = 4096

const (
	offsetNr   = 0
	offsetArch = 4
	offsetArgs = 16
	x32Bit     = 0x40000000
)

func (c *Compiler) compile(profile *specs.LinuxSeccomp, goarch string) (*Filter, error) {
	archs, err := chosen(profile, goarch)
	if err != nil {
		return nil, err
	}
	fl, err := flags(profile)
	if err != nil {
		return nil, err
	}
	var blocks [][]unix.SockFilter
	for _, a := range archs {
		table, err := c.table(a.name)
		if err != nil {
			return nil, err
		}
		outcomes, last, err := decide(profile, table)
		if err != nil {
			return nil, err
		}
		block, err := search(profile, a, outcomes, last)
		if err != nil {
			return nil, err
		}
		blocks = append(blocks, block)
	}
	program := []unix.SockFilter{load(offsetArch)}
	for i, a := range archs {
		// The block follows; otherwise over it to the next architecture's.
		program = append(program, jump(unix.BPF_JEQ, a.audit, 1, 0), always(len(blocks[i])))
		program = append(program, blocks[i]...)
	}
	program = append(program, ret(retKillProcess))
	if len(program) > maxInstructions {
		return nil, problem.New(problem.Invalid, "seccomp profile compiles to %d instructions; the kernel takes %d", len(program), maxInstructions)
	}
	return &Filter{Program: program, Flags: fl}, nil
}

// decide works out what happens to each call that the profile names, by number,
// and which the greatest named number is.
func decide(profile *specs.LinuxSeccomp, table map[string]uint32) (map[uint32]outcome, uint32, error) {
	defaultRet, err := action(profile.DefaultAction, profile.DefaultErrnoRet)
	if err != nil {
		return nil, 0, err
	}
	outcomes := map[uint32]outcome{}
	plain := map[uint32]bool{}
	var last uint32
	for _, rule := range profile.Syscalls {
		r, err := action(rule.Action, rule.ErrnoRet)
		if err != nil {
			return nil, 0, err
		}
		for _, name := range rule.Names {
			nr, known := table[name]
			if !known {
				continue // another architecture's, or newer than the table
			}
			last = max(last, nr)
			o, seen := outcomes[nr]
			if !seen {
				o.ret = defaultRet
			}
			switch {
			case len(rule.Args) > 0:
				o.conditions = append(o.conditions, conditions(rule.Args, r)...)
			case !plain[nr]:
				o.ret, plain[nr] = r, true
			}
			outcomes[nr] = o
		}
	}
	return outcomes, last, nil
}

// conditions returns one condition that all args hold, or, as runc reads a rule
// that names one argument twice, one for each of them.
func conditions(args []specs.LinuxSeccompArg, r uint32) []condition {
	seen := map[uint]bool{}
	for _, a := range args {
		if seen[a.Index] {
			var each []condition
			for i := range args {
				each = append(each, condition{args: args[i : i+1], ret: r})
			}
			return each
		}
		seen[a.Index] = true
	}
	return []condition{{args: args, ret: r}}
}

// span is a run of numbers from first on with one outcome.
type span struct {
	first uint32
	outcome
}

// search returns the instructions that decide on a call of architecture a.
func search(profile *specs.LinuxSeccomp, a architecture, outcomes map[uint32]outcome, last uint32) ([]unix.SockFilter, error) {
	defaultRet, err := action(profile.DefaultAction, profile.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	unknown := defaultRet
	if defaultRet&0xffff0000 == retErrno && last > 0 {
		unknown = retErrno | uint32(unix.ENOSYS)
	}
	numbers := make([]uint32, 0, len(outcomes))
	for nr := range outcomes {
		numbers = append(numbers, nr)
	}
	slices.Sort(numbers)
	var spans []span
	add := func(first uint32, o outcome) {
		if n := len(spans); n > 0 && spans[n-1].plain() && o.plain() && spans[n-1].ret == o.ret {
			return
		}
		spans = append(spans, span{first, o})
	}
	add(0, outcome{ret: defaultRet})
	for _, nr := range numbers {
		if len(spans) == 1 && nr == 0 {
			spans = nil
		}
		add(nr, outcomes[nr])
		if _, next := outcomes[nr+1]; !next {
			add(nr+1, outcome{ret: defaultRet})
		}
	}
	if unknown != defaultRet {
		if n := len(spans); spans[n-1].first == last+1 {
			spans = spans[:n-1]
		}
		add(last+1, outcome{ret: unknown})
	}
	if a.audit == unix.AUDIT_ARCH_X86_64 {
		add(x32Bit, outcome{ret: defaultRet})
	}
	tree, err := spread(spans)
	return append([]unix.SockFilter{load(offsetNr)}, tree...), err
}

// spread returns the binary search over spans, with the number loaded.
func spread(spans []span) ([]unix.SockFilter, error) {
	if len(spans) == 1 {
		return leaf(spans[0].outcome)
	}
	middle := len(spans) / 2
	low, err := spread(spans[:middle])
	if err != nil {
		return nil, err
	}
	high, err := spread(spans[middle:])
	if err != nil {
		return nil, err
	}
	var out []unix.SockFilter
	if len(low) <= 255 {
		out = append(out, jump(unix.BPF_JGE, spans[middle].first, len(low), 0))
	} else {
		out = append(out, jump(unix.BPF_JGE, spans[middle].first, 0, 1), always(len(low)))
	}
	return append(append(out, low...), high...), nil
}

func leaf(o outcome) ([]unix.SockFilter, error) {
	var out []unix.SockFilter
	for _, c := range o.conditions {
		block := []unix.SockFilter{ret(c.ret)}
		// From the last argument to the first: each check jumps over what follows.
		for _, a := range slices.Backward(c.args) {
			check, err := compare(a, len(block))
			if err != nil {
				return nil, err
			}
			block = append(check, block...)
		}
		out = append(out, block...)
	}
	return append(out, ret(o.ret)), nil
}

// compare falls through if a holds, and jumps over the next skip instructions
// if not. Arguments have 64 bits, and BPF 32: the upper half is looked at first.
func compare(a specs.LinuxSeccompArg, skip int) ([]unix.SockFilter, error) {
	if a.Index > 5 {
		return nil, problem.New(problem.Invalid, "seccomp argument index %d: want 0 to 5", a.Index)
	}
	if skip > 200 {
		return nil, problem.New(problem.Invalid, "a seccomp rule has too many arguments")
	}
	low, high := load(offsetArgs+8*uint32(a.Index)), load(offsetArgs+8*uint32(a.Index)+4)
	vl, vh := uint32(a.Value), uint32(a.Value>>32)
	switch a.Op {
	case specs.OpEqualTo:
		return []unix.SockFilter{high, jump(unix.BPF_JEQ, vh, 0, skip+2), low, jump(unix.BPF_JEQ, vl, 0, skip)}, nil
	case specs.OpNotEqual:
		return []unix.SockFilter{high, jump(unix.BPF_JEQ, vh, 0, 2), low, jump(unix.BPF_JEQ, vl, skip, 0)}, nil
	case specs.OpMaskedEqual:
		tl, th := uint32(a.ValueTwo), uint32(a.ValueTwo>>32)
		return []unix.SockFilter{high, and(vh), jump(unix.BPF_JEQ, th&vh, 0, skip+3),
			low, and(vl), jump(unix.BPF_JEQ, tl&vl, 0, skip)}, nil
	case specs.OpGreaterThan:
		return ordered(high, low, vh, vl, unix.BPF_JGT, skip, 0), nil
	case specs.OpGreaterEqual:
		return ordered(high, low, vh, vl, unix.BPF_JGE, skip, 0), nil
	case specs.OpLessEqual: // not greater
		return ordered(high, low, vh, vl, unix.BPF_JGT, 0, skip), nil
	case specs.OpLessThan: // not greater or equal
		return ordered(high, low, vh, vl, unix.BPF_JGE, 0, skip), nil
	default:
		return nil, problem.New(problem.Invalid, "seccomp operator %q is unknown", a.Op)
	}
}

// ordered compares two halves with op (JGT or JGE): it goes on after no
// instructions more where the value is less, or after yes where it is greater.
func ordered(high, low unix.SockFilter, vh, vl uint32, op uint16, no, yes int) []unix.SockFilter {
	return []unix.SockFilter{
		high,
		jump(unix.BPF_JGT, vh, yes+3, 0),
		jump(unix.BPF_JEQ, vh, 0, no+2),
		low,
		jump(op, vl, yes, no),
	}
}

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func and(mask uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mask}
}

func jump(op uint16, k uint32, yes, no int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, K: k, Jt: uint8(yes), Jf: uint8(no)}
}

func always(n int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(n)}
}

func ret(value uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: value}
}
