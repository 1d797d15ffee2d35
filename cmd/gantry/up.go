package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"gantry/internal/control"
	"gantry/internal/instance"
	"gantry/internal/problem"
	"gantry/internal/settings"
)

func upCommand() *cobra.Command {
	var flags *settings.Flags
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the server in the background and wait until it is ready",
		Long: `Start the server in the background and wait until it is ready.

A server that "gantry down" stopped comes back with the settings that it had,
unless flags say otherwise, and brings back everything that ran.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.Read()
			if err != nil {
				return err
			}
			if len(flags.Given()) == 0 {
				if cfg, _, err = instance.Find(cfg.Name); err != nil {
					return err
				}
			}
			return up(cmd.Context(), cfg)
		},
	}
	flags = settings.Register(cmd.Flags())
	// The global flag of this name is hidden by the server's.
	return cmd
}

func up(ctx context.Context, cfg instance.Config) error {
	status, err := control.NewClient(cfg.ControlSocket()).Status(ctx)
	if err == nil {
		fmt.Printf("%s is %s already (pid %d)\n", cfg.Name, status.Phase, status.PID)
		return nil
	}
	if os.Geteuid() != 0 {
		return &problem.UserError{Op: "start", Object: cfg.Name, Err: problem.New(problem.Denied, "the server needs to be root"), Try: "run it with sudo"}
	}
	begun := time.Now()
	reports, server, err := launch(cfg)
	if err != nil {
		return err
	}
	defer reports.Close()
	interrupted := context.AfterFunc(ctx, func() { _ = server.Process.Signal(syscall.SIGTERM) }) // it may have ended
	defer interrupted()
	last, err := follow(reports)
	switch {
	case ctx.Err() != nil:
		_ = server.Wait() // the signal above ends it
		return context.Cause(ctx)
	case err != nil:
		return err
	case last.Phase != control.Running:
		return died(cfg, last, server.Wait())
	}
	if err := server.Process.Release(); err != nil {
		return err
	}
	fmt.Printf("%s is ready after %s\n", cfg.Name, seconds(time.Since(begun)))
	for _, note := range last.Notes {
		fmt.Printf("  note: %s\n", note)
	}
	return nil
}

// launch starts the daemon in a session of its own, with its output in the log
// file, and returns the pipe by which it tells how far it is.
func launch(cfg instance.Config) (*os.File, *exec.Cmd, error) {
	program, err := companion("gantryd")
	if err != nil {
		return nil, nil, &problem.UserError{Op: "start", Object: cfg.Name, Err: problem.New(problem.NotFound, "there is no gantryd beside this program nor on PATH"), Try: "copy gantryd and gantry-shim beside gantry"}
	}
	log, err := openLog(cfg)
	if err != nil {
		return nil, nil, err
	}
	defer log.Close()
	read, write, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer write.Close()
	server := exec.Command(program, append([]string{"server"}, settings.Arguments(cfg)...)...)
	server.Stdout, server.Stderr, server.Dir = log, log, "/"
	server.ExtraFiles = []*os.File{write}                                   // becomes descriptor 3
	server.Env = append(withoutNotify(os.Environ()), "GANTRYD_STATUS_FD=3") // cmd/gantryd reads it
	server.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := server.Start(); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("start %s: %w", program, err), read.Close())
	}
	return read, server, nil
}

// withoutNotify removes the socket of a service manager whose service is this
// command and not the server.
func withoutNotify(environment []string) []string {
	var kept []string
	for _, v := range environment {
		if !strings.HasPrefix(v, "NOTIFY_SOCKET=") {
			kept = append(kept, v)
		}
	}
	return kept
}

// openLog opens the server's log; the log of the start before is kept beside it.
func openLog(cfg instance.Config) (*os.File, error) {
	path := cfg.LogFile()
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, err
	}
	if err := os.Rename(path, path+".1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|syscall.O_CLOEXEC, 0o640)
}

// follow shows the steps of the start until the server is ready or gone, and
// returns the last that it said.
func follow(reports io.Reader) (control.Status, error) {
	var last control.Status
	show := newSteps(os.Stdout)
	shown, open := 0, false
	lines := json.NewDecoder(reports)
	for {
		var next control.Status
		err := lines.Decode(&next)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			if open {
				show.Fail()
			}
			return last, nil
		}
		if err != nil {
			return last, fmt.Errorf("follow the start: %w", err)
		}
		last = next
		for shown < len(last.Steps) {
			step := last.Steps[shown]
			if !open {
				show.Begin(step.Name)
				open = true
			}
			if step.Took == 0 {
				break
			}
			open = false
			shown++
			if step.Error != "" {
				show.Fail()
			} else {
				show.Done("")
			}
		}
	}
}

// died explains why the server is gone: by what it said last, else by the end
// of its log.
func died(cfg instance.Config, last control.Status, exit error) error {
	failure := &problem.UserError{Op: "start", Object: cfg.Name, Try: last.Try}
	if last.Error != "" {
		failure.Err = problem.New(problem.Unavailable, "%s", last.Error)
	} else {
		failure.Err = problem.New(problem.Unavailable, "the server ended (%v); the end of %s:\n%s", exit, cfg.LogFile(), tail(cfg.LogFile(), 15))
	}
	if failure.Try == "" {
		failure.Try = "run \"gantry doctor\", and look at " + cfg.LogFile()
	}
	return failure
}

// tail returns the last n lines of a file, indented.
func tail(path string, n int) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	var last []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		last = append(last, "    "+lines.Text())
		if len(last) > n {
			last = last[1:]
		}
	}
	return strings.Join(last, "\n")
}
