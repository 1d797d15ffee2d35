package apiserver

import (
	"fmt"
	"net/http"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// serveConnect hands log, exec, attach and portforward to the pod's kubelet.
// Its handler answers the client itself and may take over the connection.
func (s *Server) serveConnect(req *request) error {
	ctx := req.r.Context()
	if err := s.fresh(ctx); err != nil {
		return err
	}
	e := req.kind.cache.get(req.key(req.path.name))
	if e == nil {
		return apierrors.NewNotFound(req.kind.GR(), req.path.name)
	}
	pod := e.obj.(*corev1.Pod)
	target, err := kubeletURL(pod, req.path.sub, req.query)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		if req.path.sub == "log" {
			// Nothing was said yet: an empty log, as upstream.
			req.w.Header().Set("Content-Type", "text/plain")
			req.w.WriteHeader(http.StatusOK)
			return nil
		}
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	if s.cfg.Nodes == nil {
		return apierrors.NewServiceUnavailable("this server reaches no kubelet")
	}
	h, err := s.cfg.Nodes.Handler(ctx, pod.Spec.NodeName)
	if err != nil {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("kubelet of node %s: %v", pod.Spec.NodeName, err))
	}
	r := req.r.Clone(ctx)
	r.URL.Path, r.URL.RawPath, r.URL.RawQuery = target.Path, "", target.RawQuery
	r.RequestURI = target.RequestURI()
	h.ServeHTTP(req.w, r)
	return nil
}

// kubeletURL is where the kubelet serves what the request is about.
func kubeletURL(pod *corev1.Pod, sub string, q url.Values) (*url.URL, error) {
	if sub == "portforward" {
		return &url.URL{Path: fmt.Sprintf("/portForward/%s/%s", pod.Namespace, pod.Name), RawQuery: q.Encode()}, nil
	}
	container, err := containerOf(pod, q.Get("container"))
	if err != nil {
		return nil, err
	}
	out := url.Values{}
	base := "/" + sub
	keep := func(names ...string) {
		for _, name := range names {
			if v, ok := q[name]; ok {
				out[name] = v
			}
		}
	}
	switch sub {
	case "log":
		base = "/containerLogs"
		keep("follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream")
	default:
		// The kubelet's own names for what the API calls stdin, stdout ....
		for api, kubelet := range map[string]string{"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"} {
			if isTrue(q.Get(api)) {
				out.Set(kubelet, "1")
			}
		}
		keep("command")
	}
	return &url.URL{Path: fmt.Sprintf("%s/%s/%s/%s", base, pod.Namespace, pod.Name, container), RawQuery: out.Encode()}, nil
}

// containerOf checks the container's name, or finds the only one.
func containerOf(pod *corev1.Pod, name string) (string, error) {
	var plain, initial, ephemeral []string
	for _, c := range pod.Spec.Containers {
		plain = append(plain, c.Name)
	}
	for _, c := range pod.Spec.InitContainers {
		initial = append(initial, c.Name)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		ephemeral = append(ephemeral, c.Name)
	}
	if name == "" {
		if len(plain) == 1 && len(initial) == 0 || len(plain) == 1 && pod.Annotations["kubectl.kubernetes.io/default-container"] == "" {
			return plain[0], nil
		}
		text := fmt.Sprintf("a container name must be specified for pod %s, choose one of: %v", pod.Name, plain)
		if len(initial) > 0 {
			text += fmt.Sprintf(" or one of the init containers: %v", initial)
		}
		return "", apierrors.NewBadRequest(text)
	}
	for _, have := range append(append(plain, initial...), ephemeral...) {
		if have == name {
			return name, nil
		}
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
}
