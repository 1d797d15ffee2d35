// Command gantry-docker is the stock docker command line, built from its own
// packages, for hosts that have none installed. It speaks to the local
// instance's engine unless a daemon is named by --host, --context, DOCKER_HOST
// or DOCKER_CONTEXT.
//
// CLI plug-ins (buildx, compose) are not run; install the stock docker for them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/commands"
	"github.com/docker/cli/cli/version"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"gantry/internal/instance"
)

func main() {
	defaults()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx))
}

// defaults points the client at the local instance where the caller named no
// daemon, and at POST /build, because no buildx is here to run.
func defaults() {
	if os.Getenv("DOCKER_BUILDKIT") == "" {
		_ = os.Setenv("DOCKER_BUILDKIT", "0") // fails for malformed names only
	}
	if os.Getenv("DOCKER_HOST") != "" || os.Getenv("DOCKER_CONTEXT") != "" {
		return
	}
	if c, _, err := instance.Find(os.Getenv("GANTRY_INSTANCE")); err == nil {
		_ = os.Setenv("DOCKER_HOST", "unix://"+c.DockerSocket())
	}
}

func run(ctx context.Context) int {
	docker, err := command.NewDockerCli(command.WithBaseContext(ctx))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	logrus.SetOutput(docker.Err())
	err = newCommand(docker).ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(os.Stderr, text)
	}
	if status, ok := errors.AsType[cli.StatusError](err); ok && status.StatusCode != 0 {
		return status.StatusCode
	}
	return 1
}

func newCommand(docker *command.DockerCli) *cobra.Command {
	root := &cobra.Command{
		Use:                   "docker [OPTIONS] COMMAND [ARG...]",
		Short:                 "A self-sufficient runtime for containers",
		Version:               fmt.Sprintf("%s, built with gantry", version.Version),
		SilenceUsage:          true,
		SilenceErrors:         true,
		TraverseChildren:      true,
		DisableFlagsInUseLine: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("docker: unknown command: docker %s\n\nRun 'docker --help' for more information", args[0])
			}
			return nil
		},
		RunE: command.ShowHelp(docker.Err()),
	}
	options, _ := cli.SetupRootCommand(root)
	root.Flags().BoolP("version", "v", false, "Print version information and quit")
	root.SetIn(docker.In())
	root.SetOut(docker.Out())
	root.SetErr(docker.Err())
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		options.SetDefaultOptions(cmd.Root().Flags())
		return docker.Initialize(options)
	}
	commands.AddCommands(root, docker)
	return root
}
