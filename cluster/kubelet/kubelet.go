// Package kubelet is the node agent: it makes the pods that the API server
// assigns to this node run, through the Container Runtime Interface, and tells
// the API server how they and the node are.
//
// It speaks to the API server by client-go and to the runtime by the types of
// k8s.io/cri-api; it knows neither's inside.
//
// # How a pod is brought up
//
// A key, the pod's UID, is put in a queue when the pod changes in the API, when
// the runtime reports an event of its containers, when a probe changes its mind,
// when a ConfigMap or Secret it uses changes, and when a wait is over. sync
// works on a key, one goroutine a pod at a time: it asks the runtime what is
// there, lets package plan (pure) say what to do, does it, and repeats until
// there is nothing to do. Then the status, by package plan too, is written if it
// differs. All that must survive a restart of the process is held by the
// runtime, in labels and annotations, or by the API server.
//
// # Layout
//
//	ROOT/pods/UID/etc-hosts                  the pod's /etc/hosts
//	ROOT/pods/UID/containers/NAME/ATTEMPT    termination message
//	ROOT/pods/UID/volumes/...                package volume
//	RUN/pods/UID/volumes/...                 the same, for secrets
//	LOG/NAMESPACE_NAME_UID/CONTAINER/ATTEMPT.log
//
// # Goroutines
//
// All are children of Run: the dispatcher and one for each pod that is being
// worked on, one for each container that is being stopped, the probes, the
// status writers, the watches of single ConfigMaps and Secrets, the runtime's
// event stream, the pod informer, and the node's reporter.
package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	internalapi "k8s.io/cri-api/pkg/apis"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"gantry/cluster/kubelet/node"
	"gantry/cluster/kubelet/podspec"
	"gantry/cluster/kubelet/probe"
	"gantry/cluster/kubelet/volume"
)

