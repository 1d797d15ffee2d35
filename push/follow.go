package push

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"gantry/push/kube"
)

// follower watches a roll-out until it is complete or has failed.
type follower struct {
	cfg        Config
	app        *app
	generation int64

	mu      sync.Mutex
	state   progress
	changed chan struct{} // holds one token when state has changed
}

var errSettled = errors.New("settled") // ends the watches

// wait returns nil when the roll-out is complete, a *failure when it cannot
// complete, and another error when it cannot be watched.
func (f *follower) wait(ctx context.Context) error {
	f.changed = make(chan struct{}, 1) // one token says all: the state is read whole
	f.state = progress{
		generation: f.generation, want: f.app.want, begun: time.Now(), limit: f.app.limit,
		pods: make(map[string]kube.Pod), stuck: make(map[string]time.Time), warnings: make(map[string]string),
	}
	g, watching := errgroup.WithContext(ctx)
	name := f.app.want.name
	g.Go(func() error {
		return f.watch(watching, kube.Deployments.In(Namespace)+"?fieldSelector="+url.QueryEscape("metadata.name="+name), f.sawDeployment)
	})
	g.Go(func() error {
		return f.watch(watching, kube.Pods.Selected(Namespace, f.app.want.labels()), f.sawPod)
	})
	g.Go(func() error {
		return f.watch(watching, kube.Events.In(Namespace), f.sawEvent)
	})
	var result error
	g.Go(func() error {
		result = f.decide(watching)
		return errSettled
	})
	err := g.Wait()
	if !errors.Is(err, errSettled) {
		return err
	}
	if cause, ok := errors.AsType[*failure](result); ok {
		f.fetchLog(ctx, cause)
	}
	return result
}

// decide judges after each change, and when time alone may change the verdict.
func (f *follower) decide(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	shown := ""
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-f.changed:
		case <-timer.C:
		}
		f.mu.Lock()
		v := judge(f.state, time.Now())
		suspects := f.silent()
		f.mu.Unlock()
		if v.complete {
			return nil
		}
		if v.failure == nil {
			v.failure = f.wrongPort(ctx, suspects)
		}
		if v.failure != nil {
			return v.failure
		}
		if v.detail != shown {
			shown = v.detail
			f.cfg.Report.Detail("%s", v.detail)
		}
		if len(suspects) > 0 || v.again > patience {
			v.again = patience
		}
		timer.Reset(max(v.again, time.Millisecond))
	}
}

// silent returns the containers that have been running for a while without
// getting ready. The caller holds mu.
func (f *follower) silent() map[string]string {
	containers := make(map[string]string)
	for name, pod := range f.state.pods {
		if pod.Ready() || !current(pod, f.app.want) || time.Since(f.state.stuck[name]) < patience {
			continue
		}
		for _, c := range pod.Status.ContainerStatuses {
			if c.State.Running != nil {
				containers[name] = containerID(c.ContainerID)
			}
		}
	}
	return containers
}

// wrongPort looks whether a container that does not get ready listens on
// another port than the one it is probed at.
func (f *follower) wrongPort(ctx context.Context, containers map[string]string) *failure {
	for pod, id := range containers {
		ports, err := f.cfg.Ports(ctx, id)
		if err != nil {
			continue // it has ended; its pod will say so
		}
		port, text := choose(ports)
		for _, p := range ports {
			if int(p.Port) == f.app.want.port && !p.Loopback {
				return nil
			}
		}
		if port == 0 && text != "" {
			return &failure{pod: pod, text: fmt.Sprintf("replica %s %s", pod, text), advice: "let the program listen on all addresses"}
		}
		if port != 0 {
			return &failure{pod: pod, text: fmt.Sprintf("replica %s listens on port %d, not on %d", pod, port, f.app.want.port),
				advice: fmt.Sprintf("push with --port %d", port)}
		}
	}
	return nil
}

// watch watches until ctx ends; the server may end a watch at any time.
func (f *follower) watch(ctx context.Context, path string, seen func(kube.Event) error) error {
	for {
		err := f.cfg.Kube.Watch(ctx, path, func(e kube.Event) error {
			f.mu.Lock()
			err := seen(e)
			f.mu.Unlock()
			select {
			case f.changed <- struct{}{}:
			default: // a token is there already
			}
			return err
		})
		if err != nil {
			return err
		}
	}
}

func (f *follower) sawDeployment(e kube.Event) error {
	var d kube.Deployment // a fresh one: what is absent now must not keep its last value
	err := json.Unmarshal(e.Object, &d)
	f.state.deployment = d
	return err
}

func (f *follower) sawPod(e kube.Event) error {
	var pod kube.Pod
	if err := json.Unmarshal(e.Object, &pod); err != nil {
		return err
	}
	name := pod.Metadata.Name
	if e.Type == "DELETED" {
		delete(f.state.pods, name)
		delete(f.state.stuck, name)
		return nil
	}
	f.state.pods[name] = pod
	if pod.Ready() {
		delete(f.state.stuck, name)
	} else if f.state.stuck[name].IsZero() {
		f.state.stuck[name] = time.Now()
	}
	return nil
}

func (f *follower) sawEvent(e kube.Event) error {
	var event kube.EventObject
	if err := json.Unmarshal(e.Object, &event); err != nil {
		return err
	}
	if event.Type == "Warning" && event.InvolvedObject.Kind == "Pod" {
		f.state.warnings[event.InvolvedObject.Name] = event.Message
	}
	return nil
}

const lastLines = 10

// fetchLog adds the last lines of the pod's log, if there are any.
func (f *follower) fetchLog(ctx context.Context, cause *failure) {
	if cause.pod == "" {
		return
	}
	query := fmt.Sprintf("/log?tailLines=%d", lastLines)
	if cause.previous {
		query += "&previous=true"
	}
	log, err := f.cfg.Kube.Stream(ctx, kube.Pods.Object(Namespace, cause.pod)+query)
	if err != nil {
		return // the reason stands without them
	}
	defer log.Close()
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		cause.log = append(cause.log, lines.Text())
	}
}
