package container

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"gantry/internal/problem"
)

// foreign is what is done without a container's shim that speaks no version of
// the protocol that this engine speaks, as after a downgrade. The container runs
// on; signals reach its first process, its end is known by the exit record. What
// only the shim can do is refused with err.
type foreign struct {
	err   error
	pid   int    // of the first process
	start uint64 // of the process, in the kernel's ticks since boot
}

// foreignError is the error of a shim with which no version is shared.
func (r *Runtime) foreignError(id string, newest uint32) error {
	than := "an older"
	if newest > r.versions.Newest {
		than = "a newer"
	}
	return problem.New(problem.Unsupported, "container %s was started by %s Gantry, whose shim speaks version %d of its protocol and not %d to %d",
		id, than, newest, r.versions.Oldest, r.versions.Newest)
}

// adoptForeign takes up a container whose shim has refused to speak. The
// connection stays: its end tells of the shim's.
func (c *Container) adoptForeign(refusal error) error {
	pid, start, err := c.firstProcess()
	if err != nil {
		return err
	}
	c.r.log.Warn("container runs on, and can only be signalled and waited for", "container", c.state.ID, "err", refusal)
	c.foreign = &foreign{err: refusal, pid: pid, start: start}
	c.pid, c.started = pid, true
	return nil
}

// firstProcess finds the container's first process, the oldest in its cgroup; 0
// if there is none any more.
func (c *Container) firstProcess() (pid int, start uint64, err error) {
	pids, err := c.group.Pids()
	if err != nil {
		return 0, 0, err
	}
	for _, p := range pids {
		if began, err := startTime(p); err == nil && (pid == 0 || began < start) {
			pid, start = p, began
		}
	}
	return pid, start, nil
}

// startTime is when a process began, in the kernel's ticks since boot.
func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// proc_pid_stat(5): the name, in parentheses, may hold anything.
	const afterName = 19
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= afterName {
		return 0, fmt.Errorf("process %d: stat has %d fields", pid, len(fields))
	}
	return strconv.ParseUint(string(fields[afterName]), 10, 64)
}

// signal sends sig to the first process. Conflict if it has ended.
func (f *foreign) signal(sig unix.Signal) error {
	gone := problem.New(problem.Conflict, "the process has ended")
	if f.pid == 0 {
		return gone
	}
	fd, err := unix.PidfdOpen(f.pid, 0)
	if err == unix.ESRCH {
		return gone
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// Open, it keeps the pid from being another's from here on.
	if start, err := startTime(f.pid); err != nil || start != f.start {
		return gone
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != unix.ESRCH {
		return err
	}
	return gone
}
