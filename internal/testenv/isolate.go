package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// isolated marks the process that Isolate started.
const isolated = "GANTRY_TEST_ISOLATED"

// Isolate runs the tests of m in a network and a mount namespace of their own,
// with lo up, by running the test binary again in them. Its result is for
// os.Exit:
//
//	func TestMain(m *testing.M) { os.Exit(testenv.Isolate(m)) }
//
// Without root the tests run where they are; those that need more say so by
// NeedRoot.
func Isolate(m *testing.M) int {
	if os.Geteuid() != 0 {
		return m.Run()
	}
	if os.Getenv(isolated) != "" {
		// As the daemon does: the main thread never ends, so a goroutine that
		// enters a namespace on it would hold that namespace for good.
		runtime.LockOSThread()
		if err := prepareIsolated(); err != nil {
			fmt.Fprintln(os.Stderr, "isolate tests:", err)
			return 1
		}
		return m.Run()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), isolated+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "isolate tests:", err)
		return 1
	}
	return 0
}

func prepareIsolated() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}
