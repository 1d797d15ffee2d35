package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"gantry/engine/container/oci"
	"gantry/internal/problem"
)

// execErrorCode is runc's for an exec that failed itself.
const execErrorCode = 255

func exec(c *call) (int, error) {
	var o oci.ExecOptions
	c.flags.StringVar(&o.ConsoleSocket, "console-socket", "", "socket that gets the terminal")
	c.flags.StringVar(&o.PidFile, "pid-file", "", "file that gets the process id")
	c.flags.IntVar(&o.PreservedFds, "preserve-fds", 0, "number of descriptors after stderr that the process gets")
	c.flags.BoolVar(&o.IgnorePaused, "ignore-paused", false, "also in a paused container")
	detach := c.boolFlag("do not wait for the process's end", "detach", "d")
	file := c.textFlag("file with the process, as in config.json", "", "process", "p")
	edit := c.processFlags()
	args, err := c.parse(1, -1)
	if err != nil {
		return execErrorCode, err
	}
	o.Detach, c.quiet = *detach, *detach
	if err := keepFds(o.PreservedFds); err != nil {
		return execErrorCode, err
	}
	r, err := c.runtime()
	if err != nil {
		return execErrorCode, err
	}
	ctn, err := r.Open(args[0])
	if err != nil {
		return execErrorCode, err
	}
	var process *specs.Process
	if *file != "" {
		process, err = readProcess(*file)
	} else if process, err = ctn.DefaultProcess(); err == nil {
		err = edit(process, args[1:])
	}
	if err != nil {
		return execErrorCode, err
	}
	code, err := ctn.Exec(process, o)
	if err != nil {
		return execErrorCode, fmt.Errorf("exec failed: %w", err)
	}
	return code, nil
}

func readProcess(file string) (*specs.Process, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var p specs.Process
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, problem.New(problem.Invalid, "%s: %w", file, err)
	}
	return &p, nil
}

// processFlags declares the flags that make the container's own process exec's.
func (c *call) processFlags() func(p *specs.Process, args []string) error {
	cwd := c.flags.String("cwd", "", "working directory")
	env := c.listFlag("environment variable, NAME=VALUE", "env", "e")
	tty := c.boolFlag("allocate a terminal", "tty", "t")
	user := c.textFlag("UID[:GID]", "", "user", "u")
	groups := c.listFlag("additional group id", "additional-gids", "g")
	selinux := c.flags.String("process-label", "", "SELinux label")
	apparmor := c.flags.String("apparmor", "", "AppArmor profile")
	noNew := c.flags.Bool("no-new-privs", false, "set no_new_privs")
	caps := c.listFlag("additional capability", "cap", "c")
	cgroups := c.listFlag("not supported", "cgroup")
	return func(p *specs.Process, args []string) error {
		if len(args) == 0 {
			return problem.New(problem.Invalid, "exec needs a command, or --process")
		}
		if len(*cgroups) > 0 {
			return problem.New(problem.Unsupported, "--cgroup is not supported")
		}
		p.Args, p.Terminal = args, *tty
		p.Env = append(p.Env, *env...)
		replace(&p.Cwd, *cwd)
		replace(&p.SelinuxLabel, *selinux)
		replace(&p.ApparmorProfile, *apparmor)
		p.NoNewPrivileges = p.NoNewPrivileges || *noNew
		addCapabilities(p, *caps)
		return setUser(&p.User, *user, *groups)
	}
}

func replace(to *string, from string) {
	if from != "" {
		*to = from
	}
}

func setUser(u *specs.User, user string, groups []string) error {
	number := func(text string) (uint32, error) {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil || n == math.MaxUint32 {
			return 0, problem.New(problem.Invalid, "user or group id %q is no number", text)
		}
		return uint32(n), nil
	}
	var err error
	if user != "" {
		uid, gid, both := strings.Cut(user, ":")
		if u.UID, err = number(uid); err != nil {
			return err
		}
		if both {
			if u.GID, err = number(gid); err != nil {
				return err
			}
		}
	}
	for _, g := range groups {
		n, err := number(g)
		if err != nil {
			return err
		}
		u.AdditionalGids = append(u.AdditionalGids, n)
	}
	return nil
}

// addCapabilities adds to the sets that an exec's process may use, as runc does.
func addCapabilities(p *specs.Process, caps []string) {
	if len(caps) == 0 {
		return
	}
	c := specs.LinuxCapabilities{}
	if p.Capabilities != nil {
		c = *p.Capabilities
	}
	for _, list := range []*[]string{&c.Bounding, &c.Effective, &c.Permitted} {
		*list = slices.Concat(*list, caps)
	}
	p.Capabilities = &c
}
