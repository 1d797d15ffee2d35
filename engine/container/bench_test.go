package container

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// BenchmarkLife is create, start, wait and delete of `true` with Docker's
// default mounts, masks, capabilities and seccomp profile: with a cgroup
// namespace, Docker's default on cgroup v2, and without, its default on v1.
func BenchmarkLife(b *testing.B) {
	b.Run("cgroup-namespace", func(b *testing.B) { benchmarkLife(b, func(*Spec) {}) })
	b.Run("host-cgroup-namespace", func(b *testing.B) {
		benchmarkLife(b, func(s *Spec) {
			s.OCI.Linux.Namespaces = slices.DeleteFunc(s.OCI.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
		})
	})
}

func benchmarkLife(b *testing.B, edit func(*Spec)) {
	r := testRuntime(b)
	root := busybox(b)
	ctx := testContext(b)
	var create, start, wait, remove time.Duration
	for b.Loop() {
		b.StopTimer()
		s := testSpec(b, root, "true")
		edit(&s)
		b.StartTimer()
		t0 := time.Now()
		c, err := r.Create(ctx, s)
		if err != nil {
			b.Fatal(err)
		}
		t1 := time.Now()
		if err := c.Start(ctx); err != nil {
			b.Fatal(err)
		}
		t2 := time.Now()
		if _, err := c.Wait(ctx); err != nil {
			b.Fatal(err)
		}
		t3 := time.Now()
		if err := c.Delete(ctx); err != nil {
			b.Fatal(err)
		}
		t4 := time.Now()
		create, start, wait, remove = create+t1.Sub(t0), start+t2.Sub(t1), wait+t3.Sub(t2), remove+t4.Sub(t3)
	}
	for name, d := range map[string]time.Duration{"create": create, "start": start, "wait": wait, "delete": remove} {
		b.ReportMetric(float64(d.Microseconds())/float64(b.N)/1000, name+"-ms")
	}
}

// BenchmarkExec is exec, start and wait of `true` in a running container.
func BenchmarkExec(b *testing.B) {
	r := testRuntime(b)
	ctx := testContext(b)
	s := testSpec(b, busybox(b), "sleep", "1000")
	c := create(b, r, s)
	if err := c.Start(ctx); err != nil {
		b.Fatal(err)
	}
	process := *s.OCI.Process
	process.Args = []string{"true"}
	n := 0
	for b.Loop() {
		n++
		e, err := c.Exec(ctx, ExecSpec{ID: strconv.Itoa(n), Process: process})
		if err != nil {
			b.Fatal(err)
		}
		if err := e.Start(ctx); err != nil {
			b.Fatal(err)
		}
		if _, err := e.Wait(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkShimMemory reports the proportional set size of a running
// container's shim, alone and beside nine others.
func BenchmarkShimMemory(b *testing.B) {
	r := testRuntime(b)
	root := busybox(b)
	ctx := testContext(b)
	for b.Loop() {
		var shims []int
		for n := range 10 {
			c := create(b, r, testSpec(b, root, "sleep", "1000"))
			if err := c.Start(ctx); err != nil {
				b.Fatal(err)
			}
			shims = append(shims, c.shim)
			if n == 0 {
				b.ReportMetric(pss(b, c.shim), "KiB-alone")
			}
		}
		sum := 0.0
		for _, pid := range shims {
			sum += pss(b, pid)
		}
		b.ReportMetric(sum/float64(len(shims)), "KiB-of-ten")
	}
}

// pss is a process's proportional set size in KiB.
func pss(b *testing.B, pid int) float64 {
	b.Helper()
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "Pss:"); ok {
			n, err := strconv.Atoi(strings.Fields(value)[0])
			if err != nil {
				b.Fatal(err)
			}
			return float64(n)
		}
	}
	b.Fatal("no Pss line")
	return 0
}
