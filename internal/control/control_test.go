package control

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gantry/internal/problem"
)

type fakeServer struct {
	status  Status
	stopped chan Fate
}

func (f *fakeServer) Status() Status { return f.status }

func (f *fakeServer) Usage(context.Context) (Usage, error) { return Usage{PSSBytes: 5}, nil }

func (f *fakeServer) Ports(_ context.Context, container string) ([]Port, error) {
	if container != "web" {
		return nil, problem.New(problem.NotFound, "No such container: %s", container)
	}
	return []Port{{Port: 8080, Protocol: "tcp"}}, nil
}

func (f *fakeServer) Check(context.Context) ([]Violation, error) {
	return []Violation{{Part: "images", Problem: "torn"}}, nil
}

func (f *fakeServer) Disk(context.Context) (Disk, error) { return Disk{LimitBytes: 7}, nil }

func (f *fakeServer) Stop(containers Fate) { f.stopped <- containers }

func TestClientAndServerAgree(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	client := NewClient(socket)
	ctx := context.Background()
	if _, err := client.Status(ctx); !errors.Is(err, problem.Unavailable) {
		t.Errorf("no server: %v, want Unavailable", err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	fake := &fakeServer{status: Status{Phase: Running, PID: 7, Steps: []Step{{Name: "engine", Took: 5}}}, stopped: make(chan Fate, 1)}
	server := &http.Server{Handler: Handler(fake)}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()

	got, err := client.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fake.status, got); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	ports, err := client.Ports(ctx, "web")
	if err != nil || len(ports) != 1 || ports[0].Port != 8080 {
		t.Errorf("ports = %v, %v", ports, err)
	}
	if _, err := client.Ports(ctx, "x"); !errors.Is(err, problem.NotFound) || err.Error() != "No such container: x" {
		t.Errorf("unknown container: %v", err)
	}
	if usage, err := client.Usage(ctx); err != nil || usage.PSSBytes != 5 {
		t.Errorf("usage = %+v, %v", usage, err)
	}
	if found, err := client.Check(ctx); err != nil || len(found) != 1 || found[0].Problem != "torn" {
		t.Errorf("check = %+v, %v", found, err)
	}
	if disk, err := client.Disk(ctx); err != nil || disk.LimitBytes != 7 {
		t.Errorf("disk = %+v, %v", disk, err)
	}
	if err := client.Stop(ctx, Kill); err != nil {
		t.Fatal(err)
	}
	if fate := <-fake.stopped; fate != Kill {
		t.Errorf("fate is %s", fate)
	}
	if err := client.Stop(ctx, "x"); err == nil {
		t.Error("an unknown fate was taken")
	}
}

func TestAFailedStepIsNamed(t *testing.T) {
	var p Progress
	_ = p.Step("engine", func() error { return nil })
	_ = p.Step("apiserver", func() error { return errors.New("address in use") })
	steps := p.Steps()
	if len(steps) != 2 || !steps[0].Done() || steps[1].Done() || steps[1].Error != "address in use" {
		t.Errorf("steps = %+v", steps)
	}
}
