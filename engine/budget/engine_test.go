package budget

import (
	"context"
	"testing"
	"time"

	dcontainer "github.com/moby/moby/api/types/container"

	"gantry/engine"
	"gantry/engine/internal/enginetest"
)

// TestDeadContainersGo fills nothing: it asks for more room than the disk has.
func TestDeadContainersGo(t *testing.T) {
	h := enginetest.New(t)
	h.Busybox(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	create := func(name, script string) string {
		made, err := h.Engine.Create(ctx, engine.CreateRequest{
			Name:       name,
			Config:     &dcontainer.Config{Image: "busybox", Cmd: []string{"sh", "-c", script}},
			HostConfig: &dcontainer.HostConfig{NetworkMode: "none"},
		})
		if err != nil {
			t.Fatal(err)
		}
		return made.ID
	}
	dead := create("dead", "head -c 100000 /dev/zero > /f")
	waiting := create("waiting", "true") // it never ran
	await, err := h.Engine.Wait(ctx, dead, dcontainer.WaitConditionNextExit)
	if err == nil {
		err = h.Engine.Start(ctx, dead)
	}
	if err == nil {
		_, err = await(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(Config{Dir: h.Instance.DataDir, Floor: 1 << 60, Grace: 1, Images: h.Images, Builder: h.Builder, Engine: h.Engine})
	if err != nil {
		t.Fatal(err)
	}
	report, err := b.Report(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range report.Kinds {
		if k.Kind == string(Container) && (k.Count != 2 || k.Bytes != 100000 || k.FreeBytes != 100000) {
			t.Errorf("containers: %+v", k)
		}
	}
	if left, err := b.Keep(ctx); err != nil || left == 0 {
		t.Errorf("Keep: %d, %v", left, err)
	}
	var kept []string
	for _, c := range h.Engine.Containers(ctx) {
		kept = append(kept, c.ID)
	}
	if len(kept) != 1 || kept[0] != waiting {
		t.Errorf("containers %v are left, want %s", kept, waiting)
	}
	if _, err := h.Images.Resolve(ctx, "busybox"); err != nil {
		t.Errorf("the tagged image: %v", err)
	}
}
