package control

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
	"strings"
	"syscall"

	"gantry/internal/problem"
)

// Client asks one server. Its zero value is not usable; see NewClient.
type Client struct {
	http   *http.Client
	socket string
}

// NewClient returns a client of the server behind socket. It connects when it
// is first used.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Status returns what the server says of itself. The error is of kind
// Unavailable when no server is behind the socket, and Denied when the caller
// may not connect.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.do(ctx, http.MethodGet, "/status", &s)
	return s, err
}

// Usage returns what the server takes from its host.
func (c *Client) Usage(ctx context.Context) (Usage, error) {
	var u Usage
	err := c.do(ctx, http.MethodGet, "/usage", &u)
	return u, err
}

// Ports returns the ports on which the container's network namespace listens.
func (c *Client) Ports(ctx context.Context, container string) ([]Port, error) {
	var ports []Port
	err := c.do(ctx, http.MethodGet, "/ports?container="+url.QueryEscape(container), &ports)
	return ports, err
}

// Check has the server walk all its stores, which reads every layer whole.
func (c *Client) Check(ctx context.Context) ([]Violation, error) {
	var found []Violation
	err := c.do(ctx, http.MethodGet, "/check", &found)
	return found, err
}

// Disk returns what the server stores.
func (c *Client) Disk(ctx context.Context) (Disk, error) {
	var d Disk
	err := c.do(ctx, http.MethodGet, "/disk", &d)
	return d, err
}

// Stop asks the server to stop. It returns when the server has begun.
func (c *Client) Stop(ctx context.Context, containers Fate) error {
	return c.do(ctx, http.MethodPost, "/stop?containers="+string(containers), nil)
}

func (c *Client) do(ctx context.Context, method, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://gantry"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.classify(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		kind := problem.Unavailable
		if resp.StatusCode == http.StatusNotFound {
			kind = problem.NotFound
		}
		return problem.New(kind, "%s", strings.TrimSpace(string(text)))
	}
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("read %s of the server: %w", path, err)
	}
	return nil
}

func (c *Client) classify(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return problem.New(problem.Denied, "connect to %s: %w", c.socket, syscall.EACCES)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return problem.New(problem.Unavailable, "no server is running behind %s", c.socket)
	}
	return err
}
