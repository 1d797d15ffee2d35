package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilexec "k8s.io/utils/exec"
)

// Exec runs a command in a container and returns its output. A command that
// ends with another status than 0 is a utilexec.ExitError.
type Exec func(ctx context.Context, containerID string, command []string, timeout time.Duration) ([]byte, error)

// maxOutput is how much of a reply is kept for the event.
const maxOutput = 10 << 10

// userAgent is what probes call themselves; some servers log or match it.
const userAgent = "kube-probe/1.36"

// once asks one time.
func (s *Set) once(ctx context.Context, t Target, p *v1.Probe, timeout time.Duration) (ok bool, output string) {
	switch {
	case p.Exec != nil:
		return runExec(ctx, s.cfg.Exec, t.ID, p.Exec.Command, timeout)
	case p.HTTPGet != nil:
		err := HTTPGet(ctx, p.HTTPGet, t.Container, t.IP, timeout)
		return err == nil, message(err)
	case p.TCPSocket != nil:
		port, err := Port(p.TCPSocket.Port, t.Container)
		if err != nil {
			return false, err.Error()
		}
		return dialTCP(ctx, hostOr(p.TCPSocket.Host, t.IP), port, timeout)
	case p.GRPC != nil:
		return askGRPC(ctx, net.JoinHostPort(t.IP, strconv.Itoa(int(p.GRPC.Port))), p.GRPC.Service, timeout)
	}
	return false, "missing probe handler"
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func hostOr(host, ip string) string {
	if host == "" {
		return ip
	}
	return host
}

func runExec(ctx context.Context, exec Exec, id string, command []string, timeout time.Duration) (bool, string) {
	data, err := exec(ctx, id, command, timeout)
	if exit, is := errors.AsType[utilexec.ExitError](err); is {
		return exit.ExitStatus() == 0, string(data[:min(len(data), maxOutput)])
	}
	return err == nil, message(err)
}

// Port resolves a port that may be the name of one of the container's.
func Port(p intstr.IntOrString, c *v1.Container) (int, error) {
	if p.Type == intstr.Int {
		return p.IntValue(), nil
	}
	for _, cp := range c.Ports {
		if cp.Name == p.StrVal {
			return int(cp.ContainerPort), nil
		}
	}
	if n, err := strconv.Atoi(p.StrVal); err == nil {
		return n, nil
	}
	return 0, fmt.Errorf("couldn't find port: %v", p.StrVal)
}

func dialTCP(ctx context.Context, host string, port int, timeout time.Duration) (bool, string) {
	d := net.Dialer{Timeout: timeout}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return false, err.Error()
	}
	_ = conn.Close() // the handshake was the question
	return true, ""
}

// HTTPGet asks a container by HTTP. Any status from 200 to 399 is good. It
// serves probes and life-cycle hooks.
func HTTPGet(ctx context.Context, get *v1.HTTPGetAction, c *v1.Container, ip string, timeout time.Duration) error {
	port, err := Port(get.Port, c)
	if err != nil {
		return err
	}
	target, err := url.Parse(get.Path)
	if err != nil {
		target = &url.URL{Path: get.Path}
	}
	if !strings.HasPrefix(target.Path, "/") {
		target.Path = "/" + target.Path
	}
	target.Scheme = strings.ToLower(string(get.Scheme))
	if target.Scheme == "" {
		target.Scheme = "http"
	}
	target.Host = net.JoinHostPort(hostOr(get.Host, ip), strconv.Itoa(port))
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return err
	}
	req.Header = header(get.HTTPHeaders)
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	res, err := httpClient().Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.CopyN(io.Discard, res.Body, maxOutput); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if res.StatusCode < 200 || res.StatusCode >= 400 {
		return fmt.Errorf("HTTP probe failed with statuscode: %d", res.StatusCode)
	}
	return nil
}

func header(list []v1.HTTPHeader) http.Header {
	h := http.Header{}
	for _, e := range list {
		h.Add(e.Name, e.Value)
	}
	if _, set := h["User-Agent"]; !set {
		h.Set("User-Agent", userAgent)
	}
	switch accept, set := h["Accept"]; {
	case !set:
		h.Set("Accept", "*/*")
	case len(accept) == 1 && accept[0] == "":
		h.Del("Accept")
	}
	return h
}

// httpClient returns a client that keeps no connection, believes any
// certificate, and follows redirects only within the probed host: elsewhere
// says nothing about the container.
func httpClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // the reference's rule for probes
			DisableKeepAlives: true, DisableCompression: true, Proxy: nil,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if req.URL.Hostname() != via[0].URL.Hostname() {
				return http.ErrUseLastResponse
			}
			if len(via) >= 10 {
				return errors.New("stopped after 10 redirects")
			}
			return nil
		},
	}
}

func askGRPC(ctx context.Context, addr string, service *string, timeout time.Duration) (bool, string) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithUserAgent(userAgent), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return false, fmt.Sprintf("error: failed to connect service at %q: %+v", addr, err)
	}
	defer conn.Close()
	req := &healthpb.HealthCheckRequest{}
	if service != nil {
		req.Service = *service
	}
	resp, err := healthpb.NewHealthClient(conn).Check(ctx, req, grpc.WaitForReady(true))
	switch {
	case status.Code(err) == codes.Unimplemented:
		return false, "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): " + err.Error()
	case status.Code(err) == codes.DeadlineExceeded:
		return false, fmt.Sprintf("timeout: failed to connect service %q within %v: %+v", addr, timeout, err)
	case err != nil:
		return false, fmt.Sprintf("error: health rpc probe failed: %+v", err)
	case resp.GetStatus() != healthpb.HealthCheckResponse_SERVING:
		return false, fmt.Sprintf("service unhealthy (responded with %q)", resp.GetStatus().String())
	}
	return true, ""
}
