package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// target is an engine that answers the Docker API on a socket: Gantry's, or
// a dockerd of the bench's own.
type target struct {
	name   string
	socket string
	run    func(context.Context) (*exec.Cmd, error) // starts the daemon on the same directories again
	cmd    *exec.Cmd
	begin  time.Time // of the daemon's process
	api    *http.Client
}

// start runs the daemon and waits until it answers; it may have run before.
func (t *target) start(ctx context.Context, log *bytes.Buffer) (err error) {
	t.api = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", t.socket)
	}}}
	t.begin = time.Now()
	if t.cmd, err = t.run(ctx); err != nil {
		return err
	}
	return poll(ctx, &server{log: log}, func() error { return t.call(ctx, http.MethodGet, "/version", nil, nil) })
}

// docker runs the stock client.
func (t *target) docker(ctx context.Context, args ...string) (time.Duration, error) {
	return timed(ctx, t.env(), "docker", args...)
}

func (t *target) env() []string { return []string{"DOCKER_HOST=unix://" + t.socket} }

// call is one request of the API; in and out may be nil.
func (t *target) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := t.api.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s %s: %s: %s", t.name, method, path, resp.Status, data)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}

// create makes a container of busybox and returns its ID.
func (t *target) create(ctx context.Context, network string, cmd ...string) (string, error) {
	var made struct{ ID string }
	err := t.call(ctx, http.MethodPost, "/containers/create", map[string]any{
		"Image": "busybox", "Cmd": cmd, "HostConfig": map[string]any{"NetworkMode": network},
	}, &made)
	return made.ID, err
}

// pid returns a container's first process.
func (t *target) pid(ctx context.Context, id string) (int, error) {
	var info struct{ State struct{ Pid int } }
	err := t.call(ctx, http.MethodGet, "/containers/"+id+"/json", nil, &info)
	return info.State.Pid, err
}

// gantryTarget is a Gantry engine without the cluster, on an empty directory.
func (b *bench) gantryTarget(log *bytes.Buffer) (*target, *server, error) {
	dir, err := os.MkdirTemp(b.work, "s")
	if err != nil {
		return nil, nil, err
	}
	s := &server{data: filepath.Join(dir, "data"), run: filepath.Join(dir, "run"), log: log}
	t := &target{name: "gantry", socket: s.run + "/docker.sock"}
	t.run = func(ctx context.Context) (*exec.Cmd, error) {
		err := s.start(ctx, b, "--disable=cluster")
		return s.cmd, err
	}
	return t, s, nil
}

// dockerdTarget is a dockerd on an empty directory, or nil when none is installed.
func (b *bench) dockerdTarget(log *bytes.Buffer) *target {
	daemon, err := exec.LookPath("dockerd")
	if err != nil {
		return nil
	}
	dir := filepath.Join(b.work, "docker")
	t := &target{name: "docker", socket: dir + ".sock"}
	t.run = func(ctx context.Context) (*exec.Cmd, error) {
		cmd := exec.CommandContext(ctx, daemon, "--data-root", dir+"/data", "--exec-root", dir+"/exec",
			"--pidfile", dir+".pid", "-H", "unix://"+t.socket)
		cmd.Stdout, cmd.Stderr = log, log
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		return cmd, cmd.Start()
	}
	return t
}
