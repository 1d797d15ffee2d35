// Package clustertest starts a cluster for tests: a real API server over its
// own etcd, all controllers, the scheduler, and hollow nodes.
package clustertest

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"gantry/cluster/apiserver/apitest"
	"gantry/cluster/controller"
	"gantry/cluster/internal/hollow"
	"gantry/cluster/scheduler"
)

// Patience is how long Until waits: far more than anything here takes, so that
// only what never happens fails a test.
const Patience = 30 * time.Second

// Options say what to start.
type Options struct {
	Nodes       int                    // hollow nodes, named node-0, node-1 ...
	Capacity    corev1.ResourceList    // of each; nil: hollow's default
	Ready       func(*corev1.Pod) bool // see hollow.Config
	Renew       time.Duration          // see hollow.Config
	NoScheduler bool
	// Controllers makes the controllers; nil means controller.All.
	Controllers func(controller.Config) ([]controller.Named, error)
}

// Cluster is a running cluster.
type Cluster struct {
	*apitest.Server
	Kubelets  *hollow.Kubelets
	Informers informers.SharedInformerFactory
	stop      context.CancelFunc
	parts     *errgroup.Group
	t         testing.TB
}

// Start starts a cluster and stops it when the test ends.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	c := &Cluster{Server: apitest.Start(t), t: t}
	logger := slog.New(slog.NewTextHandler(logWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	ctx, cancel := context.WithCancel(context.Background())
	c.stop = cancel
	c.Informers = informers.NewSharedInformerFactory(c.Client, 0)
	meta, err := metadata.NewForConfig(metadata.ConfigFor(c.Config))
	if err != nil {
		t.Fatal(err)
	}
	if o.Controllers == nil {
		o.Controllers = controller.All
	}
	all, err := o.Controllers(controller.Config{
		Client: c.Client, Metadata: meta, Informers: c.Informers, CA: []byte("test CA"), Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	var nodes []string
	for i := range o.Nodes {
		nodes = append(nodes, fmt.Sprintf("node-%d", i))
	}
	c.Kubelets = hollow.New(hollow.Config{Client: c.Client, Informers: c.Informers, Nodes: nodes, Capacity: o.Capacity, Ready: o.Ready, RenewEvery: o.Renew})
	all = append(all, controller.Named{Name: "hollow", Run: c.Kubelets.Run})
	if !o.NoScheduler {
		s, err := scheduler.New(scheduler.Config{Client: c.Client, Informers: c.Informers, Logger: logger})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, controller.Named{Name: "scheduler", Run: s.Run})
	}
	if err := c.Kubelets.Register(ctx); err != nil {
		t.Fatal(err)
	}
	c.Informers.StartWithContext(ctx)
	c.parts = &errgroup.Group{}
	for _, part := range all {
		c.parts.Go(func() error { return part.Run(ctx) })
	}
	t.Cleanup(c.StopParts)
	return c
}

// StopParts stops all but the API server, and checks that they have left
// nothing running.
func (c *Cluster) StopParts() {
	c.stop()
	if err := c.parts.Wait(); err != nil {
		c.t.Errorf("a part of the cluster: %v", err)
	}
	c.Informers.Shutdown()
	// Goroutines that have been told to end, and that nothing waits for any
	// more, take a moment to.
	for range 100 {
		if len(leftovers()) == 0 {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	c.t.Errorf("left running:\n%s", strings.Join(leftovers(), "\n\n"))
}

// leftovers returns the stacks of goroutines that belong to the parts.
func leftovers() []string {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	var out []string
	for _, s := range strings.Split(string(stacks), "\n\n") {
		if strings.Contains(s, "clustertest.leftovers") {
			continue
		}
		for _, mark := range []string{
			"gantry/cluster/controller/", "gantry/cluster/scheduler.(", "gantry/cluster/internal/loop",
			"gantry/cluster/internal/hollow", "client-go/util/workqueue", "client-go/tools/cache",
		} {
			if strings.Contains(s, mark) {
				out = append(out, s)
				break
			}
		}
	}
	return out
}

// Until waits until an object satisfies done, and returns it. A deleted object
// does not count.
func Until[T apiruntime.Object](t testing.TB, rest cache.Getter, resource, namespace, name string, done func(T) bool) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	lw := cache.NewListWatchFromClient(rest, resource, namespace, fields.OneTermEqualSelector("metadata.name", name))
	var last T
	event, err := watchtools.UntilWithSync(ctx, lw, last, nil, func(e watch.Event) (bool, error) {
		obj, ok := e.Object.(T)
		if !ok || e.Type == watch.Deleted {
			return false, nil
		}
		last = obj
		return done(obj), nil
	})
	if err != nil {
		t.Fatalf("wait for %s %s/%s: %v; last seen: %+v", resource, namespace, name, err, last)
	}
	return event.Object.(T)
}

// UntilListed waits until any object of a namespace satisfies done.
func UntilListed[T apiruntime.Object](t testing.TB, rest cache.Getter, resource, namespace string, done func(T) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	var none T
	lw := cache.NewListWatchFromClient(rest, resource, namespace, fields.Everything())
	_, err := watchtools.UntilWithSync(ctx, lw, none, nil, func(e watch.Event) (bool, error) {
		obj, ok := e.Object.(T)
		return ok && e.Type != watch.Deleted && done(obj), nil
	})
	if err != nil {
		t.Fatalf("wait for one of %s in %s: %v", resource, namespace, err)
	}
}

// Gone waits until there is no object of that name.
func Gone(t testing.TB, rest cache.Getter, resource, namespace, name string, object apiruntime.Object) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	lw := cache.NewListWatchFromClient(rest, resource, namespace, fields.OneTermEqualSelector("metadata.name", name))
	absent := func(store cache.Store) (bool, error) { return len(store.List()) == 0, nil }
	_, err := watchtools.UntilWithSync(ctx, lw, object, absent, func(e watch.Event) (bool, error) {
		return e.Type == watch.Deleted, nil
	})
	if err != nil {
		t.Fatalf("wait for the end of %s %s/%s: %v", resource, namespace, name, err)
	}
}

type logWriter struct{ t testing.TB }

func (w logWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}
