package image

import (
	"crypto/rand"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	goruntime "runtime"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"gantry/internal/problem"
	"gantry/internal/tree"
)

// Host returns the platform of this host.
func Host() ocispec.Platform {
	return ocispec.Platform{OS: goruntime.GOOS, Architecture: goruntime.GOARCH}
}

// runsToo lists architectures that a CPU runs beside its own.
var runsToo = map[string]string{"amd64": "386", "arm64": "arm"}

// Runs reports whether host runs what was made for p. An image that does not
// say its architecture is taken for the host's.
func Runs(p, host ocispec.Platform) bool {
	return (p.OS == "" || p.OS == host.OS) &&
		(p.Architecture == "" || p.Architecture == host.Architecture || p.Architecture == runsToo[host.Architecture])
}

// ForOneOf tells whether an image is for one of the platforms. A variant counts
// only where both have one.
func ForOneOf(img Image, platforms []ocispec.Platform) bool {
	is := img.Platform()
	return slices.ContainsFunc(platforms, func(p ocispec.Platform) bool {
		return p.OS == is.OS && p.Architecture == is.Architecture && (p.Variant == "" || is.Variant == "" || p.Variant == is.Variant)
	})
}

// FormatPlatform returns p as people write it: "linux/arm64/v8".
func FormatPlatform(p ocispec.Platform) string {
	out := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		out += "/" + p.Variant
	}
	return out
}

// ParsePlatform parses "linux/amd64", "arm64" or "linux/arm/v7".
func ParsePlatform(s string) (ocispec.Platform, error) {
	parts := strings.Split(strings.ToLower(s), "/")
	p := ocispec.Platform{OS: "linux"}
	switch len(parts) {
	case 1:
		p.Architecture = parts[0]
	case 2:
		p.OS, p.Architecture = parts[0], parts[1]
	case 3:
		p.OS, p.Architecture, p.Variant = parts[0], parts[1], parts[2]
	default:
		return p, problem.New(problem.Invalid, "platform %q: want os/architecture", s)
	}
	if p.OS == "" || p.Architecture == "" {
		return p, problem.New(problem.Invalid, "platform %q: want os/architecture", s)
	}
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	case "i386", "i686":
		p.Architecture = "386"
	}
	if p.Architecture == "arm64" && p.Variant == "v8" {
		p.Variant = ""
	}
	return p, nil
}

// CheckPlatform refuses an image that says it is for another CPU. name is what
// the user called it.
func CheckPlatform(img Image, name string) error {
	if Runs(img.Platform(), Host()) {
		return nil
	}
	return wrongPlatform("image "+name, FormatPlatform(img.Platform()))
}

func wrongPlatform(what, is string) error {
	return problem.New(problem.Invalid, "%s is for %s, this host is %s", what, is, FormatPlatform(Host()))
}

// elfArchitectures are the names of the CPUs that Linux containers are made for.
var elfArchitectures = map[elf.Machine]string{
	elf.EM_X86_64: "amd64", elf.EM_386: "386", elf.EM_AARCH64: "arm64", elf.EM_ARM: "arm",
	elf.EM_RISCV: "riscv64", elf.EM_PPC64: "ppc64le", elf.EM_S390: "s390x", elf.EM_MIPS: "mips64le",
	elf.EM_LOONGARCH: "loong64",
}

// ELFArchitecture returns the architecture that an executable's first bytes
// name (20 are enough), or false if they are not those of an ELF file.
func ELFArchitecture(head []byte) (string, bool) {
	if len(head) < 20 || string(head[:4]) != elf.ELFMAG {
		return "", false
	}
	machine := elf.Machine(uint16(head[18]) | uint16(head[19])<<8)
	if elf.Data(head[elf.EI_DATA]) == elf.ELFDATA2MSB {
		machine = elf.Machine(uint16(head[19]) | uint16(head[18])<<8)
	}
	if name, ok := elfArchitectures[machine]; ok {
		return name, true
	}
	return machine.String(), true
}

// CheckRuns refuses an image that is not for this host's CPU: by what it says of
// itself, and by the command that is to run in it. It looks once for each image
// and command. name is what the user called the image.
func (s *Store) CheckRuns(img Image, name string, args []string) error {
	if err := CheckPlatform(img, name); err != nil || len(args) == 0 {
		return err
	}
	k := img.ID.String() + " " + args[0]
	s.mu.Lock()
	seen := s.runs[k]
	s.mu.Unlock()
	if seen {
		return nil
	}
	root, err := s.OpenRoot(img.Layers)
	if err != nil {
		return err
	}
	err = CheckExecutable(root, name, args, img.Config.Config.Env, img.Config.Config.WorkingDir)
	if err = errors.Join(err, root.Close()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.runs) >= maxRuns {
		clear(s.runs)
	}
	s.runs[k] = true
	return nil
}

// maxRuns bounds what CheckRuns remembers.
const maxRuns = 10_000

// CheckExecutable refuses a command whose binary is made for another CPU. args,
// env and dir are the container's; root is its file system. A command that is
// not found, or is no binary, is for others to report.
func CheckExecutable(root *tree.Root, name string, args, env []string, dir string) error {
	if len(args) == 0 {
		return nil
	}
	file, ok := lookPath(root, args[0], env, dir)
	if !ok {
		return nil
	}
	f, err := root.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	head := make([]byte, 20)
	if _, err := io.ReadFull(f, head); err != nil {
		return nil // too short to be a binary
	}
	arch, ok := ELFArchitecture(head)
	if !ok || Runs(ocispec.Platform{Architecture: arch}, Host()) {
		return nil
	}
	return wrongPlatform(fmt.Sprintf("image %s: %s", name, file), "linux/"+arch)
}

// lookPath finds a command as execvp does.
func lookPath(root *tree.Root, command string, env []string, dir string) (string, bool) {
	if strings.Contains(command, "/") {
		if !path.IsAbs(command) {
			command = path.Join("/", dir, command)
		}
		return command, true
	}
	for _, d := range strings.Split(searchPath(env), ":") {
		file := path.Join("/", d, command)
		st, err := root.Stat(file)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 != 0 {
			return file, true
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return "", false
		}
	}
	return "", false
}

// DefaultPath is the PATH of a container whose image names none.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func searchPath(env []string) string {
	found := DefaultPath
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			found = v
		}
	}
	return found
}

func isSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// random returns a name that nobody else has.
func random() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
