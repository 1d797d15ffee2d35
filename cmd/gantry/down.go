package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"gantry/internal/control"
	"gantry/internal/instance"
	"gantry/internal/problem"
	"gantry/internal/settings"
)

func downCommand() *cobra.Command {
	var keep, purge bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the containers and the server; \"gantry up\" brings everything back",
		Long: `Stop the containers, gracefully, and then the server. "gantry up" brings
everything back as it was: pods by what the cluster wants, other containers if
they were running.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := found(cmd)
			if err != nil {
				return err
			}
			if keep && purge {
				return problem.New(problem.Invalid, "--keep and --purge contradict each other")
			}
			return down(cmd.Context(), cfg, keep, purge)
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the containers running, as for an upgrade of the server")
	cmd.Flags().BoolVar(&purge, "purge", false, "remove all traces as well: data, images, volumes, networks")
	return cmd
}

func down(ctx context.Context, cfg instance.Config, keep, purge bool) error {
	show := newSteps(os.Stdout)
	client, status, err := running(ctx, cfg)
	switch {
	case errors.Is(err, problem.Unavailable):
		if !purge {
			fmt.Printf("%s is not running\n", cfg.Name)
			return nil
		}
	case err != nil:
		return err
	default:
		cfg = status.Instance
		fate := control.Stop
		switch {
		case keep:
			fate = control.Keep
		case purge:
			fate = control.Kill // nothing of theirs will be left
		}
		if err := stop(ctx, show, client, status, fate); err != nil {
			return err
		}
	}
	if !purge {
		return nil
	}
	return removeTraces(ctx, show, cfg)
}

// stop asks the server to stop and waits until its process is gone.
func stop(ctx context.Context, show *steps, client *control.Client, status control.Status, containers control.Fate) error {
	show.Begin("stop")
	if containers == control.Stop {
		show.Detail("containers have their grace period to end")
	}
	process, err := unix.PidfdOpen(status.PID, 0)
	if err != nil {
		show.Fail()
		return fmt.Errorf("watch process %d: %w", status.PID, err)
	}
	defer unix.Close(process)
	if err := client.Stop(ctx, containers); err != nil {
		show.Fail()
		return err
	}
	if err := waitForEnd(ctx, process); err != nil {
		show.Fail()
		return err
	}
	if containers == control.Keep {
		show.Done("the server has stopped, the containers go on running")
	} else {
		show.Done("the containers and the server have stopped")
	}
	return nil
}

// waitForEnd returns when the process of the pidfd has ended.
func waitForEnd(ctx context.Context, process int) error {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(wake)
	stop := context.AfterFunc(ctx, func() { _, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }) // cannot be full
	defer stop()
	fds := []unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return nil
	}
}

// removeTraces has the daemon's program remove what is left: it knows the
// kernel's side.
func removeTraces(ctx context.Context, show *steps, cfg instance.Config) error {
	program, err := companion("gantryd")
	if err != nil {
		return &problem.UserError{Op: "purge", Object: cfg.Name, Err: err, Try: "copy gantryd beside gantry"}
	}
	show.Begin("purge")
	purge := exec.CommandContext(ctx, program, append([]string{"purge"}, settings.Arguments(cfg)...)...)
	purge.Cancel = func() error { return purge.Process.Signal(unix.SIGTERM) }
	purge.WaitDelay = 10 * time.Second
	output, err := purge.CombinedOutput()
	if err != nil {
		show.Output(strings.TrimSpace(string(output)))
		show.Fail()
		return errSaid
	}
	show.Done("nothing of %s is left on this host", cfg.Name)
	return nil
}