// Streams carries the standard streams of commands in containers, and ports of
// pods, within the process. It has the shape of k8s.io/cri-streaming's Runtime.
type Streams interface {
	Exec(ctx context.Context, containerID string, cmd []string, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error
	Attach(ctx context.Context, containerID string, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error
	PortForward(ctx context.Context, podSandboxID string, port int32, stream io.ReadWriteCloser) error
}

// Config is what a kubelet needs. All fields are required unless said otherwise.
type Config struct {
	Client        kubernetes.Interface
	Informers     informers.SharedInformerFactory // Services; Run starts it if nobody did
	Runtime       internalapi.RuntimeService
	Images        internalapi.ImageManagerService
	Streams       Streams // nil: exec, attach and port-forward are refused
	NodeName      string
	NodeIP        netip.Addr
	NodeLabels    map[string]string // beside the well-known ones; may be nil
	PodCIDR       netip.Prefix      // may be invalid
	RootDir       string            // on disk; made if missing
	RunDir        string            // for secrets, should be in memory; empty: RootDir
	LogDir        string            // of the pods' logs
	ClusterDNS    netip.Addr        // invalid: pods get the host's resolvers
	ClusterDomain string            // empty: cluster.local
	Version       string            // of Gantry, for the node's status
	Logger        *slog.Logger      // nil discards
}

// Kubelet runs the pods of one node.
type Kubelet struct {
	cfg      Config
	log      *slog.Logger
	pods     cache.SharedIndexInformer
	services corelisters.ServiceLister
	synced   []cache.InformerSynced
	queue    workqueue.TypedRateLimitingInterface[types.UID]
	recorder record.EventRecorder // set by Run
	volumes  *volume.Store        // its Source is set for each use
	probes   *probe.Set
	objects  *objects
	statuses *statusWriter
	node     *node.Reporter
	starting *semaphore.Weighted // sandboxes and containers being made
	cluster  podspec.Cluster
	exits    broadcast      // containers that ended
	wg       sync.WaitGroup // pods being worked on, containers being stopped

	mu     sync.Mutex
	states map[types.UID]*podState
}

// startingAtOnce bounds how many sandboxes and containers are made at a time:
// more only contend for the kernel's locks.
const startingAtOnce = 8

// New returns a kubelet that does nothing until Run.
func New(cfg Config) (*Kubelet, error) {
	switch {
	case cfg.Client == nil || cfg.Runtime == nil || cfg.Images == nil || cfg.Informers == nil:
		return nil, errors.New("kubelet: client, informers, runtime and images are required")
	case cfg.NodeName == "" || cfg.RootDir == "" || cfg.LogDir == "" || !cfg.NodeIP.IsValid():
		return nil, errors.New("kubelet: node name, node address, root and log directory are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.ClusterDomain == "" {
		cfg.ClusterDomain = "cluster.local"
	}
	if cfg.RunDir == "" {
		cfg.RunDir = cfg.RootDir
	}
	k := &Kubelet{
		cfg:      cfg,
		log:      cfg.Logger,
		queue:    workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[types.UID]()),
		volumes:  &volume.Store{Dir: filepath.Join(cfg.RootDir, "pods"), RunDir: filepath.Join(cfg.RunDir, "pods")},
		starting: semaphore.NewWeighted(startingAtOnce),
		cluster:  podspec.Cluster{DNS: cfg.ClusterDNS, Domain: cfg.ClusterDomain, NodeName: cfg.NodeName},
		states:   map[types.UID]*podState{},
	}
	services := cfg.Informers.Core().V1().Services()
	k.services, k.synced = services.Lister(), append(k.synced, services.Informer().HasSynced)
	k.pods = podInformer(cfg.Client, cfg.NodeName)
	k.synced = append(k.synced, k.pods.HasSynced)
	k.objects = newObjects(cfg.Client, k.log, k.refresh)
	k.statuses = newStatusWriter(cfg.Client, k.log)
	k.probes = probe.New(probe.Config{Exec: k.probeExec, Notify: k.probed, Failed: k.probeFailed, Logger: k.log})
	var err error
	k.node, err = node.New(node.Config{
		Client: cfg.Client, Runtime: cfg.Runtime, Images: cfg.Images, Name: cfg.NodeName, IP: cfg.NodeIP, Labels: cfg.NodeLabels,
		PodCIDR: cfg.PodCIDR, RootDir: cfg.RootDir, Version: cfg.Version, Logger: k.log,
	})
	return k, err
}

// podInformer watches the pods that are assigned to the node.
func podInformer(client kubernetes.Interface, nodeName string) cache.SharedIndexInformer {
	selector := fields.OneTermEqualSelector("spec.nodeName", nodeName).String()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			return client.CoreV1().Pods("").List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			return client.CoreV1().Pods("").Watch(ctx, o)
		},
	}
	return cache.NewSharedIndexInformer(lw, &v1.Pod{}, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
}

// Run registers the node and runs its pods until ctx ends. The containers go
// on running when it returns.
func (k *Kubelet) Run(ctx context.Context) error {
	if err := k.prepare(); err != nil {
		return fmt.Errorf("kubelet: %w", err)
	}
	events := record.NewBroadcaster(record.WithContext(ctx))
	defer events.Shutdown()
	k.recorder = events.NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet", Host: k.cfg.NodeName})
	events.StartRecordingToSink(&typedv1.EventSinkImpl{Interface: k.cfg.Client.CoreV1().Events("")})
	if _, err := k.pods.AddEventHandler(k.podHandler()); err != nil {
		return fmt.Errorf("kubelet: watch pods: %w", err)
	}

	g, ctx := errgroup.WithContext(ctx)
	k.cfg.Informers.Start(ctx.Done())
	g.Go(func() error { k.pods.RunWithContext(ctx); return nil })
	g.Go(func() error { return k.node.Run(ctx, k.recorder) })
	g.Go(func() error { return k.statuses.run(ctx) })
	g.Go(func() error {
		if !cache.WaitForCacheSync(ctx.Done(), k.synced...) {
			return nil
		}
		return k.run(ctx)
	})
	err := g.Wait()
	k.probes.Wait()
	k.objects.wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// run is Run once the caches are filled.
func (k *Kubelet) run(ctx context.Context) error {
	if err := k.adopt(ctx); err != nil {
		return fmt.Errorf("kubelet: adopt pods: %w", err)
	}
	k.log.Info("kubelet started", "node", k.cfg.NodeName, "pods", len(k.pods.GetStore().List()))
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return k.runtimeEvents(ctx) })
	g.Go(func() error {
		<-ctx.Done()
		k.queue.ShutDown()
		return nil
	})
	g.Go(func() error {
		defer k.wg.Wait()
		for {
			uid, shutdown := k.queue.Get()
			if shutdown {
				return nil
			}
			k.wg.Go(func() {
				defer k.queue.Done(uid)
				k.sync(ctx, uid)
			})
		}
	})
	return g.Wait()
}
