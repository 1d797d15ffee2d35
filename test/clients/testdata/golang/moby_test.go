// Package golang uses the Go clients of Docker's API against the daemon that
// DOCKER_HOST names, which has an image "busybox": moby's own, and testcontainers.
// The tests two directories up build this one, start the daemon and run it.
package golang

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
)

// create makes a container that is removed after the test.
func create(t *testing.T, api *client.Client, config container.Config) string {
	t.Helper()
	config.Image = "busybox"
	made, err := api.ContainerCreate(bounded(t), client.ContainerCreateOptions{Config: &config})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, err := api.ContainerRemove(context.Background(), made.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		if err != nil {
			t.Error(err)
		}
	})
	return made.ID
}

func start(t *testing.T, api *client.Client, id string) {
	t.Helper()
	if _, err := api.ContainerStart(bounded(t), id, client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
}

// exited waits for a container's exit status.
func exited(t *testing.T, wait client.ContainerWaitResult) int64 {
	t.Helper()
	select {
	case got := <-wait.Result:
		return got.StatusCode
	case err := <-wait.Error:
		t.Fatal(err)
		return -1
	}
}

func TestEveryVersion(t *testing.T) {
	for minor := 40; minor <= 56; minor++ { // the client speaks none below
		api, err := client.New(client.FromEnv, client.WithAPIVersion(fmt.Sprintf("1.%d", minor)))
		if err != nil {
			t.Fatal(err)
		}
		id := create(t, api, container.Config{Cmd: []string{"true"}})
		wait := api.ContainerWait(bounded(t), id, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
		start(t, api, id)
		equal(t, "exit status", exited(t, wait), 0)
		_, err = api.ContainerInspect(bounded(t), id, client.ContainerInspectOptions{})
		equal(t, "inspect", err, nil)
		_, err = api.ImageInspect(bounded(t), "busybox")
		equal(t, "inspect of an image", err, nil)
	}
}

func TestErrorsHaveTheirKinds(t *testing.T) {
	api, ctx := daemon(t), bounded(t)
	_, err := api.ContainerInspect(ctx, "nothing", client.ContainerInspectOptions{})
	equal(t, "not found", errdefs.IsNotFound(err), true)
	_, err = api.ContainerCreate(ctx, client.ContainerCreateOptions{Image: "nothing"})
	equal(t, "no image", errdefs.IsNotFound(err), true)
	busybox := container.Config{Image: "busybox", Cmd: []string{"sleep", "1000"}}
	id := create(t, api, busybox)
	name := "taken" + id[:12]
	_, err = api.ContainerRename(ctx, id, client.ContainerRenameOptions{NewName: name})
	equal(t, "rename", err, nil)
	_, err = api.ContainerCreate(ctx, client.ContainerCreateOptions{Config: &busybox, Name: name})
	equal(t, "a name twice", errdefs.IsConflict(err), true)
	_, err = api.ContainerCreate(ctx, client.ContainerCreateOptions{Config: &busybox, Name: "/?"})
	equal(t, "a bad name", errdefs.IsInvalidArgument(err), true)
	start(t, api, id)
	_, err = api.ContainerStart(ctx, id, client.ContainerStartOptions{}) // 304
	equal(t, "a second start", err, nil)
	_, err = api.ContainerRemove(ctx, id, client.ContainerRemoveOptions{})
	equal(t, "removal while it runs", errdefs.IsConflict(err), true)
	_, err = api.SwarmInspect(ctx, client.SwarmInspectOptions{})
	equal(t, "swarm", errdefs.IsUnavailable(err), true)
}

func TestAttachedStreams(t *testing.T) {
	api, ctx := daemon(t), bounded(t)
	id := create(t, api, container.Config{
		Cmd: []string{"sh", "-c", "cat; echo end >&2; exit 5"}, OpenStdin: true, StdinOnce: true, AttachStdin: true, AttachStdout: true, AttachStderr: true,
	})
	attached, err := api.ContainerAttach(ctx, id, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	defer attached.Close()
	wait := api.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	start(t, api, id)
	input := strings.Repeat("all work and no play\n", 50_000) // 1 MB
	go func() {
		_, _ = io.WriteString(attached.Conn, input) // what is missing is missed below
		_ = attached.CloseWrite()
	}()
	var out, errOut bytes.Buffer
	_, err = stdcopy.StdCopy(&out, &errOut, attached.Reader)
	equal(t, "the copy", err, nil)
	equal(t, "stdout is what was sent", out.String() == input, true)
	equal(t, "stderr", errOut.String(), "end\n")
	equal(t, "exit status", exited(t, wait), 5)
}

func TestManyExecsAtOnce(t *testing.T) {
	api, ctx := daemon(t), bounded(t)
	id := create(t, api, container.Config{Cmd: []string{"sleep", "1000"}})
	start(t, api, id)
	var all sync.WaitGroup
	for n := range 20 {
		all.Go(func() {
			want := fmt.Sprintf("number %d\n", n)
			made, err := api.ExecCreate(ctx, id, client.ExecCreateOptions{
				Cmd: []string{"sh", "-c", "cat; exit $N"}, Env: []string{fmt.Sprint("N=", n)}, AttachStdin: true, AttachStdout: true, AttachStderr: true,
			})
			if err != nil {
				t.Error(err)
				return
			}
			attached, err := api.ExecAttach(ctx, made.ID, client.ExecAttachOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			defer attached.Close()
			_, err = io.WriteString(attached.Conn, want)
			equal(t, "input", err, nil)
			equal(t, "half-close", attached.CloseWrite(), nil)
			var out, errOut bytes.Buffer
			_, err = stdcopy.StdCopy(&out, &errOut, attached.Reader)
			equal(t, "output", err, nil)
			equal(t, "stdout", out.String(), want)
			state, err := api.ExecInspect(ctx, made.ID, client.ExecInspectOptions{})
			equal(t, "inspect", err, nil)
			equal(t, "exit status", fmt.Sprintln(state.Running, state.ExitCode), fmt.Sprintln(false, n))
		})
	}
	all.Wait()
}

func TestTerminal(t *testing.T) {
	api, ctx := daemon(t), bounded(t)
	id := create(t, api, container.Config{Cmd: []string{"sh", "-c", "read line; stty size; echo $line"}, Tty: true, OpenStdin: true})
	attached, err := api.ContainerAttach(ctx, id, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	defer attached.Close()
	start(t, api, id)
	_, err = api.ContainerResize(ctx, id, client.ContainerResizeOptions{Height: 33, Width: 99})
	equal(t, "resize", err, nil)
	_, err = io.WriteString(attached.Conn, "typed\n")
	equal(t, "input", err, nil)
	if got := text(t, attached.Reader); !strings.HasSuffix(got, "33 99\r\ntyped\r\n") {
		t.Errorf("%q", got)
	}
}

func TestLogsAndEvents(t *testing.T) {
	api := daemon(t)
	ctx, cancel := context.WithCancel(bounded(t))
	id := create(t, api, container.Config{Cmd: []string{"sh", "-c", "echo one; echo two >&2"}, Labels: map[string]string{"watched": "by this"}})
	stream := api.Events(ctx, client.EventsListOptions{Since: "0", Filters: make(client.Filters).Add("label", "watched=by this").Add("type", "container")})
	start(t, api, id)
	for _, want := range []events.Action{events.ActionCreate, events.ActionStart, events.ActionDie} {
		select {
		case got := <-stream.Messages:
			equal(t, "event", got.Action, want)
		case err := <-stream.Err:
			t.Fatal(err)
		}
	}
	cancel()
	equal(t, "the end of the events", <-stream.Err, context.Canceled)
	logs, err := api.ContainerLogs(bounded(t), id, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	var out, errOut bytes.Buffer
	_, err = stdcopy.StdCopy(&out, &errOut, logs)
	equal(t, "the copy", err, nil)
	equal(t, "the log", out.String()+errOut.String(), "one\ntwo\n")
}

func TestCopies(t *testing.T) {
	api, ctx := daemon(t), bounded(t)
	id := create(t, api, container.Config{Cmd: []string{"true"}})
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	equal(t, "header", w.WriteHeader(&tar.Header{Name: "file", Mode: 0o600, Size: 7}), nil)
	_, err := io.WriteString(w, "content")
	equal(t, "content", err, nil)
	equal(t, "close", w.Close(), nil)
	_, err = api.CopyToContainer(ctx, id, client.CopyToContainerOptions{DestinationPath: "/tmp", Content: &archive})
	equal(t, "to", err, nil)
	stat, err := api.ContainerStatPath(ctx, id, client.ContainerStatPathOptions{Path: "/tmp/file"})
	equal(t, "stat", fmt.Sprintln(stat.Stat.Name, stat.Stat.Size, stat.Stat.Mode, err), "file 7 -rw------- <nil>\n")
	got, err := api.CopyFromContainer(ctx, id, client.CopyFromContainerOptions{SourcePath: "/tmp/file"})
	if err != nil {
		t.Fatal(err)
	}
	defer got.Content.Close()
	r := tar.NewReader(got.Content)
	_, err = r.Next()
	equal(t, "next", err, nil)
	equal(t, "back", text(t, r), "content")
	diff, err := api.ContainerDiff(ctx, id, client.ContainerDiffOptions{})
	equal(t, "diff", fmt.Sprintln(diff.Changes, err), "[{C /tmp} {A /tmp/file}] <nil>\n")
}

func TestStatsAndSystem(t *testing.T) {
	api, ctx := daemon(t), bounded(t)
	id := create(t, api, container.Config{Cmd: []string{"sleep", "1000"}})
	start(t, api, id)
	answer, err := api.ContainerStats(ctx, id, client.ContainerStatsOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var stats container.StatsResponse
	equal(t, "decode", json.NewDecoder(answer.Body).Decode(&stats), nil)
	equal(t, "whose", stats.ID, id)
	equal(t, "memory is used", stats.MemoryStats.Usage > 0, true)
	info, err := api.Info(ctx, client.InfoOptions{})
	equal(t, "info", fmt.Sprintln(info.Info.OSType, info.Info.ContainersRunning > 0, err), "linux true <nil>\n")
	usage, err := api.DiskUsage(ctx, client.DiskUsageOptions{Containers: true, Images: true})
	equal(t, "disk usage", fmt.Sprintln(usage.Containers.TotalCount > 0, usage.Images.TotalCount > 0, err), "true true <nil>\n")
	ping, err := api.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true})
	equal(t, "ping", fmt.Sprintln(ping.OSType, ping.BuilderVersion, err), "linux 1 <nil>\n")
}
