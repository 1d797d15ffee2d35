// Package scheduler chooses a node for each pod that has none, and binds it
// there.
//
// One goroutine decides, one pod after the other: the filters (plugin.go lists
// them, one file each) leave the nodes on which the pod can run, the scores
// rank these. The choice is assumed at once in the scheduler's own picture of
// the cluster, so that the next decision counts with it, and written to the
// API by one of a bounded number of binding goroutines.
//
// A pod that fits nowhere waits until something happens that can change the
// reason: each filter names such events. There is no preemption: no kind of
// PriorityClass is served yet; priorities set on pods only order the queue.
// Pods that name a node themselves never get here, so there is no filter by
// node name. Volumes do not restrict the choice of nodes yet.
//
// Run starts: the decider, a timer for pods that wait too long, the binders.
package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"golang.org/x/sync/errgroup"

	"gantry/cluster/internal/loop"
)

const (
	// maxWrites bounds the bindings and status writes under way at once. A
	// write takes a fraction of a millisecond of one core in process.
	maxWrites = 16
	// A pod that waits longer than this for an event is tried again; when that
	// helps, an event was missed.
	maxWait    = 5 * time.Minute
	flushEvery = 30 * time.Second
)

// Config holds what the scheduler needs.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory // started by the caller after New
	Name      string                          // pods with this schedulerName are ours; empty means "default-scheduler"
	Logger    *slog.Logger                    // nil discards
}

// Scheduler binds pods to nodes.
type Scheduler struct {
	client     kubernetes.Interface
	name       string
	log        *slog.Logger
	pods       cache.SharedIndexInformer
	nodes      cache.SharedIndexInformer
	namespaces cache.SharedIndexInformer
	nsList     corelisters.NamespaceLister
	queue      *queue
	recorder   *loop.Recorder // set by Run
	writes     sync.WaitGroup // bindings and status writes under way
	slots      chan struct{}  // bounds them

	mu      sync.Mutex
	cluster *cluster // guarded by mu
}

// New returns a scheduler that waits for Run.
func New(cfg Config) (*Scheduler, error) {
	core := cfg.Informers.Core().V1()
	s := &Scheduler{
		client:     cfg.Client,
		name:       cfg.Name,
		log:        cfg.Logger,
		pods:       core.Pods().Informer(),
		nodes:      core.Nodes().Informer(),
		namespaces: core.Namespaces().Informer(),
		nsList:     core.Namespaces().Lister(),
		queue:      newQueue(),
		slots:      make(chan struct{}, maxWrites), // counts those under way
		cluster:    newCluster(),
	}
	if s.name == "" {
		s.name = corev1.DefaultSchedulerName
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.cluster.namespaceLabels = s.namespaceLabels
	return s, nil
}

// Run schedules until ctx ends.
func (s *Scheduler) Run(ctx context.Context) error {
	stop, err := s.start(ctx)
	if err != nil {
		return fmt.Errorf("scheduler: %w", err)
	}
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer s.writes.Wait()
		for {
			w, info, ok := s.queue.pop(ctx)
			if !ok {
				return nil
			}
			s.schedule(ctx, w, info)
		}
	})
	g.Go(func() error {
		tick := time.NewTicker(flushEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case now := <-tick.C:
				s.queue.flush(now, maxWait)
			}
		}
	})
	return g.Wait()
}

// schedule decides over one pod and starts the write that follows.
func (s *Scheduler) schedule(ctx context.Context, w *waiting, info *podInfo) {
	s.mu.Lock()
	choice := place(s.cluster, info, rand.IntN)
	if choice.node != "" {
		s.cluster.assume(info, choice.node)
	}
	s.mu.Unlock()
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	s.writes.Go(func() {
		defer func() { <-s.slots }()
		if choice.node != "" {
			s.bind(ctx, w, info.pod, choice.node)
		} else {
			s.reject(ctx, w, info.pod, choice)
		}
	})
}

func (s *Scheduler) namespaceLabels(name string) map[string]string {
	ns, err := s.nsList.Get(name)
	if err != nil {
		return nil
	}
	return ns.Labels
}
