package engine

import (
	"bytes"
	"errors"
	"io/fs"

	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gantry/internal/problem"
)

// account is a user as a process of a container has it.
type account struct {
	User specs.User
	Home string
}

// lookUp resolves a user as the image's configuration and requests write it
// ("", "name", "uid", "name:group", "uid:gid") with the container's own
// /etc/passwd and /etc/group. groups are further ones, by name or number.
func (l layers) lookUp(spec string, groups []string) (account, error) {
	passwd, err := l.userFile("etc/passwd")
	if err != nil {
		return account{}, err
	}
	group, err := l.userFile("etc/group")
	if err != nil {
		return account{}, err
	}
	return resolveUser(spec, groups, passwd, group)
}

func (l layers) userFile(path string) ([]byte, error) {
	data, err := l.readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

func resolveUser(spec string, groups []string, passwd, group []byte) (account, error) {
	found, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return account{}, problem.New(problem.Invalid, "%w", err)
	}
	more, err := user.GetAdditionalGroups(groups, bytes.NewReader(group))
	if err != nil {
		return account{}, problem.New(problem.Invalid, "%w", err)
	}
	a := account{Home: found.Home}
	a.User.UID, a.User.GID = uint32(found.Uid), uint32(found.Gid)
	seen := map[int]bool{}
	for _, gid := range append(append([]int{found.Gid}, found.Sgids...), more...) {
		if !seen[gid] {
			seen[gid] = true
			a.User.AdditionalGids = append(a.User.AdditionalGids, uint32(gid))
		}
	}
	return a, nil
}
