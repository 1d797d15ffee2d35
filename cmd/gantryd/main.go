// Command gantryd is the daemon: the engine, the control plane and the node of
// one host in one process.
//
//	gantryd server   run in the foreground, as systemd and "gantry up" do
//	gantryd check    walk the stores of a stopped server; "gantry check" calls it
//	gantryd diagnose look for what impairs the network; "gantry doctor" calls it
//	gantryd purge    remove what a stopped server left on the host
//
// This package owns the flags and the wiring, and nothing that could be tested
// without a server: which parts there are and in which order they start
// (host.go, cluster.go, wait.go), how the process begins and ends (server.go,
// lock.go, notify.go, memory.go, purge.go), and what it tells of itself
// (status.go, ports.go, check.go).
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"gantry/internal/problem"
	"gantry/internal/settings"
)

func main() {
	// No other goroutine gets the main thread: one that enters a namespace
	// there could not give it up, and /proc/self would show that namespace.
	runtime.LockOSThread()
	debug.SetGCPercent(gcPercent)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintf(os.Stderr, "gantryd: %v\n", err)
	if try := problem.Try(err); try != "" {
		fmt.Fprintf(os.Stderr, "  try: %s\n", try)
	}
	os.Exit(1)
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "gantryd",
		Short:         "The Gantry daemon: a Docker-compatible engine and a Kubernetes-compatible cluster",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(serverCommand(), checkCommand(), diagnoseCommand(), purgeCommand())
	return root
}

func serverCommand() *cobra.Command {
	var flags *settings.Flags
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the server in the foreground",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.Read()
			if err != nil {
				return err
			}
			s, err := newServer(cfg)
			if err != nil {
				return err
			}
			return s.run(cmd.Context())
		},
	}
	flags = settings.Register(cmd.Flags())
	return cmd
}

func purgeCommand() *cobra.Command {
	var flags *settings.Flags
	cmd := &cobra.Command{
		Use:   "purge",
		Short: "Remove all traces of a stopped server: its data, links, rules, cgroups and processes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.Read()
			if err != nil {
				return err
			}
			return purge(cmd.Context(), cfg)
		},
	}
	flags = settings.Register(cmd.Flags())
	return cmd
}
