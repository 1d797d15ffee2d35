package builder

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	mode "github.com/tonistiigi/dchapes-mode"

	"gantry/internal/problem"
	"gantry/internal/tree"
)

// owner finds the user and group of --chown in the image's files.
func owner(root *tree.Root, spec string) (uid, gid int, err error) {
	if spec == "" {
		return 0, 0, nil
	}
	user, group, both := strings.Cut(spec, ":")
	uid, primary, err := account(root, "/etc/passwd", user)
	if err != nil {
		return 0, 0, fmt.Errorf("error looking up user %s: %w", user, err)
	}
	if !both || group == "" {
		if primary < 0 {
			primary = uid
		}
		return uid, primary, nil
	}
	gid, _, err = account(root, "/etc/group", group)
	if err != nil {
		return 0, 0, fmt.Errorf("error looking up group %s: %w", group, err)
	}
	return uid, gid, nil
}

// maxAccounts bounds the length of an image's passwd and group files.
const maxAccounts = 16 << 20

// account finds a name in passwd or group: its number, and the number after
// that, which in passwd is the primary group; -1 when unknown.
func account(root *tree.Root, file, name string) (id, next int, err error) {
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(n), -1, nil
	}
	b, err := root.ReadFile(file, maxAccounts)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, 0, err
	}
	for line := range bytes.Lines(b) {
		f := strings.Split(strings.TrimSpace(string(line)), ":")
		if len(f) < 3 || f[0] != name {
			continue
		}
		n, err := strconv.ParseUint(f[2], 10, 31)
		if err != nil {
			return 0, 0, problem.New(problem.Invalid, "%s: %s has number %q", file, name, f[2])
		}
		next = -1
		if len(f) > 3 {
			if g, err := strconv.ParseUint(f[3], 10, 31); err == nil {
				next = int(g)
			}
		}
		return int(n), next, nil
	}
	return 0, 0, problem.New(problem.NotFound, "no such name in %s of the image", file)
}

// isName reports whether a user or group is given by its name.
func isName(s string) bool {
	_, err := strconv.ParseUint(s, 10, 31)
	return s != "" && err != nil
}

// chmod gives a file, or a directory, another mode.
type chmod func(mode int64, dir bool) int64

// parseChmod parses --chmod: an octal number, or a symbolic mode of chmod(1).
// It returns nil for the empty string.
func parseChmod(s string) (chmod, error) {
	if s == "" {
		return nil, nil
	}
	n, err := strconv.ParseUint(s, 8, 32)
	if err == nil && n <= 0o7777 {
		return func(int64, bool) int64 { return int64(n) }, nil
	}
	set, perr := mode.Parse(s)
	var number *strconv.NumError
	if err == nil || errors.As(perr, &number) {
		return nil, problem.New(problem.Invalid, "invalid chmod parameter: '%s'. it should be octal string and between 0 and 07777", s)
	}
	if perr != nil {
		return nil, problem.New(problem.Invalid, "invalid chmod parameter: '%s': %w", s, perr)
	}
	return func(m int64, dir bool) int64 {
		kind := byte(tar.TypeReg)
		if dir {
			kind = tar.TypeDir
		}
		was := (&tar.Header{Mode: m, Typeflag: kind}).FileInfo().Mode()
		return modeBits(set.Apply(was))
	}, nil
}

// modeBits is a mode as in tar.
func modeBits(m fs.FileMode) int64 {
	bits := int64(m.Perm())
	for flag, bit := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&flag != 0 {
			bits |= bit
		}
	}
	return bits
}
