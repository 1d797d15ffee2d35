// Package docker is a small client of the Docker Engine API: the few calls that
// the command line makes, in plain HTTP and JSON on the engine's socket. It
// exists for the same reason as package kube: the command line has to start in
// milliseconds.
package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"gantry/internal/problem"
)

// Client speaks to one engine. It may be used concurrently.
type Client struct {
	socket string
	http   *http.Client
}

// New returns a client of the engine behind the Unix socket. It does not connect.
func New(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Image is what is read of an image.
type Image struct {
	ID           string `json:"Id"`
	Architecture string
	Size         int64
	Config       struct {
		ExposedPorts map[string]struct{}
	}
}

// Ports returns the TCP ports that the image exposes, lowest first.
func (i Image) Ports() []int {
	var ports []int
	for exposed := range i.Config.ExposedPorts {
		number, protocol, _ := strings.Cut(exposed, "/")
		n, err := strconv.Atoi(number)
		if err == nil && (protocol == "" || protocol == "tcp") {
			ports = append(ports, n)
		}
	}
	slices.Sort(ports)
	return ports
}

// Image returns the image that ref names.
func (c *Client) Image(ctx context.Context, ref string) (Image, error) {
	var i Image
	err := c.do(ctx, http.MethodGet, "/images/"+ref+"/json", &i)
	return i, err
}

// Tag gives the image a further name.
func (c *Client) Tag(ctx context.Context, ref, repository, tag string) error {
	query := url.Values{"repo": {repository}, "tag": {tag}}
	return c.do(ctx, http.MethodPost, "/images/"+ref+"/tag?"+query.Encode(), nil)
}

// Container is what is read of a container in a list.
type Container struct {
	ID     string `json:"Id"`
	Names  []string
	Image  string
	State  string
	Status string
	Labels map[string]string
}

// Containers lists the running containers.
func (c *Client) Containers(ctx context.Context) ([]Container, error) {
	var list []Container
	err := c.do(ctx, http.MethodGet, "/containers/json", &list)
	return list, err
}

// Info is what is read of the engine.
type Info struct {
	Architecture      string
	Images            int
	ContainersRunning int
}

// Info returns what the engine says of itself and its host.
func (c *Client) Info(ctx context.Context) (Info, error) {
	var info Info
	err := c.do(ctx, http.MethodGet, "/info", &info)
	return info, err
}

// BuildRequest is one build.
type BuildRequest struct {
	Context    io.Reader // a tar archive; read to its end
	Dockerfile string    // its path in the context; empty means Dockerfile
}

// message is one line of the build's answer.
type message struct {
	Stream string `json:"stream"`
	Status string `json:"status"`
	Error  string `json:"error"`
	Aux    struct {
		ID string `json:"ID"`
	} `json:"aux"`
}

// Build builds an image and returns its ID. output is called with the build's
// output as it comes, in whole lines or parts of them.
func (c *Client) Build(ctx context.Context, req BuildRequest, output func(string)) (string, error) {
	query := url.Values{"rm": {"1"}, "forcerm": {"1"}}
	if req.Dockerfile != "" {
		query.Set("dockerfile", req.Dockerfile)
	}
	resp, err := c.send(ctx, http.MethodPost, "/build?"+query.Encode(), "application/x-tar", req.Context)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	id := ""
	messages := json.NewDecoder(resp.Body)
	for {
		var m message
		err := messages.Decode(&m)
		switch {
		case errors.Is(err, io.EOF) && id != "":
			return id, nil
		case err != nil:
			return "", fmt.Errorf("read the build's output: %w", err)
		case m.Error != "":
			return "", problem.New(problem.Invalid, "%s", m.Error)
		case m.Aux.ID != "":
			id = m.Aux.ID
		case m.Stream != "":
			output(m.Stream)
		case m.Status != "":
			output(m.Status + "\n")
		}
	}
}

func (c *Client) do(ctx context.Context, method, path string, into any) error {
	resp, err := c.send(ctx, method, path, "", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if into == nil {
		_, err := io.Copy(io.Discard, resp.Body)
		return err
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// send returns an answer that is a success; the caller closes its body.
func (c *Client) send(ctx context.Context, method, path, contentType string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, body)
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.classify(err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var answer struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(text, &answer) != nil || answer.Message == "" {
		answer.Message = strings.TrimSpace(string(text))
	}
	return nil, problem.New(kind(resp.StatusCode), "%s", answer.Message)
}

func kind(status int) problem.Kind {
	switch status {
	case http.StatusNotFound:
		return problem.NotFound
	case http.StatusConflict:
		return problem.Conflict
	case http.StatusBadRequest:
		return problem.Invalid
	}
	return problem.Unavailable
}

func (c *Client) classify(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return problem.New(problem.Denied, "connect to %s: %w", c.socket, syscall.EACCES)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return problem.New(problem.Unavailable, "no engine is running behind %s", c.socket)
	}
	return err
}
