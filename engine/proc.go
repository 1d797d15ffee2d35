package engine

import (
	"errors"
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

// isGone tells that a read in /proc met a process which has just ended.
func isGone(err error) bool { return errors.Is(err, unix.ESRCH) }

// ownerOf is the user that a file, such as a process's directory, belongs to.
func ownerOf(info fs.FileInfo) int {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return -1
	}
	return int(st.Uid)
}
