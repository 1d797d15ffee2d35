package apiserver_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"gantry/cluster/apiserver/apitest"
)

var number atomic.Int64 // of the objects that benchmarks create

func configMap() *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c%d", number.Add(1))},
		Data:       map[string]string{"key": "value"},
	}
}

func BenchmarkCreateConfigMap(b *testing.B) {
	s := apitest.Start(b)
	benchCreate(b, s.Client)
}

func BenchmarkCreateConfigMapParallel(b *testing.B) {
	s := apitest.Start(b)
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Client.CoreV1().ConfigMaps("default").Create(context.Background(), configMap(), metav1.CreateOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func benchCreate(b *testing.B, c kubernetes.Interface) {
	for b.Loop() {
		if _, err := c.CoreV1().ConfigMaps("default").Create(b.Context(), configMap(), metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCreateDryRun is a create without etcd.
func BenchmarkCreateDryRun(b *testing.B) {
	s := apitest.Start(b)
	for b.Loop() {
		p := pod(fmt.Sprintf("p%d", number.Add(1)))
		if _, err := s.Client.CoreV1().Pods("default").Create(b.Context(), p, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGetPod(b *testing.B) {
	s := apitest.Start(b)
	if _, err := s.Client.CoreV1().Pods("default").Create(b.Context(), pod("p"), metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.Client.CoreV1().Pods("default").Get(b.Context(), "p", metav1.GetOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPatchStatus is what a kubelet does most.
func BenchmarkPatchStatus(b *testing.B) {
	s := apitest.Start(b)
	if _, err := s.Client.CoreV1().Pods("default").Create(b.Context(), pod("p"), metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		patch := fmt.Sprintf(`{"status":{"message":"%d"}}`, number.Add(1))
		if _, err := s.Client.CoreV1().Pods("default").Patch(b.Context(), "p", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkList1000(b *testing.B) {
	s := apitest.Start(b)
	for range 1000 {
		if _, err := s.Client.CoreV1().ConfigMaps("default").Create(b.Context(), configMap(), metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	for b.Loop() {
		if _, err := s.Client.CoreV1().ConfigMaps("default").List(b.Context(), metav1.ListOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWatchFanOut is one create that a hundred watchers see, over one
// encoding.
func BenchmarkWatchFanOut(b *testing.B) {
	const watchers = 100
	s := apitest.Start(b)
	c := kubernetes.NewForConfigOrDie(rest.CopyConfig(s.Config))
	seen := make(chan struct{}, watchers) // every watcher's one event
	for range watchers {
		w, err := c.CoreV1().ConfigMaps("default").Watch(b.Context(), metav1.ListOptions{})
		if err != nil {
			b.Fatal(err)
		}
		defer w.Stop()
		go func() {
			for range w.ResultChan() {
				seen <- struct{}{}
			}
		}()
	}
	for b.Loop() {
		if _, err := c.CoreV1().ConfigMaps("default").Create(b.Context(), configMap(), metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		for range watchers {
			<-seen
		}
	}
}
