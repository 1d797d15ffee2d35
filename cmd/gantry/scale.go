package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gantry/internal/problem"
	"gantry/push"
	"gantry/push/kube"
)

func scaleCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:     "scale NAME=REPLICAS...",
		Short:   "Change how many replicas of apps run, and wait until they do",
		Example: "  gantry scale hello=4",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			wishes, err := parseScale(args)
			if err != nil {
				return err
			}
			cfg, err := found(cmd)
			if err != nil {
				return err
			}
			_, status, err := running(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			api, err := cluster(status)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), timeout,
				&problem.UserError{Op: "scale", Err: problem.New(problem.Unavailable, "not all replicas are ready after %s", timeout), Try: "look at \"gantry kubectl get pods\""})
			defer cancel()
			return scale(ctx, api, wishes)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long it may take")
	return cmd
}

// wish is how many replicas an app shall have.
type wish struct {
	app      string
	replicas int32
}

func parseScale(args []string) ([]wish, error) {
	var wishes []wish
	for _, arg := range args {
		app, count, ok := strings.Cut(arg, "=")
		n, err := strconv.ParseInt(count, 10, 32)
		if !ok || app == "" || err != nil || n < 0 {
			return nil, &problem.UserError{Op: "scale", Err: problem.New(problem.Invalid, "%q: want NAME=REPLICAS", arg), Try: "gantry scale hello=4"}
		}
		wishes = append(wishes, wish{app, int32(n)})
	}
	return wishes, nil
}

func scale(ctx context.Context, api *kube.Client, wishes []wish) error {
	show := newSteps(os.Stdout)
	for _, w := range wishes {
		var patch struct {
			Spec struct {
				Replicas int32 `json:"replicas"`
			} `json:"spec"`
		}
		patch.Spec.Replicas = w.replicas
		path := kube.Deployments.Object(push.Namespace, w.app)
		err := api.Patch(ctx, path+"/scale", patch, nil)
		if errors.Is(err, problem.NotFound) {
			return &problem.UserError{Op: "scale", Object: w.app, Err: problem.New(problem.NotFound, "there is no such app"), Try: "see \"gantry status\""}
		}
		if err != nil {
			return fmt.Errorf("scale %s: %w", w.app, err)
		}
		show.Begin("scale " + w.app)
		if err := waitScaled(ctx, api, w, show); err != nil {
			show.Fail()
			return err
		}
		show.Done("%d of %d replicas are ready", w.replicas, w.replicas)
	}
	return nil
}

var errScaled = errors.New("scaled")

func waitScaled(ctx context.Context, api *kube.Client, w wish, show *steps) error {
	path := kube.Deployments.In(push.Namespace) + "?fieldSelector=" + url.QueryEscape("metadata.name="+w.app)
	for {
		err := api.Watch(ctx, path, func(e kube.Event) error {
			var d kube.Deployment
			if err := json.Unmarshal(e.Object, &d); err != nil {
				return err
			}
			if e.Type == "DELETED" {
				return problem.New(problem.NotFound, "%s was removed", w.app)
			}
			s := d.Status
			if s == nil || s.ObservedGeneration < d.Metadata.Generation {
				return nil
			}
			show.Detail("%d of %d replicas are ready", s.AvailableReplicas, w.replicas)
			if s.AvailableReplicas == w.replicas && s.Replicas == w.replicas {
				return errScaled
			}
			return nil
		})
		switch {
		case errors.Is(err, errScaled):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return err
		}
	}
}
