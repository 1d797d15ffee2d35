// Command bench measures Gantry side by side with the peers that are installed
// (docker.io, podman, crun) in one run, and prints a table.
//
// Everything lives on a fresh ext4 in a loop file and in a network namespace of
// the run's own; nothing of the host is touched. Each figure is the median of
// several tries. It is run as root by `make bench`; scenes can be named:
//
//	bench -bin bin [-scenes start,pod,engine,images,registry,oci,push,memory,help]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// row is one line of the table.
type row struct {
	what   string
	peer   string // what the peers take, and which; empty when none was measured
	gantry string
	aim    string
}

// scene measures one or more rows.
type scene struct {
	name string
	run  func(context.Context, *bench) ([]row, error)
}

// scenes in the order in which they run; each starts what it needs.
func scenes() []scene {
	return []scene{
		{"help", help},
		{"start", start},
		{"memory", memory},
		{"pod", pods},
		{"engine", engines},
		{"images", images},
		{"registry", registries},
		{"oci", bundles},
		{"push", pushes},
	}
}

// bench is what the scenes share.
type bench struct {
	bin  string // directory of the built binaries
	src  string // the repository
	work string // scratch directory on the loop ext4
}

func main() {
	bin := flag.String("bin", "bin", "directory of the built binaries")
	only := flag.String("scenes", "", "comma-separated scenes; all when empty")
	inner := flag.String("inner", "", "scratch directory; set by the outer process")
	serve := flag.String("serve", "", "only answer HTTP at this address: the program behind a published port")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *serve != "" {
		err = http.ListenAndServe(*serve, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") }))
	} else if *inner == "" {
		err = outer(ctx)
	} else {
		err = run(ctx, *bin, *inner, *only)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// outer makes the loop file system, then runs the bench again in new network
// and mount namespaces over it, and takes the file system away.
func outer(ctx context.Context) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	dir, err := os.MkdirTemp("", "gantry-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	img, mnt := filepath.Join(dir, "disk"), filepath.Join(dir, "mnt")
	f, err := os.Create(img)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(8<<30), f.Close(), os.Mkdir(mnt, 0o700)); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "mkfs.ext4", "-q", img).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	if out, err := exec.CommandContext(ctx, "mount", "-o", "loop", img, mnt).CombinedOutput(); err != nil {
		return fmt.Errorf("mount: %w: %s", err, out)
	}
	defer func() { err = errors.Join(err, exec.Command("umount", "-l", mnt).Run()) }()
	cmd := exec.CommandContext(ctx, os.Args[0], append([]string{"-inner", mnt}, os.Args[1:]...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	// A process namespace, so that nothing that a peer started outlives the run.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	return cmd.Run()
}

func run(ctx context.Context, bin, work, only string) error {
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := exec.CommandContext(ctx, "ip", "link", "set", "lo", "up").Run(); err != nil {
		return fmt.Errorf("lo up: %w", err)
	}
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	src, err := os.Getwd()
	if err != nil {
		return err
	}
	b := &bench{bin: bin, src: src, work: work}
	var rows []row
	for _, s := range scenes() {
		if only != "" && !slices.Contains(strings.Split(only, ","), s.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring %s\n", s.name)
		got, err := s.run(ctx, b)
		rows = append(rows, got...)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "what\tpeers, this run\tGantry\taim")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.what, r.peer, r.gantry, r.aim)
	}
	return w.Flush()
}

// median runs f n times and returns the middle duration.
func median(n int, f func() (time.Duration, error)) (time.Duration, error) {
	all := make([]time.Duration, 0, n)
	for range n {
		d, err := f()
		if err != nil {
			return 0, err
		}
		all = append(all, d)
	}
	slices.Sort(all)
	return all[len(all)/2], nil
}

// timed returns how long a command takes; its output is in the error.
func timed(ctx context.Context, env []string, name string, args ...string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(begin)
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return took, nil
}

// ms shows a duration at the precision that the measurement carries.
func ms(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	}
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

func help(ctx context.Context, b *bench) ([]row, error) {
	d, err := median(21, func() (time.Duration, error) {
		return timed(ctx, nil, filepath.Join(b.bin, "gantry"), "--help")
	})
	return []row{{"gantry --help", "", ms(d), "10 ms"}}, err
}
