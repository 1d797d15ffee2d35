package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gantry/engine/image"
	"gantry/internal/problem"
)

func TestEvictTakesTheOldestResultsAndTheirLayers(t *testing.T) {
	b := newBench(t)
	b.busybox()
	b.mustBuild(Request{Tags: []string{"x"}}, "FROM busybox\nRUN echo 1 > /1\nRUN echo 2 > /2\n")
	if _, err := b.images.Remove(ctx, "x", image.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	between := time.Now()
	b.mustBuild(Request{Tags: []string{"y"}}, "FROM busybox\nRUN echo 1 > /1\n") // uses the first again
	results := b.Results()
	var ids []string
	for id := range results {
		ids = append(ids, id)
	}
	if len(ids) != 2 {
		t.Fatalf("results: %v", results)
	}
	if n, err := b.Evict(ctx, ids, time.Time{}); n != 0 || err != nil {
		t.Errorf("Evict of what was used since: %d, %v", n, err)
	}
	if n, err := b.Evict(ctx, ids, between); n != 1 || err != nil {
		t.Errorf("Evict of what was not: %d, %v", n, err)
	}
	for id, r := range results {
		_, kept := b.Results()[id]
		_, err := b.images.Layer(ctx, r.Layer)
		if old := !r.Used.After(between); kept == old || errors.Is(err, problem.NotFound) != old {
			t.Errorf("result used at %v: kept %v, its layer: %v", r.Used, kept, err)
		}
	}
	// The layer that an image has stays without its result.
	if n, err := b.Evict(ctx, ids, time.Now()); n != 1 || err != nil {
		t.Errorf("Evict of all: %d, %v", n, err)
	}
	if got := b.mustBuild(Request{Tags: []string{"z"}}, "FROM busybox\nRUN echo 1 > /1\n"); ran(got) != 1 {
		t.Errorf("built from a cache without results:\n%s", got)
	}
}

func TestResultsWithoutALayerAreBounded(t *testing.T) {
	b := newBench(t)
	const more = 5
	start := time.Now()
	for i := range maxBare + more {
		k := cacheKey(fmt.Sprint(i))
		b.cache.entries[k] = result{Used: start.Add(time.Duration(i) * time.Second)}
		b.cache.dirty[k] = true
	}
	b.cache.entries["layer"] = result{Layer: "sha256:any"} // the oldest of all
	if err := b.cache.flush(); err != nil {
		t.Fatal(err)
	}
	delete(b.cache.entries, "layer")
	b.close()
	b.open()
	for i := range maxBare + more {
		if _, kept := b.cache.entries[cacheKey(fmt.Sprint(i))]; kept != (i >= more) {
			t.Fatalf("result %d of %d: kept %v", i, maxBare+more, kept)
		}
	}
}

func TestEvictLeavesMountsThatAreUsed(t *testing.T) {
	b := newBench(t)
	b.busybox()
	b.mustBuild(Request{}, "FROM busybox\nRUN --mount=type=cache,target=/c echo 12345 > /c/f\n")
	mounts, err := b.Mounts()
	if err != nil || len(mounts) != 1 || mounts[0].Bytes != 6 || mounts[0].Busy {
		t.Fatalf("Mounts: %+v, %v", mounts, err)
	}
	name := mounts[0].Name
	_, release, err := b.caches.acquire(ctx, name, "shared")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := b.EvictMount(name, time.Now()); n != 0 || err != nil {
		t.Errorf("EvictMount of one in use: %d, %v", n, err)
	}
	release()
	if n, err := b.EvictMount(name, mounts[0].Used); n != 0 || err != nil {
		t.Errorf("EvictMount of one used since: %d, %v", n, err)
	}
	if n, err := b.EvictMount(name, time.Now()); n != 6 || err != nil {
		t.Errorf("EvictMount: %d, %v", n, err)
	}
	if n, err := b.EvictMount(name, time.Now()); n != 0 || err != nil {
		t.Errorf("EvictMount again: %d, %v", n, err)
	}
}

// TestEvictBesideBuilds forgets everything as fast as it can while builds make
// and reuse results: each of them succeeds, and what is kept has its layer.
func TestEvictBesideBuilds(t *testing.T) {
	b := newBench(t)
	b.busybox()
	life, stop := context.WithCancel(ctx)
	var evictor, builds sync.WaitGroup
	evictor.Go(func() {
		for life.Err() == nil {
			var ids []string
			for id := range b.Results() {
				ids = append(ids, id)
			}
			if _, err := b.Evict(ctx, ids, time.Now()); err != nil {
				t.Error(err)
			}
		}
	})
	for n := range 3 {
		builds.Go(func() {
			for range 3 {
				// WORKDIR and COPY alone: the runner of these tests has one mount point.
				out, err := b.build(Request{Tags: []string{fmt.Sprintf("t%d", n)}},
					fmt.Sprintf("FROM busybox\nWORKDIR /shared\nCOPY f /f\nCOPY f /g%d\nWORKDIR /own%d\n", n, n), file{name: "f", body: "1"})
				if err != nil {
					t.Errorf("build: %v\n%s", err, out)
				}
			}
		})
	}
	builds.Wait()
	stop()
	evictor.Wait()
	for _, err := range b.Check() {
		t.Error(err)
	}
}

// TestABuildFromTheCacheWritesNothing builds the same again: nobody waits for the
// disk.
func TestABuildFromTheCacheWritesNothing(t *testing.T) {
	b := newBench(t)
	b.busybox()
	const dockerfile = "FROM busybox\nCOPY f /f\nRUN cat /f > /g\nENV A=1\n"
	f := file{name: "f", body: "1"}
	b.mustBuild(Request{Tags: []string{"x"}}, dockerfile, f)
	written := func() (out []time.Time) {
		for _, db := range []string{"image/meta.db", "build/cache.db"} {
			st, err := os.Stat(filepath.Join(b.dir, db))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, st.ModTime())
		}
		return out
	}
	before := written()
	if out := b.mustBuild(Request{Tags: []string{"x"}}, dockerfile, f); strings.Count(out, "Using cache") != 3 {
		t.Errorf("not all is from the cache:\n%s", out)
	}
	if after := written(); !slices.Equal(before, after) {
		t.Errorf("written at %v, and before the second build at %v", after, before)
	}
	used := b.Results()
	b.close()
	b.open()
	for id, r := range b.Results() {
		if !r.Used.Equal(used[id].Used) {
			t.Errorf("used at %v, after a restart at %v", used[id].Used, r.Used)
		}
	}
	b.mustBuild(Request{Tags: []string{"y"}}, dockerfile, f)
	if got := b.id("y"); got != b.id("x") {
		t.Errorf("y is %s, x is %s", got, b.id("x"))
	}
}
