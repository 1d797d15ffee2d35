package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"gantry/internal/control"
	"gantry/internal/problem"
	"gantry/push"
	"gantry/push/docker"
)

// pushFlags are the flags of "gantry push".
type pushFlags struct {
	name, host, output string
	replicas           int32
	env                []string
	port               int
	dryRun             bool
	timeout            time.Duration
}

func pushCommand() *cobra.Command {
	flags := new(pushFlags)
	cmd := &cobra.Command{
		Use:   "push [DIR]",
		Short: "Build a source directory and run it as a service",
		Long: `Build a source directory and run it as a service with an address.

DIR (the working directory) holds a Dockerfile, or is in a Go module, whose one
program is compiled on this machine, without cgo, onto an empty image with CA
certificates and time zones; files that it reads at run time must be embedded in
it. It runs there as user 65532.

The app listens on the port of --port, which it also finds in $PORT; else on the
one that its image exposes; else on the one that its process is seen to listen
on. Settings that are not given stay what they were at the push before.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPush(cmd, flags, args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.name, "name", "", "name of the app (default: the directory's)")
	f.Int32Var(&flags.replicas, "replicas", push.DefaultReplicas, "how many replicas run")
	f.StringArrayVar(&flags.env, "env", nil, "environment variable KEY=VALUE; may be repeated")
	f.IntVar(&flags.port, "port", 0, "port that the app listens on")
	f.StringVar(&flags.host, "host", "", "host name of its address (default NAME.localhost)")
	f.DurationVar(&flags.timeout, "timeout", time.Minute, "how long the roll-out may take")
	f.BoolVar(&flags.dryRun, "dry-run", false, "build, and print the objects instead of applying them")
	f.StringVarP(&flags.output, "output", "o", "yaml", "format of --dry-run: yaml or json")
	return cmd
}

func runPush(cmd *cobra.Command, flags *pushFlags, args []string) error {
	req, err := flags.request(cmd, args)
	if err != nil {
		return err
	}
	cfg, err := found(cmd)
	if err != nil {
		return err
	}
	client, status, err := running(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	out := os.Stdout
	if flags.dryRun {
		out = os.Stderr // the objects alone go to standard output
	}
	pusher, err := newPusher(client, status, newSteps(out))
	if err != nil {
		return err
	}
	if flags.dryRun {
		return render(cmd.Context(), pusher, req, flags.output)
	}
	begun := time.Now()
	result, err := pusher.Run(cmd.Context(), req)
	if err != nil {
		return err
	}
	printResult(result, time.Since(begun))
	return nil
}

func newPusher(client *control.Client, status control.Status, report *steps) (*push.Pusher, error) {
	api, err := cluster(status)
	if err != nil {
		return nil, err
	}
	if status.Phase != control.Running {
		return nil, &problem.UserError{Op: "push", Err: problem.New(problem.Unavailable, "the server is %s", status.Phase), Try: "wait for \"gantry up\" to end"}
	}
	return push.New(push.Config{
		Docker: docker.New(status.Instance.DockerSocket()), Kube: api,
		Ports: client.Ports, Ingress: status.HTTP, Report: report,
	}), nil
}

func (f *pushFlags) request(cmd *cobra.Command, args []string) (push.Request, error) {
	req := push.Request{Name: f.name, Port: f.port, Host: f.host, Timeout: f.timeout, Env: make(map[string]string)}
	if len(args) > 0 {
		req.Dir = args[0]
	}
	if cmd.Flags().Changed("replicas") {
		req.Replicas = &f.replicas
	}
	if cmd.Flags().Changed("port") && f.port == 0 {
		return req, problem.New(problem.Invalid, "--port 0: want 1 to 65535")
	}
	if f.output != "yaml" && f.output != "json" {
		return req, problem.New(problem.Invalid, "--output %q: want yaml or json", f.output)
	}
	if cmd.Flags().Changed("output") && !f.dryRun {
		return req, problem.New(problem.Invalid, "--output goes with --dry-run")
	}
	for _, pair := range f.env {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return req, problem.New(problem.Invalid, "--env %q: want KEY=VALUE", pair)
		}
		req.Env[key] = value
	}
	return req, nil
}

func render(ctx context.Context, pusher *push.Pusher, req push.Request, format string) error {
	objects, err := pusher.Render(ctx, req)
	if err != nil {
		return err
	}
	if format == "json" {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		return out.Encode(map[string]any{"apiVersion": "v1", "kind": "List", "items": objects})
	}
	for i, o := range objects {
		text, err := yaml.Marshal(o)
		if err != nil {
			return err
		}
		if i > 0 {
			fmt.Println("---")
		}
		if _, err := os.Stdout.Write(text); err != nil {
			return err
		}
	}
	if len(objects) == 1 {
		fmt.Println("# The port is not known before the app runs. A Service and an Ingress follow then; --port names it now.")
	}
	return nil
}

func printResult(r push.Result, took time.Duration) {
	if r.Note != "" {
		fmt.Printf("note: %s\n", r.Note)
	}
	what := "runs"
	if r.Unchanged {
		what = "is unchanged, and runs"
	}
	where := ""
	if r.Address != "" {
		where = " at " + r.Address
	}
	fmt.Printf("%s %s%s with %d replicas (%s)\n", r.App, what, where, r.Replicas, seconds(took))
}
