package oci

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"gantry/engine/container/program"
	"gantry/engine/container/wire"
)

// users are the user namespaces made for mounts that map users, by their maps.
type users struct {
	open map[string]*os.File
}

// path is a plan's UserNamespace: a process is born in a namespace, mapped, and
// let go when the namespace is open.
func (u *users) path(uids, gids string) (string, error) {
	key := uids + "/" + gids
	if u.open == nil {
		u.open = map[string]*os.File{}
	}
	f := u.open[key]
	if f == nil {
		var err error
		if f, err = userNamespace(uids, gids); err != nil {
			return "", fmt.Errorf("make a user namespace: %w", err)
		}
		u.open[key] = f
	}
	return "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(int(f.Fd())), nil
}

func (u *users) close() {
	for _, f := range u.open {
		f.Close()
	}
}

func userNamespace(uids, gids string) (*os.File, error) {
	b := program.NewBuilder()
	l := b.List()
	l.Sync(program.SyncCreated, program.Null)
	l.Raise(unix.ECANCELED)
	c, err := spawn(&wire.Process{Clone: unix.CLONE_NEWUSER, CgroupReg: -1, Program: b.Program(b.List(), l, b.List())}, b.Messages(),
		steps{}, [3]int{-1, -1, -1}, -1)
	if err != nil {
		return nil, err
	}
	defer closeAll([]int{c.status, c.release, c.pidfd})
	defer c.kill()
	if _, err := c.next(); err != nil {
		return nil, err
	}
	if err := mapUsers(c.pid, uids, gids); err != nil {
		return nil, err
	}
	return os.Open("/proc/" + strconv.Itoa(c.pid) + "/ns/user")
}
