package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"gantry/cluster/kubelet/logs"
	"gantry/cluster/kubelet/plan"
	"gantry/cluster/kubelet/podspec"
)

// streamIdle is how long an exec, attach or port-forward connection may be idle.
const streamIdle = 4 * time.Hour

// Handler serves the kubelet's HTTP API, with the reference's routes. It does
// not authenticate: it is only reachable through the API server.
func (k *Kubelet) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }) //nolint:errcheck // the client's loss
	mux.HandleFunc("GET /pods", k.servePods)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", k.serveLogs)
	for _, method := range []string{"GET", "POST"} {
		mux.HandleFunc(method+" /exec/{namespace}/{pod}/{container}", k.serveExec)
		mux.HandleFunc(method+" /attach/{namespace}/{pod}/{container}", k.serveAttach)
		mux.HandleFunc(method+" /portForward/{namespace}/{pod}", k.servePortForward)
	}
	mux.HandleFunc("GET /stats/summary", k.serveSummary)
	return mux
}

func (k *Kubelet) servePods(w http.ResponseWriter, _ *http.Request) {
	list := v1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
	for _, obj := range k.pods.GetStore().List() {
		list.Items = append(list.Items, *k.statuses.latest(obj.(*v1.Pod)))
	}
	writeJSON(w, list)
}

func writeJSON(w http.ResponseWriter, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(data) //nolint:errcheck // the client's loss
}

// findPod returns the pod that a request is about.
func (k *Kubelet) findPod(r *http.Request) (*v1.Pod, error) {
	namespace, name := r.PathValue("namespace"), r.PathValue("pod")
	obj, ok, err := k.pods.GetStore().GetByKey(cache.ObjectName{Namespace: namespace, Name: name}.String())
	if err != nil || !ok {
		return nil, fmt.Errorf("pod %q does not exist", name)
	}
	return k.statuses.latest(obj.(*v1.Pod)), nil
}

// logContainer returns the ID and attempt of the container whose log is
// wanted, or an error in the reference's words.
func logContainer(pod *v1.Pod, name string, previous bool) (id string, err error) {
	st := plan.FindStatus(&pod.Status, name)
	if st == nil {
		if podspec.FindContainer(pod, name) == nil {
			return "", fmt.Errorf("container %q in pod %q is not available", name, pod.Name)
		}
		return "", fmt.Errorf("container %q in pod %q is waiting to start: ContainerCreating", name, pod.Name)
	}
	last := st.LastTerminationState.Terminated
	switch {
	case previous:
		if last == nil || last.ContainerID == "" {
			return "", fmt.Errorf("previous terminated container %q in pod %q not found", name, pod.Name)
		}
		id = last.ContainerID
	case st.State.Running != nil:
		id = st.ContainerID
	case st.State.Terminated != nil && st.State.Terminated.ContainerID != "":
		id = st.State.Terminated.ContainerID
	case last != nil && last.ContainerID != "":
		id = last.ContainerID
	case st.State.Terminated != nil || last != nil:
		return "", fmt.Errorf("container %q in pod %q is terminated", name, pod.Name)
	case st.State.Waiting != nil:
		why := st.State.Waiting.Reason
		switch why {
		case "ErrImagePull":
			why = "image can't be pulled"
		case "ImagePullBackOff":
			why = "trying and failing to pull image"
		}
		return "", fmt.Errorf("container %q in pod %q is waiting to start: %v", name, pod.Name, why)
	default:
		return "", fmt.Errorf("container %q in pod %q is waiting to start - no logs yet", name, pod.Name)
	}
	return strings.TrimPrefix(id, plan.RuntimePrefix), nil
}

// logOptions reads the query of a log request.
func logOptions(r *http.Request) (opts logs.Options, previous bool, err error) {
	q := r.URL.Query()
	opts.Tail = -1
	flag := func(name string) bool {
		on, parseErr := strconv.ParseBool(q.Get(name))
		if parseErr != nil && q.Get(name) != "" {
			err = fmt.Errorf("%s: %w", name, parseErr)
		}
		return on
	}
	number := func(name string, to *int64) bool {
		text := q.Get(name)
		if text == "" || err != nil {
			return false
		}
		n, parseErr := strconv.ParseInt(text, 10, 64)
		if parseErr != nil || n < 0 {
			err = fmt.Errorf("%s: %q is not a number", name, text)
			return false
		}
		*to = n
		return true
	}
	opts.Follow, opts.Timestamps, previous = flag("follow"), flag("timestamps"), flag("previous")
	number("tailLines", &opts.Tail)
	number("limitBytes", &opts.Limit)
	var seconds int64
	if number("sinceSeconds", &seconds) {
		opts.Since = time.Now().Add(-time.Duration(seconds) * time.Second)
	}
	if text := q.Get("sinceTime"); text != "" && err == nil {
		opts.Since, err = time.Parse(time.RFC3339, text)
	}
	return opts, previous, err
}

