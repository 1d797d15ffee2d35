package main

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"gantry/engine/container/oci"
	"gantry/internal/problem"
)

// createFlags declares what create and run have in common. The function that is
// returned is called after parsing.
func (c *call) createFlags() func(id string) (oci.CreateOptions, error) {
	bundle := c.textFlag("directory with config.json; default is the current one", ".", "bundle", "b")
	console := c.flags.String("console-socket", "", "socket that gets the terminal")
	pidFile := c.flags.String("pid-file", "", "file that gets the process id")
	noPivot := c.flags.Bool("no-pivot", false, "move the root instead of pivoting, for a host on a ramdisk")
	noKeyring := c.flags.Bool("no-new-keyring", false, "stay in the session keyring")
	preserve := c.flags.Int("preserve-fds", 0, "number of descriptors after stderr that the process gets")
	return func(id string) (oci.CreateOptions, error) {
		listen, err := listenFds()
		if err != nil {
			return oci.CreateOptions{}, err
		}
		o := oci.CreateOptions{ID: id, Bundle: *bundle, ConsoleSocket: *console, PidFile: *pidFile, NoPivot: *noPivot,
			NoKeyring: *noKeyring, PreservedFds: *preserve + listen, ListenFds: listen}
		return o, keepFds(o.PreservedFds)
	}
}

// listenFds is the number of sockets that systemd's protocol passes.
func listenFds() (int, error) {
	text := os.Getenv("LISTEN_FDS")
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, problem.New(problem.Invalid, "LISTEN_FDS is %q", text)
	}
	return n, nil
}

// keepFds checks that n descriptors were passed after stderr, and closes what
// else was: a created container would hold it open. Called before this process
// opens any.
func keepFds(n int) error {
	for fd := 3; fd < 3+n; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			return problem.New(problem.Invalid, "please check that preserved-fd %d (of %d) is present: %w", fd-3, n, err)
		}
	}
	return unix.CloseRange(uint(3+n), ^uint(0)>>32, 0)
}

func create(c *call) (int, error) {
	c.quiet = true
	options := c.createFlags()
	args, err := c.parse(1, 1)
	if err != nil {
		return 1, err
	}
	o, err := options(args[0])
	if err != nil {
		return 1, err
	}
	r, err := c.runtime()
	if err != nil {
		return 1, err
	}
	return 0, r.Create(o)
}

func run(c *call) (int, error) {
	options := c.createFlags()
	detach := c.boolFlag("do not wait for the container's end", "detach", "d")
	keep := c.flags.Bool("keep", false, "do not delete the container after its end")
	noSubreaper := c.flags.Bool("no-subreaper", false, "do not adopt the container's orphans")
	args, err := c.parse(1, 1)
	if err != nil {
		return 1, err
	}
	c.quiet = *detach
	o, err := options(args[0])
	if err != nil {
		return 1, err
	}
	r, err := c.runtime()
	if err != nil {
		return 1, err
	}
	return r.Run(oci.RunOptions{CreateOptions: o, Detach: *detach, Keep: *keep, NoSubreaper: *noSubreaper})
}
