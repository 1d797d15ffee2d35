package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	watchtools "k8s.io/client-go/tools/watch"
)

// server is a gantryd of the bench's own, on an empty data directory.
type server struct {
	cmd   *exec.Cmd
	begin time.Time
	data  string
	run   string
	log   *bytes.Buffer
}

const instanceName = "gantry-bench"

// startServer starts gantryd and returns at once; client waits for the API.
func (b *bench) startServer(ctx context.Context, args ...string) (*server, error) {
	dir, err := os.MkdirTemp(b.work, "s")
	if err != nil {
		return nil, err
	}
	s := &server{data: filepath.Join(dir, "data"), run: filepath.Join(dir, "run"), log: &bytes.Buffer{}}
	return s, s.start(ctx, b, args...)
}

// start runs gantryd on the server's directories, anew or again.
func (s *server) start(ctx context.Context, b *bench, args ...string) error {
	all := append([]string{"server", "--instance", instanceName, "--data-dir", s.data, "--run-dir", s.run}, args...)
	s.cmd = exec.CommandContext(ctx, filepath.Join(b.bin, "gantryd"), all...)
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(os.Interrupt) }
	s.cmd.WaitDelay = 20 * time.Second
	s.cmd.Stdout, s.cmd.Stderr = io.Discard, s.log
	s.begin = time.Now()
	return s.cmd.Start()
}

// stop takes the server and everything that it made away.
func (s *server) stop(b *bench) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := s.gantry(ctx, b, "down", "--purge")
	if err != nil {
		err = errors.Join(err, s.cmd.Process.Kill())
	}
	_ = s.cmd.Wait() // the purge is what counts, not how the process ended
	return err
}

// gantry runs the client against this server.
func (s *server) gantry(ctx context.Context, b *bench, args ...string) (time.Duration, error) {
	return timed(ctx, []string{"GANTRY_INSTANCE=" + instanceName}, filepath.Join(b.bin, "gantry"), args...)
}

func (s *server) docker(ctx context.Context, args ...string) (time.Duration, error) {
	return timed(ctx, []string{"DOCKER_HOST=unix://" + s.run + "/docker.sock"}, "docker", args...)
}

// poll retries try until it succeeds. The file system and a refused connection
// offer no event to a foreign process, so it looks every 2 ms.
func poll(ctx context.Context, s *server, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w\n%s", context.Cause(ctx), err, s.log)
		case <-tick.C:
		}
	}
}

// client waits until the API server answers and returns a client of it.
func (s *server) client(ctx context.Context) (*kubernetes.Clientset, error) {
	var client *kubernetes.Clientset
	return client, poll(ctx, s, func() error {
		config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(s.data, "kubeconfig"))
		if err != nil {
			return err
		}
		config.QPS = -1
		client, err = kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		_, err = client.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// nodeReady waits until the one node is Ready, and returns its name.
func nodeReady(ctx context.Context, client kubernetes.Interface) (string, error) {
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return client.CoreV1().Nodes().List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return client.CoreV1().Nodes().Watch(ctx, o)
		},
	}
	name := ""
	_, err := watchtools.UntilWithSync(ctx, lw, &corev1.Node{}, nil, func(e watch.Event) (bool, error) {
		node, ok := e.Object.(*corev1.Node)
		if !ok {
			return false, nil
		}
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				name = node.Name
				return true, nil
			}
		}
		return false, nil
	})
	return name, err
}

// podRunning waits until the pod's phase is Running.
func podRunning(ctx context.Context, client kubernetes.Interface, name string) error {
	only := fields.OneTermEqualSelector("metadata.name", name).String()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = only
			return client.CoreV1().Pods("default").List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = only
			return client.CoreV1().Pods("default").Watch(ctx, o)
		},
	}
	_, err := watchtools.UntilWithSync(ctx, lw, &corev1.Pod{}, nil, func(e watch.Event) (bool, error) {
		pod, ok := e.Object.(*corev1.Pod)
		return ok && pod.Status.Phase == corev1.PodRunning, nil
	})
	return err
}

// pss returns the proportional set size, in bytes, of a process and of its
// descendants.
func pss(root int) (int64, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	parent := map[int]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue // gone meanwhile
		}
		_, after, _ := strings.Cut(string(stat), ") ")
		if f := strings.Fields(after); len(f) > 1 {
			parent[pid], _ = strconv.Atoi(f[1])
		}
	}
	var total int64
	for pid := range parent {
		up := pid
		for up > 1 && up != root {
			up = parent[up]
		}
		if up == root {
			total += processPSS(pid)
		}
	}
	return total, nil
}

func processPSS(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0 // gone meanwhile
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			kb, _ := strconv.ParseInt(f[1], 10, 64)
			return kb << 10
		}
	}
	return 0
}
