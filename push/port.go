package push

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"gantry/internal/control"
	"gantry/push/kube"
)

const (
	// pollInterval is how often the kernel's socket tables and the ingress are
	// asked; neither tells of a change by itself.
	pollInterval = 20 * time.Millisecond
	// settleTime is how long an app may take until it listens, and the
	// ingress until it routes.
	settleTime = 5 * time.Second
)

// notThere is the error of a try that may succeed later.
type notThere struct{ error }

// poll calls try until it returns something other than notThere, or time is
// over, or ctx ends.
func poll(ctx context.Context, limit time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		err := try()
		if _, again := err.(notThere); !again {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-ticker.C:
		}
	}
}

// observe returns the port on which a replica of the app listens; 0 with a note
// when it listens on none that can be reached.
func (p *Pusher) observe(ctx context.Context, a *app) (port int, note string, err error) {
	err = poll(ctx, settleTime, func() error {
		pods, err := p.pods(ctx, a)
		if err != nil {
			return err
		}
		for _, pod := range pods {
			if f, _ := podFailure(pod, 0); f != nil {
				(&follower{cfg: p.cfg}).fetchLog(ctx, f)
				return f
			}
			for _, c := range pod.Status.ContainerStatuses {
				if c.State.Running == nil {
					continue
				}
				ports, err := p.cfg.Ports(ctx, containerID(c.ContainerID))
				if err != nil {
					continue // it has ended
				}
				if port, note = choose(ports); port != 0 {
					return nil
				}
			}
		}
		return notThere{errors.New("no port")}
	})
	if _, none := err.(notThere); none {
		if note == "" {
			note = "the app listens on no port, so it has no address"
		} else {
			note = "the app " + note + ", so it has no address"
		}
		return 0, note, nil
	}
	if err != nil {
		return 0, "", errors.Join(p.failed(a, true, err)...)
	}
	return port, note, nil
}

// pods returns the app's pods of the version that is wanted.
func (p *Pusher) pods(ctx context.Context, a *app) ([]kube.Pod, error) {
	var list kube.List[kube.Pod]
	if err := p.cfg.Kube.Get(ctx, kube.Pods.Selected(Namespace, a.want.labels()), &list); err != nil {
		return nil, err
	}
	var pods []kube.Pod
	for _, pod := range list.Items {
		if current(pod, a.want) && pod.Metadata.DeletionTimestamp == nil {
			pods = append(pods, pod)
		}
	}
	return pods, nil
}

// choose picks the port to route to out of those that a container listens on.
// It is pure. A note says what a person should know about the choice.
func choose(ports []control.Port) (port int, note string) {
	var reachable []int
	inside := 0
	for _, p := range ports {
		switch {
		case p.Protocol != "tcp":
		case p.Loopback:
			inside = int(p.Port)
		default:
			reachable = append(reachable, int(p.Port))
		}
	}
	switch {
	case len(reachable) == 1:
		return reachable[0], ""
	case len(reachable) > 1:
		port = preferred(reachable)
		return port, fmt.Sprintf("the app listens on several ports %v; %d was taken, --port names another", reachable, port)
	case inside != 0:
		return 0, fmt.Sprintf("listens on 127.0.0.1:%d only, where nothing outside its container reaches it", inside)
	}
	return 0, ""
}

// containerID takes the runtime's name off an ID as pods show it.
func containerID(id string) string {
	_, bare, ok := strings.Cut(id, "://")
	if !ok {
		return id
	}
	return bare
}

// answers waits until the ingress routes host to the app. Whatever the app
// answers counts; an answer of the ingress's own does not.
func (p *Pusher) answers(ctx context.Context, host string) error {
	where, err := dialAddress(p.cfg.Ingress)
	if err != nil {
		return err
	}
	client := &http.Client{
		Timeout:       settleTime,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", where)
			},
		},
	}
	return poll(ctx, settleTime, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+strings.Replace(host, "*", "any", 1)+"/", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return notThere{err}
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		if resp.Header.Get("Server") == ingressServer && resp.StatusCode >= http.StatusNotFound {
			return notThere{fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(text))}
		}
		return nil
	})
}

// ingressServer is the Server header of the answers that are the ingress's own.
const ingressServer = "gantry"

// dialAddress turns an address to listen at into one to connect to.
func dialAddress(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}
