package engine_test

import (
	"testing"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"

	"gantry/engine"
)

func TestDeadContainers(t *testing.T) {
	b := newBench(t)
	ids := map[string]string{
		"ended by itself": b.create("echo 12345 > /f", nil),
		"never ran":       b.create("true", nil),
		"restart policy": b.create("true", func(r *engine.CreateRequest) {
			r.HostConfig.RestartPolicy = dcontainer.RestartPolicy{Name: dcontainer.RestartPolicyOnFailure}
		}),
		"stopped by its user": b.create("trap 'exit 0' TERM; echo ready; while :; do sleep 1; done", nil),
		"runs":                b.create("echo ready; while :; do sleep 1; done", nil),
	}
	for _, name := range []string{"ended by itself", "restart policy"} {
		b.start(ids[name])
		b.wait(ids[name])
	}
	b.startReady(ids["runs"])
	b.startReady(ids["stopped by its user"])
	if err := b.Engine.Stop(b.ctx, ids["stopped by its user"], engine.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	list, err := b.Engine.Footprints(b.ctx)
	if err != nil || len(list) != len(ids) {
		t.Fatalf("Footprints: %+v, %v", list, err)
	}
	for _, f := range list {
		dead := f.ID == ids["ended by itself"]
		if f.Dead != dead {
			t.Errorf("%+v; dead should be %v", f, dead)
		}
		if dead && f.Bytes != 6 {
			t.Errorf("%+v; it has written 6 bytes", f)
		}
		if gone, err := b.Engine.RemoveDead(b.ctx, f.ID, f.Ended.Add(time.Nanosecond)); gone || err != nil {
			t.Errorf("RemoveDead of one that has run since: %v, %v", gone, err)
		}
		if gone, err := b.Engine.RemoveDead(b.ctx, f.ID, f.Ended); gone != dead || err != nil {
			t.Errorf("RemoveDead of %+v: %v, %v", f, gone, err)
		}
	}
	if gone, err := b.Engine.RemoveDead(b.ctx, ids["ended by itself"], time.Time{}); gone || err != nil {
		t.Errorf("RemoveDead of one that is gone: %v, %v", gone, err)
	}
}
