package apparmor

import "strings"

// defaultProfile is the text of the default profile. Its rules are those of the
// reference (moby/profiles, apparmor): a dockerd on the same host, which finds a
// profile of that name, uses this one, and the reverse. daemon is the profile of
// who signals containers; has tells whether a file can be included.
func defaultProfile(daemon string, has func(part string) bool) string {
	var b strings.Builder
	if has("abi/3.0") {
		// By later ones "network" does not include Unix sockets.
		b.WriteString("abi <abi/3.0>,\n")
	}
	if has("tunables/global") {
		b.WriteString("include <tunables/global>\n")
	} else {
		b.WriteString("@{PROC}=/proc/\n")
	}
	b.WriteString("profile " + Default + " flags=(attach_disconnected,mediate_deleted) {\n")
	if has("abstractions/base") {
		b.WriteString("  include <abstractions/base>\n")
	}
	b.WriteString(strings.NewReplacer("DAEMON", daemon, "SELF", Default).Replace(rules))
	b.WriteString("}\n")
	return b.String()
}

// rules are the profile's own. Capabilities, devices and most paths are left to
// the container's other limits.
const rules = `
  network,
  capability,
  file,
  umount,

  # Signals: from the host, from runtimes that have profiles of their own, from
  # the daemon, and among the processes that have this profile.
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (receive) peer=DAEMON,
  signal (send,receive) peer=SELF,

  # ps reads what other processes of the container are.
  ptrace (trace,read,tracedby,readby) peer=SELF,

  deny mount,

  # Of /proc, processes' own directories and shm* of sys/kernel are written to.
  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9/],[^1-9/][^0-9/],[^1-9s/][^0-9y/][^0-9s/],[^1-9/][^0-9/][^0-9/][^0-9/]*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,

  # Of /sys, only fs/cgroup is written to; some is not even read.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
`
