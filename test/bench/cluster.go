package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

// busyboxTar writes a root file system of Debian's static busybox.
func (b *bench) busyboxTar() (string, error) {
	path := filepath.Join(b.work, "busybox.tar")
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return "", fmt.Errorf("%w: install busybox-static", err)
	}
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	w := tar.NewWriter(f)
	errs := []error{
		w.WriteHeader(&tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}),
		w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(program))}),
	}
	_, err = w.Write(program)
	errs = append(errs, err)
	for _, applet := range []string{"sh", "true", "sleep", "httpd"} {
		errs = append(errs, w.WriteHeader(&tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}))
	}
	return path, errors.Join(append(errs, w.Close(), f.Close())...)
}

func (s *server) importBusybox(ctx context.Context, b *bench) error {
	path, err := b.busyboxTar()
	if err != nil {
		return err
	}
	_, err = s.docker(ctx, "import", path, "busybox:latest")
	return err
}

// start measures from exec of the daemon on an empty data directory.
func start(ctx context.Context, b *bench) ([]row, error) {
	var firstPod []time.Duration
	ready, err := median(3, func() (d time.Duration, err error) {
		s, err := b.startServer(ctx)
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, s.stop(b)) }()
		client, err := s.client(ctx)
		if err != nil {
			return 0, err
		}
		if _, err := nodeReady(ctx, client); err != nil {
			return 0, err
		}
		d = time.Since(s.begin)
		// The import is the user's, not the start's: its time is left out.
		begin := time.Now()
		if err := s.importBusybox(ctx, b); err != nil {
			return 0, err
		}
		imported := time.Since(begin)
		if err := runPod(ctx, client, "first"); err != nil {
			return 0, err
		}
		firstPod = append(firstPod, time.Since(s.begin)-imported)
		return d, nil
	})
	if err != nil {
		return nil, err
	}
	first, err := median(len(firstPod), func() (time.Duration, error) {
		d := firstPod[0]
		firstPod = firstPod[1:]
		return d, nil
	})
	return []row{
		{"empty directory until node Ready", "", ms(ready), "1 s"},
		{"empty directory until a first pod runs", "", ms(first), "1.5 s"},
	}, err
}

func podSpec() corev1.PodSpec {
	return corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64),
		Containers: []corev1.Container{{
			Name: "main", Image: "busybox:latest", ImagePullPolicy: corev1.PullIfNotPresent,
			Command: []string{"/bin/sleep", "3600"},
		}},
	}
}

func runPod(ctx context.Context, client kubernetes.Interface, name string) error {
	_, err := client.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: podSpec(),
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	return podRunning(ctx, client, name)
}

// readyServer starts a server whose node is Ready.
func (b *bench) readyServer(ctx context.Context) (*server, *kubernetes.Clientset, error) {
	s, err := b.startServer(ctx)
	if err != nil {
		return nil, nil, err
	}
	client, err := s.client(ctx)
	if err == nil {
		_, err = nodeReady(ctx, client)
	}
	if err != nil {
		return nil, nil, errors.Join(err, s.stop(b))
	}
	return s, client, nil
}

// memory measures the idle server after its start-up garbage is gone.
func memory(ctx context.Context, b *bench) (_ []row, err error) {
	s, _, err := b.readyServer(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop(b)) }()
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(30 * time.Second):
	}
	bytes, err := pss(s.cmd.Process.Pid)
	return []row{{"idle memory of the server (PSS)", "", fmt.Sprintf("%d MiB", bytes>>20), "100 MiB"}}, err
}

func pods(ctx context.Context, b *bench) (_ []row, err error) {
	s, client, err := b.readyServer(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop(b)) }()
	if err := s.importBusybox(ctx, b); err != nil {
		return nil, err
	}
	i := 0
	pod, err := median(11, func() (time.Duration, error) {
		i++
		begin := time.Now()
		err := runPod(ctx, client, fmt.Sprintf("pod-%d", i))
		return time.Since(begin), err
	})
	if err != nil {
		return nil, err
	}
	deployment, err := deploy(ctx, client, 50)
	return []row{
		{"pod created until Running", "", ms(pod), "150 ms"},
		{"Deployment 0 to 50, all Ready", "", ms(deployment), "3 s"},
	}, err
}

// deploy returns how long a Deployment takes until its replicas are Ready.
func deploy(ctx context.Context, client kubernetes.Interface, replicas int32) (time.Duration, error) {
	labels := map[string]string{"app": "many"}
	begin := time.Now()
	_, err := client.AppsV1().Deployments("default").Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "many"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec()},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return 0, err
	}
	only := fields.OneTermEqualSelector("metadata.name", "many").String()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = only
			return client.AppsV1().Deployments("default").List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = only
			return client.AppsV1().Deployments("default").Watch(ctx, o)
		},
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	_, err = watchtools.UntilWithSync(ctx, lw, &appsv1.Deployment{}, nil, func(e watch.Event) (bool, error) {
		d, ok := e.Object.(*appsv1.Deployment)
		return ok && d.Status.ReadyReplicas == replicas, nil
	})
	return time.Since(begin), err
}

// pushes measures `gantry push` of a copy of examples/hello. The first push
// includes what `go build` takes with a warm cache, which is measured apart and
// subtracted, as the compiler is not Gantry's.
func pushes(ctx context.Context, b *bench) (_ []row, err error) {
	s, _, err := b.readyServer(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop(b)) }()
	dir := filepath.Join(b.work, "hello")
	if out, err := exec.CommandContext(ctx, "cp", "-a", filepath.Join(b.src, "examples/hello"), dir).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("copy: %w: %s", err, out)
	}
	compile := func() (time.Duration, error) {
		return timed(ctx, []string{"CGO_ENABLED=0"}, "go", "build", "-C", dir, "-trimpath", "-o", os.DevNull, ".")
	}
	if _, err := compile(); err != nil {
		return nil, err
	}
	compiler, err := median(3, compile)
	if err != nil {
		return nil, err
	}
	first, err := s.gantry(ctx, b, "push", dir)
	if err != nil {
		return nil, err
	}
	unchanged, err := median(5, func() (time.Duration, error) { return s.gantry(ctx, b, "push", dir) })
	if err != nil {
		return nil, err
	}
	main := filepath.Join(dir, "main.go")
	text, err := os.ReadFile(main)
	if err != nil {
		return nil, err
	}
	text = append(text, "\nvar changedForTheBench = 1\n\nfunc Changed() int { return changedForTheBench }\n"...)
	if err := os.WriteFile(main, text, 0o600); err != nil {
		return nil, err
	}
	changed, err := s.gantry(ctx, b, "push", dir)
	return []row{
		{"push of examples/hello, first, less the compiler", "", ms(first - compiler), "5 s"},
		{"push unchanged", "", ms(unchanged), "0.5 s"},
		{"push with a line changed, until it serves", "", ms(changed), "3 s"},
	}, err
}
