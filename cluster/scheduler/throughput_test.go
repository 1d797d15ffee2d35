package scheduler_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"gantry/cluster/apiserver/apitest"
	"gantry/cluster/scheduler"
)

// 5000 pods on 1000 nodes through the real API server: how long from the first
// decision until the informer shows the last binding. Run with -benchtime 1x.
func BenchmarkThroughput(b *testing.B) {
	const nodes, pods = 1000, 5000
	for b.Loop() {
		b.StopTimer()
		server := apitest.Start(b)
		ctx, cancel := context.WithCancel(context.Background())
		each(b, nodes, func(i int) error {
			_, err := server.Client.CoreV1().Nodes().Create(ctx, bigNode(fmt.Sprint("node-", i)), metav1.CreateOptions{})
			return err
		})
		each(b, pods, func(i int) error {
			_, err := server.Client.CoreV1().Pods("default").Create(ctx, pod(fmt.Sprint("pod-", i), "100m"), metav1.CreateOptions{})
			return err
		})
		factory := informers.NewSharedInformerFactory(server.Client, 0)
		s, err := scheduler.New(scheduler.Config{Client: server.Client, Informers: factory})
		if err != nil {
			b.Fatal(err)
		}
		var all sync.WaitGroup
		all.Add(pods)
		informer := factory.Core().V1().Pods().Informer()
		_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(before, after any) {
			if !bound(before.(*corev1.Pod)) && bound(after.(*corev1.Pod)) {
				all.Done()
			}
		}})
		if err != nil {
			b.Fatal(err)
		}
		factory.StartWithContext(ctx)
		factory.WaitForCacheSyncWithContext(ctx)
		b.StartTimer()
		begun := time.Now()
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		all.Wait()
		b.ReportMetric(pods/time.Since(begun).Seconds(), "pods/s")
		cancel()
		if err := <-ended; err != nil {
			b.Fatal(err)
		}
		factory.Shutdown()
	}
}

// each calls f for 0..n-1, sixteen at once.
func each(b *testing.B, n int, f func(int) error) {
	b.Helper()
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := w; i < n; i += 16 {
				if err := f(i); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func bigNode(name string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{
			Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("32Gi"), corev1.ResourcePods: resource.MustParse("110")},
			Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()}},
		},
	}
}
