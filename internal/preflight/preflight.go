// Package preflight finds out whether a host can run a server, by trying what
// the server will do rather than by reading versions: namespaces, overlay
// mounts, links and nftables are tried in throw-away namespaces, cgroups in a
// throw-away group. Nothing stays behind.
//
// It imports little, because the command line, which starts in milliseconds,
// runs it too.
package preflight

import (
	"fmt"
	"os"
	"strings"

	"gantry/internal/instance"
	"gantry/internal/problem"
)

// Result is the outcome of one check.
type Result struct {
	Name     string
	Err      error  // nil: the host has it
	Detail   string // what was seen, when Err is nil
	Fix      string // the exact command or setting that makes it work
	Required bool   // without it a server cannot run at all
}

// A check returns what it saw, or an error and what to do about it.
type check struct {
	name     string
	required bool
	run      func(instance.Config) (detail, fix string, err error)
}

func checks() []check {
	return []check{
		{"root", true, asRoot},
		{"kernel", true, kernelVersion},
		{"namespaces", true, namespaces},
		{"overlay", true, overlay},
		{"cgroups", true, cgroups},
		{"bridge", true, link("bridge")},
		{"veth", true, link("veth")},
		{"nftables", true, nftables},
		{"seccomp", false, seccomp},
		{"inotify instances", false, sysctlAtLeast("fs.inotify.max_user_instances", 128, 512)},
		{"inotify watches", false, sysctlAtLeast("fs.inotify.max_user_watches", 8192, 524288)},
		{"open files", false, openFiles},
		{"processes", false, sysctlAtLeast("kernel.pid_max", 32768, 4194304)},
		{"disk", false, disk},
		{"api port", false, apiPort},
		{"http port", false, httpPort},
	}
}

// All runs every check.
func All(cfg instance.Config) []Result {
	var results []Result
	for _, c := range checks() {
		results = append(results, c.result(cfg))
	}
	return results
}

// Required runs the checks without which a server cannot run, and returns a
// *problem.UserError that names the first that fails and how to mend it.
func Required(cfg instance.Config) error {
	for _, c := range checks() {
		if !c.required {
			continue
		}
		if r := c.result(cfg); r.Err != nil {
			return &problem.UserError{Op: "preflight", Object: r.Name, Err: r.Err, Try: r.Fix}
		}
	}
	return nil
}

func (c check) result(cfg instance.Config) Result {
	detail, fix, err := c.run(cfg)
	r := Result{Name: c.name, Err: err, Detail: detail, Required: c.required}
	if err != nil {
		r.Fix = fix
	}
	return r
}

func asRoot(instance.Config) (detail, fix string, err error) {
	if os.Geteuid() != 0 {
		return "", "run it as root, for instance with sudo", problem.New(problem.Denied, "this is user %d", os.Geteuid())
	}
	return "yes", "", nil
}

// minKernel has clone3 into a cgroup, pidfds, the mount API, openat2 and
// nftables' maps of verdicts.
const minKernel = "5.10"

func kernelVersion(instance.Config) (detail, fix string, err error) {
	data, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "", "mount proc: mount -t proc proc /proc", err
	}
	release := strings.TrimSpace(string(data))
	if older(release, minKernel) {
		return "", "install Linux " + minKernel + " or newer", problem.New(problem.Unsupported, "Linux %s is too old", release)
	}
	return release, "", nil
}

// older compares the first two numbers of two kernel releases.
func older(release, than string) bool {
	var a, b [2]int
	_, errA := fmt.Sscanf(release, "%d.%d", &a[0], &a[1])
	_, errB := fmt.Sscanf(than, "%d.%d", &b[0], &b[1])
	if errA != nil || errB != nil {
		return false // a release of another form: the other checks decide
	}
	return a[0] < b[0] || a[0] == b[0] && a[1] < b[1]
}
