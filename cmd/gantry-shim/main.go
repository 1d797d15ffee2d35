// Command gantry-shim is the parent of one container's processes. gantryd
// starts it, and it outlives gantryd; it is not started by hand.
//
// gantry-shim oci COMMAND ... is gantry-oci beside it, which is a program of its
// own so that this one stays small. As /sbin/docker-init it is process 1 of a
// container with --init.
package main

import (
	"os"
	"strings"
	"syscall"

	"gantry/engine/container/reaper"
	"gantry/engine/container/shim"
)

func main() {
	if os.Args[0] == reaper.Path {
		os.Exit(reaper.Run(os.Args[1:]))
	}
	// With one argument alone that is the name of a container.
	if len(os.Args) > 2 && os.Args[1] == "oci" {
		os.Exit(oci())
	}
	os.Exit(shim.Run())
}

// oci becomes gantry-oci; it returns only if it cannot.
func oci() int {
	self, err := os.Readlink("/proc/self/exe")
	if err == nil {
		program := self[:strings.LastIndexByte(self, '/')+1] + "gantry-oci"
		err = syscall.Exec(program, append([]string{program}, os.Args[2:]...), os.Environ())
		self = program
	}
	os.Stderr.WriteString("gantry-shim: run " + self + ": " + err.Error() + "\n")
	return 1
}
