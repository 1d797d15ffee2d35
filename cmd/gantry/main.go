// Command gantry is the command line that people type. It is a client: it
// starts and stops the daemon, and asks the daemon's sockets for everything
// else. It imports neither wing, so that it starts in milliseconds.
//
// "gantry NAME" runs gantry-NAME beside this program or on PATH (plugin.go).
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"gantry/internal/control"
	"gantry/internal/instance"
	"gantry/internal/problem"
	"gantry/internal/version"
	"gantry/push/kube"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	root := command()
	if code, ran := runPlugin(root, os.Args[1:]); ran {
		os.Exit(code)
	}
	err := root.ExecuteContext(ctx)
	interrupted := ctx.Err() != nil
	stop()
	os.Exit(explain(err, interrupted))
}

const interruptedCode = 130 // 128 + SIGINT, as shells have it

// explain prints an error with what to do about it, and returns the exit status.
func explain(err error, interrupted bool) int {
	if err == nil {
		return 0
	}
	if interrupted && errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "interrupted")
		return interruptedCode
	}
	if errors.Is(err, errSaid) {
		return 1
	}
	fmt.Fprintf(os.Stderr, "gantry: %v\n", err)
	if try := problem.Try(err); try != "" {
		fmt.Fprintf(os.Stderr, "  try: %s\n", try)
	}
	return 1
}

// errSaid ends a command whose output has said already what is wrong.
var errSaid = errors.New("said already")

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "gantry",
		Short: "From a source directory to a running service",
		Long: `Gantry takes a source directory to a running, load-balanced, self-healing
service, through a Docker-compatible engine and a Kubernetes-compatible cluster
in one small daemon.

  gantry up              start the server
  gantry push DIR        build DIR and run it
  gantry status          what runs, and where

"gantry docker ..." and "gantry kubectl ..." are the stock clients.`,
		Version:       version.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.PersistentFlags().String("instance", "", "the server to speak to (default $GANTRY_INSTANCE, else gantry)")
	root.AddCommand(
		upCommand(), downCommand(), statusCommand(), pushCommand(), scaleCommand(),
		logsCommand(), checkCommand(), dfCommand(), doctorCommand(), versionCommand(),
	)
	return root
}

// found returns the settings of the instance that the command is about.
func found(cmd *cobra.Command) (instance.Config, error) {
	name := cmd.Flag("instance").Value.String()
	if name == "" {
		name = os.Getenv("GANTRY_INSTANCE")
	}
	cfg, _, err := instance.Find(name)
	return cfg, err
}

// running returns the instance's status, or tells how to start it.
func running(ctx context.Context, cfg instance.Config) (*control.Client, control.Status, error) {
	client := control.NewClient(cfg.ControlSocket())
	status, err := client.Status(ctx)
	switch {
	case errors.Is(err, problem.Denied):
		return nil, status, &problem.UserError{Op: "ask the server", Err: err, Try: "run it as root, or as a member of the group gantry"}
	case errors.Is(err, problem.Unavailable):
		return nil, status, notRunning(cfg)
	}
	return client, status, err
}

func notRunning(cfg instance.Config) error {
	up := "start it with \"gantry up\""
	if cfg.Name != instance.Default {
		up = fmt.Sprintf("start it with \"gantry --instance %s up\"", cfg.Name)
		names, err := instance.Names()
		names = slices.DeleteFunc(names, func(n string) bool { return n == cfg.Name })
		if err == nil && len(names) > 0 {
			up += "; other instances: " + strings.Join(names, ", ")
		}
	}
	return &problem.UserError{Op: "ask the server", Err: problem.New(problem.Unavailable, "%s is not running", cfg.Name), Try: up}
}

// cluster returns a client of the instance's Kubernetes API.
func cluster(status control.Status) (*kube.Client, error) {
	if status.API == "" {
		return nil, &problem.UserError{
			Op: "ask the cluster", Err: problem.New(problem.Unavailable, "the server runs without the cluster"),
			Try: "start it without --disable=cluster",
		}
	}
	api, err := kube.Open(status.Instance.Kubeconfig())
	if errors.Is(err, fs.ErrPermission) {
		return nil, &problem.UserError{Op: "ask the cluster", Err: err, Try: "run it as root"}
	}
	return api, err
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of the client and of the server",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := found(cmd)
			if err != nil {
				return err
			}
			fmt.Printf("client %s\n", version.Version)
			_, status, err := running(cmd.Context(), cfg)
			if errors.Is(err, problem.Unavailable) {
				fmt.Println("server not running")
				return nil
			}
			if err != nil {
				return err
			}
			fmt.Printf("server %s\n", status.Version)
			return nil
		},
	}
}