func (k *Kubelet) serveLogs(w http.ResponseWriter, r *http.Request) {
	pod, err := k.findPod(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	name := r.PathValue("container")
	if podspec.FindContainer(pod, name) == nil {
		http.Error(w, fmt.Sprintf("container %q not found in pod %q", name, pod.Name), http.StatusNotFound)
		return
	}
	opts, previous, err := logOptions(r)
	if err == nil {
		var id string
		if id, err = logContainer(pod, name, previous); err == nil {
			k.streamLog(w, r, pod, name, id, opts)
			return
		}
	}
	http.Error(w, err.Error(), http.StatusBadRequest)
}

func (k *Kubelet) streamLog(w http.ResponseWriter, r *http.Request, pod *v1.Pod, name, id string, opts logs.Options) {
	status, err := k.cfg.Runtime.ContainerStatus(r.Context(), id, false)
	if err != nil {
		http.Error(w, fmt.Sprintf("unable to retrieve container logs for %s%s", plan.RuntimePrefix, id), http.StatusBadRequest)
		return
	}
	path := filepath.Join(k.podLogDir(pod), podspec.LogPath(name, status.Status.Metadata.GetAttempt()))
	var stdout, stderr io.Writer = flushing{w}, flushing{w}
	switch r.URL.Query().Get("stream") {
	case "", v1.LogStreamAll:
	case v1.LogStreamStdout:
		stderr = nil
	case v1.LogStreamStderr:
		stdout = nil
	default:
		http.Error(w, fmt.Sprintf("invalid stream type %q", r.URL.Query().Get("stream")), http.StatusBadRequest)
		return
	}
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	if opts.Follow {
		go k.waitEnd(ctx, id, ended)
		defer func() { cancel(); <-ended }()
	}
	w.Header().Set("Content-Type", "text/plain")
	if opts.Follow {
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush() //nolint:errcheck // a writer that cannot flush only delays
	}
	if err := logs.Read(ctx, path, opts, ended, stdout, stderr); err != nil && ctx.Err() == nil {
		k.log.Info("log not read to its end", "container", id, "err", err)
		if !opts.Follow {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}
}

// waitEnd closes ended when the container does not run any more, or ctx ends.
func (k *Kubelet) waitEnd(ctx context.Context, id string, ended chan<- struct{}) {
	defer close(ended)
	changed, stop := k.exits.listen()
	defer stop()
	for {
		r, err := k.cfg.Runtime.ContainerStatus(ctx, id, false)
		if err != nil || r.Status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// flushing sends what is written at once.
type flushing struct{ w http.ResponseWriter }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		if err := http.NewResponseController(f.w).Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return n, err
		}
	}
	return n, err
}

// running returns the pod of a request and the ID of its running container.
func (k *Kubelet) running(r *http.Request) (*v1.Pod, string, error) {
	pod, err := k.findPod(r)
	if err != nil {
		return nil, "", err
	}
	name := r.PathValue("container")
	st := plan.FindStatus(&pod.Status, name)
	if st == nil || st.State.Running == nil {
		return nil, "", fmt.Errorf("container not found (%q)", name)
	}
	return pod, strings.TrimPrefix(st.ContainerID, plan.RuntimePrefix), nil
}

func (k *Kubelet) serveExec(w http.ResponseWriter, r *http.Request) {
	pod, id, err := k.running(r)
	if err == nil && k.cfg.Streams == nil {
		err = errors.New("this runtime carries no streams")
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		serveWebSocket(w, r, opts, func(ctx context.Context, c *wsStreams) error {
			return k.cfg.Streams.Exec(ctx, id, r.URL.Query()["command"], c.in, c.out, c.err, opts.TTY, c.sizes)
		})
		return
	}
	remotecommand.ServeExec(w, r, streams{k.cfg.Streams}, pod.Name, string(pod.UID), id, r.URL.Query()["command"], opts,
		streamIdle, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

func (k *Kubelet) serveAttach(w http.ResponseWriter, r *http.Request) {
	pod, id, err := k.running(r)
	if err == nil && k.cfg.Streams == nil {
		err = errors.New("this runtime carries no streams")
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if c := podspec.FindContainer(pod, r.PathValue("container")); c != nil && c.TTY {
		opts.TTY, opts.Stderr = true, false
	}
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		serveWebSocket(w, r, opts, func(ctx context.Context, c *wsStreams) error {
			return k.cfg.Streams.Attach(ctx, id, c.in, c.out, c.err, opts.TTY, c.sizes)
		})
		return
	}
	remotecommand.ServeAttach(w, r, streams{k.cfg.Streams}, pod.Name, string(pod.UID), id, opts,
		streamIdle, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

func (k *Kubelet) servePortForward(w http.ResponseWriter, r *http.Request) {
	pod, err := k.findPod(r)
	if err == nil && k.cfg.Streams == nil {
		err = errors.New("this runtime carries no streams")
	}
	var id string
	if err == nil {
		id, err = k.sandboxOf(r.Context(), pod)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	opts, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, r, forwarder{k.cfg.Streams, id}, pod.Name, string(pod.UID), opts,
		streamIdle, remotecommand.DefaultStreamCreationTimeout, portforward.SupportedProtocols)
}

// sandboxOf returns the ID of the pod's ready sandbox.
func (k *Kubelet) sandboxOf(ctx context.Context, pod *v1.Pod) (string, error) {
	st := k.state(pod.UID)
	if st != nil {
		list, err := k.cfg.Runtime.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{
			LabelSelector: map[string]string{"io.kubernetes.pod.uid": string(pod.UID)},
			State:         &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}})
		if err != nil {
			return "", err
		}
		if len(list) > 0 {
			return list[0].Id, nil
		}
	}
	return "", fmt.Errorf("pod %q is not running", pod.Name)
}

// streams gives Streams the shape that the remotecommand server calls.
type streams struct{ s Streams }

func (a streams) ExecInContainer(ctx context.Context, _, _, container string, cmd []string, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	return a.s.Exec(ctx, container, cmd, in, out, err, tty, resize)
}

func (a streams) AttachContainer(ctx context.Context, _, _, container string, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	return a.s.Attach(ctx, container, in, out, err, tty, resize)
}

// forwarder carries ports of one sandbox.
type forwarder struct {
	s  Streams
	id string
}

func (f forwarder) PortForward(ctx context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	return f.s.PortForward(ctx, f.id, port, stream)
}
