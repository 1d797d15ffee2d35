// Command gantry-oci runs OCI bundles with runc's command line, for programs
// that drive an OCI runtime: podman's conmon, containerd's shim. Package
// engine/container/oci does the work. gantry-shim oci ... is the same.
//
// Each command is a process of its own, so nothing may cost time before main.
// The Go runtime is not to look for a cgroup's CPU limit either, whose files it
// would keep open.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"gantry/engine/container/oci"
	"gantry/internal/problem"
	"gantry/internal/version"
)

// command is one of runc's. run declares its flags, parses, works, and returns
// the exit status, which is 1 where it returns an error with status 0.
type command struct {
	name, usage, about string
	run                func(c *call) (int, error)
}

var commands = []command{
	{"create", "[options] ID", "make a container, all but its start", create},
	{"delete", "[--force] ID", "remove a container that has stopped", remove},
	{"events", "[--stats] [--interval D] ID", "show statistics of a container", events},
	{"exec", "[options] ID COMMAND [ARG...] | --process FILE ID", "run a further process in a container", exec},
	{"features", "", "show what this runtime can do", showFeatures},
	{"kill", "[--all] ID [SIGNAL]", "send a signal, by default SIGTERM", kill},
	{"list", "[--format table|json] [--quiet]", "show all containers", list},
	{"pause", "ID", "freeze a container", pause},
	{"ps", "[--format table|json] ID [PS-OPTION...]", "show the processes of a container", ps},
	{"resume", "ID", "thaw a container", resume},
	{"run", "[options] ID", "create and start a container", run},
	{"spec", "[--bundle DIR]", "write a config.json to begin with", spec},
	{"start", "ID", "start a container that was created", start},
	{"state", "ID", "show the state of a container", state},
	{"update", "[options] ID", "change the limits of a container", update},
}

func main() { os.Exit(invoke(os.Args[1:])) }

func invoke(args []string) int {
	log := &logger{}
	global := newFlags("gantry-oci", "[global options] COMMAND ...")
	root := global.String("root", "/run/gantry-oci", "directory of the containers' state")
	logFile := global.String("log", "", "file for messages; default is stderr")
	format := global.String("log-format", "text", "format of messages: text or json")
	global.Bool("debug", false, "log more: there is nothing more")
	systemd := global.Bool("systemd-cgroup", false, "not supported: cgroups are made by their files")
	rootless := global.String("rootless", "auto", "not supported: true")
	var showVersion bool
	global.BoolVar(&showVersion, "version", false, "print the version")
	global.BoolVar(&showVersion, "v", false, "print the version")
	if done, code := parse(global, args); done {
		return code
	}
	if showVersion {
		fmt.Printf("gantry-oci version %s\nspec: %s\n", version.Version, specs.Version)
		return 0
	}
	rest := global.Args()
	if len(rest) == 0 || rest[0] == "help" {
		global.Usage()
		return 0
	}
	i := slices.IndexFunc(commands, func(c command) bool { return c.name == rest[0] })
	if i < 0 {
		fmt.Fprintf(os.Stderr, "No help topic for '%s'\n", rest[0])
		return 3
	}
	cmd := commands[i]
	c := &call{flags: newFlags(cmd.name, cmd.usage), args: rest[1:], log: log, root: *root}
	c.openLog = func() error { return log.open(*logFile, *format) }
	code, err := 0, error(nil)
	switch {
	case *systemd:
		err = problem.New(problem.Unsupported, "--systemd-cgroup is not supported: use cgroupfs (podman --cgroup-manager=cgroupfs)")
	case *rootless == "true":
		err = problem.New(problem.Unsupported, "--rootless is not supported")
	default:
		code, err = cmd.run(c)
	}
	if err == errUsage {
		return max(code, 1)
	}
	if err != nil {
		if log.file == nil {
			if logErr := c.openLog(); logErr != nil {
				fmt.Fprintln(os.Stderr, logErr)
			}
		}
		log.fatal(fmt.Sprintf("gantry-oci %s failed: %v", cmd.name, err))
		return max(code, 1)
	}
	return code
}

// errUsage is an error that was told.
const errUsage = problem.Kind("usage")

// call is one invocation.
type call struct {
	flags   *flag.FlagSet
	args    []string // after the command
	log     *logger
	openLog func() error
	root    string
	quiet   bool // what is not an error goes to a log file only
}

func newFlags(name, usage string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard) // parse tells
	f.Usage = func() { printUsage(f, name, usage) }
	return f
}

func printUsage(f *flag.FlagSet, name, usage string) {
	if name == "gantry-oci" {
		fmt.Printf("Usage: gantry-oci %s\n\nCommands:\n", usage)
		for _, c := range commands {
			fmt.Printf("  %-10s %s\n", c.name, c.about)
		}
	} else {
		fmt.Printf("Usage: gantry-oci %s %s\n", name, usage)
	}
	fmt.Println("\nOptions:")
	f.VisitAll(func(o *flag.Flag) { fmt.Printf("  --%-22s %s\n", o.Name, o.Usage) })
}

// parse says whether there is nothing more to do than to end with code.
func parse(f *flag.FlagSet, args []string) (done bool, code int) {
	usage := f.Usage
	f.Usage = func() {}
	err := f.Parse(args)
	f.Usage = usage
	switch {
	case err == flag.ErrHelp:
		usage()
		return true, 0
	case err != nil:
		fmt.Fprintf(os.Stderr, "Incorrect Usage: %v\n", err)
		return true, 1
	}
	return false, 0
}

// parse reads the command's flags and wants from least to most arguments after
// them; most -1: any number.
func (c *call) parse(least, most int) ([]string, error) {
	if done, code := parse(c.flags, c.args); done {
		if code == 0 {
			os.Exit(0)
		}
		return nil, errUsage
	}
	args := c.flags.Args()
	if len(args) < least || most >= 0 && len(args) > most {
		fmt.Fprintf(os.Stderr, "gantry-oci: %q takes other arguments than %q; see gantry-oci %s --help\n", c.flags.Name(), args, c.flags.Name())
		return nil, errUsage
	}
	return args, nil
}

// runtime opens the log, and not before: what is not inherited by purpose is
// closed when the flags are known.
func (c *call) runtime() (*oci.Runtime, error) {
	if err := c.openLog(); err != nil {
		return nil, err
	}
	warn := c.log.warn
	if c.quiet && c.log.file == nil {
		warn = func(string) {} // stderr is the container's
	}
	return oci.New(oci.Config{Root: c.root, Warn: warn})
}

// container parses the flags and finds the container that the first argument names.
func (c *call) container(least, most int) (*oci.Container, []string, error) {
	args, err := c.parse(least, most)
	if err != nil {
		return nil, nil, err
	}
	r, err := c.runtime()
	if err != nil {
		return nil, nil, err
	}
	ctn, err := r.Open(args[0])
	return ctn, args[1:], err
}

// boolFlag and textFlag declare a flag under several names.
func (c *call) boolFlag(usage string, names ...string) *bool {
	v := new(bool)
	for _, name := range names {
		c.flags.BoolVar(v, name, false, usage)
	}
	return v
}

func (c *call) textFlag(usage, initial string, names ...string) *string {
	v := new(string)
	for _, name := range names {
		c.flags.StringVar(v, name, initial, usage)
	}
	return v
}

// listFlag declares a flag that may come more than once.
func (c *call) listFlag(usage string, names ...string) *[]string {
	v := new([]string)
	for _, name := range names {
		c.flags.Func(name, usage, func(s string) error { *v = append(*v, s); return nil })
	}
	return v
}
