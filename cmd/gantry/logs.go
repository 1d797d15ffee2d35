package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"gantry/internal/problem"
	"gantry/push"
	"gantry/push/kube"
)

func logsCommand() *cobra.Command {
	var follow bool
	var lines int
	cmd := &cobra.Command{
		Use:   "logs [-f] NAME",
		Short: "Print the log lines of all replicas of an app, each marked with its replica",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
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
			l, err := newLogs(cmd.Context(), api, args[0], lines)
			if err != nil {
				return err
			}
			if follow {
				return l.follow(cmd.Context())
			}
			return l.print(cmd.Context())
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new lines and new replicas")
	cmd.Flags().IntVarP(&lines, "lines", "n", -1, "last lines of each replica; -1: all")
	return cmd
}

// logs reads the logs of an app's replicas.
type logs struct {
	api    *kube.Client
	app    string
	labels map[string]string
	lines  int
	colour bool

	mu      sync.Mutex     // also makes each line one write
	colours map[string]int // by replica, in the order of appearance
}

// newLogs finds the app by its Deployment.
func newLogs(ctx context.Context, api *kube.Client, app string, lines int) (*logs, error) {
	var d kube.Deployment
	err := api.Get(ctx, kube.Deployments.Object(push.Namespace, app), &d)
	if errors.Is(err, problem.NotFound) {
		return nil, &problem.UserError{Op: "logs", Object: app, Err: problem.New(problem.NotFound, "there is no such app"), Try: "see \"gantry status\""}
	}
	if err != nil {
		return nil, err
	}
	return &logs{api: api, app: app, labels: d.Spec.Selector.MatchLabels, lines: lines, colour: colourful(os.Stdout), colours: make(map[string]int)}, nil
}

// line is one line of a replica's log.
type line struct {
	at      string // RFC 3339 with a fixed number of digits, so that it sorts
	replica string
	text    string
}

// print prints what there is, in the order of time.
func (l *logs) print(ctx context.Context) error {
	var list kube.List[kube.Pod]
	if err := l.api.Get(ctx, kube.Pods.Selected(push.Namespace, l.labels), &list); err != nil {
		return err
	}
	var all []line
	for _, pod := range list.Items {
		for _, source := range sources(pod) {
			log, err := l.api.Stream(ctx, source.path+l.query("timestamps=true"))
			if errors.Is(err, problem.Invalid) || errors.Is(err, problem.NotFound) {
				continue // it has not started, or is gone already
			}
			if err != nil {
				return err
			}
			all, err = read(all, log, source.replica)
			if err := errors.Join(err, log.Close()); err != nil {
				return err
			}
		}
	}
	slices.SortStableFunc(all, func(a, b line) int { return cmp.Compare(a.at, b.at) })
	for _, x := range all {
		l.show(x)
	}
	return nil
}

func read(all []line, log io.Reader, replica string) ([]line, error) {
	lines := bufio.NewReader(log)
	for {
		text, err := lines.ReadString('\n')
		if text != "" {
			at, rest, _ := strings.Cut(strings.TrimSuffix(text, "\n"), " ")
			all = append(all, line{sortable(at), replica, rest})
		}
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
	}
}

// sortable writes a time stamp with all its digits.
func sortable(at string) string {
	t, err := time.Parse(time.RFC3339Nano, at)
	if err != nil {
		return at
	}
	return t.UTC().Format("2006-01-02T15:04:05.000000000Z")
}

// logSource is one container's log.
type logSource struct{ replica, path string }

// sources are the logs of a pod: one for each container, which is named where
// there are several.
func sources(pod kube.Pod) []logSource {
	var all []logSource
	for _, c := range pod.Spec.Containers {
		s := logSource{pod.Metadata.Name, kube.Pods.Object(push.Namespace, pod.Metadata.Name) + "/log?container=" + c.Name}
		if len(pod.Spec.Containers) > 1 {
			s.replica += "/" + c.Name
		}
		all = append(all, s)
	}
	return all
}

func (l *logs) query(more string) string {
	query := "&" + more
	if l.lines >= 0 {
		query += fmt.Sprintf("&tailLines=%d", l.lines)
	}
	return query
}

// follow prints lines as they come, of replicas as they come, until ctx ends.
func (l *logs) follow(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	runs := make(map[string]bool) // container IDs that are being followed
	g.Go(func() error {
		for {
			err := l.api.Watch(ctx, kube.Pods.Selected(push.Namespace, l.labels), func(e kube.Event) error {
				var pod kube.Pod
				if err := json.Unmarshal(e.Object, &pod); err != nil {
					return err
				}
				l.followPod(ctx, g, pod, runs)
				return nil
			})
			if err != nil {
				return err
			}
		}
	})
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil // the way to end it
	}
	return err
}

// followPod starts a reader for each run of the pod's containers that has none.
func (l *logs) followPod(ctx context.Context, g *errgroup.Group, pod kube.Pod, runs map[string]bool) {
	all := sources(pod)
	for _, status := range pod.Status.ContainerStatuses {
		if status.ContainerID == "" || runs[status.ContainerID] || status.State.Waiting != nil {
			continue
		}
		i := slices.IndexFunc(all, func(s logSource) bool { return strings.HasSuffix(s.path, "?container="+status.Name) })
		if i < 0 {
			continue
		}
		runs[status.ContainerID] = true
		g.Go(func() error {
			log, err := l.api.Stream(ctx, all[i].path+l.query("follow=true"))
			if errors.Is(err, problem.Invalid) || errors.Is(err, problem.NotFound) {
				return nil // it has ended and is gone
			}
			if err != nil {
				return err
			}
			return errors.Join(l.copy(log, all[i].replica), log.Close())
		})
	}
}

func (l *logs) copy(log io.Reader, replica string) error {
	lines := bufio.NewReader(log)
	for {
		text, err := lines.ReadString('\n')
		if text != "" {
			l.show(line{replica: replica, text: strings.TrimSuffix(text, "\n")})
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (l *logs) show(x line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	mark := "[" + x.replica + "]"
	if l.colour {
		// The six colours that are legible on black and white alike.
		const firstColour, colours = 31, 6
		if _, seen := l.colours[x.replica]; !seen {
			l.colours[x.replica] = len(l.colours)
		}
		mark = fmt.Sprintf("\x1b[%dm%s\x1b[0m", firstColour+l.colours[x.replica]%colours, mark)
	}
	fmt.Printf("%s %s\n", mark, x.text)
}
