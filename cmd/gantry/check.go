package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"gantry/internal/control"
	"gantry/internal/instance"
	"gantry/internal/problem"
	"gantry/internal/settings"
)

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Walk all that the server keeps, and explain each violation",
		Long: `Walk all that the server keeps on disk and in the kernel: images with every
file of their layers, containers, volumes, networks, the build cache, cgroups,
mounts, links and firewall rules, and explain each violation. Of a server that
does not run, what is on disk is looked at. The exit status is 1 if anything is
wrong.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := found(cmd)
			if err != nil {
				return err
			}
			return check(cmd.Context(), cfg)
		},
	}
}

func check(ctx context.Context, cfg instance.Config) error {
	client, _, err := running(ctx, cfg)
	var violations []control.Violation
	switch {
	case err == nil:
		violations, err = client.Check(ctx)
	case errors.Is(err, problem.Unavailable):
		err = askDaemon(ctx, cfg, "check", &violations)
	}
	if err != nil {
		return err
	}
	for _, v := range violations {
		fmt.Printf("%s: %s\n", v.Part, v.Problem)
	}
	if len(violations) > 0 {
		return errSaid
	}
	fmt.Println("nothing is wrong")
	return nil
}

// askDaemon runs a command of the daemon's program, which knows what this one
// must not import, and reads its answer.
func askDaemon(ctx context.Context, cfg instance.Config, command string, into any) error {
	program, err := companion("gantryd")
	if err != nil {
		return &problem.UserError{Op: command, Object: cfg.Name, Err: err, Try: "copy gantryd beside gantry"}
	}
	out, err := exec.CommandContext(ctx, program, append([]string{command}, settings.Arguments(cfg)...)...).Output()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		return fmt.Errorf("%s: %s", command, strings.TrimPrefix(strings.TrimSpace(string(failed.Stderr)), "gantryd: "))
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(out, into)
}
