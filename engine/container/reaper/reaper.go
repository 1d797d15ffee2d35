// Package reaper is process 1 of a container with --init: it runs the program
// as its child, passes signals on to it, reaps what is orphaned, and ends as it
// does. It is part of gantry-shim, which the container sees as Path.
//
// What it is like is tini, which is the reference's init: the child leads a
// process group of its own, in the foreground of the terminal if there is one;
// signals that a fault raises are not passed on. Nor is SIGURG, by which Go's
// scheduler wakes its threads.
package reaper

import (
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// Path is where a container sees the program.
const Path = "/sbin/docker-init"

// Exit codes for a program that cannot be started, by the shell's convention.
const (
	notExecutable = 126
	notFound      = 127
)

// Run runs the program that follows "--" in args and returns its exit code:
// 128 and the signal's number if one has ended it.
func Run(args []string) int {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		complain("no program to run")
		return 1
	}
	// Before the child: a signal that comes meanwhile is kept for it.
	signals := make(chan os.Signal, 64) // more at once are merged, as pending ones are
	signal.Notify(signals)
	child, err := start(args)
	if err != nil {
		complain("exec " + args[0] + " failed: " + err.Error())
		if err == syscall.ENOENT {
			return notFound
		}
		return notExecutable
	}
	go forward(signals, child)
	return reap(child)
}

func complain(text string) { _, _ = os.Stderr.WriteString("[FATAL docker-init] " + text + "\n") }

// start starts the program at the first place of the PATH where it may be executed.
func start(args []string) (int, error) {
	attr := &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setpgid: true}}
	if isTerminal(0) {
		attr.Sys.Foreground = true // of descriptor 0
	}
	var last error = syscall.ENOENT
	for _, path := range places(args[0], os.Getenv("PATH")) {
		pid, err := syscall.ForkExec(path, args, attr)
		switch err {
		case nil:
			return pid, nil
		case syscall.ENOENT, syscall.ENOTDIR:
		default:
			last = err
		}
	}
	return 0, last
}

// places are where a program of that name may be.
func places(name, path string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	if path == "" {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	var list []string
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			dir = "."
		}
		list = append(list, dir+"/"+name)
	}
	return list
}

func isTerminal(fd uintptr) bool {
	var group int32
	_, _, e := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCGPGRP, uintptr(unsafe.Pointer(&group)))
	return e == 0
}

// forward passes signals on for as long as the process lives.
func forward(signals <-chan os.Signal, child int) {
	for s := range signals {
		if number, ok := s.(syscall.Signal); ok && passes(number) {
			_ = syscall.Kill(child, number) // it may have ended
		}
	}
}

// passes says whether a signal is meant for the child.
func passes(s syscall.Signal) bool {
	switch s {
	case syscall.SIGCHLD, syscall.SIGURG, syscall.SIGFPE, syscall.SIGILL, syscall.SIGSEGV, syscall.SIGBUS,
		syscall.SIGABRT, syscall.SIGTRAP, syscall.SIGSYS, syscall.SIGTTIN, syscall.SIGTTOU:
		return false
	}
	return true
}

// reap collects every child until the program has ended.
func reap(child int) int {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR || err == nil && pid != child:
		case err != nil:
			complain("wait for process " + strconv.Itoa(child) + ": " + err.Error())
			return 1
		case status.Signaled():
			return 128 + int(status.Signal())
		default:
			return status.ExitStatus()
		}
	}
}
