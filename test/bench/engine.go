package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// measure is one row about an engine; the same code measures each target.
type measure struct {
	what, aim string
	take      func(context.Context, *bench, *target) (string, error)
	peerless  bool // a dockerd killed here finds its containerd unreaped, and does not start again
}

// measures in the order in which they run on one daemon, which starts empty.
var measures = []measure{
	{"docker run --rm busybox true, bridge", "45 ms", runOn("bridge"), false},
	{"docker run --rm busybox true, none", "40 ms", runOn("none"), false},
	{"docker run --rm busybox true, host", "40 ms", runOn("host"), false},
	{"docker version (the client and one round trip)", "", clientAlone, false},
	{"create + start + wait + remove over the API, bridge", "15 ms", lifeOverAPI, false},
	{"docker exec", "25 ms", execOnce, false},
	{"50 run -d, 8 clients / rm -f of 50", "1.2 s / 0.5 s", fifty, false},
	{"memory per running container (its parent's PSS)", "0.8 MiB", parentMemory, false},
	{"127.0.0.1:published, requests/s against the host's own server", "0.85", published, false},
	{"back after kill -9, containers untouched", "200 ms", back, true},
}

// engines measures Gantry's engine, beside a dockerd of the bench's own and
// podman if they are installed.
func engines(ctx context.Context, b *bench) ([]row, error) {
	image, err := b.busyboxTar()
	if err != nil {
		return nil, err
	}
	peers := make([]string, len(measures))
	log := &bytes.Buffer{}
	var peerStart, peerIdle string
	if t := b.dockerdTarget(log); t != nil {
		var figures []string
		figures, peerStart, peerIdle, err = measureTarget(ctx, b, t, log, image)
		if err = errors.Join(err, t.cmd.Process.Signal(os.Interrupt)); err != nil {
			return nil, fmt.Errorf("docker: %w", err)
		}
		_ = t.cmd.Wait() // it was asked to end
		for i, figure := range figures {
			peers[i] = "docker " + figure
		}
	}
	if err := podmanRuns(ctx, b, image, peers); err != nil {
		return nil, err
	}
	t, s, err := b.gantryTarget(&bytes.Buffer{})
	if err != nil {
		return nil, err
	}
	figures, began, idle, err := measureTarget(ctx, b, t, s.log, image)
	if err = errors.Join(err, s.stop(b)); err != nil {
		return nil, err
	}
	rows := []row{
		{"engine alone: start until version answers", peerStart, began, "150 ms"},
		{"engine alone: idle memory (PSS)", peerIdle, idle, "40 MiB"},
	}
	for i, m := range measures {
		rows = append(rows, row{m.what, peers[i], figures[i], m.aim})
	}
	return rows, nil
}

