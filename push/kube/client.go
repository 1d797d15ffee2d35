// Package kube is a small client of the Kubernetes API: plain HTTP and JSON with
// a kubeconfig's certificates, and of each kind the fields that the command line
// reads or writes.
//
// The command line starts in milliseconds because it uses this instead of
// client-go, which needs tens of them before main. It is for that command line
// only: whatever runs for long uses client-go's informers.
package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"sigs.k8s.io/yaml"

	"gantry/internal/problem"
)

// Client speaks to one API server. It may be used concurrently.
type Client struct {
	server string
	http   *http.Client
}

// kubeconfig is the part of a kubeconfig file that is understood here: what
// the server writes.
type kubeconfig struct {
	CurrentContext string `json:"current-context"`
	Contexts       []struct {
		Name    string `json:"name"`
		Context struct {
			Cluster string `json:"cluster"`
			User    string `json:"user"`
		} `json:"context"`
	} `json:"contexts"`
	Clusters []struct {
		Name    string `json:"name"`
		Cluster struct {
			Server string `json:"server"`
			CA     string `json:"certificate-authority-data"`
			CAFile string `json:"certificate-authority"`
		} `json:"cluster"`
	} `json:"clusters"`
	Users []struct {
		Name string `json:"name"`
		User struct {
			Cert     string `json:"client-certificate-data"`
			CertFile string `json:"client-certificate"`
			Key      string `json:"client-key-data"`
			KeyFile  string `json:"client-key"`
		} `json:"user"`
	} `json:"users"`
}

// Open returns a client with the current context of the kubeconfig file. It
// does not connect.
func Open(path string) (*Client, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, problem.New(problem.Unavailable, "no kubeconfig at %s: the cluster has not been started", path)
	}
	if err != nil {
		return nil, err
	}
	var k kubeconfig
	if err := yaml.Unmarshal(data, &k); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	c, err := k.client()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func (k kubeconfig) client() (*Client, error) {
	c := new(Client)
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	for _, context := range k.Contexts {
		if context.Name != k.CurrentContext {
			continue
		}
		for _, cluster := range k.Clusters {
			if cluster.Name != context.Context.Cluster {
				continue
			}
			ca, err := material(cluster.Cluster.CA, cluster.Cluster.CAFile)
			if err != nil {
				return nil, err
			}
			c.server = strings.TrimSuffix(cluster.Cluster.Server, "/")
			tlsConfig.RootCAs = x509.NewCertPool()
			tlsConfig.RootCAs.AppendCertsFromPEM(ca)
		}
		for _, user := range k.Users {
			if user.Name != context.Context.User {
				continue
			}
			cert, certErr := material(user.User.Cert, user.User.CertFile)
			key, keyErr := material(user.User.Key, user.User.KeyFile)
			pair, pairErr := tls.X509KeyPair(cert, key)
			if err := errors.Join(certErr, keyErr, pairErr); err != nil {
				return nil, err
			}
			tlsConfig.Certificates = []tls.Certificate{pair}
		}
	}
	if c.server == "" {
		return nil, problem.New(problem.Invalid, "context %q names no cluster", k.CurrentContext)
	}
	c.http = &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 8}}
	return c, nil
}

// material returns what is given inline, in base64, or else in a file.
func material(inline, file string) ([]byte, error) {
	if inline != "" {
		return base64.StdEncoding.DecodeString(inline)
	}
	return os.ReadFile(file)
}

// Error is an answer of the API server that is not a success.
type Error struct {
	Code    int    `json:"code"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Error returns the server's own message.
func (e *Error) Error() string { return e.Message }

// Is maps the status code to a kind of problem.
func (e *Error) Is(target error) bool {
	switch e.Code {
	case http.StatusNotFound:
		return target == problem.NotFound
	case http.StatusConflict:
		return target == problem.Conflict
	case http.StatusForbidden, http.StatusUnauthorized:
		return target == problem.Denied
	case http.StatusUnprocessableEntity, http.StatusBadRequest:
		return target == problem.Invalid
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return target == problem.Unavailable
	}
	return false
}

// Get reads the object or list at path, such as /api/v1/namespaces/default/pods.
func (c *Client) Get(ctx context.Context, path string, into any) error {
	return c.do(ctx, http.MethodGet, path, "", nil, into)
}

// Delete deletes the object at path; its dependents follow in the background.
func (c *Client) Delete(ctx context.Context, path string) error {
	return c.do(ctx, http.MethodDelete, path+"?propagationPolicy=Background", "", nil, nil)
}

// Patch merges the JSON of patch into the object at path.
func (c *Client) Patch(ctx context.Context, path string, patch, into any) error {
	return c.do(ctx, http.MethodPatch, path, "application/merge-patch+json", patch, into)
}

// Apply makes the object at path have the fields of object, as manager's
// own (server-side apply); fields that manager had set and does not any more
// are removed. It takes fields over from other managers.
func (c *Client) Apply(ctx context.Context, path, manager string, object, into any) error {
	return c.do(ctx, http.MethodPatch, path+"?force=true&fieldManager="+manager, "application/apply-patch+yaml", object, into)
}

// Stream opens what path answers, such as a pod's log. The caller closes it.
func (c *Client) Stream(ctx context.Context, path string) (io.ReadCloser, error) {
	resp, err := c.send(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Event is one change that Watch saw.
type Event struct {
	Type   string          `json:"type"` // ADDED, MODIFIED, DELETED
	Object json.RawMessage `json:"object"`
}

// Watch calls seen for every object of the list at path, and then for each
// change, until ctx ends, seen returns an error, or the server ends the watch,
// for which it returns nil. path may have a query.
func (c *Client) Watch(ctx context.Context, path string, seen func(Event) error) error {
	separator := "?"
	if strings.Contains(path, "?") {
		separator = "&"
	}
	resp, err := c.send(ctx, http.MethodGet, path+separator+"watch=true", "", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	events := json.NewDecoder(resp.Body)
	for {
		var e Event
		if err := events.Decode(&e); err != nil {
			if ctx.Err() == nil && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
				return nil
			}
			return errors.Join(ctx.Err(), err)
		}
		if e.Type == "BOOKMARK" {
			continue
		}
		if e.Type == "ERROR" {
			failure := new(Error)
			if err := json.Unmarshal(e.Object, failure); err != nil {
				return err
			}
			return failure
		}
		if err := seen(e); err != nil {
			return err
		}
	}
}

func (c *Client) do(ctx context.Context, method, path, contentType string, body, into any) error {
	resp, err := c.send(ctx, method, path, contentType, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if into == nil {
		_, err := io.Copy(io.Discard, resp.Body)
		return err
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("%s %s: read the answer: %w", method, path, err)
	}
	return nil
}

// send returns an answer that is a success; the caller closes its body.
func (c *Client) send(ctx context.Context, method, path, contentType string, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.server+path, content)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "gantry")
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
	failure := new(Error)
	if json.Unmarshal(text, failure) != nil || failure.Message == "" {
		failure.Message = strings.TrimSpace(string(text))
	}
	failure.Code = resp.StatusCode
	return nil, failure
}

func (c *Client) classify(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok && errors.Is(op.Err, syscall.ECONNREFUSED) {
		return problem.New(problem.Unavailable, "the cluster's API does not answer at %s", c.server)
	}
	return err
}
