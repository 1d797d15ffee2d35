package image

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"gantry/internal/tree"
)

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
	if s.looked(k) {
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
	s.noteLook(k)
	return nil
}

// looked tells whether a look at an image has found nothing wrong before.
func (s *Store) looked(k string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.runs[k]
}

func (s *Store) noteLook(k string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.runs) >= maxRuns {
		clear(s.runs)
	}
	s.runs[k] = true
}

// maxRuns bounds what CheckRuns and Misfit remember.
const maxRuns = 10_000

// CheckExecutable refuses a command whose binary is made for another CPU. args,
// env and dir are the container's; root is its file system. A command that is
// not found, or is no binary, is for others to report.
func CheckExecutable(root *tree.Root, name string, args, env []string, dir string) error {
	file, arch, ok := program(root, args, env, dir)
	if !ok || Runs(ocispec.Platform{Architecture: arch}, Host()) {
		return nil
	}
	return wrongPlatform(fmt.Sprintf("image %s: %s", name, file), "linux/"+arch)
}

// Misfit says, in words for a user, that what an image runs is made for another
// CPU than the image says it is for; "" if it is not. name is what the user
// called the image. It looks at the command that the image names, or else at its
// shell.
func (s *Store) Misfit(img Image, name string) string {
	says := img.Platform()
	if says.OS != Host().OS || says.Architecture == "" {
		return ""
	}
	k := img.ID.String() + " fits"
	if s.looked(k) {
		return ""
	}
	args := slices.Concat(img.Config.Config.Entrypoint, img.Config.Config.Cmd)
	if len(args) == 0 {
		args = []string{"/bin/sh"}
	}
	root, err := s.OpenRoot(img.Layers)
	if err != nil {
		// Such as of too many layers: who runs it is told; to have it is no error.
		s.log.Debug("looking at the programs of an image", "image", img.ID, "err", err)
		return ""
	}
	defer root.Close()
	file, arch, ok := program(root, args, img.Config.Config.Env, img.Config.Config.WorkingDir)
	if !ok || fits(arch, says.Architecture) {
		s.noteLook(k)
		return ""
	}
	return fmt.Sprintf("image %s says that it is for %s, but its %s is for linux/%s", name, FormatPlatform(says), file, arch)
}

// fits tells whether a binary for arch belongs into an image for says. Those of
// one family differ in byte order and word size, which Architecture leaves out.
func fits(arch, says string) bool {
	for _, family := range []string{"mips", "ppc64", "riscv"} {
		if strings.HasPrefix(arch, family) {
			return strings.HasPrefix(says, family)
		}
	}
	return arch == says || arch == runsToo[says]
}

// maxInterpreters is how many scripts may name each other as interpreters; the
// kernel's bound.
const maxInterpreters = 5

// program finds the binary that a command executes, through the interpreters of
// scripts, and the architecture that it is made for; false if it finds none.
func program(root *tree.Root, args, env []string, dir string) (file, arch string, ok bool) {
	if len(args) == 0 {
		return "", "", false
	}
	file, ok = lookPath(root, args[0], env, dir)
	for range maxInterpreters {
		if !ok {
			return "", "", false
		}
		head := firstBytes(root, file)
		if arch, ok = ELFArchitecture(head); ok {
			return file, arch, true
		}
		file, ok = interpreter(head)
	}
	return "", "", false
}

// firstBytes returns what tells of a file how it is executed.
func firstBytes(root *tree.Root, file string) []byte {
	st, err := root.Stat(file)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	f, err := root.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	head := make([]byte, 256)    // BINPRM_BUF_SIZE
	n, _ := io.ReadFull(f, head) // shorter files have less
	return head[:n]
}

// interpreter returns the program that a script's first line names.
func interpreter(head []byte) (string, bool) {
	line, ok := strings.CutPrefix(string(head), "#!")
	if !ok {
		return "", false
	}
	line, _, _ = strings.Cut(line, "\n")
	words := strings.Fields(line)
	if len(words) == 0 || !path.IsAbs(words[0]) {
		return "", false
	}
	return words[0], true
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
