package kubelet

import (
	"net/http"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	kubelettypes "k8s.io/kubelet/pkg/types"
)

// serveSummary reports the containers' use of CPU and memory, by pod.
func (k *Kubelet) serveSummary(w http.ResponseWriter, r *http.Request) {
	list, err := k.cfg.Runtime.ListContainerStats(r.Context(), nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	out := stats.Summary{Node: stats.NodeStats{NodeName: k.cfg.NodeName, StartTime: metav1.Now()}}
	index := map[string]int{}
	for _, c := range list {
		l := c.GetAttributes().GetLabels()
		uid := l[kubelettypes.KubernetesPodUIDLabel]
		if uid == "" {
			continue
		}
		i, ok := index[uid]
		if !ok {
			i = len(out.Pods)
			index[uid] = i
			out.Pods = append(out.Pods, stats.PodStats{PodRef: stats.PodReference{
				Name: l[kubelettypes.KubernetesPodNameLabel], Namespace: l[kubelettypes.KubernetesPodNamespaceLabel], UID: uid}})
		}
		out.Pods[i].Containers = append(out.Pods[i].Containers, containerStats(c))
	}
	writeJSON(w, out)
}

func containerStats(c *runtimeapi.ContainerStats) stats.ContainerStats {
	out := stats.ContainerStats{Name: c.GetAttributes().GetMetadata().GetName()}
	if cpu := c.GetCpu(); cpu != nil {
		out.CPU = &stats.CPUStats{Time: metav1.NewTime(time.Unix(0, cpu.Timestamp)), UsageCoreNanoSeconds: value(cpu.UsageCoreNanoSeconds), UsageNanoCores: value(cpu.UsageNanoCores)}
	}
	if m := c.GetMemory(); m != nil {
		out.Memory = &stats.MemoryStats{Time: metav1.NewTime(time.Unix(0, m.Timestamp)), UsageBytes: value(m.UsageBytes),
			WorkingSetBytes: value(m.WorkingSetBytes), RSSBytes: value(m.RssBytes)}
	}
	return out
}

func value(v *runtimeapi.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	return &v.Value
}

// broadcast wakes whoever waits for containers to end.
type broadcast struct {
	mu        sync.Mutex
	listeners map[chan struct{}]bool
}

// listen returns a channel that receives after each signal; several may become one.
func (b *broadcast) listen() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1) // one pending signal is enough: the listener looks again
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.listeners == nil {
		b.listeners = map[chan struct{}]bool{}
	}
	b.listeners[c] = true
	return c, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.listeners, c)
	}
}

func (b *broadcast) signal() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.listeners {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}
