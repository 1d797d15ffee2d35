package engine_test

import (
	"testing"

	dcontainer "github.com/moby/moby/api/types/container"

	"gantry/engine"
)

// BenchmarkRun creates, starts, waits for and removes a container.
func BenchmarkRun(b *testing.B) {
	h := newBench(b)
	for _, mode := range []dcontainer.NetworkMode{"host", "none", "bridge"} {
		b.Run(string(mode), func(b *testing.B) {
			for b.Loop() {
				id := h.create("", func(r *engine.CreateRequest) {
					r.Config.Cmd, r.HostConfig.NetworkMode = []string{"true"}, mode
				})
				h.start(id)
				if code := h.wait(id); code != 0 {
					b.Fatalf("exit %d", code)
				}
				if err := h.Engine.Remove(h.ctx, id, engine.RemoveOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkExec runs a further process in a running container.
func BenchmarkExec(b *testing.B) {
	h := newBench(b)
	id := h.create("sleep 1000", nil)
	h.start(id)
	for b.Loop() {
		code, err := h.Engine.ExecRun(h.ctx, id, dcontainer.ExecCreateRequest{Cmd: []string{"true"}}, engine.Streams{})
		if code != 0 || err != nil {
			b.Fatal(code, err)
		}
	}
}
