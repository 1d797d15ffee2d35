package builder

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

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

// parseChmod parses --chmod.
func parseChmod(s string) (*int64, error) {
	if s == "" {
		return nil, nil
	}
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o7777 {
		return nil, problem.New(problem.Invalid, "invalid chmod parameter: '%s'. it should be octal string and between 0 and 07777", s)
	}
	mode := int64(n)
	return &mode, nil
}