func measureTarget(ctx context.Context, b *bench, t *target, log *bytes.Buffer, image string) (figures []string, began, idle string, err error) {
	if err := t.start(ctx, log); err != nil {
		return nil, "", "", err
	}
	began = ms(time.Since(t.begin))
	select {
	case <-ctx.Done():
		return nil, "", "", context.Cause(ctx)
	case <-time.After(10 * time.Second): // until its start is forgotten
	}
	bytes, err := pss(t.cmd.Process.Pid)
	if err != nil {
		return nil, "", "", err
	}
	idle = mib(bytes)
	if t.name != "gantry" {
		began, idle = t.name+" "+began, t.name+" "+idle
	}
	if _, err := t.docker(ctx, "import", image, "busybox:latest"); err != nil {
		return nil, "", "", err
	}
	for _, m := range measures {
		if m.peerless && t.name != "gantry" {
			figures = append(figures, "-")
			continue
		}
		fmt.Fprintf(os.Stderr, "  %s: %s\n", t.name, m.what)
		figure, err := m.take(ctx, b, t)
		if err != nil {
			return nil, "", "", fmt.Errorf("%s: %w", m.what, err)
		}
		figures = append(figures, figure)
	}
	return figures, began, idle, nil
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

func runOn(network string) func(context.Context, *bench, *target) (string, error) {
	return func(ctx context.Context, _ *bench, t *target) (string, error) {
		d, err := median(15, func() (time.Duration, error) {
			return t.docker(ctx, "run", "--rm", "--network", network, "busybox", "true")
		})
		return ms(d), err
	}
}

func clientAlone(ctx context.Context, _ *bench, t *target) (string, error) {
	d, err := median(15, func() (time.Duration, error) { return t.docker(ctx, "version") })
	return ms(d), err
}

func lifeOverAPI(ctx context.Context, _ *bench, t *target) (string, error) {
	d, err := median(41, func() (time.Duration, error) {
		begin := time.Now()
		id, err := t.create(ctx, "bridge", "true")
		if err != nil {
			return 0, err
		}
		for _, step := range []struct{ method, path string }{
			{http.MethodPost, "/start"}, {http.MethodPost, "/wait"}, {http.MethodDelete, ""},
		} {
			if err := t.call(ctx, step.method, "/containers/"+id+step.path, nil, nil); err != nil {
				return 0, err
			}
		}
		return time.Since(begin), nil
	})
	return ms(d), err
}

func execOnce(ctx context.Context, _ *bench, t *target) (string, error) {
	if _, err := t.docker(ctx, "run", "-d", "--name", "target", "--network", "none", "busybox", "sleep", "3600"); err != nil {
		return "", err
	}
	d, err := median(15, func() (time.Duration, error) { return t.docker(ctx, "exec", "target", "true") })
	if err != nil {
		return "", err
	}
	_, err = t.docker(ctx, "rm", "-f", "target")
	return ms(d), err
}

// fifty starts 50 containers by 8 clients at once, and removes them.
func fifty(ctx context.Context, _ *bench, t *target) (string, error) {
	var mu sync.Mutex
	names := []string{"rm", "-f"}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	begin := time.Now()
	for i := range 50 {
		g.Go(func() error {
			name := fmt.Sprintf("many-%d", i)
			_, err := t.docker(gctx, "run", "-d", "--name", name, "busybox", "sleep", "3600")
			mu.Lock()
			defer mu.Unlock()
			names = append(names, name)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	started := time.Since(begin)
	removed, err := t.docker(ctx, names...)
	return ms(started) + " / " + ms(removed), err
}

// parentMemory averages over ten what a container's parent process takes.
func parentMemory(ctx context.Context, _ *bench, t *target) (string, error) {
	const containers = 10
	var total int64
	var ids []string
	for range containers {
		id, err := t.create(ctx, "none", "sleep", "3600")
		if err != nil {
			return "", err
		}
		if err := t.call(ctx, http.MethodPost, "/containers/"+id+"/start", nil, nil); err != nil {
			return "", err
		}
		ids = append(ids, id)
	}
	for _, id := range ids {
		pid, err := t.pid(ctx, id)
		if err != nil {
			return "", err
		}
		parent, err := parentOf(pid)
		if err != nil {
			return "", err
		}
		total += processPSS(parent)
	}
	_, err := t.docker(ctx, append([]string{"rm", "-f"}, ids...)...)
	return mib(total / containers), err
}

func parentOf(pid int) (int, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(after)
	if len(f) < 2 {
		return 0, fmt.Errorf("malformed stat of process %d", pid)
	}
	return strconv.Atoi(f[1])
}

// back kills the daemon and starts it again while a container runs.
func back(ctx context.Context, _ *bench, t *target) (string, error) {
	id, err := t.create(ctx, "bridge", "sleep", "3600")
	if err != nil {
		return "", err
	}
	if err := t.call(ctx, http.MethodPost, "/containers/"+id+"/start", nil, nil); err != nil {
		return "", err
	}
	before, err := t.pid(ctx, id)
	if err != nil {
		return "", err
	}
	d, err := median(5, func() (time.Duration, error) {
		if err := t.cmd.Process.Kill(); err != nil {
			return 0, err
		}
		_ = t.cmd.Wait() // it was killed
		log := &bytes.Buffer{}
		if err := t.start(ctx, log); err != nil {
			return 0, err
		}
		var after int
		err := poll(ctx, &server{log: log}, func() (err error) { after, err = t.pid(ctx, id); return err })
		if err == nil && after != before {
			err = fmt.Errorf("process %d became %d", before, after)
		}
		return time.Since(t.begin), err
	})
	if err != nil {
		return "", err
	}
	_, err = t.docker(ctx, "rm", "-f", id)
	return ms(d), err
}

// published compares requests/s through a port published on 127.0.0.1 with
// those to the same program on the host. It needs wrk.
func published(ctx context.Context, b *bench, t *target) (_ string, err error) {
	if _, err := exec.LookPath("wrk"); err != nil {
		return "no wrk", nil
	}
	self, err := filepath.Abs(os.Args[0])
	if err != nil {
		return "", err
	}
	host := exec.CommandContext(ctx, self, "-serve", "127.0.0.1:18081")
	if err := host.Start(); err != nil {
		return "", err
	}
	defer func() {
		_ = host.Process.Kill()
		_ = host.Wait() // it was killed
	}()
	_, err = t.docker(ctx, "run", "-d", "--name", "web", "-p", "127.0.0.1:18080:80", "-v", self+":/serve", "busybox", "/serve", "-serve", ":80")
	if err != nil {
		return "", err
	}
	defer func() {
		_, rerr := t.docker(ctx, "rm", "-f", "web")
		err = errors.Join(err, rerr)
	}()
	var ratios []float64
	for range 3 {
		direct, err := rate(ctx, "http://127.0.0.1:18081/")
		if err != nil {
			return "", err
		}
		through, err := rate(ctx, "http://127.0.0.1:18080/")
		if err != nil {
			return "", err
		}
		ratios = append(ratios, through/direct)
	}
	return fmt.Sprintf("%.2f", max(min(ratios[0], ratios[1]), min(max(ratios[0], ratios[1]), ratios[2]))), nil
}

// rate returns what wrk measures: requests per second.
func rate(ctx context.Context, url string) (float64, error) {
	err := poll(ctx, &server{log: &bytes.Buffer{}}, func() error {
		resp, err := http.Get(url)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	if err != nil {
		return 0, err
	}
	out, err := exec.CommandContext(ctx, "wrk", "-t1", "-c16", "-d3s", url).Output()
	if err != nil {
		return 0, fmt.Errorf("wrk %s: %w", url, err)
	}
	_, after, _ := strings.Cut(string(out), "Requests/sec:")
	var perSecond float64
	if _, err := fmt.Sscan(after, &perSecond); err != nil {
		return 0, fmt.Errorf("wrk %s: %w: %s", url, err, out)
	}
	return perSecond, nil
}
