package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gantry/engine/image"
	"gantry/internal/testenv"
)

var ctx = context.Background()

// namespaceRunner runs commands in an overlay and a mount namespace of their
// own: what package engine does, at its least.
type namespaceRunner struct {
	dir    string                      // mount point, empty
	before func(context.Context) error // called first; may be nil
}

func (r *namespaceRunner) Run(ctx context.Context, spec RunSpec) (int, error) {
	type result struct {
		code int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		goruntime.LockOSThread() // never unlocked: it has another mount namespace
		if unix.Gettid() == unix.Getpid() {
			code, err := r.Run(ctx, spec) // the main thread would never end
			goruntime.UnlockOSThread()
			done <- result{code, err}
			return
		}
		code, err := r.run(ctx, spec)
		done <- result{code, err}
	}()
	out := <-done
	return out.code, out.err
}

func (r *namespaceRunner) run(ctx context.Context, spec RunSpec) (int, error) {
	if r.before != nil {
		if err := r.before(ctx); err != nil {
			return 0, err
		}
	}
	if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")); err != nil {
		return 0, err
	}
	unix.Umask(0o022) // of this thread, since Unshare; as in a container
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", strings.Join(spec.Lower, ":"), spec.Upper, spec.Work)
	if err := unix.Mount("overlay", r.dir, "overlay", 0, options); err != nil {
		return 0, err
	}
	for _, m := range append([]Mount{{Target: "/dev", Bytes: 1 << 20}}, spec.Mounts...) {
		at := filepath.Join(r.dir, m.Target)
		if err := mountFor(m, at); err != nil {
			return 0, fmt.Errorf("mount %s: %w", m.Target, err)
		}
	}
	// As in an engine's container, what is missing is made to mount on.
	if err := os.WriteFile(filepath.Join(r.dir, "etc/hosts"), nil, 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	if err := os.MkdirAll(filepath.Join(r.dir, spec.Dir), 0o755); err != nil {
		return 0, err
	}
	// Looked up in the image: exec.Command would look on the host.
	file := spec.Args[0]
	if !strings.Contains(file, "/") {
		file = "/bin/" + file
	}
	cmd := exec.CommandContext(ctx, file)
	cmd.Path, cmd.Args, cmd.Env, cmd.Dir, cmd.Err = file, spec.Args, spec.Env, spec.Dir, nil
	cmd.Stdout, cmd.Stderr = spec.Stdout, spec.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: r.dir}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return exit.ExitCode(), nil
	}
	return 0, err
}

func mountFor(m Mount, at string) error {
	switch {
	case len(m.Lower) > 0:
		options := "lowerdir=" + strings.Join(m.Lower, ":")
		if m.Upper != "" {
			options += ",upperdir=" + m.Upper + ",workdir=" + m.Work
		}
		return errors.Join(os.MkdirAll(at, 0o755), unix.Mount("overlay", at, "overlay", 0, options))
	case m.Source == "":
		return errors.Join(os.MkdirAll(at, 0o755), unix.Mount("tmpfs", at, "tmpfs", 0, ""))
	}
	info, err := os.Stat(m.Source)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(at, 0o755)
	} else {
		err = errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, nil, 0o755))
	}
	err = errors.Join(err, unix.Mount(m.Source, at, "", unix.MS_BIND, ""))
	if err == nil && m.ReadOnly {
		err = unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	return err
}

// bench is a builder with a store and a runner, for one test.
type bench struct {
	t      testing.TB
	dir    string
	images *image.Store
	*Builder
	runner *namespaceRunner
}

func newBench(t testing.TB) *bench {
	t.Helper()
	testenv.NeedRoot(t)
	b := &bench{t: t, dir: t.TempDir(), runner: &namespaceRunner{dir: t.TempDir()}}
	b.open()
	t.Cleanup(b.close)
	return b
}

func (b *bench) open() {
	b.t.Helper()
	var err error
	if b.images, err = image.Open(image.Config{Dir: filepath.Join(b.dir, "image")}); err != nil {
		b.t.Fatal(err)
	}
	b.Builder, err = New(Config{Dir: filepath.Join(b.dir, "build"), Images: b.images, Runner: b.runner})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) close() {
	b.t.Helper()
	for what, err := range map[string]error{"check": b.images.Check(ctx), "builder": b.Builder.Close(), "images": b.images.Close()} {
		if err != nil {
			b.t.Errorf("%s: %v", what, err)
		}
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), b.dir) {
		b.t.Errorf("something is mounted below %s, %v", b.dir, err)
	}
	for _, tmp := range []string{"image/tmp", "build/tmp"} {
		left, err := os.ReadDir(filepath.Join(b.dir, tmp))
		if err != nil || len(left) > 0 {
			b.t.Errorf("%s holds %v, %v", tmp, left, err)
		}
	}
}

