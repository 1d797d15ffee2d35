package container

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/engine/container/wire"
	"gantry/internal/problem"
)

var stepNames = map[uint32]string{
	wire.StepLog: "open the log", wire.StepStdio: "make stdio", wire.StepClone: "clone", wire.StepTerminal: "take the terminal",
	wire.StepUserMap: "map users", wire.StepSync: "wait for the process", wire.StepKill: "send signal", wire.StepResize: "resize the terminal",
}

// failure is the error that a shim's reply stands for. verb is what was asked
// of it; messages are the texts of the program that it ran.
func failure(r wire.Reply, verb string, messages []string) error {
	errno := unix.Errno(r.B)
	switch r.Failure {
	case wire.OK:
		return nil
	case wire.FailProgram:
		message := ""
		if int(r.A) < len(messages) {
			message = messages[r.A]
		}
		return programError(message, errno, verb)
	case wire.FailErrno:
		return fmt.Errorf("%s: %s: %w", verb, stepNames[r.A], errno)
	case wire.FailState:
		return problem.New(problem.Conflict, "%s: the process is not in a state for it", verb)
	case wire.FailProcess:
		return problem.New(problem.NotFound, "%s: no such process", verb)
	case wire.FailVersion, wire.FailRequest:
	}
	return fmt.Errorf("%s: the shim does not understand the request", verb)
}

// programError is what a user reads when a process cannot be made, in runc's
// words, which clients look into for "executable file not found" and the like.
func programError(message string, errno unix.Errno, verb string) error {
	text := message
	if !strings.HasSuffix(message, "in $PATH") {
		text += ": " + errno.Error()
	}
	if verb == "exec" {
		text = "OCI runtime exec failed: exec failed: unable to start container process: " + text + ": unknown"
	} else {
		text = "OCI runtime create failed: unable to start container process: " + text + ": unknown"
	}
	isExec := strings.HasPrefix(message, "exec")
	switch {
	case isExec && (errno == unix.ENOENT || errno == unix.ENOTDIR):
		return problem.New(problem.NotFound, "%s", text)
	case isExec || strings.HasPrefix(message, "chdir"):
		return problem.New(problem.Denied, "%s", text)
	}
	return fmt.Errorf("%s", text)
}