// busybox imports an image that has a shell.
func (b *bench) busybox(changes ...string) {
	b.t.Helper()
	bin, err := os.ReadFile("/bin/busybox")
	if err != nil {
		b.t.Skip("needs busybox-static")
	}
	files := []file{{name: "bin/"}, {name: "bin/busybox", body: string(bin), mode: 0o755}, {name: "etc/"}, {name: "tmp/", mode: 0o1777},
		{name: "etc/passwd", body: "root:x:0:0::/root:/bin/sh\nweb:x:100:101::/home/web:/bin/sh\n"}, {name: "etc/group", body: "staff:x:50:\n"},
		{name: "usr/"}, {name: "usr/lib/"}, {name: "lib", link: "usr/lib"}}
	for _, applet := range strings.Fields("sh ls cat echo mkdir rm ln touch test true false stat sleep id env chmod mv cp wc find tar pwd") {
		files = append(files, file{name: "bin/" + applet, link: "busybox"})
	}
	config, err := Changes(image.Spec{}, append([]string{"CMD /bin/sh"}, changes...))
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.images.Import(ctx, bytes.NewReader(archive(b.t, files)), image.ImportOptions{Ref: "busybox", Config: config}); err != nil {
		b.t.Fatal(err)
	}
}

// file is one file of a context that a test makes.
type file struct {
	name string
	body string
	link string
	mode int64
	time time.Time
	uid  int
}

func archive(t testing.TB, files []file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Typeflag: tar.TypeReg, Size: int64(len(f.body)), ModTime: f.time, Uid: f.uid, Gid: f.uid}
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1700000000, 0)
		}
		switch {
		case f.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.link
		case strings.HasSuffix(f.name, "/"):
			h.Typeflag = tar.TypeDir
		}
		if h.Mode == 0 {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// build builds a Dockerfile with files and returns what docker build would show.
func (b *bench) build(req Request, dockerfile string, files ...file) (string, error) {
	b.t.Helper()
	if dockerfile != "" {
		files = append([]file{{name: "Dockerfile", body: dockerfile}}, files...)
	}
	req.Context = bytes.NewReader(archive(b.t, files))
	var out strings.Builder
	c := NewClassic(&out)
	_, err := b.Builder.Build(ctx, req, c.Event)
	if cerr := c.Close(); cerr != nil {
		b.t.Error(cerr)
	}
	return out.String(), err
}

// listing describes the files of an image: one line each.
func (b *bench) listing(ref string) string {
	b.t.Helper()
	img, err := b.images.Resolve(ctx, ref)
	if err != nil {
		b.t.Fatal(err)
	}
	root, err := b.images.OpenRoot(img.Layers)
	if err != nil {
		b.t.Fatal(err)
	}
	defer root.Close()
	var out strings.Builder
	src := rootSource{root}
	var walk func(dir string)
	walk = func(dir string) {
		names, err := src.children(dir)
		if err != nil {
			b.t.Fatal(err)
		}
		for _, base := range names {
			name := path.Join(dir, base)
			h, err := src.lookup(name)
			if err != nil {
				b.t.Fatal(err)
			}
			fmt.Fprintf(&out, "%c %04o %d:%d %s %s", h.Typeflag, h.Mode, h.Uid, h.Gid, h.ModTime.UTC().Format("2006-01-02"), name)
			switch h.Typeflag {
			case tar.TypeSymlink:
				fmt.Fprintf(&out, " -> %s\n", h.Linkname)
			case tar.TypeReg:
				body, err := root.ReadFile(name, 10<<20)
				if err != nil {
					b.t.Fatal(err)
				}
				if len(body) > 60 {
					body = fmt.Appendf(nil, "%d bytes", len(body))
				}
				fmt.Fprintf(&out, " %q\n", body)
			default:
				fmt.Fprintln(&out)
				walk(name)
			}
		}
	}
	walk("")
	return out.String()
}

func TestBuildRunsStepsAndReusesThem(t *testing.T) {
	b := newBench(t)
	b.busybox()
	const dockerfile = `FROM busybox AS base
ARG GREETING=hello
RUN echo $GREETING > /greeting
FROM base
WORKDIR /app
COPY . .
RUN ["/bin/sh", "-c", "ls /app; cat /greeting"]
CMD ["/app/run"]
`
	files := []file{{name: "run", body: "#!/bin/sh\n", mode: 0o755}}
	out, err := b.build(Request{Tags: []string{"web"}}, dockerfile, files...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Log(out)
	first, err := b.images.Resolve(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	out, err = b.build(Request{Tags: []string{"web"}}, dockerfile, files...)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(out)
	again, err := b.images.Resolve(ctx, "web")
	if err != nil || again.ID != first.ID {
		t.Errorf("built again: %s, %v; want %s", again.ID, err, first.ID)
	}
	if n := strings.Count(out, "Using cache"); n != 5 {
		t.Errorf("%d steps from the cache", n)
	}
	t.Log(b.listing("web"))
}
